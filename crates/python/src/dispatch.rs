//! The dispatcher: one thread a pool, started when first needed, that calls Python
//! on behalf of nobody in particular: callbacks, progress, output and log records while no caller
//! waits, forks of workers. It never reattaches to an interpreter that is going away.

use crate::core::Core;
use bireme_runtime::client::forking;
use bireme_shm::os::thread::{self, Thread};
use bireme_shm::park::Wish;
use bireme_shm::prim::{AtomicBool, AtomicU32, Ordering};
use pyo3::prelude::*;
use std::sync::{Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a wait of the dispatcher lasts at most.
const SLICE: Duration = Duration::from_millis(50);
/// How long a fork waits for what the thread has begun to do.
const SHORT_CALL: Duration = Duration::from_millis(200);
/// How long the end of the interpreter waits for a callback that is running.
const LAST_CALL: Duration = Duration::from_secs(5);

/// Wakes and stops the dispatcher of one pool.
#[derive(Default)]
pub(crate) struct Dispatcher {
    wanted: Mutex<bool>,
    changed: Condvar,
    /// Stops under way; the thread leaves while it is not 0.
    stops: AtomicU32,
    /// The thread is calling Python, or waits for its lock: nobody may wait for it then.
    busy: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

impl Dispatcher {
    /// Have the dispatcher look around soon.
    pub(crate) fn wake(&self, core: &Weak<Core>) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
        if forking() || self.stops.load(Ordering::SeqCst) != 0 {
            return;
        }
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let core = Weak::clone(core);
        *thread = thread::spawn("bireme-dispatcher", move || run(&core)).ok();
    }

    /// The pool has ended: have the thread see it, if it runs.
    pub(crate) fn dismiss(&self) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    /// Whether the thread lives.
    pub(crate) fn runs(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Whether it lives and is not the calling thread.
    pub(crate) fn runs_elsewhere(&self) -> bool {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = thread.as_ref();
        thread.is_some_and(|thread| !thread.is_finished() && !thread.is_current())
    }

    /// Stop the thread, for good (`forever`) or until the next wake.
    ///
    /// Waits for its end. While it is calling Python, which may be what waits for us, that wait
    /// is short; at the end of the interpreter, some seconds.
    /// Called with the interpreter's lock released.
    pub(crate) fn stop(&self, forever: bool) {
        self.stops.fetch_add(1, Ordering::SeqCst);
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_one();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread {
            let patience = match forever {
                true => LAST_CALL,
                false if thread.is_current() => Duration::ZERO,
                false => SHORT_CALL,
            };
            let began = Instant::now();
            while !thread.is_finished()
                && (!self.busy.load(Ordering::SeqCst) || began.elapsed() < patience)
            {
                bireme_shm::os::process::pause(Duration::from_micros(50));
            }
            if thread.is_finished() {
                thread.join();
            } else {
                *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
            }
        }
        if !forever {
            self.stops.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Wait for a wake. `false` when it is time to leave.
    fn wait(&self, core: &Core) -> bool {
        if core.watchers.any() && self.stops.load(Ordering::SeqCst) == 0 {
            if !core.inner.has_news() {
                core.inner.wait(Wish::Any, SLICE);
            }
        } else {
            let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            let (mut wanted, _) = self
                .changed
                .wait_timeout_while(wanted, Duration::from_secs(1), |wanted| !*wanted)
                .unwrap_or_else(PoisonError::into_inner);
            *wanted = false;
        }
        self.stops.load(Ordering::SeqCst) == 0
    }
}

fn run(core: &Weak<Core>) {
    bireme_shm::os::process::block_signals();
    let mut idle = 0;
    while let Some(core) = core.upgrade() {
        if !core.dispatcher.wait(&core) {
            return;
        }
        if !core.has_chores() {
            if core.inner.finished() && !core.watchers.any() {
                return;
            }
            // Some seconds with nothing to do: the next wake starts a new thread.
            idle += 1;
            if idle > 3 && !core.watchers.any() {
                return;
            }
            continue;
        }
        idle = 0;
        core.dispatcher.busy.store(true, Ordering::SeqCst);
        let attached = Python::try_attach(|py| {
            let mut stay = StayIfUnwound { through: false };
            core.do_chores(py);
            stay.through = true;
        });
        core.dispatcher.busy.store(false, Ordering::SeqCst);
        if attached.is_none() {
            return; // the interpreter is going away
        }
    }
}

/// Python before 3.14 ends a thread that wants its lock while the interpreter goes away, by unwinding
/// its stack, and what that would drop needs the lock. Such a thread sleeps until the process ends.
struct StayIfUnwound {
    through: bool,
}

impl Drop for StayIfUnwound {
    fn drop(&mut self) {
        while !self.through && !std::thread::panicking() {
            bireme_shm::os::process::pause(Duration::from_hours(1));
        }
    }
}
