//! What the faces of one pool share: the kernel's client, functions sent, results to deliver.

use crate::call::{Call, Ticket, abandoned};
use crate::client::Client;
use crate::codec::{self, Encoded, flag};
use crate::detach::{Inside, detached};
use crate::dispatch::Dispatcher;
use crate::drain::Drain;
use crate::forks;
use crate::function::{self, Functions, Placed};
use crate::template::Birth;
use crate::watch::Watchers;
use bireme_runtime::client::{self, Config, Hooks, SubmitError};
use bireme_runtime::task::{Completion, FunctionRef, Payload, Task, Whole};
use bireme_shm::arena::ArenaError;
use bireme_shm::os::process::own_pid;
use bireme_shm::park::Wish;
use bireme_shm::prim::{AtomicU32, AtomicU64, Ordering};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCFunction, PyDict, PyFrozenSet, PyTuple};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
/// Buffers from this size on are seen in place by the worker, and shared if they repeat.
const IN_PLACE_BYTES: usize = 64 << 10;

/// What the Python objects of one pool share.
pub(crate) struct Core {
    pub(crate) inner: client::Client<Ticket>,
    /// `bireme._remote.Remote`: makes exceptions, delivers output, forks workers.
    pub(crate) faces: Py<PyAny>,
    encoder: Py<PyAny>,
    pub(crate) dispatcher: Arc<Dispatcher>,
    functions: Mutex<Functions>,
    pub(crate) watchers: Watchers,
    births: Arc<AtomicU32>,
    /// Results that somebody holds.
    pub(crate) results: AtomicU64,
    pub(crate) drain: Drain,
    me: Arc<OnceLock<Weak<Core>>>,
    pub(crate) workers: u32,
}

/// Whether workers are to be forked.
mod births {
    pub(super) const NONE: u32 = 0;
    /// The dispatcher is to fork them.
    pub(super) const WANTED: u32 = 1;
    /// Somebody is forking, and will not go before all are forked.
    pub(super) const TAKEN: u32 = 2;
}

/// Tells the dispatcher what the supervisor has found.
struct Bridge {
    dispatcher: Arc<Dispatcher>,
    births: Arc<AtomicU32>,
    core: Arc<OnceLock<Weak<Core>>>,
}

impl Hooks for Bridge {
    fn births_wanted(&self) {
        // SYNC(births): they were queued before; a taker who goes looks at the queue after it.
        let (none, wanted) = (births::NONE, births::WANTED);
        let order = Ordering::SeqCst;
        if self.births.compare_exchange(none, wanted, order, order) != Err(births::TAKEN) {
            self.events_waiting();
        }
    }
    fn events_waiting(&self) {
        if let Some(core) = self.core.get() {
            self.dispatcher.wake(core);
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Nobody can see what is still to come.
        if self.inner.owner() == own_pid() && !self.inner.finished() {
            self.inner.terminate();
        }
    }
}

impl Core {
    /// Make a pool and start its workers.
    pub(crate) fn new(
        py: Python<'_>,
        config: Config,
        faces: Py<PyAny>,
        encoder: Py<PyAny>,
    ) -> PyResult<Arc<Self>> {
        let dispatcher = Arc::new(Dispatcher::default());
        let births = Arc::new(AtomicU32::new(births::NONE));
        let me = Arc::new(OnceLock::new());
        let bridge = Bridge {
            dispatcher: Arc::clone(&dispatcher),
            births: Arc::clone(&births),
            core: Arc::clone(&me),
        };
        let workers = config.workers;
        let inner = py
            .detach(|| client::Client::new(config, Box::new(bridge)))
            .map_err(PyOSError::new_err)?;
        let core = Arc::new(Self {
            inner,
            faces,
            encoder,
            dispatcher,
            functions: Mutex::default(),
            watchers: Watchers::default(),
            births,
            results: AtomicU64::new(0),
            drain: Drain::default(),
            me,
            workers,
        });
        let _ = core.me.set(Arc::downgrade(&core));
        forks::note_pool(py, &core)?;
        Ok(core)
    }

