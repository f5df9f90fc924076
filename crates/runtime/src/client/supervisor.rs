//! The supervisor: one thread a pool that waits for what no caller waits for.
//!
//! Deaths, births, output, time limits, the backlog. It never takes the interpreter's
//! lock and blocks all signals. It sleeps without a limit while nothing is outstanding.

use super::state::State;
use super::worker::Worker;
use super::{Shared, Ticket};
use bireme_sched::Event;
use bireme_shm::fork_lock::ForkLock;
use bireme_shm::lease;
use bireme_shm::os::process;
use bireme_shm::os::thread::{self, Thread};
use bireme_shm::park;
use bireme_shm::prim::{AtomicBool, AtomicU32, Ordering};
use bireme_shm::queue;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::Duration;

/// While anything is outstanding the supervisor looks around so often: a wake that
/// died with its bearer costs no more than this.
const SLOW_TICK: Duration = Duration::from_millis(100);
/// Idle time after which free shared memory goes back to the system.
const TRIM_AFTER_NS: u64 = 5_000_000_000;

/// The running thread, if there is one. Its mutex orders starts and stops.
#[derive(Debug, Default)]
pub(super) struct Handle {
    thread: Option<Thread>,
    stop: Arc<AtomicBool>,
}

/// Forks of this process under way, by as many threads: none of ours may start now.
static FORKING: AtomicU32 = AtomicU32::new(0);

/// Note that this thread is about to fork.
pub fn fork_begins() {
    FORKING.fetch_add(1, Ordering::SeqCst);
}

/// Note that this thread has forked, in the parent or in the `child`, where no other thread is.
pub fn fork_is_over(child: bool) {
    if child {
        ABANDONED.after_fork_in_child();
    }
    let left = |forks: u32| Some(if child { 0 } else { forks.saturating_sub(1) });
    let _ = FORKING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
}

/// Whether a fork of this process is under way.
pub fn forking() -> bool {
    FORKING.load(Ordering::SeqCst) != 0
}

/// Start the thread if it does not run. Without it nobody hears of births and deaths.
///
/// While this process forks it stays paused.
pub(super) fn ensure<T: Ticket>(shared: &Arc<Shared<T>>) -> io::Result<()> {
    let mut handle = shared.thread.lock().unwrap_or_else(PoisonError::into_inner);
    if forking() {
        shared.paused.store(true, Ordering::SeqCst);
        return Ok(());
    }
    shared.paused.store(false, Ordering::SeqCst);
    if handle
        .thread
        .as_ref()
        .is_some_and(|thread| !thread.is_finished())
        || shared.state().finished
    {
        return Ok(());
    }
    let (ours, stop) = (Arc::clone(shared), Arc::new(AtomicBool::new(false)));
    handle.stop = Arc::clone(&stop);
    let started = thread::spawn("bireme-supervisor", move || {
        ours.supervise(&stop);
    });
    handle.thread = Some(started.inspect_err(|_| shared.paused.store(true, Ordering::SeqCst))?);
    Ok(())
}

/// Whether there is a thread, or was before it ended by itself.
pub(super) fn runs<T>(shared: &Shared<T>) -> bool {
    let handle = shared.thread.lock().unwrap_or_else(PoisonError::into_inner);
    handle.thread.is_some()
}

/// Stop the thread and wait for it; the next use of the pool starts it again.
pub(super) fn stop<T: Ticket>(shared: &Arc<Shared<T>>) {
    let mut handle = shared.thread.lock().unwrap_or_else(PoisonError::into_inner);
    shared.paused.store(true, Ordering::SeqCst);
    handle.stop.store(true, Ordering::SeqCst);
    process::ring(&shared.kick);
    if let Some(thread) = handle.thread.take() {
        thread.join();
    }
}

/// A pool whose owner is gone.
trait Abandoned: Send + Sync {
    /// Whether the pool is this process's and not its parent's.
    fn is_own(&self) -> bool;
    fn is_finished(&self) -> bool;
    fn pause(self: Arc<Self>);
    fn resume(self: Arc<Self>);
}

