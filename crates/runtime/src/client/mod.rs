//! A pool as its owner sees it: submit tasks, wait, collect what ended.
//!
//! All state of the client lies behind one lock (`State`), which is held for moments
//! only and never while Python runs. Whoever waits for a result drains finished slots
//! itself; the supervisor thread drains only when somebody must and nobody waits.

mod crew;
mod deadline;
mod deaths;
mod events;
mod served;
mod standstill;
mod state;
mod statistics;
mod supervisor;
mod worker;

pub use events::Event;
pub use statistics::Statistics;
pub use supervisor::{fork_begins, fork_is_over, forking, pause_abandoned, resume_abandoned};

use crate::birth::Birth;
use crate::share::Share;
use crate::task::{Blob, Broken, Completion, Lent, Payload, Task, Whole};
use bireme_sched::{Crew, CrewConfig};
use bireme_shm::arena::{Arena, ArenaError};
use bireme_shm::control::Control;
use bireme_shm::os::process;
use bireme_shm::park::{self, Wish};
use bireme_shm::prim::{AtomicBool, AtomicU32, Ordering, fence, spin_hint};
use bireme_shm::queue::{self, SlotRef};
use bireme_shm::segment::Segment;
use state::State;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use worker::{Letter, Worker};

/// Task slots of a pool: what workers can take without the client's help.
const SLOTS: usize = 2048;
/// After so many submissions a submitter takes in what has ended meanwhile, while caches have it.
const DRAIN_EVERY: u32 = 256;
/// Looks at the shared words before a waiter gives the core up: about 20 µs.
const SPIN_ROUNDS: u32 = 2_000;
/// Looks at a new task, a pause apart, before another worker is woken for it: about a microsecond.
const LUCK_ROUNDS: u32 = 40;
const MOST_LUCK: u32 = 8;
/// Without luck one of so many generations of a slot tries it.
const LUCK_PROBE: u32 = 16;
/// Births that may fail in a row before the pool gives up.
const MAX_BIRTH_FAILURES: u32 = 8;

/// Where workers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// Forked from the template that this command starts.
    Template(Vec<OsString>),
    /// Each one a fresh interpreter, started by this command.
    Interpreter(Vec<OsString>),
    /// Forked from the client by the binding, which is told through [`Hooks::births_wanted`].
    Caller,
}

/// What the binding provides. Called without the client's lock.
pub trait Hooks: Send + Sync + 'static {
    /// Workers are to be forked: call [`Client::next_birth`] until it gives none.
    fn births_wanted(&self);
    /// Events wait for [`Client::drain`].
    fn events_waiting(&self);
}

/// What the submitter attaches to a task; it comes back with each completion.
pub trait Ticket: Clone + Send + 'static {
    /// The task lies in slot `slot`: a waiter may look there first.
    fn placed(&self, slot: u32);
    /// Whether what would be completed so is to run again instead. Called with the client's lock held.
    fn wants_again(&self, completion: &Completion<Self>) -> bool;
}

/// How a pool is to be.
#[derive(Debug)]
pub struct Config {
    /// Number of workers, at least 1.
    pub workers: u32,
    /// Where they come from.
    pub start: Start,
    /// A memory file that each reads at its birth.
    pub boot: OwnedFd,
    /// Descriptors that the initializer's arguments name by position, at most [`MAX_GIVEN`](crate::birth::MAX_GIVEN).
    pub given: Vec<OwnedFd>,
    /// Chunks after which a worker is replaced; 0 for never.
    pub max_claims: u32,
    /// Whether workers' output comes to the client.
    pub forward_output: bool,
    /// Tasks that may wait for a slot.
    pub max_pending: usize,
    /// Bytes of shared memory that the pool may hold.
    pub memory_limit: u64,
}

