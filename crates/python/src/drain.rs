//! Collecting what has ended, and delivering what was printed and logged before it.
//!
//! One thread at a time has the *turn*: it takes both from the kernel, gives output and records, in order, to the
//! caller's streams and handlers, and only then lets the results be seen. Other threads wait for the end of
//! its turn, a moment. But streams and handlers are code of the user's, which may wait in turn, for a lock that one
//! of those threads holds or for a result. So after [`PATIENCE`] the others pass by: they take what has ended and leave what
//! was printed to the thread that is stuck. So does that thread itself when a stream or handler leads it back here.
//!
//! ```text
//!   nobody's ──begin──▶ collecting ──▶ delivering one event ⇄ the next ──▶ results seen ──end──▶ nobody's
//!                                        │        └─ after PATIENCE: passed by, until the next event
//!                                        └─ KeyboardInterrupt: nobody's; what is left waits for the next turn
//! ```

use crate::call::Ticket;
use crate::core::Core;
use crate::detach::detached;
use bireme_runtime::client::Event;
use bireme_runtime::task::Completion;
use bireme_shm::prim::{AtomicBool, Ordering, current_thread};
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

/// How long results wait for one call of a stream or handler.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest wait for another thread's turn: signals are looked at in between.
const SLICE: Duration = Duration::from_millis(50);
/// The same for who has passed by in vain.
const SHORT_SLICE: Duration = Duration::from_millis(10);

/// Whose turn it is to drain.
#[derive(Default)]
pub(crate) struct Drain {
    turn: Mutex<Turn>,
    over: Condvar,
    /// A hint that the turn keeps something: changed with it, read without the lock.
    keeps: AtomicBool,
}

#[derive(Default)]
struct Turn {
    by: Option<ThreadId>,
    /// When the event under delivery was given to the user's code.
    since: Option<Instant>,
    /// That was too long ago.
    stuck: bool,
    /// Threads that wait for the end of the turn.
    waiting: u32,
    /// To be delivered, in this order.
    events: VecDeque<Event>,
    /// To be seen after that.
    ended: Vec<Completion<Ticket>>,
}

impl Turn {
    fn is_empty(&self) -> bool {
        self.events.is_empty() && self.ended.is_empty()
    }
}

/// What became of a wish to drain.
enum Begun {
    /// It is this thread's turn.
    Mine,
    /// Another thread is at it.
    Busy,
    /// Whoever is at it will not go on soon, or is this very thread.
    Stuck,
}

impl Drain {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a turn was broken off, and nobody goes on with it.
    pub(crate) fn has_rest(&self) -> bool {
        let turn = self.turn();
        turn.by.is_none() && !turn.is_empty()
    }

    fn keeps(&self) -> bool {
        self.keeps.load(Ordering::Relaxed) // RELAXED: who misses it looks again soon
    }

    fn note(&self, turn: &Turn) {
        self.keeps.store(!turn.is_empty(), Ordering::Relaxed); // RELAXED, as above
    }

    fn begin(&self) -> Begun {
        let me = current_thread();
        let mut turn = self.turn();
        match turn.by {
            None => turn.by = Some(me),
            Some(thread) if thread == me || turn.stuck => return Begun::Stuck,
            Some(_) => return Begun::Busy,
        }
        Begun::Mine
    }

    fn end(&self) {
        let mut turn = self.turn();
        (turn.by, turn.since, turn.stuck) = (None, None, false);
        if turn.waiting > 0 {
            self.over.notify_all();
        }
    }

    /// Wait for the end of another's turn; whether it is stuck.
    fn wait(&self, slice: Duration) -> bool {
        let mut turn = self.turn();
        turn.waiting += 1;
        let (mut turn, _) = self
            .over
            .wait_timeout_while(turn, slice, |turn| turn.by.is_some())
            .unwrap_or_else(PoisonError::into_inner);
        turn.waiting -= 1;
        // Only after a wait without the interpreter's lock, which the other may have needed to go on.
        turn.stuck |= turn.since.is_some_and(|since| since.elapsed() > PATIENCE);
        turn.stuck
    }

