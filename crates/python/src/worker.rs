//! The worker's loop: claim, decode, call, encode, publish.

use crate::arguments::{Claimed, Function, Loaded, nowhere};
use crate::block::Hold;
use crate::calls::{end_if_exit, invoke, leave_child, map_items};
use crate::codec::{self, Arrived, Encoded, flag, form, mode};
use crate::forks;
use crate::items::{Items, Watch};
use crate::returned::{Run, encode_error, encode_run, raised_bytes};
use crate::shared;
use bireme_runtime::message::Message;
use bireme_runtime::watchdog::Watchdog;
use bireme_runtime::worker::{self as kernel, Finished, Next, ResultPlace, TRIM_AFTER};
use bireme_shm::control::{Control, INLINE_BYTES};
use bireme_shm::os::memory::{Mapping, Sharing};
use bireme_shm::os::{process, socket};
use bireme_shm::prim::{AtomicU32, AtomicU64, Ordering};
use bireme_shm::queue::SlotRef;
use bireme_shm::view::View;
use bireme_shm::word::Word;
use pyo3::prelude::*;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The slot that the main thread runs: `generation << 32 | index + 1`, or 0.
static CURRENT: AtomicU64 = AtomicU64::new(0);
/// The process that is the worker: one that a task forked is none, however it was forked.
static PID: AtomicU32 = AtomicU32::new(0);
/// What this worker shares with its client; a worker that was forked by a task of another had that one's.
static CONTROL: Mutex<Option<Arc<Control>>> = Mutex::new(None);

/// A task that is over sooner has written nothing: a system call takes longer.
const COULD_WRITE_NS: u64 = 700;
/// Longest wait for a client that does not listen: signals, and the descriptor, are looked at in between.
const TELL_SLICE: Duration = Duration::from_millis(50);

/// A task that is over sooner has started no process: to fork an interpreter takes several times as long.
const COULD_FORK_NS: u64 = 20_000;

fn control() -> Option<Arc<Control>> {
    let control = CONTROL.lock().unwrap_or_else(PoisonError::into_inner);
    control.clone()
}

/// Whether the task that runs now was asked to stop. For signal handlers.
#[pyfunction]
pub(crate) fn stop_requested() -> bool {
    if forks::amid() {
        return false;
    }
    let current = CURRENT.load(Ordering::Acquire);
    let (Some(control), Some(index)) = (control(), (current as u32).checked_sub(1)) else {
        return false;
    };
    let bits = control.word(index as usize).load(Ordering::Acquire);
    Word::unpack(bits)
        .is_some_and(|word| word.generation == (current >> 32) as u32 && word.cancelled())
}

/// Process ids of the children of this process that have ended, and that nobody has waited for yet.
#[pyfunction]
pub(crate) fn ended_children() -> Vec<i32> {
    process::ended_children()
}

/// Id of the task that runs now, index and attempt number of its item; `None` outside of a task.
#[pyfunction]
pub(crate) fn current_task() -> Option<(u64, u64, u32)> {
    let current = CURRENT.load(Ordering::Acquire);
    let (control, index) = (control()?, (current as u32).checked_sub(1)?);
    let fields = control.slot(index as usize);
    let item = fields.progress.0.load(Ordering::Relaxed); // RELAXED, all: our own slot
    Some((
        current,
        fields.base.load(Ordering::Relaxed) + item,
        fields.attempt.load(Ordering::Relaxed),
    ))
}

pub(crate) struct State {
    pub(crate) kernel: kernel::Worker,
    pub(crate) functions: Loaded,
    watchdog: Option<Watchdog>,
    /// The lent arguments of the task that runs: its block is the client's until the task is `Done`.
    /// Released earlier, it would be given to others while a retry, after our death, still reads it.
    pub(crate) lent: Option<Hold>,
}

/// A worker process.
#[pyclass(frozen, module = "bireme._core")]
pub(crate) struct Worker {
    state: Mutex<State>,
    boot: OwnedFd,
    story: OwnedFd,
    client: OwnedFd,
    out: OwnedFd,
    err: OwnedFd,
    given: Mutex<Vec<OwnedFd>>,
}

/// The Python side of the loop, looked up once.
pub(crate) struct Hooks<'py> {
    pub(crate) load_function: Bound<'py, PyAny>,
    pub(crate) loads: Bound<'py, PyAny>,
    pub(crate) dumps_result: Bound<'py, PyAny>,
    pub(crate) encode_exception: Bound<'py, PyAny>,
    seed_item: Bound<'py, PyAny>,
    pub(crate) leave: Bound<'py, PyAny>,
    end_task: Bound<'py, PyAny>,
    reap_orphans: Bound<'py, PyAny>,
    pub(crate) map: Bound<'py, PyAny>,
    collect: Bound<'py, PyAny>,
}

