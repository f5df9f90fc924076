//! What users wait on: the result of an `apply` or a `map`.

use crate::call::{Call, Item, Part};
use crate::core::{Core, raise};
use crate::detach::{Inside, detached};
use bireme_shm::park::Wish;
use bireme_shm::prim::{AtomicBool, Ordering, current_thread};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::cell::Cell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// Longest sleep of a waiter: signals are looked at in between.
const SLICE: Duration = Duration::from_millis(50);
/// The same while waiting for many results, whose wakes are guesses.
const DRY_SLICE: Duration = Duration::from_millis(5);

/// The pending or finished result of a call; the base of `AsyncResult`.
#[pyclass(frozen, subclass, weakref, module = "bireme._core")]
pub(crate) struct Outcome {
    pub(crate) call: Arc<Call>,
    core: Arc<Core>,
    /// What errors call it by.
    named: Py<PyAny>,
    gathered: Mutex<Gathered>,
    decoded: Condvar,
    /// The garbage collector does not know of it.
    hidden: AtomicBool,
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.core.results.fetch_sub(1, Ordering::Relaxed); // RELAXED: see `Core::is_awaited`
    }
}

#[derive(Default)]
struct Gathered {
    /// Threads that decode parts just now.
    decoding: Vec<ThreadId>,
    /// Threads that wait for the others' parts.
    waiting: u32,
    list: Option<Py<PyList>>,
    value: Option<Py<PyAny>>,
    /// Failed items: index and exception.
    errors: Vec<(u64, Py<PyAny>)>,
}

/// What an outcome is made from.
struct Origin {
    core: Arc<Core>,
    call: Arc<Call>,
    named: Py<PyAny>,
}

thread_local! {
    /// Of the outcome that this thread is just making: an argument to its class would be one object more.
    static ORIGIN: Cell<Option<Origin>> = const { Cell::new(None) };
}

