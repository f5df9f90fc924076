//! The pool for its owner: encode, submit, drain.

use crate::call::{Call, abandoned};
use crate::codec::{self, Encoded, flag, mode};
use crate::core::Core;
use crate::detach::{Inside, detached};
use crate::outcome::Outcome;
use crate::template::Birth;
use bireme_runtime::client::{Config, Start};
use bireme_runtime::task::{FunctionRef, Payload, Task, Whole};
use bireme_sched::{Attempt, ChunkPlan};
use bireme_shm::park::Wish;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyRange, PySlice, PyTuple};
use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

/// How each task of a call is to be run.
#[derive(Clone, Copy)]
struct Options {
    timeout_ns: u64,
    retries: u16,
    seed: Option<u64>,
}

impl Options {
    fn new(task_timeout: Option<f64>, retries: u16, seed: Option<u64>) -> PyResult<Self> {
        let timeout_ns = match task_timeout {
            None => 0,
            Some(seconds) => Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|timeout| !timeout.is_zero())
                .map(|timeout| u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX))
                .ok_or_else(|| {
                    PyValueError::new_err(format!(
                        "task_timeout must be a positive number of seconds, got {seconds}"
                    ))
                })?,
        };
        Ok(Self {
            timeout_ns,
            retries,
            seed,
        })
    }

    fn task(
        &self,
        function: &FunctionRef,
        placed: (u32, Payload, Vec<Arc<Whole>>),
        items: std::ops::Range<u64>,
        base: u64,
    ) -> Task {
        let (kind, args, shared) = placed;
        Task {
            function: function.clone(),
            kind: kind | if self.seed.is_some() { flag::SEEDED } else { 0 },
            args,
            range: Attempt::new(items),
            base,
            timeout_ns: self.timeout_ns,
            seed: self.seed.unwrap_or(0),
            retries: self.retries,
            shared,
        }
    }
}

/// A pool of worker processes, for its owner.
#[pyclass(frozen, module = "bireme._core")]
pub(crate) struct Client {
    core: Arc<Core>,
}

impl Client {
    /// Another handle of the same pool.
    pub(crate) fn new_for(core: Arc<Core>) -> Self {
        Self { core }
    }

    fn outcome<'py>(
        &self,
        class: &Bound<'py, PyAny>,
        call: &Arc<Call>,
        named: &Bound<'py, PyAny>,
        watched: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let outcome = Outcome::make(class, &self.core, call, named)?;
        if watched {
            self.core.watchers.add(call, &outcome)?;
            self.core.wake_dispatcher();
        }
        Ok(outcome)
    }
}

