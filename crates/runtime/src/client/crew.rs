//! The crew's decisions carried out: births, the template, the end.

use super::state::State;
use super::worker::{Letter, Worker};
use super::{Shared, Start, Ticket};
use crate::birth::Birth;
use crate::certificate::STORY_BYTES;
use crate::launcher;
use crate::lines::Lines;
use crate::message::{BirthOrder, MAX_BYTES, Message};
use crate::parts::Parts;
use crate::task::{Broken, Outcome};
use bireme_sched::{Action, BirthFailure, BreakReason, Event, Shortage};
use bireme_shm::control::{order, row_flag};
use bireme_shm::os::{memory, process, socket};
use bireme_shm::park;
use bireme_shm::prim::Ordering;
use bireme_shm::queue;
use bireme_shm::word::State as SlotState;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// Serials begin again after this one: the ids of a worker's segments begin with its serial, and
/// those from `0xf_0000` on are the client's.
const LAST_SERIAL: u32 = 0xe_ffff;
/// Most workers that are ordered and not born yet. Each has descriptors open here, and the orders of so
/// many, and their answers, fit the socket to the template: sending one never blocks.
const MAX_UNBORN: usize = 64;

impl<T: Ticket> Shared<T> {
    /// Tell the crew something, carry its actions out, tell the binding what it must know.
    pub(super) fn run(&self, event: Event) -> io::Result<()> {
        let (births, result) = {
            let mut state = self.state();
            let result = self.act_fallible(&mut state, event);
            (!state.births.is_empty(), result)
        };
        if births {
            self.hooks.births_wanted();
        }
        result
    }

    /// As [`run`](Self::run), for callers that hold the lock; the supervisor notices births later.
    pub(super) fn act(&self, state: &mut State<T>, event: Event) {
        let _ = self.act_fallible(state, event);
    }

    fn act_fallible(&self, state: &mut State<T>, event: Event) -> io::Result<()> {
        let todo = state.crew.handle(event);
        self.carry_out(state, todo)
    }

    fn carry_out(&self, state: &mut State<T>, mut todo: Vec<Action>) -> io::Result<()> {
        let mut result = Ok(());
        todo.reverse();
        while let Some(action) = todo.pop() {
            let next = match action {
                Action::Spawn { row } if state.unborn() >= MAX_UNBORN => {
                    state.unordered.push_back(row);
                    None
                }
                Action::Spawn { row } => match self.give_birth(state, row) {
                    Ok(next) => next,
                    Err(error) => {
                        state.last_death = error.to_string();
                        result = Err(error);
                        Some(Event::BirthFailed {
                            row,
                            reason: BirthFailure::Resource,
                        })
                    }
                },
                Action::Repair { row } if state.is_haunted(row) => None, // until `lay_to_rest`
                Action::Repair { row } => {
                    self.repair(state, row);
                    Some(Event::Repaired { row })
                }
                Action::WakeAll => {
                    park::wake_all(&*self.control);
                    None
                }
                Action::StartTemplate => match self.connect_template(state) {
                    Ok(()) => Some(Event::TemplateBorn),
                    Err(error) => {
                        state.last_death = error.to_string();
                        state.template_fate = None;
                        Some(Event::TemplateLost)
                    }
                },
                Action::AskAllToLeave => {
                    self.control
                        .header()
                        .orders
                        .fetch_or(order::LEAVE, Ordering::SeqCst);
                    park::wake_all(&*self.control);
                    None
                }
                Action::KillAll => {
                    kill_all(state);
                    // Who was not forked yet need not be, to be killed.
                    let births = std::mem::take(&mut state.births).into_iter();
                    let unordered = std::mem::take(&mut state.unordered);
                    for row in births.map(|(row, _)| row).chain(unordered) {
                        state.workers[row as usize] = None;
                        let reason = BirthFailure::Resource;
                        todo.extend(state.crew.handle(Event::BirthFailed { row, reason }));
                    }
                    None
                }
                Action::Break(reason) => {
                    let broken = why_broken(state, reason);
                    self.abandon(state, broken);
                    None
                }
                Action::Starve(reason) => {
                    let broken = why_starved(state, reason);
                    self.give_up(state, &Arc::new(broken));
                    None
                }
                Action::Finished => {
                    state.finished = true;
                    state.template = None;
                    self.changed.notify_all();
                    park::wake_client(&*self.control);
                    None
                }
            };
            if let Some(event) = next {
                let mut more = state.crew.handle(event);
                more.reverse();
                todo.extend(more);
            }
        }
        let alive = state
            .workers
            .iter()
            .flatten()
            .filter(|worker| worker.pid != 0)
            .count();
        self.control
            .header()
            .alive
            .store(alive as u32, Ordering::Relaxed); // RELAXED: a hint for spinning
        result
    }