impl<T: Ticket> Abandoned for Shared<T> {
    fn is_own(&self) -> bool {
        self.owner == process::own_pid()
    }

    fn is_finished(&self) -> bool {
        self.state().finished
    }

    fn pause(self: Arc<Self>) {
        stop(&self);
    }

    fn resume(self: Arc<Self>) {
        if ensure(&self).is_err() {
            self.supervise_in_passing(); // no thread is to be had just now
        }
    }
}

/// Pools whose owners are gone and that have not ended: a fork pauses their threads as well, and somebody must resume
/// them after it.
static ABANDONED: ForkLock<Vec<Arc<dyn Abandoned>>> = ForkLock::new();

fn forget_finished() {
    // A parent's stay: what they have locked would stay so in a child.
    let finished = |pool: &Arc<dyn Abandoned>| pool.is_own() && pool.is_finished();
    ABANDONED.lock().retain(|pool| !finished(pool));
}

/// The pools of this process without owners, to be worked on without the list's lock.
fn own_abandoned() -> Vec<Arc<dyn Abandoned>> {
    let all = ABANDONED.lock();
    all.iter().filter(|pool| pool.is_own()).cloned().collect()
}

/// The owner is gone: the thread goes on by itself until the pool is finished.
pub(super) fn abandon<T: Ticket>(shared: &Arc<Shared<T>>) {
    let pool: Arc<dyn Abandoned> = Arc::<Shared<T>>::clone(shared);
    ABANDONED.lock().push(Arc::clone(&pool));
    forget_finished(); // its thread may have ended before it was on the list
    pool.resume();
    process::ring(&shared.kick);
}

/// Stop the threads of the pools that nobody has any more, for a fork of this process.
pub fn pause_abandoned() {
    own_abandoned().into_iter().for_each(Abandoned::pause);
}

/// Undo [`pause_abandoned`].
pub fn resume_abandoned() {
    own_abandoned().into_iter().for_each(Abandoned::resume);
    forget_finished();
}

enum Source {
    Kick,
    Bell,
    Template,
    Worker(u32),
    Death(u32),
    Output(u32),
}

impl<T: Ticket> Shared<T> {
    fn supervise(self: &Arc<Self>, stop: &AtomicBool) {
        process::block_signals();
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        while !stop.load(Ordering::SeqCst) && !self.state().finished {
            let timeout = self.next_timeout();
            if self.supervise_once(timeout).is_err() {
                process::pause(SLOW_TICK); // the system has no memory to wait with: later, perhaps
            }
        }
        forget_finished();
    }

