//! A submitted call: where its results gather, and the objects that users hold.

use crate::block::Hold;
use crate::codec::{self, Arrived, form, result};
use bireme_runtime::certificate::Certificate;
use bireme_runtime::task::{Broken, Completion, Data, Outcome, StopReason};
use bireme_shm::os::process::is_fault;
use bireme_shm::prim::{AtomicBool, AtomicU32, Ordering};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// No slot is known.
const NO_SLOT: u32 = u32::MAX;

/// One `apply`, one `map`, or one chunk of an `imap`.
pub(crate) struct Call {
    /// A single call: its value is not a list.
    single: bool,
    items: u64,
    /// Index of the first item for those who count over several calls.
    base: u64,
    /// How long an item may run; 0 for without a limit.
    limit_ns: u64,
    retry_timeouts: bool,
    slot: AtomicU32,
    done: AtomicBool,
    /// Its end concerns someone who does not wait: the dispatcher looks.
    pub(crate) watched: AtomicBool,
    parts: Mutex<Parts>,
}

struct Parts {
    missing: u64,
    /// Items that were taken back or cut short.
    cancelled: u64,
    arrived: Vec<Part>,
}

/// Items `first..last`, in the numbering of the whole call.
pub(crate) struct Part {
    first: u64,
    last: u64,
    end: End,
}

enum End {
    Value {
        kind: u32,
        data: Data,
        stop: Option<StopReason>,
        worker: u32,
    },
    Died {
        certificate: Arc<Certificate>,
        lost: bool,
        /// The item of the call that the worker died in, where these are others.
        culprit: Option<u64>,
    },
    Stopped(StopReason),
    Abandoned(Arc<Broken>),
    Unreachable(String),
    Overwritten,
}

/// What the kernel hands back with each completion.
#[derive(Clone)]
pub(crate) struct Ticket {
    pub(crate) call: Arc<Call>,
}

impl bireme_runtime::client::Ticket for Ticket {
    fn placed(&self, slot: u32) {
        self.call.slot.store(slot, Ordering::Relaxed); // RELAXED: a hint about where to look first
    }

    fn wants_again(&self, completion: &Completion<Self>) -> bool {
        self.call.wants_again(completion)
    }
}

