//! The items of a chunk, one after the other, for a loop in C.

use crate::worker::forked;
use bireme_runtime::worker as kernel;
use bireme_shm::control::Control;
use bireme_shm::os::process;
use bireme_shm::queue::SlotRef;
use pyo3::prelude::*;
use pyo3::types::PyInt;
use std::sync::Arc;

/// Before this much time has passed a chunk is not worth sharing.
const SHARE_AFTER_NS: u64 = 200_000;

/// Where items come from.
pub(crate) enum Source {
    /// Numbers, made when their turn comes.
    Range { start: i64, step: i64 },
    /// Objects that were decoded together.
    Objects(std::vec::IntoIter<Py<PyAny>>),
}

/// The task whose items run, as far as the others must know.
pub(crate) struct Watch {
    pub(crate) control: Arc<Control>,
    pub(crate) slot: SlotRef,
    /// When the task began.
    pub(crate) started_ns: u64,
    /// Whether the rest may be handed back.
    pub(crate) guided: bool,
}

impl Watch {
    /// Say that `item` is next.
    pub(crate) fn progress(&self, item: u64) {
        kernel::progress(&self.control, self.slot, item);
    }

    /// Whether others could do the rest of the items.
    pub(crate) fn is_better_shared(&self) -> bool {
        self.guided
            && kernel::others_starve(&self.control)
            && process::now_ns() - self.started_ns > SHARE_AFTER_NS
    }
}

/// Items `first..last` of a task; ends early when the rest is better shared.
#[pyclass(module = "bireme._core")]
pub(crate) struct Items {
    source: Source,
    watch: Watch,
    first: u64,
    next: u64,
    last: u64,
}

impl Items {
    pub(crate) fn new(source: Source, watch: Watch, first: u64, last: u64) -> Self {
        Self {
            source,
            watch,
            first,
            next: first,
            last,
        }
    }

    /// How many items were given out.
    pub(crate) fn given(&self) -> usize {
        (self.next - self.first) as usize
    }
}

#[pymethods]
impl Items {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__(&mut self, py: Python<'_>) -> Option<Py<PyAny>> {
        let shared = self.next > self.first && self.watch.is_better_shared();
        if self.next == self.last || shared || forked() {
            self.last = self.next;
            return None;
        }
        let index = self.next;
        self.next += 1;
        self.watch.progress(index);
        match &mut self.source {
            Source::Range { start, step } => {
                let value = start.wrapping_add(step.wrapping_mul(index as i64));
                Some(PyInt::new(py, value).into_any().unbind())
            }
            Source::Objects(objects) => objects.next(),
        }
    }
}
