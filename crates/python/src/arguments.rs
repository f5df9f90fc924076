//! What a task is given: its function and its items, read from shared memory.

use crate::block::Hold;
use crate::codec::{self, Arrived, flag, form, mode};
use crate::items::Source;
use crate::recent::Recent;
use crate::worker::{Hooks, Worker};
use bireme_runtime::worker as kernel;
use bireme_shm::control::{INLINE_BYTES, Location};
use bireme_shm::lease::Lease;
use bireme_shm::os::memory::Mapping;
use bireme_shm::prim::{AtomicU64, Ordering};
use bireme_shm::queue::SlotRef;
use bireme_shm::segment::Segment;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::sync::Arc;

/// What a claimed slot says of its task.
pub(crate) struct Claimed {
    pub(crate) slot: SlotRef,
    pub(crate) kind: u32,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) base: u64,
    pub(crate) seed: u64,
    /// The task has a time limit.
    pub(crate) timed: bool,
}

impl Claimed {
    pub(crate) fn read(kernel: &kernel::Worker, slot: SlotRef) -> Self {
        let fields = kernel.slot(slot);
        // RELAXED, all: the word was acquired.
        let load = |field: &AtomicU64| field.load(Ordering::Relaxed);
        let first = load(&fields.first);
        Self {
            slot,
            kind: fields.kind.load(Ordering::Relaxed),
            first,
            last: load(&fields.last).max(first),
            base: load(&fields.base),
            seed: load(&fields.seed),
            timed: load(&fields.timeout_ns) != 0,
        }
    }

    /// How the function is called, a `mode`.
    pub(crate) fn mode(&self) -> u32 {
        self.kind & 0xff
    }

    /// How the payload is written, a `form`.
    fn shape(&self) -> u32 {
        self.kind >> 8 & 0xff
    }

    /// Whether it is one call, not a chunk of items.
    pub(crate) fn is_call(&self) -> bool {
        matches!(self.mode(), mode::CALL | mode::CALL_WITH_KEYWORDS)
    }
}

/// Where bytes in shared memory lie, with what keeps them mapped.
type Place = (Arc<Segment>, Location);

/// A view of a shared segment; in this order they go.
struct Seen {
    _mapping: Mapping,
    _lease: Option<Arc<Lease>>,
}

/// A function that a worker keeps loaded, and the segment that its bytes fill, or 0.
pub(crate) type Function = (u32, Py<PyAny>);

/// Functions that a worker keeps loaded, by id. What goes would be read again.
#[derive(Default)]
pub(crate) struct Loaded(Recent<Function>);

impl Loaded {
    fn get(&mut self, id: u64) -> Option<&Py<PyAny>> {
        self.0.get(id).map(|(_, function)| &*function)
    }

    /// Give up the functions in these segments.
    pub(crate) fn forget(&mut self, segments: &[u32]) -> Vec<Function> {
        self.0.remove_if(|(segment, _)| segments.contains(segment))
    }
}

impl Worker {
    /// The items of a chunk for a loop in C.
    pub(crate) fn source(
        &self,
        py: Python<'_>,
        hooks: &Hooks<'_>,
        task: &Claimed,
    ) -> PyResult<Source> {
        if task.shape() == form::RANGE {
            let (bytes, _) = self.bytes(py, task.slot)?;
            let (start, step) = codec::unpack_range(bytes.as_slice())?;
            return Ok(Source::Range { start, step });
        }
        let items = self.items(py, hooks, task)?;
        let objects: Vec<Py<PyAny>> = items.into_iter().map(Bound::unbind).collect();
        Ok(Source::Objects(objects.into_iter()))
    }