#[pymethods]
impl Client {
    #[new]
    #[expect(
        clippy::too_many_arguments,
        reason = "one place that names every setting"
    )]
    fn new(
        py: Python<'_>,
        faces: Py<PyAny>,
        encoder: Py<PyAny>,
        workers: u32,
        start: &str,
        command: Vec<OsString>,
        boot: &Bound<'_, PyAny>,
        given: Vec<i32>,
        max_claims: u32,
        forward_output: bool,
        max_pending: usize,
        memory_limit: u64,
    ) -> PyResult<Self> {
        let start = match start {
            "template" => Start::Template(command),
            "interpreter" => Start::Interpreter(command),
            "caller" => Start::Caller,
            other => return Err(PyValueError::new_err(format!("no such start: {other}"))),
        };
        let boot = boot_file(boot)?;
        let given = given_fds(given)?;
        let config = Config {
            workers,
            start,
            boot,
            given,
            max_claims,
            forward_output,
            max_pending,
            memory_limit,
        };
        let core = Core::new(py, config, faces, encoder)?;
        Ok(Self { core })
    }

    /// Submit one call; gives an instance of `outcome`.
    #[expect(clippy::too_many_arguments, reason = "the options of one call")]
    #[pyo3(signature = (outcome, function, args, kwds, watched=false, task_timeout=None, retries=0, seed=None, retry_timeouts=false, name=None, index=0))]
    fn apply<'py>(
        &self,
        outcome: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwds: Option<&Bound<'py, PyDict>>,
        watched: bool,
        task_timeout: Option<f64>,
        retries: u16,
        seed: Option<u64>,
        retry_timeouts: bool,
        name: Option<&Bound<'py, PyAny>>,
        index: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let _inside = Inside::enter(py);
        let core = &*self.core;
        core.check_owner(py)?;
        core.inner.supervise_if_paused();
        let options = Options::new(task_timeout, retries, seed)?;
        let (mut reference, is_plain) = core.function(function, false)?;
        let (what, encoded) = match kwds.filter(|kwds| !kwds.is_empty()) {
            Some(kwds) => (
                mode::CALL_WITH_KEYWORDS,
                core.encode(
                    function,
                    &mut reference,
                    (args, kwds).into_pyobject(py)?.as_any(),
                    || Ok(("args", "kwds").into_pyobject(py)?.into_any()),
                )?,
            ),
            None if args.is_empty() => (mode::CALL, codec::empty()),
            None => {
                let label = || Ok("args".into_pyobject(py)?.into_any());
                (
                    mode::CALL,
                    core.encode(function, &mut reference, args.as_any(), label)?,
                )
            }
        };
        let (kind, payload, shared) = core.place(py, &encoded, retries == 0, None)?;
        let call = Call::new(1, true, index, options.timeout_ns, retry_timeouts);
        let result = self.outcome(outcome, &call, name.unwrap_or(function), watched)?;
        if is_plain && !watched {
            Outcome::hide_from_collector(&result);
        }
        let task = options.task(&reference, (kind | what, payload, shared), 0..1, index);
        if let Err(error) = core.submit(py, &call, task) {
            core.watchers.forget(&call);
            return Err(error);
        }
        Ok(result)
    }

    /// Submit `items` in chunks; gives an instance of `outcome`.
    #[expect(clippy::too_many_arguments, reason = "the options of one call")]
    #[pyo3(signature = (outcome, function, items, star, chunksize=None, watched=false, task_timeout=None, retries=0, seed=None, retry_timeouts=false, name=None, base=0))]
    fn map<'py>(
        &self,
        outcome: &Bound<'py, PyAny>,
        function: &Bound<'py, PyAny>,
        items: &Bound<'py, PyAny>,
        star: bool,
        chunksize: Option<u64>,
        watched: bool,
        task_timeout: Option<f64>,
        retries: u16,
        seed: Option<u64>,
        retry_timeouts: bool,
        name: Option<&Bound<'py, PyAny>>,
        base: u64,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let _inside = Inside::enter(py);
        let core = &*self.core;
        core.check_owner(py)?;
        core.inner.supervise_if_paused();
        let options = Options::new(task_timeout, retries, seed)?;
        let len = items.len()? as u64;
        let (reference, _) = core.function(function, base > 0)?;
        let call = Call::new(len, false, base, options.timeout_ns, retry_timeouts);
        let result = self.outcome(outcome, &call, name.unwrap_or(function), watched)?;
        if len == 0 {
            core.finish_empty(&call);
            return Ok(result);
        }
        let what = if star { mode::STARMAP } else { mode::MAP }
            | if chunksize.is_none() { flag::GUIDED } else { 0 };
        let plan = chunksize.map_or_else(
            || ChunkPlan::guided(len, core.workers),
            |size| ChunkPlan::explicit(len, size),
        );
        let sent = self.send_chunks(function, &call, items, plan, reference, what, options, base);
        if let Err(error) = sent {
            core.inner
                .cancel(|ticket| Arc::ptr_eq(&ticket.call, &call), false);
            core.watchers.forget(&call);
            return Err(error);
        }
        Ok(result)
    }

    /// Raise in a forked child of the owner.
    fn check_owner(&self, py: Python<'_>) -> PyResult<()> {
        self.core.check_owner(py)
    }

    /// Collect and deliver what has ended.
    fn drain(&self, py: Python<'_>) -> PyResult<()> {
        let _inside = Inside::enter(py);
        self.core.check_owner(py)?;
        self.core.drain(py)
    }

    /// Wait at most `timeout` seconds for any task to end.
    fn wait_any(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let _inside = Inside::enter(py);
        self.core.check_owner(py)?;
        let slice = Duration::from_secs_f64(timeout.clamp(0.0, 0.05));
        if !self.core.inner.spin(Wish::Any) {
            detached(py, || self.core.inner.wait(Wish::Any, slice));
        }
        py.check_signals()?;
        self.core.stand_in(py)?;
        self.core.drain(py)
    }

    /// Accept nothing more.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let _inside = Inside::enter(py);
        self.core.check_owner(py)?;
        detached(py, || self.core.inner.close());
        self.core.inner.supervise_if_paused();
        Ok(())
    }

    /// End the workers now.
    fn terminate(&self, py: Python<'_>) -> PyResult<()> {
        let _inside = Inside::enter(py);
        self.core.check_owner(py)?;
        detached(py, || self.core.inner.terminate());
        self.core.inner.supervise_if_paused();
        Ok(())
    }

    /// The pool object is gone: end at once, unless somebody holds a result that is still to come.
    fn let_go(&self, py: Python<'_>) -> PyResult<()> {
        if self.core.check_owner(py).is_err() {
            return Ok(()); // a forked child lets go of its copy
        }
        if self.core.is_awaited() {
            return self.close(py);
        }
        self.terminate(py)
    }

    /// Wait at most `timeout` seconds until all workers are gone.
    fn wait_finished(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let _inside = Inside::enter(py);
        self.core.check_owner(py)?;
        let slice = Duration::from_secs_f64(timeout.clamp(0.0, 0.05));
        let finished = detached(py, || self.core.inner.wait_finished(slice));
        if finished {
            self.core.dispatcher.dismiss();
        }
        py.check_signals()?;
        self.core.stand_in(py)?;
        self.core.drain(py)?;
        Ok(finished)
    }

    /// Whether all workers are gone.
    fn finished(&self) -> bool {
        self.core.inner.finished()
    }

    /// Stop the threads of this pool, for a fork of this process or at its end.
    ///
    /// The interpreter's lock is kept if none runs.
    fn pause(&self, py: Python<'_>, forever: bool) {
        self.core.pause(py, forever);
    }

    /// Refuse a function that cannot travel, before there are arguments for it.
    fn check_function(&self, function: &Bound<'_, PyAny>) -> PyResult<()> {
        let _inside = Inside::enter(function.py());
        self.core.function(function, false).map(drop)
    }

    /// The next worker to fork: its row and what it is born with.
    fn next_birth(&self) -> Option<(u32, Birth)> {
        self.core.next_birth()
    }

    /// Say that no more births are taken.
    fn leave_births(&self) {
        self.core.leave_births();
    }

    /// Tell that the worker for `row` was forked (`pid`), or not (`errno`).
    fn born(&self, row: u32, pid: Option<i32>, errno: i32) {
        self.core.inner.born(
            row,
            pid.ok_or_else(|| std::io::Error::from_raw_os_error(errno)),
        );
    }

    /// Descriptors that a forked worker closes.
    fn private_fds(&self) -> Vec<i32> {
        self.core.inner.private_fds()
    }

    /// Tasks that have not ended.
    fn outstanding(&self) -> usize {
        self.core.inner.outstanding()
    }

    /// Process ids of the workers.
    fn worker_pids(&self, py: Python<'_>) -> PyResult<Vec<i32>> {
        self.core.check_owner(py)?;
        Ok(self.core.inner.worker_pids())
    }

    /// Process id of the template, if there is one.
    fn template_pid(&self) -> Option<i32> {
        self.core.inner.template_pid()
    }

    /// The exception of a broken pool, or `None`.
    fn broken<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let _inside = Inside::enter(py);
        match self.core.inner.broken() {
            Some(broken) => abandoned(self.core.faces.bind(py), &broken).map(Some),
            None => Ok(None),
        }
    }

    /// Figures since the start.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.core.check_owner(py)?;
        let figures = self.core.inner.statistics();
        let dict = PyDict::new(py);
        dict.set_item("tasks", figures.tasks)?;
        dict.set_item("items", figures.items)?;
        dict.set_item("busy_s", figures.busy_ns as f64 / 1e9)?;
        dict.set_item("bytes_sent", figures.bytes_sent)?;
        dict.set_item("bytes_received", figures.bytes_received)?;
        dict.set_item("arena_bytes", figures.arena_bytes)?;
        dict.set_item("argument_blocks", figures.argument_blocks)?;
        dict.set_item("deaths", figures.deaths)?;
        dict.set_item("births", figures.births)?;
        dict.set_item("birth_ms", figures.last_birth_ns as f64 / 1e6)?;
        dict.set_item("outstanding", figures.outstanding)?;
        dict.set_item("retried", figures.retried)?;
        Ok(dict)
    }
}

