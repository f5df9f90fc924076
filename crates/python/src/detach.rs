//! Our frames on the stacks of threads that the end of the interpreter may overtake.
//!
//! Python before 3.14 ends a thread that asks for its lock while the interpreter goes away by unwinding
//! its stack, and aborts when it meets frames of ours. So the end ([`end_begins`]) comes in two steps, after all
//! pools were terminated. For a moment waits may return, as they all do then. After it nobody but the thread that ends
//! the interpreter gets in or comes back from a wait: such threads, daemons, sleep until the process
//! ends. Those that are in the middle of something else, such as pickling, are waited for.

use bireme_shm::os::process;
use bireme_shm::os::thread::own_id;
use bireme_shm::prim::{AtomicBool, AtomicU32, Ordering};
use pyo3::prelude::*;
use std::cell::Cell;
use std::time::{Duration, Instant};

static ENDING: AtomicBool = AtomicBool::new(false);
/// The thread that ends the interpreter.
static ENDER: AtomicU32 = AtomicU32::new(0);
/// How often threads are in our code.
static INSIDE: AtomicU32 = AtomicU32::new(0);
/// Threads that have looked at [`ENDING`] and are about to have the lock again.
static RETURNING: AtomicU32 = AtomicU32::new(0);

thread_local! {
    /// How often this thread is among [`INSIDE`].
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// How long waits may take to return.
const SHORT: Duration = Duration::from_millis(500);
/// How long the end waits for those who are at work: longer would be taken for a hang.
const LONG: Duration = Duration::from_secs(10);

/// A thread is in our code, which may call Python.
pub(crate) struct Inside;

impl Inside {
    pub(crate) fn enter(py: Python<'_>) -> Self {
        // SYNC(ending): counted, then looked; the ender stores, then looks at the counts.
        INSIDE.fetch_add(1, Ordering::SeqCst);
        DEPTH.set(DEPTH.get() + 1);
        if is_over() {
            py.detach(stay);
        }
        Self
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get().saturating_sub(1));
        INSIDE.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Run `wait` without the interpreter's lock.
pub(crate) fn detached<T: Send>(py: Python<'_>, wait: impl FnOnce() -> T + Send) -> T {
    let value = py.detach(|| {
        let value = wait();
        RETURNING.fetch_add(1, Ordering::SeqCst); // SYNC(ending), as above
        if is_over() {
            RETURNING.fetch_sub(1, Ordering::SeqCst);
            stay();
        }
        value
    });
    RETURNING.fetch_sub(1, Ordering::SeqCst);
    value
}

fn is_over() -> bool {
    ENDING.load(Ordering::SeqCst) && ENDER.load(Ordering::SeqCst) != own_id()
}

/// Sleep until the process ends, no longer counted.
fn stay() {
    INSIDE.fetch_sub(DEPTH.get(), Ordering::SeqCst);
    loop {
        process::pause(Duration::from_hours(1));
    }
}

/// The interpreter is about to end, and no pool lives: let the others go, then nobody more.
#[pyfunction]
pub(crate) fn end_begins(py: Python<'_>) {
    py.detach(|| {
        wait_for_none(&INSIDE, SHORT);
        ENDER.store(own_id(), Ordering::SeqCst);
        ENDING.store(true, Ordering::SeqCst);
        wait_for_none(&INSIDE, LONG);
        wait_for_none(&RETURNING, SHORT);
    });
}

fn wait_for_none(count: &AtomicU32, patience: Duration) {
    let begun = Instant::now();
    while count.load(Ordering::SeqCst) != 0 && begun.elapsed() < patience {
        process::pause(Duration::from_millis(1));
    }
}

/// In a forked child, which has none of the other threads.
pub(crate) fn forget_the_others() {
    INSIDE.store(DEPTH.get(), Ordering::SeqCst);
    RETURNING.store(0, Ordering::SeqCst);
}
