//! Shared memory as a Python buffer.
//!
//! A [`Block`] exports a range of shared memory; what keeps that memory (a result's
//! block, a lent argument, a private mapping) lives in its *hold* and is let go when
//! the last view dies, in whatever thread that happens.

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// Keeps a range of memory valid; dropped with the last view.
pub(crate) type Hold = Arc<dyn std::any::Any + Send + Sync>;

/// A range of shared memory that supports the buffer protocol; writable, one-dimensional bytes.
#[pyclass(frozen, module = "bireme._core")]
pub(crate) struct Block {
    start: *mut u8,
    len: usize,
    _hold: Hold,
}

// SAFETY: the memory is kept by `_hold` and is only reached through exported buffers,
// whose users Python synchronises as for any other writable buffer.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

impl Block {
    /// A block over `len` bytes at `start`, valid while `hold` lives.
    pub(crate) fn new(start: *mut u8, len: usize, hold: Hold) -> Self {
        Self {
            start,
            len,
            _hold: hold,
        }
    }
}

#[pymethods]
impl Block {
    fn __len__(&self) -> usize {
        self.len
    }

    #[expect(clippy::needless_pass_by_value, reason = "the form that PyO3 asks for")]
    /// # Safety
    /// Called by Python only, with a valid view.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("view is null"));
        }
        let this = slf.get();
        // SAFETY: `view` is ours to fill; `start..start + len` is valid while `slf` lives, and
        // the call stores a new reference to `slf` in the view.
        let result = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                this.start.cast::<c_void>(),
                this.len as isize,
                0,
                flags,
            )
        };
        if result == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(slf.py()))
        }
    }
}