    /// Stop the threads of this pool: until [`resume`](Self::resume), or the next use if not `forever`.
    ///
    /// The interpreter's lock is kept if none runs.
    pub(crate) fn pause(&self, py: Python<'_>, forever: bool) {
        if self.inner.owner() != own_pid() {
            return; // its locks may have been held at the fork
        }
        if self.dispatcher.runs_elsewhere() || self.inner.is_supervised() {
            let _inside = Inside::enter(py);
            detached(py, || {
                self.dispatcher.stop(forever);
                self.inner.pause_supervision();
            });
        }
    }

    /// Undo [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        if self.inner.owner() == own_pid() {
            self.inner.supervise_if_paused();
            // What came up meanwhile found no dispatcher to wake.
            if self.has_chores() {
                self.wake_dispatcher();
            }
            self.wake_if_watched();
        }
    }

    fn functions(&self) -> MutexGuard<'_, Functions> {
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuse to work in a forked child of the owner.
    pub(crate) fn check_owner(&self, py: Python<'_>) -> PyResult<()> {
        if self.inner.owner() == own_pid() {
            return Ok(());
        }
        Err(raise(
            &self
                .faces
                .bind(py)
                .call_method1("forked", (self.inner.owner(),))?,
        ))
    }

    /// Give what has ended to its callers.
    pub(crate) fn take(&self, completions: Vec<Completion<Ticket>>) {
        let mut any = false;
        for completion in completions {
            let call = Arc::clone(&completion.ticket.call);
            if call.take(completion) {
                any = true;
                if call.watched.load(Ordering::Acquire) {
                    self.watchers.note_end(call);
                    self.wake_dispatcher();
                }
            }
        }
        if any {
            self.inner.wake_waiters();
        }
    }

    pub(crate) fn wake_dispatcher(&self) {
        if let Some(me) = self.me.get() {
            self.dispatcher.wake(me);
        }
    }

    /// Whether the dispatcher has something to do.
    pub(crate) fn has_chores(&self) -> bool {
        self.inner.has_news()
            || self.drain.has_rest()
            || self.births.load(Ordering::SeqCst) == births::WANTED
            || self.watchers.has_news()
    }

    /// The next worker to fork. Who takes one takes all that come up, until
    /// [`leave_births`](Self::leave_births).
    pub(crate) fn next_birth(&self) -> Option<(u32, Birth)> {
        self.births.store(births::TAKEN, Ordering::SeqCst);
        let (row, birth) = self.inner.next_birth()?;
        Some((row, Birth::new(birth)))
    }

    /// The taker of births is through: the next ones, or those left, are for the dispatcher.
    pub(crate) fn leave_births(&self) {
        self.births.store(births::NONE, Ordering::SeqCst);
        if self.inner.wants_births() {
            self.births.store(births::WANTED, Ordering::SeqCst);
            self.wake_dispatcher();
        }
    }

    /// Fork the workers that are wanted.
    fn fork_workers(&self, py: Python<'_>) -> PyResult<()> {
        if self.births.load(Ordering::SeqCst) == births::WANTED
            && let Some(core) = self.me.get().and_then(Weak::upgrade)
        {
            let faces = self.faces.bind(py);
            faces.call_method1("fork_workers", (Client::new_for(core),))?;
        }
        Ok(())
    }

    /// Whether somebody holds the result of a task that has not ended.
    pub(crate) fn is_awaited(&self) -> bool {
        // RELAXED: Python objects, made and dropped under the interpreter's lock.
        self.results.load(Ordering::Relaxed) > 0 && self.inner.outstanding() > 0
    }

    /// What a waiter does where the system refuses threads: see to the births itself.
    pub(crate) fn stand_in(&self, py: Python<'_>) -> PyResult<()> {
        self.inner.supervise_if_paused();
        if self.births.load(Ordering::SeqCst) == births::WANTED && !self.dispatcher.runs() {
            self.fork_workers(py)?;
        }
        Ok(())
    }

    /// Fork workers, drain, call back.
    pub(crate) fn do_chores(&self, py: Python<'_>) {
        if let Err(error) = self.fork_workers(py) {
            error.write_unraisable(py, None);
        }
        if let Err(error) = self.drain(py) {
            error.write_unraisable(py, None);
        }
        self.watchers.tell_progress(py);
        while self.watchers.tell_end(py) {
            self.inner.wake_waiters();
        }
    }

    fn no_memory(&self, py: Python<'_>, error: &ArenaError) -> PyErr {
        match self
            .faces
            .bind(py)
            .call_method1("no_memory", (error.to_string(),))
        {
            Ok(exception) => raise(&exception),
            Err(error) => error,
        }
    }

    /// The reference by which workers find `function`, and whether it is known to be of a module, where everybody
    /// finds it by name.
    ///
    /// Once a call has begun, its function is `checked`: what has changed since then is for other calls.
    pub(crate) fn function(
        &self,
        function: &Bound<'_, PyAny>,
        checked: bool,
    ) -> PyResult<(FunctionRef, bool)> {
        let py = function.py();
        let known = self.functions().find(function);
        if let Some((record, reference, mutable)) = known {
            match record {
                None => return Ok((reference, true)),
                Some(_) if checked => return Ok((reference, false)),
                Some(record) if !mutable && record.call_method0("unchanged")?.is_truthy()? => {
                    return Ok((reference, false));
                }
                Some(_) => {}
            }
        }
        let record = self
            .encoder
            .bind(py)
            .call_method1("encode_function", (function,))?;
        let same = self.functions().same(function, &record)?;
        if let Some((reference, _before)) = same {
            return Ok((reference, false));
        }
        let pair = (record.getattr("payload")?, record.getattr("buffers")?).into_pyobject(py)?;
        let placed = self.place_function(pair.as_any())?;
        let reference = placed.reference.clone();
        let died = self.on_death(function, reference.id)?;
        let forgotten = self
            .functions()
            .remember(function, &died, &record, placed)?;
        drop(forgotten); // without the lock: this may run Python code
        Ok((reference, false))
    }

    /// Put a function's payload and buffers where workers find them.
    fn place_function(&self, pair: &Bound<'_, PyAny>) -> PyResult<Placed> {
        let placed = function::place(&self.inner, pair)?;
        let (blob, bytes) = placed.map_err(|error| self.no_memory(pair.py(), &error))?;
        let id = self.functions().next_id();
        let reference = FunctionRef { id, blob };
        Ok(Placed { reference, bytes })
    }

    /// What is called when the function that was first placed as number `serial` is no more.
    fn on_death<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        serial: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let address = function.as_ptr() as u64;
        let me = self.me.get().map(Weak::clone).unwrap_or_default();
        let forget = move |_: &Bound<'_, PyTuple>, _: Option<&Bound<'_, PyDict>>| {
            // It may come amid this thread's own look at the table: then the entry waits for its turn.
            let core = me.upgrade();
            let forgotten = core
                .as_ref()
                .and_then(|core| core.functions.try_lock().ok()?.forget(address, serial));
            drop(forgotten);
        };
        Ok(PyCFunction::new_closure(function.py(), None, None, forget)?.into_any())
    }

    /// Pickle arguments: plainly if that will do, by value where another process could not find a class.
    ///
    /// `label` says in errors what they are, or what each of them is. `reference` is another afterwards if the
    /// function was placed anew, with definitions that the arguments need: the task that gets them is to name that.
    pub(crate) fn encode<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        reference: &mut FunctionRef,
        value: &Bound<'py, PyAny>,
        label: impl FnOnce() -> PyResult<Bound<'py, PyAny>>,
    ) -> PyResult<Encoded<'py>> {
        if let Ok(encoded) = codec::dumps(value)
            && !codec::names_main(&encoded)
        {
            return Ok(encoded);
        }
        let (py, encoder) = (value.py(), self.encoder.bind(value.py()));
        let known = self.functions().known(function, reference);
        let Some((record, known)) = known else {
            let nothing = PyFrozenSet::empty(py)?;
            return Encoded::by_value(&encoder.call_method1("dumps", (value, nothing, label()?))?);
        };
        let arguments = (value, record, known, label()?);
        let (payload, buffers, anew): Arguments<'py> = encoder
            .call_method1("encode_arguments", arguments)?
            .extract()?;
        if let Some((payload, buffers, known)) = anew {
            let placed = self.place_function((payload, buffers).into_pyobject(py)?.as_any())?;
            let before = reference.id;
            *reference = placed.reference.clone();
            let forgotten = self.functions().place_anew(function, before, placed, known);
            drop(forgotten); // without the lock: this may run Python code
        }
        Encoded::by_value((payload, buffers).into_pyobject(py)?.as_any())
    }

    /// Put encoded arguments where a worker finds them; gives kind bits, payload, shared segments.
    pub(crate) fn place(
        &self,
        py: Python<'_>,
        encoded: &Encoded<'_>,
        once: bool,
        repeats: Option<&mut HashMap<(usize, usize), Arc<Whole>>>,
    ) -> PyResult<(u32, Payload, Vec<Arc<Whole>>)> {
        let mut kind = encoded.form << 8 | if encoded.by_value { flag::BY_VALUE } else { 0 };
        if encoded.fits_inline() {
            return Ok((
                kind,
                Payload::Inline(encoded.bytes.as_slice().into()),
                Vec::new(),
            ));
        }
        let refused = |error: ArenaError| self.no_memory(py, &error);
        let (mut elsewhere, mut shared) = (Vec::new(), Vec::new());
        if let Some(repeats) = repeats {
            for buffer in &encoded.buffers {
                let len = buffer.len_bytes();
                if len < IN_PLACE_BYTES {
                    elsewhere.push(None);
                    continue;
                }
                let key = (buffer.buf_ptr() as usize, len);
                let whole = if let Some(whole) = repeats.get(&key) {
                    Arc::clone(whole)
                } else {
                    let whole = self.inner.whole(len as u64).map_err(refused)?;
                    codec::store_buffer(py, buffer, &whole).map_err(refused)?;
                    repeats.insert(key, Arc::clone(&whole));
                    whole
                };
                elsewhere.push(Some((whole.id(), bireme_shm::segment::HEADER_BYTES)));
                shared.push(whole);
            }
        }
        let layout = codec::layout(encoded, &elsewhere);
        let payload = if once && shared.is_empty() && encoded.buffer_bytes() >= IN_PLACE_BYTES {
            kind |= flag::LENT;
            let lent = self.inner.lend(layout.len as u64).map_err(refused)?;
            codec::write(py, encoded, &layout, lent.base());
            Payload::Lent(lent)
        } else {
            let blob = self.inner.blob(layout.len as u64).map_err(refused)?;
            codec::write(py, encoded, &layout, blob.base());
            Payload::Blob(blob)
        };
        Ok((kind, payload, shared))
    }

    /// Hand a task over; drains now and then, and waits while too many are pending.
    pub(crate) fn submit(&self, py: Python<'_>, call: &Arc<Call>, task: Task) -> PyResult<()> {
        let (mut ticket, mut task) = (
            Ticket {
                call: Arc::clone(call),
            },
            task,
        );
        loop {
            let error;
            (error, ticket, task) = match self.inner.submit(ticket, task) {
                Ok(false) => return Ok(()),
                Ok(true) => {
                    self.drain_quietly();
                    return Ok(());
                }
                Err(back) => back,
            };
            match error {
                SubmitError::Full => {
                    self.drain(py)?;
                    detached(py, || self.inner.wait(Wish::Any, Duration::from_millis(5)));
                    py.check_signals()?;
                }
                SubmitError::Broken(broken) => return Err(self.closed(py, Some(&broken))),
                _ => return Err(self.closed(py, None)),
            }
        }
    }

    fn closed(&self, py: Python<'_>, broken: Option<&bireme_runtime::task::Broken>) -> PyErr {
        match broken {
            None | Some(bireme_runtime::task::Broken::Terminated) => {
                PyValueError::new_err("Pool not running")
            }
            Some(broken) => match abandoned(self.faces.bind(py), broken) {
                Ok(exception) => raise(&exception),
                Err(error) => error,
            },
        }
    }

    pub(crate) fn finish_empty(&self, call: &Arc<Call>) {
        if call.watched.load(Ordering::Acquire) {
            self.watchers.note_end(Arc::clone(call));
            self.wake_dispatcher();
        } else {
            call.finish();
        }
    }

    pub(crate) fn wake_if_watched(&self) {
        if self.watchers.any() {
            self.wake_dispatcher();
        }
    }
}

/// What `encode_arguments` gives: the arguments' pickle and buffers; the same of the function, and what is known by
/// it, if that is to be placed anew.
type Arguments<'py> = (
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<(Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>)>,
);

/// An exception object as an error.
pub(crate) fn raise(exception: &Bound<'_, PyAny>) -> PyErr {
    PyErr::from_value(exception.clone())
}
