//! The template process and births, for Python.

use bireme_runtime::birth;
use bireme_runtime::launcher;
use bireme_runtime::template::{Asked, Host};
use bireme_runtime::watchdog::Watchdog;
use bireme_shm::lease;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

/// What a worker is born with; consumed by `Worker`.
#[pyclass(frozen, module = "bireme._core")]
pub(crate) struct Birth {
    inner: Mutex<Option<birth::Birth>>,
}

impl Birth {
    pub(crate) fn new(birth: birth::Birth) -> Self {
        Self {
            inner: Mutex::new(Some(birth)),
        }
    }

    pub(crate) fn take(&self) -> PyResult<birth::Birth> {
        let birth = self
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        birth.ok_or_else(|| PyRuntimeError::new_err("this birth was used already"))
    }
}

#[pymethods]
impl Birth {
    /// Close everything: nobody will be born.
    fn discard(&self) {
        drop(self.take());
    }
}

/// Take over a descriptor that Python code got as a number, under a number of its own.
fn own(fd: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: the caller passes the descriptor's ownership: it is this process's standard
    // input, which was set up for this purpose and which nothing else closes.
    unsafe { OwnedFd::from_raw_fd(fd) }.try_clone()
}

/// Read a birth from the control socket `fd`, which is taken over.
#[pyfunction]
pub(crate) fn receive_birth(py: Python<'_>, fd: i32) -> PyResult<Birth> {
    Ok(Birth::new(py.detach(|| birth::Birth::receive(own(fd)?))?))
}

/// End the templates of this process.
#[pyfunction]
pub(crate) fn end_templates(py: Python<'_>) {
    py.detach(launcher::end_all);
}

/// Wait until this process has no thread `id`, which is about to end.
#[pyfunction]
pub(crate) fn wait_for_thread_end(py: Python<'_>, id: i32) {
    py.detach(|| bireme_shm::os::thread::wait_until_gone(id));
}

/// A fork of this process begins: no thread of ours starts until `end_fork`.
#[pyfunction]
pub(crate) fn begin_fork() {
    bireme_runtime::client::fork_begins();
    lease::before_fork();
}

/// What starts our threads again after a fork: those of pools, that of a worker.
static RESUME: PyOnceLock<Py<PyList>> = PyOnceLock::new();

/// Have `resume` called in the main thread after each fork of this process.
#[pyfunction]
pub(crate) fn resume_after_forks(py: Python<'_>, resume: &Bound<'_, PyAny>) -> PyResult<()> {
    let all = RESUME.get_or_init(py, || PyList::empty(py).unbind());
    all.bind(py).append(resume)
}

/// The fork is over, in the parent or in its `child`.
///
/// Our threads start again a moment later, from the main thread's own loop: Python counts
/// threads after this hook, and warns of a fork beside others.
#[pyfunction]
pub(crate) fn end_fork(child: bool) {
    bireme_runtime::client::fork_is_over(child);
    if child {
        lease::after_fork_in_child();
        launcher::forget_inherited();
        crate::detach::forget_the_others();
    } else {
        lease::after_fork_in_parent();
    }
    // SAFETY: the function is `extern "C"`, ignores its argument and may be called at any time in the
    // main thread. When the queue is full, the next use of each pool resumes it.
    unsafe { pyo3::ffi::Py_AddPendingCall(Some(resume), std::ptr::null_mut()) };
}

extern "C" fn resume(_: *mut std::ffi::c_void) -> std::ffi::c_int {
    let _ = Python::try_attach(|py| {
        let Some(all) = RESUME.get(py) else { return };
        for resume in all.bind(py) {
            if let Err(error) = resume.call0() {
                error.write_unraisable(py, None);
            }
        }
    });
    0
}

/// The template's side of the kernel.
#[pyclass(frozen, module = "bireme._core")]
pub(crate) struct TemplateHost {
    inner: Mutex<Option<Host>>,
    /// Watches while the interpreter prepares itself, which may take long.
    watchdog: Mutex<Option<Watchdog>>,
}

impl TemplateHost {
    fn with<R>(&self, run: impl FnOnce(&mut Host) -> R) -> PyResult<R> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .as_mut()
            .map(run)
            .ok_or_else(|| PyRuntimeError::new_err("this template has become a worker"))
    }
}

#[pymethods]
impl TemplateHost {
    /// Serve the client at the other end of `fd`, which is taken over.
    #[new]
    fn new(fd: i32) -> PyResult<Self> {
        let host = Host::new(own(fd)?)?;
        let watchdog = host.watch().ok();
        Ok(Self {
            inner: Mutex::new(Some(host)),
            watchdog: Mutex::new(watchdog),
        })
    }

    /// Wait for the next fork to make; `False` when it is time to leave. From the first call on no
    /// other thread of ours runs.
    fn next(&self, py: Python<'_>) -> PyResult<bool> {
        let watchdog = self
            .watchdog
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(watchdog);
        Ok(matches!(py.detach(|| self.with(Host::wait))??, Asked::Fork))
    }

    /// In the parent: the worker was forked (`pid`), or not (`errno`).
    fn forked(&self, pid: Option<i32>, errno: i32) -> PyResult<()> {
        self.with(|host| host.forked(pid.ok_or(errno)))
    }

    /// No fork will ever be made, for the reason `why`: the client is told, and it is time to leave.
    fn refuse(&self, why: &str) -> PyResult<()> {
        self.with(|host| host.refuse(why))
    }

    /// The client's standard error, if it has one; the caller owns the descriptor.
    fn take_stderr(&self) -> PyResult<Option<i32>> {
        self.with(|host| host.take_stderr().map(IntoRawFd::into_raw_fd))
    }

    /// In the child: what it is born with; everything of the template is closed.
    fn take_birth(&self) -> PyResult<Birth> {
        let host = self
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let birth = host.and_then(Host::into_birth);
        birth
            .map(Birth::new)
            .ok_or_else(|| PyRuntimeError::new_err("nobody was to be born"))
    }
}