/// Why a task was not accepted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// `close` was called.
    #[error("the pool is closed")]
    Closed,
    /// The pool is broken or terminated.
    #[error("the pool is broken")]
    Broken(Arc<Broken>),
    /// As many tasks wait as may wait: collect some results first.
    #[error("too many tasks are pending")]
    Full,
}

/// A pool's owner.
pub struct Client<T: Ticket> {
    shared: Arc<Shared<T>>,
}

pub(crate) struct Shared<T> {
    control: Arc<Control>,
    config: Config,
    owner: i32,
    state: Mutex<State<T>>,
    changed: Condvar,
    hooks: Box<dyn Hooks>,
    /// Wakes the supervisor: written by this process.
    kick: Arc<OwnedFd>,
    /// The same, written by workers.
    bell: Arc<OwnedFd>,
    pidfd: OwnedFd,
    /// The supervisor sleeps without a limit: the first task must wake it.
    deep: AtomicBool,
    waiters: AtomicU32,
    /// Something waits in the state's `ready` or `events`.
    news: AtomicBool,
    /// How often workers that were awake took new tasks at once, lately: 0 to [`MOST_LUCK`].
    luck: AtomicU32,
    /// The supervisor was stopped around a fork; the next use starts it again.
    paused: AtomicBool,
    thread: Mutex<supervisor::Handle>,
    /// Whose turn it is to supervise: the thread's as long as it runs, else a caller's.
    turn: Mutex<()>,
}

