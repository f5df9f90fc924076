//! Forks of this process: our threads stop before, and start again after, in pools and in a worker.
//!
//! The hooks are functions in C, so that no handler of a signal can run amid them: what one raises there, Python
//! swallows with the rest of the hook.

use crate::core::Core;
use crate::worker::{Worker, stop_requested};
use bireme_runtime::launcher;
use bireme_shm::lease;
use bireme_shm::prim::{AtomicBool, Ordering};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The pools that this process knows, its parent's too.
static POOLS: Mutex<Vec<Weak<Core>>> = Mutex::new(Vec::new());
/// The worker that this process is.
static WORKER: Mutex<Option<Py<Worker>>> = Mutex::new(None);
/// The worker's watchdog is to run again.
static UNWATCHED: AtomicBool = AtomicBool::new(false);
static WATCHED: AtomicBool = AtomicBool::new(false);
/// A fork is under way: hooks run, which swallow what is raised.
static AMID: AtomicBool = AtomicBool::new(false);

// Both locks are taken with the interpreter's lock held, and never kept while that is given up: no
// fork meets them locked.
fn locked<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pools() -> Vec<Arc<Core>> {
    locked(&POOLS).iter().filter_map(Weak::upgrade).collect()
}

fn worker(py: Python<'_>) -> Option<Py<Worker>> {
    locked(&WORKER).as_ref().map(|worker| worker.clone_ref(py))
}

/// Whether this is no time to raise anything: it would be lost.
pub(crate) fn amid() -> bool {
    AMID.load(Ordering::SeqCst)
}

/// See to a pool at forks of this process.
pub(crate) fn note_pool(py: Python<'_>, core: &Arc<Core>) -> PyResult<()> {
    let mut pools = locked(&POOLS);
    pools.retain(|pool| pool.strong_count() > 0);
    pools.push(Arc::downgrade(core));
    drop(pools);
    watch(py)
}

/// See to the worker that this process is.
pub(crate) fn note_worker(worker: Bound<'_, Worker>) -> PyResult<()> {
    let py = worker.py();
    let before = locked(&WORKER).replace(worker.unbind());
    drop(before); // a worker that was forked by a task of another was that one
    UNWATCHED.store(false, Ordering::SeqCst);
    watch(py)
}

/// Register the hooks, once for this process and its forks.
fn watch(py: Python<'_>) -> PyResult<()> {
    if WATCHED.swap(true, Ordering::SeqCst) {
        return Ok(());
    }
    let hooks = PyDict::new(py);
    hooks.set_item("before", wrap_pyfunction!(before_fork, py)?)?;
    hooks.set_item("after_in_parent", wrap_pyfunction!(after_in_parent, py)?)?;
    hooks.set_item("after_in_child", wrap_pyfunction!(after_in_child, py)?)?;
    let os = py.import("os")?;
    os.call_method("register_at_fork", (), Some(&hooks))
        .map(drop)
}

/// Threads of ours would be cut off by the fork, and Python would warn of them.
#[pyfunction]
fn before_fork(py: Python<'_>) {
    AMID.store(true, Ordering::SeqCst);
    bireme_runtime::client::fork_begins();
    lease::before_fork();
    for core in pools() {
        core.pause(py, false);
    }
    bireme_runtime::client::pause_abandoned();
    if let Some(worker) = worker(py) {
        UNWATCHED.store(true, Ordering::SeqCst);
        worker.get().unwatch();
    }
}

#[pyfunction]
fn after_in_parent() {
    bireme_runtime::client::fork_is_over(false);
    lease::after_fork_in_parent();
    AMID.store(false, Ordering::SeqCst);
    if stop_requested() {
        // SAFETY: may be called at any time, and without the interpreter's lock.
        unsafe { pyo3::ffi::PyErr_SetInterrupt() }; // as when the signal came
    }
    resume_soon();
}

#[pyfunction]
fn after_in_child() {
    bireme_runtime::client::fork_is_over(true);
    lease::after_fork_in_child();
    launcher::forget_inherited();
    crate::detach::forget_the_others();
    AMID.store(false, Ordering::SeqCst);
    resume_soon();
}

/// Our threads start again a moment later, from the main thread's own loop: Python counts
/// threads after these hooks, and warns of a fork beside others.
fn resume_soon() {
    // SAFETY: the function is `extern "C"`, ignores its argument and may be called at any time in the
    // main thread. When the queue is full, the next use of each pool resumes it, the end of the next task the worker.
    unsafe { pyo3::ffi::Py_AddPendingCall(Some(resume), std::ptr::null_mut()) };
}

extern "C" fn resume(_: *mut std::ffi::c_void) -> std::ffi::c_int {
    let _ = Python::try_attach(|py| {
        resume_pools();
        watch_again(py);
    });
    0
}

/// Undo what a fork did to the pools of this process.
#[pyfunction]
pub(crate) fn resume_pools() {
    for core in pools() {
        core.resume();
    }
    bireme_runtime::client::resume_abandoned();
}

/// Have the worker's watchdog run again after a fork, so that a task that has forked does not outlive the caller.
pub(crate) fn watch_again(py: Python<'_>) {
    if !UNWATCHED.load(Ordering::Relaxed) {
        return; // RELAXED: set by the thread that forked; others may find it at the next task's end
    }
    if let Some(worker) = worker(py)
        && worker.get().watch().is_ok()
    {
        UNWATCHED.store(false, Ordering::SeqCst);
    } // else there is no descriptor just now: the end of the next task tries again
}