impl Outcome {
    /// Make an instance of `class`, or what the function `class` makes of one.
    pub(crate) fn make<'py>(
        class: &Bound<'py, PyAny>,
        core: &Arc<Core>,
        call: &Arc<Call>,
        named: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let origin = Origin {
            core: Arc::clone(core),
            call: Arc::clone(call),
            named: named.clone().unbind(),
        };
        let outer = ORIGIN.replace(Some(origin)); // of what a signal handler interrupted
        let made = class.call0();
        ORIGIN.set(outer);
        made
    }

    /// Spare the garbage collector the way through a fresh outcome, as long as it can be in no cycle: its function is
    /// a module's, it has no attributes, and what it holds can hold nothing. Thousands may be pending.
    pub(crate) fn hide_from_collector(outcome: &Bound<'_, PyAny>) {
        if let Ok(this) = outcome.cast::<Self>() {
            this.get().hidden.store(true, Ordering::Relaxed); // RELAXED, as below: under the GIL
            // SAFETY: an object of a class with a collector, tracked once since it was made.
            unsafe { pyo3::ffi::PyObject_GC_UnTrack(outcome.as_ptr().cast()) };
        }
    }

    /// Let the garbage collector see it again: from now on it may be in a cycle.
    fn show_to_collector(slf: &Bound<'_, Self>) {
        if slf.get().hidden.swap(false, Ordering::Relaxed) {
            // SAFETY: it was taken from the collector, and nobody else has given it back.
            unsafe { pyo3::ffi::PyObject_GC_Track(slf.as_ptr().cast()) };
        }
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decode what has arrived. One thread at a time has each part; values are stored without a lock held.
    fn gather(&self, py: Python<'_>) -> PyResult<()> {
        let me = current_thread();
        let parts = {
            let mut gathered = self.gathered();
            let parts = self.call.take_parts();
            if parts.is_empty() {
                return Ok(());
            }
            gathered.decoding.push(me);
            parts
        };
        let decoded = self.decode(py, parts);
        let mut gathered = self.gathered();
        if let Some(mine) = gathered.decoding.iter().position(|thread| *thread == me) {
            gathered.decoding.swap_remove(mine);
        }
        if gathered.waiting > 0 {
            self.decoded.notify_all();
        }
        decoded
    }

    /// Gather, and wait for the parts that other threads have taken.
    fn gather_all(&self, py: Python<'_>) -> PyResult<()> {
        self.gather(py)?;
        let me = current_thread();
        // Unpickling in this very thread may have led back here.
        let busy = |gathered: &Gathered| gathered.decoding.iter().any(|thread| *thread != me);
        while busy(&self.gathered()) {
            self.core.check_owner(py)?; // in a forked child those threads are not
            detached(py, || {
                let mut gathered = self.gathered();
                gathered.waiting += 1;
                let (mut gathered, _) = self
                    .decoded
                    .wait_timeout_while(gathered, SLICE, |gathered| busy(gathered))
                    .unwrap_or_else(PoisonError::into_inner);
                gathered.waiting -= 1;
            });
            py.check_signals()?;
        }
        Ok(())
    }

    fn decode(&self, py: Python<'_>, parts: Vec<Part>) -> PyResult<()> {
        let single = self.call.single();
        let list = if single { None } else { Some(self.list(py)?) };
        let errors = self.core.faces.bind(py);
        let mut parts = parts.into_iter();
        while let Some(part) = parts.next() {
            let decoded = part.decode(
                py,
                &self.call,
                self.named.bind(py),
                errors,
                |index, item| {
                    match (item, &list) {
                        (Item::Value(value), Some(list)) => list.set_item(index as usize, value)?,
                        (Item::Value(value), None) => self.gathered().value = Some(value.unbind()),
                        (Item::Raised(error), _) => {
                            if let Some(list) = &list {
                                list.set_item(index as usize, &error)?;
                            }
                            let error = error.unbind();
                            self.gathered().errors.push((index, error));
                        }
                    }
                    Ok(())
                },
            );
            if decoded.is_err() {
                self.call.put_back(std::iter::once(part).chain(parts));
                return decoded;
            }
        }
        Ok(())
    }

    fn value(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        this.gather_all(py)?;
        let gathered = this.gathered();
        if let Some((_, error)) = gathered.errors.iter().min_by_key(|(index, _)| *index) {
            Self::show_to_collector(slf);
            return Err(raise(error.bind(py)));
        }
        if let Some(value) = &gathered.value {
            // Also if it holds nothing yet: a dict of numbers may be given anything later.
            // SAFETY: the type of a live object.
            let flags = unsafe { pyo3::ffi::PyType_GetFlags(pyo3::ffi::Py_TYPE(value.as_ptr())) };
            if flags & pyo3::ffi::Py_TPFLAGS_HAVE_GC != 0 {
                Self::show_to_collector(slf);
            }
            return Ok(value.clone_ref(py));
        }
        drop(gathered);
        if this.call.single() {
            return Ok(py.None());
        }
        Ok(this.list(py)?.into_any().unbind())
    }

    fn list<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        if let Some(list) = &self.gathered().list {
            return Ok(list.bind(py).clone());
        }
        let none = py.None();
        let fresh = PyList::new(py, (0..self.call.items() as usize).map(|_| &none))?;
        let mut gathered = self.gathered();
        Ok(gathered
            .list
            .get_or_insert_with(|| fresh.unbind())
            .bind(py)
            .clone())
    }

    /// Wait for the end; `false` when the time is over.
    fn wait_done(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let deadline = timeout.map_or(Ok(None), deadline)?;
        loop {
            self.core.drain(py)?;
            if self.call.is_done() {
                return Ok(true);
            }
            if !self.call.single() {
                self.gather(py)?; // decode while the workers go on
            }
            let wish = if self.call.watched.load(Ordering::Acquire) {
                Wish::Any
            } else {
                self.call.wish()
            };
            if self.core.inner.spin(wish) {
                py.check_signals()?;
                continue;
            }
            let mut slice = if wish == Wish::Dry { DRY_SLICE } else { SLICE };
            if let Some(deadline) = deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(false);
                }
                slice = slice.min(left);
            }
            let (inner, call) = (&self.core.inner, &self.call);
            detached(py, || inner.wait_unless(wish, slice, || call.is_done()));
            py.check_signals()?;
            self.core.stand_in(py)?;
        }
    }
}

/// As `object.__setattr__` does, or `__delattr__` if `value` is null.
fn set_attribute(
    outcome: &Bound<'_, Outcome>,
    name: &Bound<'_, PyAny>,
    value: *mut pyo3::ffi::PyObject,
) -> PyResult<()> {
    // SAFETY: live objects, or null for the value.
    match unsafe { pyo3::ffi::PyObject_GenericSetAttr(outcome.as_ptr(), name.as_ptr(), value) } {
        0 => Ok(()),
        _ => Err(PyErr::fetch(outcome.py())),
    }
}

fn deadline(timeout: &Bound<'_, PyAny>) -> PyResult<Option<Instant>> {
    let Ok(seconds) = timeout.extract::<f64>() else {
        return Err(PyTypeError::new_err(format!(
            "timeout must be a number of seconds or None, got {}",
            timeout.repr()?
        )));
    };
    if seconds.is_nan() {
        return Err(PyValueError::new_err(
            "timeout must be a number of seconds or None, got nan",
        ));
    }
    // A limit beyond what the clock can count is none.
    Ok(Duration::try_from_secs_f64(seconds.max(0.0))
        .ok()
        .and_then(|timeout| Instant::now().checked_add(timeout)))
}