    /// See to what has happened, in a caller's thread, unless somebody else is just doing that.
    pub(super) fn supervise_in_passing(&self) {
        let _turn = match self.turn.try_lock() {
            Ok(turn) => turn,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let _ = self.supervise_once(Some(Duration::ZERO)); // the next one tries again
    }

    /// Wait until something happens, and see to it. For who has the turn: what a descriptor tells is of
    /// the worker that had it when the wait began.
    fn supervise_once(&self, timeout: Option<Duration>) -> io::Result<()> {
        let sources = self.sources();
        let borrowed: Vec<BorrowedFd<'_>> = sources.iter().map(|(fd, _)| fd.as_fd()).collect();
        let ready = process::poll(&borrowed, timeout)?;
        self.deep.store(false, Ordering::SeqCst);
        let mut wake = false;
        for source in sources
            .iter()
            .zip(ready)
            .filter_map(|((_, source), ready)| ready.then_some(source))
        {
            match *source {
                Source::Kick => process::hush(&self.kick),
                Source::Bell => process::hush(&self.bell),
                Source::Template => self.hear_template(),
                Source::Worker(row) => self.hear_worker(&mut self.state(), row),
                Source::Output(row) => self.hear_output(&mut self.state(), row),
                Source::Death(row) => self.note_death(row),
            }
            wake = true;
        }
        let buried = self.bury_the_dead();
        self.look_around(wake, buried);
        Ok(())
    }

    /// What to do whatever woke the thread.
    fn look_around(&self, wake: bool, buried: bool) {
        let mut state = self.state();
        for worker in state.workers.iter_mut().flatten() {
            worker.flush_outbox();
        }
        let now = process::now_ns();
        state.forget_wholes(&self.control, now);
        state.wholes.give_back(now.saturating_sub(TRIM_AFTER_NS));
        lease::unpin();
        if !state.backlog.is_empty() || wake {
            self.collect(&mut state);
        }
        self.pursue(&mut state);
        self.help_past(&mut state);
        self.end_strangers(&mut state);
        self.lay_to_rest(&mut state);
        if !buried {
            self.note_families(&mut state);
        }
        if Self::next_birth_ns(&state).is_some_and(|due| due <= now) {
            self.act(&mut state, Event::Tick { now_ns: now });
        }
        if state.closed && state.outstanding == 0 {
            self.act(&mut state, Event::Drained);
        }
        if state.outstanding == 0
            && state.last_use_ns != 0
            && now - state.last_use_ns > TRIM_AFTER_NS
        {
            state.last_use_ns = 0;
            state.arena.trim();
        }
        let (births, news) = (!state.births.is_empty(), self.state_has_news());
        drop(state);
        if !queue::looks_empty(&*self.control) {
            park::wake_one(&*self.control);
        }
        if births {
            self.hooks.births_wanted();
        }
        if news {
            park::wake_client(&*self.control);
            self.hooks.events_waiting();
        }
    }

    /// When the crew wants to hear of the time. The pause of one that starves has no end before there is work.
    fn next_birth_ns(state: &State<T>) -> Option<u64> {
        let idle = state.outstanding == 0 && state.crew.starves();
        state.crew.next_due_ns().filter(|&due| due == 0 || !idle)
    }

    fn next_timeout(&self) -> Option<Duration> {
        let state = self.state();
        let crew = Self::next_birth_ns(&state)
            .map(|due| Duration::from_nanos(due.saturating_sub(process::now_ns()).max(1_000_000)));
        let pursuit = Self::next_pursuit_ns(&state).map(Duration::from_nanos);
        let moving = |worker: &Worker| {
            let ends = worker.deaf_since_ns.or(worker.dead_since_ns);
            ends.is_some() || worker.pid == 0
        };
        let busy = state.outstanding > 0 || state.workers.iter().flatten().any(moving);
        let busy = busy.then_some(SLOW_TICK);
        let backlog = (!state.backlog.is_empty()).then_some(Duration::from_millis(5));
        let warm = state.last_use_ns != 0 || state.wholes.any_rests();
        let trim = warm.then_some(Duration::from_secs(1));
        let timeout = [crew, pursuit, busy, backlog, trim]
            .into_iter()
            .flatten()
            .min();
        if timeout.is_none() {
            self.deep.store(true, Ordering::SeqCst);
        }
        timeout
    }

    /// Descriptors to wait on, kept by themselves, so that the lock is not held while waiting.
    fn sources(&self) -> Vec<(Arc<OwnedFd>, Source)> {
        let state = self.state();
        let mut wanted = vec![
            (Arc::clone(&self.kick), Source::Kick),
            (Arc::clone(&self.bell), Source::Bell),
        ];
        wanted.extend(
            state
                .template
                .iter()
                .map(|fd| (Arc::clone(fd), Source::Template)),
        );
        let listens = !state.events.are_many();
        for (row, worker) in (0..).zip(&state.workers) {
            let Some(worker) = worker.as_ref().filter(|worker| !worker.is_unborn()) else {
                continue;
            };
            let pidfd = worker.pidfd.iter();
            wanted.extend(
                pidfd
                    .filter(|_| worker.dead_since_ns.is_none())
                    .map(|fd| (Arc::clone(fd), Source::Death(row))),
            );
            if !listens {
                continue;
            }
            if worker.deaf_since_ns.is_none() {
                wanted.push((Arc::clone(&worker.socket), Source::Worker(row)));
            }
            wanted.extend(
                worker
                    .streams
                    .iter()
                    .filter_map(|(fd, _)| Some((Arc::clone(fd.as_ref()?), Source::Output(row)))),
            );
        }
        wanted
    }
}