impl Client {
    #[expect(clippy::too_many_arguments, reason = "the parts of one map")]
    fn send_chunks(
        &self,
        function: &Bound<'_, PyAny>,
        call: &Arc<Call>,
        items: &Bound<'_, PyAny>,
        plan: ChunkPlan,
        mut reference: FunctionRef,
        what: u32,
        options: Options,
        base: u64,
    ) -> PyResult<()> {
        let (py, core) = (function.py(), &*self.core);
        if let Some((start, step)) = whole_range(items) {
            let encoded = codec::pack_range(start, step);
            for chunk in plan {
                let placed = core.place(py, &encoded, false, None)?;
                let (kind, payload, shared) = placed;
                core.submit(
                    py,
                    call,
                    options.task(&reference, (kind | what, payload, shared), chunk, base),
                )?;
            }
            return Ok(());
        }
        let mut repeats = HashMap::new();
        let repeating = repeats_objects(items)?;
        let list = items.cast_exact::<PyList>().ok();
        for chunk in plan {
            let (from, to) = (chunk.start as usize, chunk.end as usize);
            let part;
            let packed;
            let label = || {
                let (from, to) = (base + chunk.start, base + chunk.end);
                Ok(format!("items[{from}:{to}]").into_pyobject(py)?.into_any())
            };
            let encoded = if let Some(list) = list {
                part = list.get_slice(from, to);
                let values: Vec<_> = part.iter().collect();
                packed = codec::pack_list(&values);
                match packed {
                    Some(encoded) => encoded,
                    None => core.encode(function, &mut reference, part.as_any(), label)?,
                }
            } else {
                let part = items.get_item(PySlice::new(py, from as isize, to as isize, 1))?;
                core.encode(function, &mut reference, &part, label)?
            };
            // A lent block is released by its reader: its task must never be divided or run again.
            let once = options.retries == 0 && chunk.end - chunk.start == 1;
            let (mut kind, payload, shared) =
                core.place(py, &encoded, once, repeating.then_some(&mut repeats))?;
            kind |= if kind & flag::LENT == 0 {
                what
            } else {
                what & !flag::GUIDED
            };
            let count = chunk.end - chunk.start;
            core.submit(
                py,
                call,
                options.task(
                    &reference,
                    (kind, payload, shared),
                    0..count,
                    base + chunk.start,
                ),
            )?;
        }
        Ok(())
    }
}

