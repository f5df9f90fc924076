//! What the client knows, and the moves between its tables and the slots.

use super::events::Events;
use super::statistics::Statistics;
use super::worker::{Letter, Worker};
use super::{Shared, Ticket};
use crate::share::Share;
use crate::task::{Broken, Completion, Data, Outcome, Payload, ResultBlock, StopReason, Task};
use crate::whole::Wholes;
use bireme_sched::{Attempt, Crew, Fate, Ladder, plan};
use bireme_shm::arena::Arena;
use bireme_shm::control::{Control, Location, result_flag, row_flag};
use bireme_shm::lease::Lease;
use bireme_shm::os::process;
use bireme_shm::park;
use bireme_shm::prim::Ordering;
use bireme_shm::queue::{self, SlotRef};
use bireme_shm::segment::Segment;
use bireme_shm::view::View;
use bireme_shm::word::{State as SlotState, Word};
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard, PoisonError};

/// A task that has not ended.
pub(super) struct Inflight<T> {
    pub(super) ticket: T,
    pub(super) task: Task,
    pub(super) slot: SlotRef,
    pub(super) stop: Option<Stop>,
    /// When it was first seen claimed and not begun.
    pub(super) claimed_ns: u64,
}

/// A running task on its way down the ladder.
pub(super) struct Stop {
    pub(super) reason: StopReason,
    pub(super) ladder: Ladder,
}

/// Everything behind the client's lock.
pub(super) struct State<T> {
    pub(super) inflight: Vec<Option<Inflight<T>>>,
    pub(super) backlog: VecDeque<(T, Task)>,
    pub(super) ready: Vec<Completion<T>>,
    /// Tasks submitted since the last drain.
    pub(super) undrained: u32,
    pub(super) events: Events,
    pub(super) arena: Arena<Share>,
    pub(super) segments: HashMap<u32, Arc<Segment>>,
    pub(super) wholes: Wholes,
    pub(super) workers: Vec<Option<Worker>>,
    pub(super) births: VecDeque<(u32, crate::birth::Birth)>,
    /// Rows whose workers are ordered once others are born.
    pub(super) unordered: VecDeque<u32>,
    pub(super) crew: Crew,
    pub(super) last_serial: u32,
    pub(super) template: Option<Arc<OwnedFd>>,
    pub(super) template_pid: Option<i32>,
    /// How the last template ended, if nothing kept the next from being started.
    pub(super) template_fate: Option<crate::launcher::Fate>,
    pub(super) outstanding: usize,
    pub(super) timed: usize,
    pub(super) closed: bool,
    pub(super) finished: bool,
    pub(super) broken: Option<Arc<Broken>>,
    pub(super) initializer_error: Option<Vec<u8>>,
    pub(super) last_death: String,
    /// Why a worker's segment could not be attached.
    pub(super) refusal: String,
    /// Claims that workers had finished when one of them last died.
    pub(super) claims_at_last_death: u64,
    /// By row: the certificate between a death and its repair.
    pub(super) certificates: Vec<Option<Arc<crate::certificate::Certificate>>>,
    pub(super) statistics: Statistics,
    pub(super) last_use_ns: u64,
    /// When [`Shared::help_past`] last looked.
    pub(super) helped_ns: u64,
    pub(super) oom_kills: u64,
}

impl<T> State<T> {
    pub(super) fn new(crew: Crew, arena: Arena<Share>, slots: usize, rows: usize) -> Self {
        Self {
            inflight: (0..slots).map(|_| None).collect(),
            backlog: VecDeque::new(),
            ready: Vec::new(),
            undrained: 0,
            events: Events::default(),
            arena,
            segments: HashMap::new(),
            wholes: Wholes::new(),
            workers: (0..rows).map(|_| None).collect(),
            births: VecDeque::new(),
            unordered: VecDeque::new(),
            crew,
            last_serial: 0,
            template: None,
            template_pid: None,
            template_fate: None,
            outstanding: 0,
            timed: 0,
            closed: false,
            finished: false,
            broken: None,
            initializer_error: None,
            last_death: String::new(),
            refusal: "its worker named memory that does not exist".to_owned(),
            claims_at_last_death: 0,
            certificates: vec![None; rows],
            statistics: Statistics::default(),
            last_use_ns: 0,
            helped_ns: 0,
            oom_kills: crate::limits::oom_kills(),
        }
    }