impl Worker {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Start the watchdog, if it does not run.
    pub(crate) fn watch(&self) -> PyResult<()> {
        let mut state = self.state();
        if state.watchdog.is_none() {
            let peer = state.kernel.socket()?;
            state.watchdog = Some(Watchdog::start(self.client.try_clone()?, peer)?);
        }
        Ok(())
    }

    /// Stop the watchdog, keep what is seen: before a fork.
    pub(crate) fn unwatch(&self) {
        let watchdog = self.state().watchdog.take();
        drop(watchdog);
    }

    fn find_work(&self) -> (Next, Vec<Function>) {
        let mut state = self.state();
        let next = state.kernel.find_work();
        let segments = state.kernel.take_forgotten();
        if segments.is_empty() {
            return (next, Vec::new());
        }
        (next, state.functions.forget(&segments))
    }

    /// Tell the client something. While it does not listen other threads run, and a signal's handler may
    /// end the wait.
    fn tell(&self, py: Python<'_>, message: &Message) -> PyResult<()> {
        let (number, packets) = self.state().kernel.packets(message);
        for packet in &packets {
            while !self.state().kernel.tell(packet)? {
                let line = self.state().kernel.line();
                py.detach(|| socket::wait_writable(&*line, TELL_SLICE));
                if let Err(raised) = py.check_signals() {
                    self.state().kernel.give_up(number);
                    return Err(raised);
                }
            }
        }
        Ok(())
    }

    /// Run one task.
    fn execute(&self, py: Python<'_>, hooks: &Hooks<'_>, slot: SlotRef) -> PyResult<()> {
        let task = {
            let state = self.state();
            if !state.kernel.begin(slot) {
                return Ok(());
            }
            Claimed::read(&state.kernel, slot)
        };
        CURRENT.store(
            u64::from(slot.generation) << 32 | u64::from(slot.index + 1),
            Ordering::Release,
        );
        let started = process::now_ns();
        let run = self.run_items(py, hooks, &task, started);
        let upto;
        let encoded = match run {
            Ok(run) => {
                upto = run.upto;
                encode_run(py, hooks, run, task.is_call())
            }
            Err(error) => {
                CURRENT.store(0, Ordering::Release); // as below
                // The payload or the function could not be read: every item ends so.
                upto = task.last;
                let raised = encode_error(hooks, error)?;
                if task.is_call() {
                    Ok((form::RAISED, raised))
                } else {
                    let count = (upto - task.first) as usize;
                    let failed = (0..count).collect();
                    let values = vec![raised_bytes(py, &raised).into_any(); count];
                    encode_run(
                        py,
                        hooks,
                        Run {
                            values,
                            failed,
                            upto,
                        },
                        false,
                    )
                }
            }
        };
        // From here on a request to stop comes too late, and must not raise anything in our own code.
        CURRENT.store(0, Ordering::Release);
        let (kind, encoded) = match encoded {
            Ok(encoded) => encoded,
            Err(error) => (form::RAISED, encode_error(hooks, error)?),
        };
        self.publish(py, hooks, slot, kind, encoded, upto, started);
        Ok(())
    }