impl Call {
    pub(crate) fn new(
        items: u64,
        single: bool,
        base: u64,
        limit_ns: u64,
        retry_timeouts: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            single,
            items,
            base,
            limit_ns,
            retry_timeouts,
            slot: AtomicU32::new(NO_SLOT),
            done: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            parts: Mutex::new(Parts {
                missing: items,
                cancelled: 0,
                arrived: Vec::new(),
            }),
        })
    }

    /// Why an item was stopped, for Python: the seconds it was allowed, or `None` if it was cancelled.
    fn limit_s(&self, reason: StopReason) -> Option<f64> {
        (reason == StopReason::Timeout).then_some(self.limit_ns as f64 / 1e9)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Where a waiter should look.
    pub(crate) fn wish(&self) -> bireme_shm::park::Wish {
        use bireme_shm::park::Wish;
        match self.slot.load(Ordering::Relaxed) {
            slot if self.single && slot != NO_SLOT => Wish::Slot(slot),
            _ if self.single => Wish::Any,
            _ => Wish::Dry,
        }
    }

    /// Whether an item that ran out of time is to be tried again.
    fn wants_again(&self, completion: &Completion<Ticket>) -> bool {
        let Completion {
            first,
            last,
            outcome,
            task,
            stop,
            ..
        } = completion;
        self.retry_timeouts
            && *stop == Some(StopReason::Timeout)
            && last - first == 1
            && task.range.attempt < task.retries
            && match outcome {
                Outcome::Stopped(_) => true,
                Outcome::Value { kind, .. } => {
                    kind & 0xff == form::RAISED || kind & result::MIXED != 0
                }
                _ => false,
            }
    }

    /// Take a completion in. `true` when the call is complete now.
    pub(crate) fn take(&self, completion: Completion<Ticket>) -> bool {
        let Completion {
            first,
            last,
            outcome,
            task,
            worker,
            stop,
            ..
        } = completion;
        let end = match outcome {
            Outcome::Value { kind, data } => End::Value {
                kind,
                data,
                stop,
                worker,
            },
            Outcome::Died(certificate) => End::Died {
                certificate,
                lost: false,
                culprit: None,
            },
            Outcome::Lost {
                certificate,
                culprit,
            } => End::Died {
                certificate,
                lost: true,
                culprit: culprit.map(|index| task.base + index),
            },
            Outcome::Stopped(reason) => End::Stopped(reason),
            Outcome::Abandoned(broken) => End::Abandoned(broken),
            Outcome::Unreachable(why) => End::Unreachable(why),
            Outcome::Overwritten => End::Overwritten,
        };
        let start = task.base - self.base;
        self.add(Part {
            first: start + first,
            last: start + last,
            end,
        })
    }

    fn add(&self, part: Part) -> bool {
        let mut parts = self.parts();
        parts.missing = parts.missing.saturating_sub(part.last - part.first);
        if matches!(
            part.end,
            End::Abandoned(_) | End::Stopped(StopReason::Cancel)
        ) {
            parts.cancelled += part.last - part.first;
        }
        if self.single {
            parts.arrived.reserve_exact(1); // nothing else will arrive, and there may be many such calls
        }
        parts.arrived.push(part);
        let complete = parts.missing == 0;
        drop(parts);
        if complete && !self.watched.load(Ordering::Acquire) {
            self.finish();
        }
        complete
    }

    /// The call has ended and, if it is watched, its watcher was called.
    pub(crate) fn finish(&self) {
        self.done.store(true, Ordering::Release);
    }

    /// Items that have ended, other than by a cancellation.
    pub(crate) fn ended(&self) -> u64 {
        let parts = self.parts();
        self.items - parts.missing - parts.cancelled
    }

    /// Put back what could not be decoded now.
    pub(crate) fn put_back(&self, parts: impl IntoIterator<Item = Part>) {
        self.parts().arrived.splice(0..0, parts);
    }

    /// Take what has arrived since the last time.
    pub(crate) fn take_parts(&self) -> Vec<Part> {
        std::mem::take(&mut self.parts().arrived)
    }

    pub(crate) fn single(&self) -> bool {
        self.single
    }

    pub(crate) fn items(&self) -> u64 {
        self.items
    }
}