    /// How many workers are ordered and have no pid yet.
    pub(super) fn unborn(&self) -> usize {
        let workers = self.workers.iter().flatten();
        workers.filter(|worker| worker.is_unborn()).count()
    }

    /// Whether a worker that nobody was told of may still work as `row`.
    pub(super) fn is_haunted(&self, row: u32) -> bool {
        let worker = self.workers.get(row as usize).and_then(Option::as_ref);
        worker.is_some_and(|worker| worker.ghost_since_ns.is_some())
    }

    /// Tell workers of shared segments that nobody will name again.
    pub(super) fn forget_wholes(&mut self, control: &Control, now_ns: u64) {
        let (workers, mut any) = (&mut self.workers, false);
        self.wholes.rest(now_ns, |id| {
            any = true;
            let mut unsent = Vec::new();
            for (row, worker) in workers.iter_mut().enumerate() {
                let Some(worker) = worker else { continue };
                if !worker.post(Letter::Forget(id)) {
                    unsent.push(worker.serial);
                }
                // SYNC(mail): a worker clears it before it reads, and looks again before it sleeps.
                let flags = &control.row(row).flags;
                flags.fetch_or(row_flag::MAIL, Ordering::SeqCst);
            }
            unsent
        });
        if any {
            park::wake_all(control);
        }
    }
}

impl<T: Ticket> Shared<T> {
    pub(super) fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Put a task into a slot, or into the backlog when there is none (`None`).
    pub(super) fn enqueue(&self, state: &mut State<T>, ticket: T, task: Task) -> Option<SlotRef> {
        if task.timeout_ns != 0 {
            state.timed += 1;
        }
        if state.backlog.is_empty()
            && let Some(slot) = queue::next_free(&*self.control)
        {
            self.place(state, slot, ticket, task);
            return Some(slot);
        }
        state.backlog.push_back((ticket, task));
        self.control.header().backlog.store(1, Ordering::SeqCst);
        None
    }

    fn place(&self, state: &mut State<T>, slot: SlotRef, ticket: T, task: Task) {
        let fields = self.control.slot(slot.index as usize);
        // RELAXED, all: `publish` releases them.
        fields.function.store(task.function.id, Ordering::Relaxed);
        fields.function_at.store(task.function.blob.location());
        fields.kind.store(task.kind, Ordering::Relaxed);
        fields
            .attempt
            .store(u32::from(task.range.attempt), Ordering::Relaxed);
        fields.args_at.store(task.args.location());
        if let Payload::Inline(bytes) = &task.args {
            fields.write_inline_args(bytes);
        }
        fields.first.store(task.range.first, Ordering::Relaxed);
        fields.last.store(task.range.last, Ordering::Relaxed);
        fields.base.store(task.base, Ordering::Relaxed);
        fields.timeout_ns.store(task.timeout_ns, Ordering::Relaxed);
        fields.started_ns.store(0, Ordering::Relaxed);
        // A worker that dies before it has begun an item dies in the first.
        fields.progress.0.store(task.range.first, Ordering::Relaxed);
        fields.seed.store(task.seed, Ordering::Relaxed);
        ticket.placed(slot.index);
        if let Some(lost) = Self::take_flight(state, slot.index) {
            self.complete_damaged(state, lost); // its word said free, and was not written by us
        }
        state.inflight[slot.index as usize] = Some(Inflight {
            ticket,
            task,
            slot,
            stop: None,
            claimed_ns: 0,
        });
        queue::publish(&*self.control, slot);
    }

    /// Fill free slots from the backlog.
    pub(super) fn refill(&self, state: &mut State<T>) {
        let mut placed = false;
        while !state.backlog.is_empty() {
            let Some(slot) = queue::next_free(&*self.control) else {
                break;
            };
            let (ticket, task) = state.backlog.pop_front().expect("checked");
            self.place(state, slot, ticket, task);
            placed = true;
        }
        if state.backlog.is_empty() {
            self.control.header().backlog.store(0, Ordering::SeqCst);
        }
        if placed {
            park::wake_one(&*self.control);
        }
    }