#[pymethods]
impl Outcome {
    #[new]
    fn new() -> PyResult<Self> {
        let Some(Origin { core, call, named }) = ORIGIN.take() else {
            return Err(PyTypeError::new_err(
                "results are made by the calls of a pool, as apply_async()",
            ));
        };
        core.results.fetch_add(1, Ordering::Relaxed); // RELAXED: see `Core::is_awaited`
        Ok(Self {
            call,
            core,
            named,
            gathered: Mutex::default(),
            decoded: Condvar::new(),
            hidden: AtomicBool::new(false),
        })
    }

    fn __setattr__(
        slf: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        Self::show_to_collector(slf);
        set_attribute(slf, name, value.as_ptr())
    }

    /// Its `__dict__`.
    fn _attributes<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::show_to_collector(slf);
        // SAFETY: a live object; the result is a new reference, or null with an exception set.
        unsafe {
            let dict = pyo3::ffi::PyObject_GenericGetDict(slf.as_ptr(), std::ptr::null_mut());
            Bound::from_owned_ptr_or_err(slf.py(), dict)
        }
    }

    fn __delattr__(slf: &Bound<'_, Self>, name: &Bound<'_, PyAny>) -> PyResult<()> {
        set_attribute(slf, name, std::ptr::null_mut())
    }

    /// A caught exception's traceback may lead back here: the collector must see through.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.named)?;
        let Ok(gathered) = self.gathered.try_lock() else {
            return Ok(());
        };
        visit.call(&gathered.list)?;
        visit.call(&gathered.value)?;
        gathered
            .errors
            .iter()
            .try_for_each(|(_, error)| visit.call(error))
    }

    fn __clear__(&self) {
        let gathered = std::mem::take(&mut *self.gathered());
        drop(gathered); // without the lock: this may run Python code
    }

    /// Wait at most `timeout` seconds for the end.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let _inside = Inside::enter(py);
        self.core.check_owner(py)?;
        self.wait_done(py, timeout).map(drop)
    }

    /// Whether the call has ended.
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        let _inside = Inside::enter(py);
        self.core.check_owner(py)?;
        if !self.call.is_done() {
            self.core.drain(py)?;
        }
        Ok(self.call.is_done())
    }

    /// Wait at most `timeout` seconds and give the value, or raise what the call raised.
    #[pyo3(signature = (timeout=None))]
    fn get(slf: &Bound<'_, Self>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Py<PyAny>> {
        let (this, py) = (slf.get(), slf.py());
        let _inside = Inside::enter(py);
        if !this.call.is_done() {
            this.core.check_owner(py)?;
            if !this.wait_done(py, timeout)? {
                return Err(raise(
                    &this.core.faces.bind(py).call_method0("wait_timed_out")?,
                ));
            }
        }
        Self::value(slf)
    }

    /// The value of an ended call that may still be waiting for its callback, or raise what it raised.
    fn _value(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let _inside = Inside::enter(slf.py());
        Self::value(slf)
    }

    /// Whether the ended call raised nothing.
    fn successful(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (this, py) = (slf.get(), slf.py());
        let _inside = Inside::enter(py);
        if !this.ready(py)? {
            return Err(PyValueError::new_err(format!("{} not ready", slf.repr()?)));
        }
        this.gather_all(py)?;
        Ok(this.gathered().errors.is_empty())
    }

    /// Each item of the ended call: `(True, value)` or `(False, exception)`.
    fn _outcomes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let _inside = Inside::enter(py);
        self.gather_all(py)?;
        let gathered = self.gathered();
        let mut failed: Vec<u64> = gathered.errors.iter().map(|(index, _)| *index).collect();
        drop(gathered);
        failed.sort_unstable();
        let list = self.list(py)?;
        let pairs = PyList::empty(py);
        for (index, value) in (0u64..).zip(list.iter()) {
            pairs.append(PyTuple::new(
                py,
                [
                    pyo3::types::PyBool::new(py, failed.binary_search(&index).is_err())
                        .to_owned()
                        .into_any(),
                    value,
                ],
            )?)?;
        }
        Ok(pairs)
    }

    /// Items that have ended, other than by a cancellation.
    fn _ended(&self, py: Python<'_>) -> PyResult<u64> {
        let _inside = Inside::enter(py);
        self.core.drain(py)?;
        Ok(self.call.ended())
    }

    /// Take the call back; a running one is stopped too if `running`. Gives how many tasks were reached.
    fn _cancel(&self, py: Python<'_>, running: bool) -> PyResult<usize> {
        let _inside = Inside::enter(py);
        self.core.check_owner(py)?;
        let call = &self.call;
        let count = self
            .core
            .inner
            .cancel(|ticket| Arc::ptr_eq(&ticket.call, call), running);
        self.core.drain(py)?;
        Ok(count)
    }
}