impl<T: Ticket> Client<T> {
    /// Make a pool and start its workers.
    pub fn new(config: Config, hooks: Box<dyn Hooks>) -> io::Result<Self> {
        // Room for a successor beside every retiring worker.
        let rows = config.workers as usize * 2;
        let cores = crate::limits::usable_cpus();
        let control = Arc::new(Control::create(SLOTS, rows, cores, config.memory_limit)?);
        control.exclude_from_forks();
        let crew = Crew::new(CrewConfig {
            workers: config.workers,
            rows: rows as u32,
            max_birth_failures: MAX_BIRTH_FAILURES,
        });
        let arena = Arena::new(1, Share::of_client(Arc::clone(&control)));
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(crew, arena, SLOTS, rows)),
            control,
            config,
            owner: process::own_pid(),
            changed: Condvar::new(),
            hooks,
            kick: Arc::new(process::event()?),
            bell: Arc::new(process::event()?),
            pidfd: process::open_self()?,
            deep: AtomicBool::new(false),
            waiters: AtomicU32::new(0),
            news: AtomicBool::new(false),
            luck: AtomicU32::new(0),
            paused: AtomicBool::new(false),
            thread: Mutex::new(supervisor::Handle::default()),
            turn: Mutex::new(()),
        });
        let client = Self { shared };
        // Nothing is started that nobody could end: the supervisor comes first.
        let started = supervisor::ensure(&client.shared)
            .and_then(|()| client.shared.run(bireme_sched::Event::Start));
        process::ring(&client.shared.kick); // it has something to listen to now
        match started {
            Ok(()) => Ok(client),
            Err(error) => {
                client.terminate();
                Err(error)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.shared.state()
    }

    /// Process that made this pool; a forked child must not use it.
    pub fn owner(&self) -> i32 {
        self.shared.owner
    }

    /// Start the supervisor again if [`Client::pause_supervision`] stopped it.
    pub fn supervise_if_paused(&self) {
        // RELAXED: who misses a pause just begun finds it at its next look
        if self.shared.paused.load(Ordering::Relaxed) && supervisor::ensure(&self.shared).is_err() {
            // Without a thread to be had the callers supervise.
            self.shared.supervise_in_passing();
        }
    }

    /// Whether the supervisor has been started and not stopped.
    pub fn is_supervised(&self) -> bool {
        supervisor::runs(&self.shared)
    }

    /// Stop the supervisor, for a fork of this process; the next use starts it again.
    pub fn pause_supervision(&self) {
        supervisor::stop(&self.shared);
    }

    /// Queue a task. `true` when it is time for [`drain_quietly`](Self::drain_quietly): many were queued since
    /// the last drain, and what has ended fills slots and memory. On an error the task comes back.
    #[expect(
        clippy::result_large_err,
        reason = "the refused task goes back to its submitter"
    )]
    pub fn submit(&self, ticket: T, task: Task) -> Result<bool, (SubmitError, T, Task)> {
        let (first, slot, many) = {
            let mut state = self.state();
            if let Some(broken) = &state.broken {
                return Err((SubmitError::Broken(Arc::clone(broken)), ticket, task));
            }
            if state.closed {
                return Err((SubmitError::Closed, ticket, task));
            }
            if state.backlog.len() >= self.shared.config.max_pending {
                return Err((SubmitError::Full, ticket, task));
            }
            state.outstanding += 1;
            if let Payload::Inline(bytes) = &task.args {
                state.statistics.bytes_sent += bytes.len() as u64;
            }
            let slot = self.shared.enqueue(&mut state, ticket, task);
            state.undrained += 1;
            let many = state.undrained >= DRAIN_EVERY;
            (state.outstanding == 1, slot, many)
        };
        if !slot.is_some_and(|slot| self.shared.is_claimed_soon(slot)) {
            park::wake_one(&*self.shared.control);
        }
        if first && self.shared.deep.swap(false, Ordering::SeqCst) {
            process::ring(&self.shared.kick);
        }
        Ok(many)
    }

    /// Collect what has ended and what was printed or logged, in that order of time.
    pub fn drain(&self, completions: &mut Vec<Completion<T>>, events: &mut Vec<Event>) {
        if !queue::any_done(&*self.shared.control) && !self.shared.state_has_news() {
            return;
        }
        let mut state = self.state();
        state.undrained = 0;
        self.shared.collect(&mut state);
        completions.append(&mut state.ready);
        let held_up = state.events.take(events);
        self.shared.news.store(false, Ordering::Release);
        drop(state);
        if held_up {
            process::ring(&self.shared.kick);
        }
    }

    /// Collect what has ended, unless something was printed or logged, which must be delivered first.
    pub fn drain_quietly(&self, completions: &mut Vec<Completion<T>>) {
        self.collect_if(completions, |state| state.events.is_empty());
    }

    /// Collect what has ended, though what was printed or logged before it goes on waiting.
    pub fn drain_ended(&self, completions: &mut Vec<Completion<T>>) {
        self.collect_if(completions, |_| true);
    }

    fn collect_if(&self, completions: &mut Vec<Completion<T>>, may: impl Fn(&State<T>) -> bool) {
        let mut state = self.state();
        state.undrained = 0;
        self.shared.collect(&mut state);
        if may(&state) {
            completions.append(&mut state.ready);
            let left = !state.events.is_empty();
            self.shared.news.store(left, Ordering::Release);
        }
    }

    /// Whether [`Client::drain`] would find something.
    pub fn has_news(&self) -> bool {
        queue::any_done(&*self.shared.control) || self.shared.state_has_news()
    }

    /// Wait until `wish` may be met or `timeout` is over. The caller drains, checks, and calls this again.
    pub fn wait(&self, wish: Wish, timeout: Duration) {
        self.wait_unless(wish, timeout, || false);
    }

    /// As [`Client::wait`], but returns at once if `done` holds after the wish was announced.
    pub fn wait_unless(&self, wish: Wish, timeout: Duration, done: impl Fn() -> bool) {
        let shared = &*self.shared;
        shared.waiters.fetch_add(1, Ordering::SeqCst);
        let announced = park::announce_wish(&*shared.control, wish);
        if !shared.state_has_news() && !done() {
            park::client_sleep(&*shared.control, wish, announced, timeout);
        }
        shared.waiters.fetch_sub(1, Ordering::SeqCst);
    }

    /// Spin for a finished task while a core is free for it. `false` when it is time to sleep.
    pub fn spin(&self, wish: Wish) -> bool {
        let control = &*self.shared.control;
        let header = control.header();
        // RELAXED, both: a guess about who else is awake.
        let awake = header
            .alive
            .load(Ordering::Relaxed)
            .saturating_sub(park::count_sleepers(control));
        if awake + 1 > header.cores.load(Ordering::Relaxed) {
            return false;
        }
        for _ in 0..SPIN_ROUNDS {
            let met = match wish {
                Wish::Slot(index) => queue::is_done(control, index),
                _ => queue::any_done(control),
            };
            if met {
                return true;
            }
            spin_hint();
        }
        false
    }

    /// Wake this process's other waiters: their results may have arrived.
    pub fn wake_waiters(&self) {
        // SYNC(waiters): what a waiter checks was stored before; pairs with its count in `wait_unless`.
        fence(Ordering::SeqCst);
        if self.shared.waiters.load(Ordering::SeqCst) != 0 {
            park::wake_client(&*self.shared.control);
        }
    }

    /// Tasks not yet ended.
    pub fn outstanding(&self) -> usize {
        self.state().outstanding
    }

    /// Ask the tasks whose ticket satisfies `is` to stop; queued ones are taken back at once.
    ///
    /// With `running == false`, running ones are left alone. Gives the number of tasks that were
    /// taken back or are being stopped; their completions follow.
    pub fn cancel(&self, is: impl Fn(&T) -> bool, running: bool) -> usize {
        let count = self.shared.cancel(&mut self.state(), is, running);
        process::ring(&self.shared.kick);
        self.wake_waiters();
        count
    }

    /// Accept nothing more; workers leave when everything has run.
    pub fn close(&self) {
        self.state().closed = true;
        let _ = self.shared.run(bireme_sched::Event::Close);
        self.shared.check_drained();
        process::ring(&self.shared.kick);
    }

    /// End all workers now; what has not ended is abandoned.
    pub fn terminate(&self) {
        self.shared.break_off(Broken::Terminated);
        let _ = self.shared.run(bireme_sched::Event::Terminate);
        process::ring(&self.shared.kick);
        park::wake_client(&*self.shared.control);
    }

    /// Whether every worker is gone.
    pub fn finished(&self) -> bool {
        self.state().finished
    }

    /// Wait until every worker is gone, at most `timeout`. `false` if some are left.
    pub fn wait_finished(&self, timeout: Duration) -> bool {
        let (state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.state(), timeout, |state| !state.finished)
            .unwrap_or_else(PoisonError::into_inner);
        state.finished
    }

    /// Why the pool is broken, if it is.
    pub fn broken(&self) -> Option<Arc<Broken>> {
        self.state().broken.clone()
    }

    /// Process ids of the live workers.
    pub fn worker_pids(&self) -> Vec<i32> {
        self.state()
            .workers
            .iter()
            .flatten()
            .filter(|worker| worker.pid != 0)
            .map(|worker| worker.pid)
            .collect()
    }

    /// Process id of the template that serves this pool, if one does.
    pub fn template_pid(&self) -> Option<i32> {
        self.state().template_pid
    }

    /// Figures since the start.
    pub fn statistics(&self) -> Statistics {
        self.shared.statistics()
    }

    /// A block for bytes that several tasks may read by copying them out.
    pub fn blob(&self, len: u64) -> Result<Arc<Blob>, ArenaError> {
        Ok(Arc::new(Blob {
            block: self.allocate(len)?,
            owner: self.shared.owner,
        }))
    }

    /// A block that its one reader sees in place.
    pub fn lend(&self, len: u64) -> Result<Arc<Lent>, ArenaError> {
        Ok(Arc::new(Lent {
            block: self.allocate(len)?,
            handed_over: AtomicBool::new(false),
            owner: self.shared.owner,
        }))
    }

    fn allocate(&self, len: u64) -> Result<bireme_shm::arena::Block, ArenaError> {
        let mut state = self.state();
        let State { arena, workers, .. } = &mut *state;
        let block = arena.allocate(len, |segment| send_segment(workers, segment))?;
        state.last_use_ns = process::now_ns();
        state.statistics.bytes_sent += len;
        Ok(block)
    }

    /// A segment of its own for bytes that many tasks see in place.
    pub fn whole(&self, len: u64) -> Result<Arc<Whole>, ArenaError> {
        let share = Share::of_client(Arc::clone(&self.shared.control));
        let mut state = self.state();
        let State {
            wholes,
            arena,
            workers,
            ..
        } = &mut *state;
        let lives = |serial| {
            workers
                .iter()
                .flatten()
                .any(|worker| worker.serial == serial)
        };
        let trim = || arena.trim();
        let (whole, segment) = wholes.make(len, share, &self.shared.kick, lives, trim)?;
        for worker in workers.iter_mut().flatten() {
            let ticket = wholes.lend(segment.id(), worker.serial);
            worker.post(Letter::Whole(Arc::clone(&segment), ticket));
        }
        state.statistics.bytes_sent += len;
        Ok(Arc::new(whole))
    }

    /// The next worker to fork, for [`Start::Caller`]. In the child, the birth is used; in the
    /// parent, [`Client::born`] is called with the same row.
    pub fn next_birth(&self) -> Option<(u32, Birth)> {
        self.state().births.pop_front()
    }

    /// Whether workers wait to be forked.
    pub fn wants_births(&self) -> bool {
        !self.state().births.is_empty()
    }

    /// Tell that the worker for `row` was forked as `pid`, or why not.
    pub fn born(&self, row: u32, pid: io::Result<i32>) {
        self.shared.born(
            row,
            pid.and_then(|pid| Ok((pid, process::open_newborn(pid)?))),
        );
        process::ring(&self.shared.kick);
    }

    /// Descriptors of this process that a forked worker must not keep.
    pub fn private_fds(&self) -> Vec<i32> {
        self.shared.private_fds()
    }
}

