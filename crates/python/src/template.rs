//! The template process and births, for Python.

use bireme_runtime::birth;
use bireme_runtime::launcher;
use bireme_runtime::template::{Asked, Host};
use bireme_runtime::watchdog::Watchdog;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
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

/// End the templates of this process, or those that serve no pool.
#[pyfunction]
#[pyo3(signature = (*, unused = false))]
pub(crate) fn end_templates(py: Python<'_>, unused: bool) {
    py.detach(if unused {
        launcher::end_unused
    } else {
        launcher::end_all
    });
}

/// Wait until this process has no thread `id`, which is about to end.
#[pyfunction]
pub(crate) fn wait_for_thread_end(py: Python<'_>, id: i32) {
    py.detach(|| bireme_shm::os::thread::wait_until_gone(id));
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