    fn connect_template(&self, state: &mut State<T>) -> io::Result<()> {
        if let Start::Template(command) = &self.config.start {
            let (connection, pid) = launcher::connect(command)?;
            (state.template, state.template_pid) = (Some(connection), Some(pid));
        }
        Ok(())
    }

    /// Order a worker for `row`. It is born when its pid is known; `None` until then.
    fn give_birth(&self, state: &mut State<T>, row: u32) -> io::Result<Option<Event>> {
        state.last_serial = state.last_serial % LAST_SERIAL + 1;
        let serial = state.last_serial;
        let (ours, theirs) = socket::pair()?;
        let (out, out_end) = process::pipe()?;
        let (err, err_end) = process::pipe()?;
        let story = memory::create("bireme-story", STORY_BYTES)?;
        let birth = Birth {
            order: BirthOrder {
                row,
                serial,
                max_claims: self.config.max_claims,
                forward_output: u32::from(self.config.forward_output),
            },
            control: self.control.fd().try_clone_to_owned()?,
            boot: self.config.boot.try_clone()?,
            story: story.try_clone()?,
            client: self.pidfd.try_clone()?,
            bell: self.bell.try_clone()?,
            out: out_end,
            err: err_end,
            given: (self.config.given.iter())
                .map(OwnedFd::try_clone)
                .collect::<io::Result<_>>()?,
            socket: theirs,
        };
        let now_ns = process::now_ns();
        let mut worker = Worker {
            serial,
            ordered_ns: now_ns,
            since: process::ticks_at(now_ns),
            pid: 0,
            ghost_since_ns: None,
            template: None,
            pidfd: None,
            ready_ns: None,
            initializer_failed: false,
            deaf_since_ns: None,
            dead_since_ns: None,
            parts: Parts::default(),
            became: None,
            socket: Arc::new(ours),
            peer_inode: socket::inode(&birth.socket),
            streams: [
                (Some(Arc::new(out)), Lines::default()),
                (Some(Arc::new(err)), Lines::default()),
            ],
            story,
            outbox: VecDeque::default(),
            ended: None,
            family: Vec::new(),
        };
        let shared = self.control.row(row as usize);
        shared.flags.store(0, Ordering::Relaxed);
        shared.current.store(0, Ordering::Relaxed);
        let mut next = None;
        match &self.config.start {
            Start::Template(_) => {
                if state.template.is_none() {
                    self.connect_template(state)?;
                }
                match birth.send_to_template(state.template.as_ref().expect("connected")) {
                    // It died unnoticed. Its hang-up is still to be heard: then everything that
                    // it did not answer, this birth and earlier ones, is ordered again.
                    Err(error) if socket::is_hang_up(&error) => {}
                    sent => sent?,
                }
                worker.template.clone_from(&state.template);
            }
            Start::Interpreter(command) => {
                birth.send_to_interpreter(&worker.socket)?;
                let pid = launcher::start(command, birth.socket, None)?;
                (worker.pid, worker.pidfd) = (pid, Some(Arc::new(process::open_newborn(pid)?)));
                next = Some(Event::Born { row });
            }
            Start::Caller => state.births.push_back((row, birth)),
        }
        for segment in state.arena.segments() {
            worker.post(Letter::Segment(Arc::clone(segment)));
        }
        for segment in state.wholes.segments() {
            let ticket = state.wholes.lend(segment.id(), worker.serial);
            worker.post(Letter::Whole(segment, ticket));
        }
        state.workers[row as usize] = Some(worker);
        Ok(next)
    }