/// A memory file with what workers read at birth: bytes and buffers, as `serialize` gives them.
fn boot_file(pair: &Bound<'_, PyAny>) -> PyResult<std::os::fd::OwnedFd> {
    use bireme_shm::os::memory;
    use std::os::fd::AsFd;
    let mut encoded = Encoded::by_value(pair)?;
    encoded.form = codec::form::PARCEL;
    let layout = codec::layout(&encoded, &[]);
    let file = memory::create("bireme-boot", layout.len)?;
    codec::store_in_file(pair.py(), &encoded, &layout, file.as_fd())?;
    Ok(file)
}

/// Descriptors of our own for what Python holds open.
fn given_fds(numbers: Vec<i32>) -> PyResult<Vec<std::os::fd::OwnedFd>> {
    use bireme_runtime::birth::MAX_GIVEN;
    if numbers.len() > MAX_GIVEN {
        return Err(PyValueError::new_err(format!(
            "at most {MAX_GIVEN} descriptors travel with a worker's birth, got {}",
            numbers.len()
        )));
    }
    let clone = |number: i32| {
        if number < 0 {
            return Err(PyValueError::new_err(format!("no descriptor: {number}")));
        }
        // SAFETY: not -1; the caller's objects hold it open, and the system refuses one that is not.
        let held = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        Ok(held.try_clone_to_owned()?)
    };
    numbers.into_iter().map(clone).collect()
}

/// Start and step of a `range` whose values all fit 64 bits.
fn whole_range(items: &Bound<'_, PyAny>) -> Option<(i64, i64)> {
    let range = items.cast_exact::<PyRange>().ok()?;
    let (start, stop, step): (i64, i64, i64) = (
        range.getattr("start").ok()?.extract().ok()?,
        range.getattr("stop").ok()?.extract().ok()?,
        range.getattr("step").ok()?.extract().ok()?,
    );
    stop.checked_add(step)?;
    Some((start, step))
}

/// Whether the first items share an object that may be large: then each is sent once.
fn repeats_objects(items: &Bound<'_, PyAny>) -> PyResult<bool> {
    if items.len()? < 2 || items.cast_exact::<PyList>().is_err() {
        return Ok(false);
    }
    let (first, second) = (items.get_item(0)?, items.get_item(1)?);
    let (Ok(first), Ok(second)) = (
        first.cast_exact::<PyTuple>(),
        second.cast_exact::<PyTuple>(),
    ) else {
        return Ok(first.is(&second) && !codec::is_plain(&first));
    };
    Ok(first
        .iter()
        .any(|one| !codec::is_plain(&one) && second.iter().any(|other| one.is(&other))))
}