impl<T> Shared<T> {
    /// Whether a worker that is awake claims `slot` within a microsecond.
    ///
    /// Waking another one costs more than that, and where tasks are as short it would find nothing
    /// left and go back to sleep. It is tried for as long as it succeeds, and now and then again.
    fn is_claimed_soon(&self, slot: SlotRef) -> bool {
        let (control, header) = (&*self.control, self.control.header());
        // RELAXED, all: guesses. Who guesses wrong wakes a worker a microsecond later.
        let asleep = park::count_sleepers(control);
        if asleep == 0 || header.alive.load(Ordering::Relaxed) <= asleep || park::spins(control) {
            return false; // the wake is free, or nobody is awake
        }
        let luck = self.luck.load(Ordering::Relaxed);
        if luck == 0 && !slot.generation.is_multiple_of(LUCK_PROBE) {
            return false;
        }
        let claimed = (0..LUCK_ROUNDS).any(|_| {
            spin_hint();
            !queue::is_queued(control, slot)
        });
        let next = if claimed {
            (luck + 1).min(MOST_LUCK)
        } else {
            luck.saturating_sub(2)
        };
        self.luck.store(next, Ordering::Relaxed);
        claimed
    }
}

impl<T: Ticket> Drop for Client<T> {
    fn drop(&mut self) {
        if self.shared.owner == process::own_pid() {
            supervisor::abandon(&self.shared);
        }
    }
}

fn send_segment(workers: &mut [Option<Worker>], segment: &Arc<Segment>) {
    for worker in workers.iter_mut().flatten() {
        worker.post(Letter::Segment(Arc::clone(segment)));
    }
}

/// A payload of few bytes.
pub fn inline(bytes: &[u8]) -> Payload {
    Payload::Inline(bytes.into())
}