    /// A forked worker has a pid, or could not be forked.
    pub(super) fn born(&self, row: u32, result: io::Result<(i32, OwnedFd)>) {
        let mut state = self.state();
        let Some(worker) = state.workers.get_mut(row as usize).and_then(Option::as_mut) else {
            return;
        };
        let event = match result {
            Ok((pid, pidfd)) => {
                (worker.pid, worker.pidfd) = (pid, Some(Arc::new(pidfd)));
                self.control
                    .row(row as usize)
                    .pid
                    .store(pid as u32, Ordering::Relaxed);
                Event::Born { row }
            }
            Err(error) => {
                state.last_death = format!("a worker could not be forked: {error}");
                state.workers[row as usize] = None;
                Event::BirthFailed {
                    row,
                    reason: BirthFailure::Resource,
                }
            }
        };
        self.act(&mut state, event);
        // SYNC(unordered): rows wait here only while others are unborn, whose answers all come by.
        while state.unborn() < MAX_UNBORN
            && let Some(row) = state.unordered.pop_front()
        {
            let _ = self.carry_out(&mut state, vec![Action::Spawn { row }]);
        }
    }

    /// The template, which leaves, cannot fork.
    fn refused(&self, row: u32, why: &[u8]) {
        let mut state = self.state();
        if let Some(worker) = state.workers.get_mut(row as usize) {
            *worker = None;
            state.last_death = String::from_utf8_lossy(why).into_owned();
            let reason = BirthFailure::Refused;
            self.act(&mut state, Event::BirthFailed { row, reason });
        }
    }