    /// Take every finished slot out, then refill.
    pub(super) fn collect(&self, state: &mut State<T>) {
        queue::take_done(&*self.control, |index| self.collect_slot(state, index));
        if !state.backlog.is_empty() {
            self.refill(state);
        }
        if state.closed && state.outstanding == 0 {
            process::ring(&self.kick);
        }
    }

    /// Take one finished slot out. A stale mark does nothing.
    pub(super) fn collect_slot(&self, state: &mut State<T>, index: u32) {
        let flight = state.inflight.get(index as usize).and_then(Option::as_ref);
        let Some(generation) = flight.map(|flight| flight.slot.generation) else {
            return;
        };
        let slot = SlotRef { index, generation };
        let Ok(seen) = queue::advance(&*self.control, slot, SlotState::Done, SlotState::Collecting)
        else {
            return;
        };
        let fields = self.control.slot(index as usize);
        // RELAXED, all: the word was acquired.
        let flags = fields.result_flags.load(Ordering::Relaxed);
        let kind = fields.result_kind.load(Ordering::Relaxed);
        let location = fields.result_at.load();
        let upto = fields.upto.load(Ordering::Relaxed);
        let inline = (location.segment == 0).then(|| fields.read_inline_result(location.len));
        let row = u32::from(seen.worker);
        let Inflight {
            ticket, task, stop, ..
        } = self.free_slot(state, slot);
        let upto = upto.clamp(task.range.first, task.range.last);
        if flags & result_flag::MESSAGES != 0
            || (location.segment != 0 && !state.segments.contains_key(&location.segment))
        {
            self.hear_worker(state, row);
        }
        if flags & result_flag::OUTPUT != 0 {
            self.hear_output(state, row);
        }
        let known = (row as usize) < self.control.rows();
        // An idle worker writes no more: what is left is the last line of this task.
        if known
            && self
                .control
                .row(row as usize)
                .current
                .load(Ordering::Relaxed)
                == 0
        {
            self.flush_output(state, row);
        }
        state.statistics.tasks += 1;
        let data = match inline {
            Some((bytes, len)) => Some(Data::Inline(bytes[..len].into())),
            None => result_block(state, location).map(|block| Data::Block(Arc::new(block))),
        };
        if let Payload::Lent(lent) = &task.args {
            lent.handed_over.store(true, Ordering::Release);
            state.arena.set_holder(&lent.block, row);
        }
        let outcome = match data {
            _ if !known => Outcome::Overwritten,
            Some(data) => {
                state.statistics.bytes_received += data.len();
                Outcome::Value { kind, data }
            }
            None => Outcome::Unreachable(format!("a result cannot be received: {}", state.refusal)),
        };
        let stop = stop.map(|stop| stop.reason);
        if upto < task.range.last {
            for part in plan::split_remainder(upto..task.range.last, self.config.workers) {
                let range = Attempt {
                    first: part.start,
                    last: part.end,
                    ..task.range
                };
                self.run_rest(state, &ticket, &task, range, stop);
            }
        }
        let first = task.range.first;
        self.complete(
            state,
            Completion {
                ticket,
                first,
                last: upto,
                outcome,
                task,
                worker: row,
                stop,
            },
        );
    }

    /// Make a slot free and take its task.
    pub(super) fn free_slot(&self, state: &mut State<T>, slot: SlotRef) -> Inflight<T> {
        let word = Word::new(slot.generation.wrapping_add(1), SlotState::Free).pack();
        let flight = Self::take_flight(state, slot.index).expect("a collected slot has a task");
        self.control
            .word(slot.index as usize)
            .store(word, Ordering::Release);
        flight
    }

    fn take_flight(state: &mut State<T>, index: u32) -> Option<Inflight<T>> {
        let flight = state.inflight[index as usize].take()?;
        if flight.task.timeout_ns != 0 {
            state.timed -= 1;
        }
        Some(flight)
    }

    /// End a task whose slot says what none of our processes would write.
    pub(super) fn complete_damaged(&self, state: &mut State<T>, flight: Inflight<T>) {
        let stop = flight.stop.map(|stop| stop.reason);
        let unrun = (flight.ticket, flight.task);
        self.complete_unrun(state, unrun, Outcome::Overwritten, stop);
    }