    /// Keep what was collected until it is its time. `false` if that is now: nothing is to be delivered before.
    fn keep(&self, ended: &mut Vec<Completion<Ticket>>, events: Vec<Event>) -> bool {
        let mut turn = self.turn();
        if events.is_empty() && turn.is_empty() {
            return false;
        }
        turn.events.extend(events);
        turn.ended.append(ended);
        self.note(&turn);
        true
    }

    /// The next event to deliver.
    fn next(&self) -> Option<Event> {
        let mut turn = self.turn();
        let event = turn.events.pop_front();
        turn.since = event.is_some().then(Instant::now);
        turn.stuck = false;
        self.note(&turn);
        event
    }

    fn take_ended(&self) -> Vec<Completion<Ticket>> {
        let mut turn = self.turn();
        let ended = std::mem::take(&mut turn.ended);
        self.note(&turn);
        ended
    }
}

impl Core {
    /// Collect what has ended; deliver what was printed before it.
    ///
    /// # Errors
    /// `KeyboardInterrupt`, if it interrupts a stream or handler.
    pub(crate) fn drain(&self, py: Python<'_>) -> PyResult<()> {
        if !self.inner.has_news() && !self.drain.keeps() {
            return Ok(());
        }
        match self.drain.begin() {
            Begun::Mine => {
                let drained = self.drain_in_turn(py);
                self.drain.end();
                if drained.is_err() {
                    self.wake_dispatcher(); // the rest is nobody's
                }
                return drained;
            }
            Begun::Busy => {
                if detached(py, || self.drain.wait(SLICE)) {
                    self.pass_by(py);
                }
            }
            Begun::Stuck => self.pass_by(py),
        }
        Ok(())
    }

    fn drain_in_turn(&self, py: Python<'_>) -> PyResult<()> {
        let (mut ended, mut events) = (Vec::new(), Vec::new());
        self.inner.drain(&mut ended, &mut events);
        if self.drain.keep(&mut ended, events) {
            while let Some(event) = self.drain.next() {
                self.deliver(py, event)?;
            }
            ended = self.drain.take_ended();
        }
        self.take(ended);
        Ok(())
    }

    /// Collect what has ended, before what was printed is delivered.
    fn pass_by(&self, py: Python<'_>) {
        let mut ended = self.drain.take_ended();
        self.inner.drain_ended(&mut ended);
        if ended.is_empty() && self.inner.has_news() {
            detached(py, || self.drain.wait(SHORT_SLICE)); // the news are not for us
        }
        self.take(ended);
    }

    /// Collect what has ended, if that takes no waiting and calls nobody: on the way of a submission.
    pub(crate) fn drain_quietly(&self) {
        if !self.inner.has_news() || !matches!(self.drain.begin(), Begun::Mine) {
            return;
        }
        if !self.drain.keeps() {
            let mut ended = Vec::new();
            self.inner.drain_quietly(&mut ended);
            self.take(ended);
        }
        self.drain.end();
    }

    /// Give an event to the caller's streams and handlers. What they raise concerns nobody who waits for a
    /// result.
    fn deliver(&self, py: Python<'_>, event: Event) -> PyResult<()> {
        let (stream, bytes) = match event {
            Event::Output { stream, bytes } => (stream, bytes),
            Event::Log(bytes) => (0, bytes),
        };
        let event = (stream, PyBytes::new(py, &bytes));
        match self.faces.bind(py).call_method1("deliver", event) {
            Err(raised) if raised.is_instance_of::<PyKeyboardInterrupt>(py) => return Err(raised),
            Err(raised) => raised.write_unraisable(py, None),
            Ok(_) => {}
        }
        Ok(())
    }
}