    /// The items of a task; of a single call one, which holds its arguments.
    pub(crate) fn items<'py>(
        &self,
        py: Python<'py>,
        hooks: &Hooks<'py>,
        task: &Claimed,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let shape = task.shape();
        match task.mode() {
            mode::CALL if shape == form::EMPTY => Ok(vec![PyTuple::empty(py).into_any()]),
            mode::CALL | mode::CALL_WITH_KEYWORDS => Ok(vec![self.payload(py, hooks, task)?]),
            _ if matches!(shape, form::INTS | form::FLOATS | form::RANGE) => {
                let (bytes, _) = self.bytes(py, task.slot)?;
                codec::unpack_items(py, shape, bytes.as_slice(), task.first, task.last)
            }
            _ => {
                let all = self.payload(py, hooks, task)?;
                match all.cast::<PyList>() {
                    Ok(list) => Ok(list
                        .get_slice(task.first as usize, task.last as usize)
                        .iter()
                        .collect()),
                    Err(_) => (task.first..task.last)
                        .map(|index| all.get_item(index))
                        .collect(),
                }
            }
        }
    }

    /// The function of a task, read once for each worker.
    pub(crate) fn function<'py>(
        &self,
        py: Python<'py>,
        hooks: &Hooks<'py>,
        slot: SlotRef,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (id, location) = {
            let state = &mut *self.state();
            let fields = state.kernel.slot(slot);
            let id = fields.function.load(Ordering::Relaxed); // RELAXED: the word was acquired
            if let Some(function) = state.functions.get(id) {
                return Ok(function.bind(py).clone());
            }
            (id, fields.function_at.load())
        };
        let segment = self.segment(py, location.segment)?;
        let whole = self.state().kernel.lease(location.segment).is_some();
        let (start, hold): (*mut u8, Option<Hold>) = if whole {
            let (start, hold) = self.see(py, location.segment, location.offset, location.len)?;
            (start, Some(hold))
        } else {
            let outside = || PyRuntimeError::new_err("a function lies outside of its segment");
            let block = segment.block(location.offset, location.len);
            (block.ok_or_else(outside)?, None)
        };
        // SAFETY: inside the segment, which `segment` or `hold` keeps; the client wrote it before
        // the task was published and frees it only after the task has ended.
        let bytes = unsafe { std::slice::from_raw_parts(start, location.len as usize) };
        let (payload, buffers) =
            codec::open(py, form::PARCEL, &Arrived { bytes, hold }, &mut nowhere)?;
        let function = hooks.load_function.call1((payload, buffers))?;
        let segment = if whole { location.segment } else { 0 };
        let loaded = (segment, function.clone().unbind());
        let gone = self.state().functions.0.insert(id, loaded, location.len);
        drop(gone); // without the lock: this may run Python code
        Ok(function)
    }

    /// The segment with this id. While it is awaited other threads run, and signals are answered.
    fn segment(&self, py: Python<'_>, id: u32) -> PyResult<Arc<Segment>> {
        let mut awaited = None;
        loop {
            let arrived = self.state().kernel.segment(id)?;
            if let Some(segment) = arrived {
                return Ok(segment);
            }
            let arrival = awaited.get_or_insert_with(|| self.state().kernel.arrival(id));
            py.detach(|| arrival.wait())?;
            py.check_signals()?;
        }
    }

    /// See a part of a shared segment in place, private to this process.
    fn see(
        &self,
        py: Python<'_>,
        segment: u32,
        offset: u64,
        len: u64,
    ) -> PyResult<(*mut u8, Hold)> {
        let segment = self.segment(py, segment)?;
        let lease = self.state().kernel.lease(segment.id());
        let mapping = segment.private_view(offset, len)?;
        Ok((
            mapping.base(),
            Arc::new(Seen {
                _mapping: mapping,
                _lease: lease,
            }),
        ))
    }

    /// The bytes of the payload: copied from the slot, or in place with what keeps them.
    fn bytes(&self, py: Python<'_>, slot: SlotRef) -> PyResult<(PayloadBytes, Option<Place>)> {
        let location = {
            let state = self.state();
            let fields = state.kernel.slot(slot);
            let location = fields.args_at.load();
            if location.segment == 0 {
                let (bytes, len) = fields.read_inline_args(location.len);
                return Ok((PayloadBytes::Inline(bytes, len), None));
            }
            location
        };
        let segment = self.segment(py, location.segment)?;
        let start = segment
            .block(location.offset, location.len)
            .ok_or_else(|| PyRuntimeError::new_err("a payload lies outside of its segment"))?;
        Ok((
            PayloadBytes::Shared(start, location.len as usize),
            Some((segment, location)),
        ))
    }

    fn payload<'py>(
        &self,
        py: Python<'py>,
        hooks: &Hooks<'py>,
        task: &Claimed,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (bytes, place) = self.bytes(py, task.slot)?;
        let hold = place
            .filter(|_| task.kind & flag::LENT != 0)
            .map(|(segment, location)| -> Hold { Arc::new(Lease::new(segment, location.ticket)) });
        self.state().lent.clone_from(&hold);
        let mut resolve = |segment, offset, len| self.see(py, segment, offset, len);
        let arrived = Arrived {
            bytes: bytes.as_slice(),
            hold,
        };
        let (pickled, buffers) = codec::open(py, task.shape(), &arrived, &mut resolve)?;
        if task.kind & flag::BY_VALUE != 0 {
            hooks.loads.call1((pickled, buffers))
        } else {
            codec::loads(&pickled, buffers)
        }
    }
}

enum PayloadBytes {
    Inline([u8; INLINE_BYTES], usize),
    Shared(*const u8, usize),
}

impl PayloadBytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Inline(bytes, len) => &bytes[..*len],
            // SAFETY: inside a mapped segment that the worker keeps; the client wrote it before the
            // task was published and frees it only after the task has ended or the hold is gone.
            Self::Shared(start, len) => unsafe { std::slice::from_raw_parts(*start, *len) },
        }
    }
}

/// A resolver for what holds all its bytes itself.
pub(crate) fn nowhere(_: u32, _: u64, _: u64) -> PyResult<(*mut u8, Hold)> {
    Err(PyRuntimeError::new_err(
        "a function names a foreign segment",
    ))
}