    pub(super) fn complete(&self, state: &mut State<T>, completion: Completion<T>) {
        // Of a broken pool nobody would run it.
        if state.broken.is_none() && completion.ticket.wants_again(&completion) {
            return self.try_again(state, completion);
        }
        state.outstanding -= 1;
        state.ready.push(completion);
        self.news.store(true, Ordering::Release);
    }

    /// Queue what has ended in a way that its submitter does not accept: it stays outstanding.
    fn try_again(&self, state: &mut State<T>, completion: Completion<T>) {
        let Completion {
            ticket,
            first,
            last,
            task,
            ..
        } = completion;
        let range = Attempt {
            first,
            last,
            attempt: task.range.attempt + 1,
            strikes: 0,
        };
        let _ = self.enqueue(state, ticket, Task { range, ..task });
        park::wake_one(&*self.control);
    }

    /// End a task that nobody will run.
    pub(super) fn complete_unrun(
        &self,
        state: &mut State<T>,
        (ticket, task): (T, Task),
        outcome: Outcome,
        stop: Option<StopReason>,
    ) {
        let (first, last) = (task.range.first, task.range.last);
        let worker = 0;
        self.complete(
            state,
            Completion {
                ticket,
                first,
                last,
                outcome,
                task,
                worker,
                stop,
            },
        );
    }

    /// Queue items of a task that its worker did not get to, unless they were cancelled with it.
    fn run_rest(
        &self,
        state: &mut State<T>,
        ticket: &T,
        task: &Task,
        range: Attempt,
        stop: Option<StopReason>,
    ) {
        let rest = Task {
            range,
            ..task.clone()
        };
        state.outstanding += 1;
        if stop == Some(StopReason::Cancel) {
            let unrun = (ticket.clone(), rest);
            self.complete_unrun(state, unrun, Outcome::Stopped(StopReason::Cancel), stop);
        } else {
            self.enqueue(state, ticket.clone(), rest);
        }
    }

    /// Deliver the fates of a task whose worker is dead.
    pub(super) fn settle(
        &self,
        state: &mut State<T>,
        flight: Inflight<T>,
        fates: Vec<Fate>,
        row: u32,
        certificate: &Arc<crate::certificate::Certificate>,
    ) {
        let Inflight {
            ticket, task, stop, ..
        } = flight;
        let reason = stop.map(|stop| stop.reason);
        let culprit = fates.iter().find_map(|fate| match fate {
            Fate::Culprit { index, .. } => Some(*index),
            _ => None,
        });
        for fate in fates {
            let (first, last, outcome) = match fate {
                Fate::Requeue(range) => {
                    state.statistics.retried += u64::from(range.attempt > task.range.attempt);
                    self.run_rest(state, &ticket, &task, range, reason);
                    continue;
                }
                Fate::Culprit { index, .. } => {
                    (index, index + 1, Outcome::Died(Arc::clone(certificate)))
                }
                Fate::Lost { first, last } => {
                    let certificate = Arc::clone(certificate);
                    (
                        first,
                        last,
                        Outcome::Lost {
                            certificate,
                            culprit,
                        },
                    )
                }
                Fate::Stopped { index, .. } => (
                    index,
                    index + 1,
                    Outcome::Stopped(reason.unwrap_or(StopReason::Cancel)),
                ),
            };
            state.outstanding += 1;
            let completion = Completion {
                ticket: ticket.clone(),
                first,
                last,
                outcome,
                task: task.clone(),
                worker: row,
                stop: reason,
            };
            self.complete(state, completion);
        }
        state.outstanding -= 1; // the task itself, now in parts
        self.news.store(true, Ordering::Release);
    }

    pub(super) fn state_has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }
}

fn result_block<T>(state: &State<T>, location: Location) -> Option<ResultBlock> {
    let segment = Arc::clone(state.segments.get(&location.segment)?);
    segment.block(location.offset, location.len)?;
    Some(ResultBlock {
        lease: Lease::new(segment, location.ticket),
        location,
    })
}