/// What an item became: a value or an exception object.
pub(crate) enum Item<'py> {
    Value(Bound<'py, PyAny>),
    Raised(Bound<'py, PyAny>),
}

impl Part {
    /// Decode into `out`, one item after the other, with the index of each in the call.
    ///
    /// `named` is what the errors call the task by, `errors` the Python object that makes exceptions out of what the kernel reports.
    ///
    /// An error is not the part's: the call was interrupted, by Ctrl-C for instance, and may be repeated.
    pub(crate) fn decode<'py>(
        &self,
        py: Python<'py>,
        call: &Call,
        named: &Bound<'py, PyAny>,
        errors: &Bound<'py, PyAny>,
        mut out: impl FnMut(u64, Item<'py>) -> PyResult<()>,
    ) -> PyResult<()> {
        let (&first, &last) = (&self.first, &self.last);
        let (single, base) = (call.single, call.base);
        match &self.end {
            &End::Value {
                kind,
                ref data,
                stop,
                worker,
            } => {
                let (bytes, hold): (&[u8], Option<Hold>) = match data {
                    Data::Inline(bytes) => (bytes, None),
                    Data::Block(block) => {
                        let (start, len) = block.bytes();
                        // SAFETY: the block is this process's alone until the hold is dropped: its worker
                        // published it and writes it no more, and Python code reaches it only through
                        // the buffers made below, after this slice was read (or through those of a try
                        // that was interrupted, which only its traceback has).
                        let bytes = unsafe { std::slice::from_raw_parts(start, len) };
                        (bytes, Some(Arc::clone(block) as Hold))
                    }
                };
                let stop = stop.and_then(|reason| call.limit_s(reason));
                let whole = no_value(errors, kind, bytes, &|record| {
                    let index = (!single).then_some(base + first);
                    (record, worker, stop, named, index)
                });
                if let Some(exception) = whole {
                    let exception = made(py, exception)?;
                    return (first..last)
                        .try_for_each(|index| out(index, Item::Raised(exception.clone())));
                }
                let arrived = Arrived { bytes, hold };
                match decode_value(py, kind, &arrived, errors, last - first, single) {
                    Ok(Values::One(value)) => out(first, Item::Value(value)),
                    Ok(Values::Many(values)) => {
                        for (index, value) in (first..last).zip(values) {
                            out(index, Item::Value(value))?;
                        }
                        Ok(())
                    }
                    Ok(Values::Mixed(list)) => {
                        for (index, value) in (first..last).zip(list.iter()) {
                            let pair: (bool, Bound<'py, PyAny>) = value.extract()?;
                            let item = match pair {
                                (true, value) => Item::Value(value),
                                (false, encoded) => Item::Raised(made(
                                    py,
                                    errors.call_method1(
                                        "rebuild",
                                        (encoded, worker, stop, named, base + index),
                                    ),
                                )?),
                            };
                            out(index, item)?;
                        }
                        Ok(())
                    }
                    Err(error) if is_interrupt(py, &error) => Err(error),
                    Err(error) => {
                        let exception = errors
                            .call_method1("undecodable_result", (error.into_value(py), worker))?;
                        (first..last)
                            .try_for_each(|index| out(index, Item::Raised(exception.clone())))
                    }
                }
            }
            End::Died {
                certificate,
                lost,
                culprit,
            } => (first..last).try_for_each(|index| {
                let fields = certificate_fields(py, certificate)?;
                let exception = errors.call_method1(
                    "worker_died",
                    (fields, named, base + index, lost, culprit, single),
                );
                out(index, Item::Raised(made(py, exception)?))
            }),
            End::Stopped(reason) => {
                let limit = call.limit_s(*reason);
                let index = (last - first == 1).then_some(base + first); // several never ran
                let exception = errors.call_method1("stopped", (limit, index, single, named));
                let exception = made(py, exception)?;
                (first..last).try_for_each(|index| out(index, Item::Raised(exception.clone())))
            }
            End::Unreachable(why) => {
                let exception = errors.call_method1("no_memory", (why,))?;
                (first..last).try_for_each(|index| out(index, Item::Raised(exception.clone())))
            }
            End::Overwritten => {
                let exception = errors.call_method0("overwritten")?;
                (first..last).try_for_each(|index| out(index, Item::Raised(exception.clone())))
            }
            End::Abandoned(broken) => {
                let exception = abandoned(errors, broken)?;
                (first..last).try_for_each(|index| out(index, Item::Raised(exception.clone())))
            }
        }
    }
}

/// The exception that was made for an item, or what was raised while it was made.
fn made<'py>(py: Python<'py>, made: PyResult<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    match made {
        Err(error) if !is_interrupt(py, &error) => {
            Ok(error.into_value(py).into_bound(py).into_any())
        }
        made => made,
    }
}

/// Whether an error concerns the one who waits and not the result: Ctrl-C, or the end of the program.
fn is_interrupt(py: Python<'_>, error: &PyErr) -> bool {
    !error.is_instance_of::<PyException>(py)
}

/// The exception for a task of a broken pool.
pub(crate) fn abandoned<'py>(
    errors: &Bound<'py, PyAny>,
    broken: &Broken,
) -> PyResult<Bound<'py, PyAny>> {
    let py = errors.py();
    match broken {
        Broken::Terminated => errors.call_method1("terminated", ()),
        Broken::Initializer(why) => {
            errors.call_method1("initializer_failed", (PyBytes::new(py, why),))
        }
        Broken::InitializerDied(why) => errors.call_method1("initializer_died", (why,)),
        Broken::KilledUnborn(why) => errors.call_method1("killed_unborn", (why,)),
        Broken::KilledIdle(why) => errors.call_method1("killed_idle", (why,)),
        Broken::WorkersDie(why) => errors.call_method1("workers_die", (why,)),
        Broken::CannotStart(why) => errors.call_method1("cannot_start", (why,)),
        Broken::Template(why) => errors.call_method1("template_failed", (why,)),
        Broken::TemplateKilled { signal, story } => {
            errors.call_method1("template_killed", (signal, is_fault(*signal), story))
        }
    }
}