    /// Read what the template has to say.
    pub(super) fn hear_template(&self) {
        let mut buffer = vec![0; MAX_BYTES];
        loop {
            let Some(template) = self.state().template.clone() else {
                return;
            };
            match socket::receive(&*template, &mut buffer, false) {
                Ok((0, _)) => return self.template_lost(),
                Ok((len, mut fds)) => match Message::decode(&buffer[..len]) {
                    Some(Message::Born { row, pid }) if fds.len() == 1 => {
                        self.born(row, Ok((pid, fds.pop().expect("one"))));
                    }
                    Some(Message::Born { row, .. }) => self.born_unseen(row),
                    Some(Message::NotBorn { row, errno }) => {
                        self.born(row, Err(io::Error::from_raw_os_error(errno)));
                    }
                    Some(Message::Refused { row, why }) => self.refused(row, &why),
                    Some(Message::Ended(ended)) => {
                        let mut state = self.state();
                        if let Some(worker) = state
                            .workers
                            .iter_mut()
                            .flatten()
                            .find(|worker| worker.pid == ended.pid)
                        {
                            worker.ended = Some(ended);
                        }
                    }
                    _ => {}
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // It left orders unread. What it had said before is still to be heard, then the end.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(_) => return self.template_lost(),
            }
        }
    }

    /// A worker was forked, and its descriptor did not arrive: nobody could watch over it.
    fn born_unseen(&self, row: u32) {
        let mut state = self.state();
        state.last_death = format!("a worker was forked: {}", socket::descriptor_dropped());
        self.haunt(&mut state, row);
        let reason = BirthFailure::Killed;
        self.act(&mut state, Event::BirthFailed { row, reason });
    }

    /// Let the worker of `row` go, which has no known pid. Should it live, it claims nothing more, and its
    /// watchdog ends it.
    fn haunt(&self, state: &mut State<T>, row: u32) {
        let Some(worker) = &mut state.workers[row as usize] else {
            return;
        };
        worker.ghost_since_ns = Some(process::now_ns());
        let flags = &self.control.row(row as usize).flags;
        flags.fetch_or(row_flag::RETIRE, Ordering::SeqCst);
        socket::hang_up(&worker.socket);
    }

    fn template_lost(&self) {
        let pid = self.state().template_pid;
        let fate = pid.map(launcher::fate_of); // waits for its end, without the lock
        let mut state = self.state();
        state.template = None;
        state.template_fate = fate;
        // Workers of the old template finish their task and make room; unborn ones are ordered again.
        state.unordered.clear();
        for row in 0..state.workers.len() as u32 {
            let worker = state.workers[row as usize].as_ref();
            if worker.is_some_and(Worker::is_unborn) {
                self.haunt(&mut state, row);
            }
        }
        self.act(&mut state, Event::TemplateLost);
        let served: Vec<u32> = (0..)
            .zip(&state.workers)
            .filter_map(|(row, worker)| worker.as_ref().filter(|w| w.pid != 0).map(|_| row))
            .collect();
        for row in served {
            self.retire(&mut state, row);
        }
    }

    /// Have worker `row` leave after its present task.
    pub(super) fn retire(&self, state: &mut State<T>, row: u32) {
        self.control
            .row(row as usize)
            .flags
            .fetch_or(row_flag::RETIRE, Ordering::SeqCst);
        self.act(state, Event::Retiring { row });
        park::wake_all(&*self.control);
    }

    /// Break the pool: everything that has not ended is abandoned.
    pub(super) fn break_off(&self, broken: Broken) {
        self.abandon(&mut self.state(), broken);
    }

    fn abandon(&self, state: &mut State<T>, broken: Broken) {
        let broken = state.broken.get_or_insert_with(|| Arc::new(broken)).clone();
        state.closed = true;
        self.give_up(state, &broken);
    }

    /// Fail every task that no worker has claimed.
    fn give_up(&self, state: &mut State<T>, broken: &Arc<Broken>) {
        self.collect(state);
        let backlog = std::mem::take(&mut state.backlog);
        self.control.header().backlog.store(0, Ordering::SeqCst);
        let mut abandoned = Vec::from(backlog);
        for index in 0..state.inflight.len() as u32 {
            let Some(flight) = &state.inflight[index as usize] else {
                continue;
            };
            let slot = flight.slot;
            if queue::advance(
                &*self.control,
                slot,
                SlotState::Queued,
                SlotState::Collecting,
            )
            .is_ok()
            {
                let flight = self.free_slot(state, slot);
                abandoned.push((flight.ticket, flight.task));
            }
        }
        for unrun in abandoned {
            self.complete_unrun(state, unrun, Outcome::Abandoned(Arc::clone(broken)), None);
        }
        park::wake_client(&*self.control);
    }

    /// Tell the crew when the last task has ended after `close`.
    pub(super) fn check_drained(&self) {
        let mut state = self.state();
        if state.closed && state.outstanding == 0 {
            self.act(&mut state, Event::Drained);
        }
    }

    pub(super) fn private_fds(&self) -> Vec<i32> {
        // Asked in a forked child, where a thread that no longer exists may have held the lock.
        let Ok(state) = self.state.try_lock() else {
            return Vec::new();
        };
        let workers = state.workers.iter().flatten();
        let mut fds: Vec<i32> = workers
            .flat_map(|worker| {
                let streams = worker.streams.iter().filter_map(|(fd, _)| fd.as_ref());
                streams
                    .chain([&worker.socket])
                    .chain(&worker.pidfd)
                    .map(AsRawFd::as_raw_fd)
                    .collect::<Vec<_>>()
            })
            .collect();
        fds.extend(state.template.iter().map(AsRawFd::as_raw_fd));
        let births = state.births.iter().flat_map(|(_, birth)| birth.fds());
        fds.extend(births.map(|fd| fd.as_raw_fd()));
        fds
    }
}

fn why_broken<T>(state: &State<T>, reason: BreakReason) -> Broken {
    let last_death = state.last_death.clone();
    match reason {
        BreakReason::Initializer => {
            Broken::Initializer(state.initializer_error.clone().unwrap_or_default())
        }
        BreakReason::Crashed => Broken::InitializerDied(last_death),
        BreakReason::Unserved => Broken::WorkersDie(last_death),
        BreakReason::Refused => Broken::Template(last_death),
    }
}

fn why_starved<T>(state: &mut State<T>, reason: Shortage) -> Broken {
    let last_death = state.last_death.clone();
    match (reason, state.template_fate.take()) {
        (Shortage::Killed, _) => Broken::KilledUnborn(last_death),
        (Shortage::KilledIdle, _) => Broken::KilledIdle(last_death),
        (Shortage::Template, Some(fate)) => match fate.signal {
            Some(signal) => Broken::TemplateKilled {
                signal,
                story: fate.story,
            },
            None => Broken::Template(fate.story),
        },
        (Shortage::Template | Shortage::Resource, _) => Broken::CannotStart(last_death),
    }
}

fn kill_all<T>(state: &State<T>) {
    for worker in state.workers.iter().flatten() {
        let Some(pidfd) = &worker.pidfd else { continue };
        for pid in process::descendants(worker.pid) {
            process::kill_pid(pid);
        }
        let _ = process::signal(pidfd.as_fd(), 9);
    }
}