    /// Decode the payload and call the function on each item.
    fn run_items<'py>(
        &self,
        py: Python<'py>,
        hooks: &Hooks<'py>,
        task: &Claimed,
        started_ns: u64,
    ) -> PyResult<Run<'py>> {
        let function = self.function(py, hooks, task.slot)?;
        let watch = Watch {
            control: self.state().kernel.control(),
            slot: task.slot,
            started_ns,
            guided: task.kind & flag::GUIDED != 0,
        };
        let (first, last) = (task.first, task.last);
        let seeded = task.kind & flag::SEEDED != 0;
        if task.mode() == mode::MAP && last - first > 1 && !seeded {
            let source = self.source(py, hooks, task)?;
            return map_items(
                hooks,
                &function,
                Items::new(source, watch, first, last),
                first,
            );
        }
        let items = self.items(py, hooks, task)?;
        let mut run = Run {
            values: Vec::with_capacity(items.len()),
            failed: Vec::new(),
            upto: last,
        };
        let many = items.len() > 1;
        for (index, item) in (first..).zip(items) {
            if many || task.timed {
                watch.progress(index);
            }
            if seeded {
                hooks.seed_item.call1((task.seed, task.base + index))?;
            }
            let outcome = invoke(&function, task.mode(), &item);
            if forked() {
                leave_child(hooks, outcome);
            }
            match outcome {
                Ok(value) => run.values.push(value),
                Err(error) => {
                    let raised = encode_error(hooks, end_if_exit(py, hooks, error)?)?;
                    run.failed.push(run.values.len());
                    run.values.push(raised_bytes(py, &raised).into_any());
                    if many && stop_requested() {
                        run.upto = index + 1; // the rest is not to be stopped with it
                        break;
                    }
                }
            }
            drop(item);
            if index + 1 < last && watch.is_better_shared() {
                run.upto = index + 1;
                break;
            }
        }
        Ok(run)
    }

    #[expect(clippy::too_many_arguments, reason = "the end of one task")]
    fn publish(
        &self,
        py: Python<'_>,
        hooks: &Hooks<'_>,
        slot: SlotRef,
        kind: u32,
        encoded: Encoded<'_>,
        upto: u64,
        started: u64,
    ) {
        let (mut kind, mut encoded) = (kind, encoded);
        let block = if encoded.fits_inline() {
            None
        } else if let Some(block) = shared::hand_over(py, &mut encoded) {
            Some(block)
        } else {
            let layout = codec::layout(&encoded, &[]);
            self.state().kernel.look_for_robbery(); // a new segment is sent
            let allocated = self.state().kernel.allocate(layout.len as u64);
            match allocated {
                Ok(block) => {
                    codec::write(py, &encoded, &layout, block.base());
                    Some(block)
                }
                Err(error) => {
                    (kind, encoded) = (form::REFUSED, Encoded::refused(&error.to_string()));
                    None
                }
            }
        };
        let mut short = [0; INLINE_BYTES];
        let bytes = encoded.bytes.as_slice();
        let len = bytes.len().min(INLINE_BYTES);
        short[..len].copy_from_slice(&bytes[..len]);
        drop(encoded); // its buffers, before the arguments' block may be released
        let busy = process::now_ns() - started;
        if busy > COULD_WRITE_NS {
            // What goes wrong here, as in a signal's handler that a task left behind, is not its result's fault.
            if let Err(error) = hooks.end_task.call0() {
                error.write_unraisable(py, None);
            }
            forks::watch_again(py);
            self.state().kernel.look_for_robbery();
        }
        // Before `Done`: what was asked to stop leaves nobody behind once the client hears of its end,
        // and its worker, which has claimed nothing else yet, hits nobody else.
        if busy > COULD_FORK_NS && self.state().kernel.cancelled(slot) {
            py.detach(|| self.state().kernel.end_family_since(started));
        }
        let wrote = busy > COULD_WRITE_NS
            && process::bytes_waiting(&self.out) + process::bytes_waiting(&self.err) > 0;
        let finished = {
            let place = block
                .as_ref()
                .map_or(ResultPlace::Inline(&short[..len]), ResultPlace::Block);
            self.state()
                .kernel
                .finish(slot, kind, &place, upto, wrote, busy)
        };
        if finished == Finished::Condemned {
            py.detach(|| {
                loop {
                    process::pause(Duration::from_secs(1)); // the signal is on its way
                }
            });
        }
        if busy > COULD_FORK_NS && self.state().kernel.settle_family() {
            let _ = hooks.reap_orphans.call0(); // without the memory for it: another time
            self.state().kernel.family_reaped();
        }
        let lent = self.state().lent.take();
        drop(lent); // the last view, unless the task kept one
    }
}

/// Whether this process is a forked child of a worker, made by a task.
pub(crate) fn forked() -> bool {
    PID.load(Ordering::Relaxed) != process::own_pid() as u32 // RELAXED: set before the first task
}

#[pymethods]
impl Worker {
    /// Take up the place that `birth` gives.
    #[new]
    fn new(birth: &Bound<'_, crate::template::Birth>) -> PyResult<Self> {
        let (kernel, [boot, story, client, out, err], given) =
            kernel::Worker::attach(birth.get().take()?)?;
        *CONTROL.lock().unwrap_or_else(PoisonError::into_inner) = Some(kernel.control());
        PID.store(process::own_pid() as u32, Ordering::Relaxed); // RELAXED, as above
        CURRENT.store(0, Ordering::Release);
        process::adopt_orphans();
        process::continue_with_parents_end();
        let state = State {
            kernel,
            functions: Loaded::default(),
            watchdog: None,
            lent: None,
        };
        let worker = Self {
            state: Mutex::new(state),
            boot,
            story,
            client,
            out,
            err,
            given: Mutex::new(given),
        };
        // Without a thread to be had the template, or the hang-up of the socket, must do.
        let _ = worker.watch();
        Ok(worker)
    }

    /// See to forks that tasks make of this process.
    fn watch_forks(slf: Bound<'_, Self>) -> PyResult<()> {
        forks::note_worker(slf)
    }

    /// Row in the pool.
    #[getter]
    fn row(&self) -> usize {
        self.state().kernel.row()
    }