enum Values<'py> {
    One(Bound<'py, PyAny>),
    Many(Vec<Bound<'py, PyAny>>),
    Mixed(Bound<'py, PyList>),
}

/// The exception that stands for all items of a part, if its result is one.
fn no_value<'py, A: pyo3::call::PyCallArgs<'py>>(
    errors: &Bound<'py, PyAny>,
    kind: u32,
    bytes: &[u8],
    raised: &dyn Fn(Bound<'py, PyBytes>) -> A,
) -> Option<PyResult<Bound<'py, PyAny>>> {
    match kind & 0xff {
        form::RAISED => {
            let record = PyBytes::new(errors.py(), bytes);
            Some(errors.call_method1("rebuild", raised(record)))
        }
        form::REFUSED => {
            let why = format!("a result has no room: {}", String::from_utf8_lossy(bytes));
            Some(errors.call_method1("no_memory", (why,)))
        }
        _ => None,
    }
}

fn decode_value<'py>(
    py: Python<'py>,
    kind: u32,
    arrived: &Arrived<'_>,
    errors: &Bound<'py, PyAny>,
    count: u64,
    single: bool,
) -> PyResult<Values<'py>> {
    let shape = kind & 0xff;
    if let Some(value) = codec::unpack_scalar(py, shape, arrived.bytes)? {
        return Ok(Values::One(value));
    }
    if matches!(shape, form::INTS | form::FLOATS) {
        let values = codec::unpack_items(py, shape, arrived.bytes, 0, count)?;
        return Ok(Values::Many(values));
    }
    let mut nowhere = |_, _, _| {
        Err(pyo3::exceptions::PyRuntimeError::new_err(
            "a result names a foreign segment",
        ))
    };
    let (pickled, buffers) = codec::open(py, shape, arrived, &mut nowhere)?;
    let value = if kind & result::BY_VALUE != 0 {
        errors.call_method1("loads_by_value", (pickled, buffers))?
    } else {
        codec::loads(&pickled, buffers)?
    };
    if single {
        return Ok(Values::One(value));
    }
    let list = value.cast_into::<PyList>()?;
    if list.len() as u64 != count {
        return Err(pyo3::exceptions::PyRuntimeError::new_err(
            "a chunk came back with another length",
        ));
    }
    Ok(if kind & result::MIXED != 0 {
        Values::Mixed(list)
    } else {
        Values::Many(list.iter().collect())
    })
}

fn certificate_fields<'py>(
    py: Python<'py>,
    certificate: &Certificate,
) -> PyResult<Bound<'py, PyAny>> {
    let fields = pyo3::types::PyDict::new(py);
    fields.set_item("worker", certificate.row)?;
    fields.set_item("pid", certificate.pid)?;
    fields.set_item("exitcode", certificate.exit_code)?;
    fields.set_item("signal", certificate.signal)?;
    fields.set_item("peak_memory_bytes", certificate.peak_bytes)?;
    fields.set_item("memory_limit_bytes", certificate.limit_bytes)?;
    fields.set_item("became", certificate.became.as_deref())?;
    fields.set_item("oom_killed", certificate.oom_killed)?;
    fields.set_item("stack", &certificate.stack)?;
    fields.set_item("last_output", &certificate.last_output)?;
    Ok(fields.into_any())
}