    /// Number of this birth within the pool, from 1.
    #[getter]
    fn serial(&self) -> u32 {
        self.state().kernel.serial()
    }

    /// What its programs carry in their environment: this worker's alone.
    #[getter]
    fn mark(&self) -> String {
        self.state().kernel.mark()
    }

    /// What the client wrote for every worker: bytes and buffers, the latter private to this process.
    fn boot<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Vec<Bound<'py, PyAny>>)> {
        let len = bireme_shm::os::memory::size(std::os::fd::AsFd::as_fd(&self.boot))? as usize;
        let map = Arc::new(Mapping::new(&self.boot, 0, len, Sharing::Private)?);
        // SAFETY: the client wrote it before the first birth and never again; `hold` keeps the mapping.
        let bytes = unsafe { std::slice::from_raw_parts(map.base(), len) };
        codec::open(
            py,
            form::PARCEL,
            &Arrived {
                bytes,
                hold: Some(map),
            },
            &mut nowhere,
        )
    }

    /// Descriptors: for last words, standard output, standard error.
    fn fds(&self) -> (i32, i32, i32) {
        (
            self.story.as_raw_fd(),
            self.out.as_raw_fd(),
            self.err.as_raw_fd(),
        )
    }

    /// Descriptors that the initializer's arguments name by position; they are the taker's from now on.
    fn take_given(&self) -> Vec<i32> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.drain(..).map(IntoRawFd::into_raw_fd).collect()
    }

    /// Tell the client that tasks may come.
    fn ready(&self) -> PyResult<()> {
        Ok(self.state().kernel.tell_ready()?)
    }

    /// Tell the client, at the very end and while no other thread could start a process, who stays behind.
    fn tell_who_stays(&self) {
        self.state().kernel.tell_who_stays();
    }

    /// Tell the client that the initializer failed, and how.
    fn initializer_failed(&self, py: Python<'_>, why: Vec<u8>) -> PyResult<()> {
        self.tell(py, &Message::InitializerFailed(why))
    }

    /// Memory of `len` bytes that becomes a result without a copy.
    fn shared(&self, len: u64) -> PyResult<crate::block::Block> {
        let allocated = self.state().kernel.allocate(len + shared::HEADROOM as u64);
        Ok(shared::lend(allocated.map_err(|error| {
            pyo3::exceptions::PyMemoryError::new_err(error.to_string())
        })?))
    }

    /// Send an encoded log record.
    fn log(&self, py: Python<'_>, record: Vec<u8>) -> PyResult<()> {
        self.tell(py, &Message::Log(record))
    }

    /// Run tasks until the pool has no more use for this worker.
    fn run(&self, py: Python<'_>, hooks: &Bound<'_, PyAny>) -> PyResult<()> {
        let hooks = Hooks {
            load_function: hooks.getattr("load_function")?,
            loads: hooks.getattr("loads")?,
            dumps_result: hooks.getattr("dumps_result")?,
            encode_exception: hooks.getattr("encode_exception")?,
            seed_item: hooks.getattr("seed_item")?,
            leave: hooks.getattr("leave")?,
            end_task: hooks.getattr("end_task")?,
            reap_orphans: hooks.getattr("reap_orphans")?,
            map: py.import("builtins")?.getattr("map")?,
            collect: py.import("gc")?.getattr("collect")?,
        };
        // Whether it has tidied up since the last task; whether functions were given up, perhaps in cycles.
        let (mut rested, mut garbage) = (false, false);
        loop {
            let (next, forgotten) = self.find_work();
            if !forgotten.is_empty() {
                drop(forgotten); // without the lock: this may run Python code
                (rested, garbage) = (false, true);
            }
            match next {
                Next::Task(slot) => {
                    rested = false;
                    self.execute(py, &hooks, slot)?;
                }
                Next::Leave => return Ok(()),
                Next::Idle => {
                    let found = self.state().kernel.spin();
                    if !found {
                        let before = process::now_ns();
                        let limit = (!rested).then_some(TRIM_AFTER);
                        py.detach(|| self.sleep(limit));
                        if !rested && process::now_ns() - before >= TRIM_AFTER.as_nanos() as u64 {
                            rested = true;
                            if std::mem::take(&mut garbage) {
                                hooks.collect.call0()?;
                            }
                            self.state().kernel.tidy();
                        }
                        py.check_signals()?;
                    }
                }
            }
        }
    }
}

impl Worker {
    fn sleep(&self, limit: Option<Duration>) {
        // The lock is not held asleep: background threads of a task may log.
        let (control, row) = {
            let state = self.state();
            (state.kernel.control(), state.kernel.row())
        };
        kernel::sleep(&control, row, limit);
    }
}
