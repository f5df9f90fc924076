//! Deaths: the certificate of a worker that has ended, and what it leaves behind.

use super::state::{Inflight, State};
use super::worker::Worker;
use super::{Shared, Start, Ticket};
use crate::certificate::{Certificate, read_story};
use crate::limits;
use crate::message::{Ended, UNKNOWN_STATUS};
use crate::task::Outcome;
use bireme_sched::attempt::{on_item_stopped, on_worker_death};
use bireme_sched::crew::RowState;
use bireme_sched::{BirthFailure, Cause, Event, RetryPolicy};
use bireme_shm::control::row_flag;
use bireme_shm::os::process;
use bireme_shm::park;
use bireme_shm::prim::Ordering;
use bireme_shm::queue::{self, SlotRef};
use bireme_shm::view::View;
use bireme_shm::word::{State as SlotState, Word};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Variable by which programs that a worker started are known: the worker's mark.
const WORKER_VARIABLE: &str = "BIREME_WORKER";
/// How long the template may take to tell how a worker ended.
const CERTIFICATE_PATIENCE_NS: u64 = 2_000_000_000;
/// How long the row of a worker that nobody was told of waits for its end: somebody may have stopped it.
const GHOST_NS: u64 = 10_000_000_000;
/// Of a younger worker no descendants are looked up. The system remembers for each process what was read of it, and
/// takes its time over that when the process ends: a worker of few tasks is gone before.
const YOUNG_NS: u64 = 100_000_000;
/// How long a process may live on after it has closed its control socket.
const LEAVING_PATIENCE_NS: u64 = 1_000_000_000;

impl<T: Ticket> Shared<T> {
    /// Worker `row` has ended; how is still to be told.
    pub(super) fn note_death(&self, row: u32) {
        if let Some(worker) = &mut self.state().workers[row as usize] {
            worker.dead_since_ns.get_or_insert_with(process::now_ns);
        }
    }

    /// Bury the workers that have ended, but for those whose certificates are still to come. Whether there were any.
    pub(super) fn bury_the_dead(&self) -> bool {
        let due = due_for_burial(&self.state());
        for row in &due {
            self.end_legacy(*row);
            self.bury(&mut self.state(), *row);
        }
        if due.is_empty() {
            return false;
        }
        park::wake_client(&*self.control);
        let births = !self.state().births.is_empty();
        if births {
            self.hooks.births_wanted();
        }
        true
    }

    fn bury(&self, state: &mut State<T>, row: u32) {
        self.hear_worker(state, row);
        self.hear_output(state, row);
        self.flush_output(state, row);
        if let Some(event) = self.certify(state, row) {
            self.act(state, event);
        }
    }

    /// End what worker `row`, which has ended, has left behind, where no template does.
    ///
    /// Without the lock, unless the worker's last word makes it needless: it looks at every process of the system.
    fn end_legacy(&self, row: u32) {
        let flags = self.control.row(row as usize).flags.load(Ordering::Acquire);
        if matches!(self.config.start, Start::Template(_)) || flags & row_flag::ALONE != 0 {
            return;
        }
        let state = self.state();
        let Some(worker) = &state.workers[row as usize] else {
            return;
        };
        let mark = self.control.mark_of(worker.serial);
        let (socket, since) = (worker.peer_inode, worker.since);
        drop(state);
        let legacy = process::Legacy {
            marker: &format!("{WORKER_VARIABLE}={mark}"),
            socket,
            since,
        };
        legacy.find().into_iter().for_each(process::kill_pid);
    }

    /// Write the death certificate of worker `row`, end what was last seen of its family; what the crew is to be told.
    fn certify(&self, state: &mut State<T>, row: u32) -> Option<Event> {
        let oom_before = state.oom_kills;
        let worker = state.workers[row as usize].as_mut()?;
        if worker.ended.is_none() && !matches!(self.config.start, Start::Template(_)) {
            worker.ended = process::reap(worker.pid)
                .map(|(end, peak_kib)| Ended::new(worker.pid, end, peak_kib));
        }
        for (pid, started) in std::mem::take(&mut worker.family) {
            if process::start_time(pid) == Some(started) {
                process::kill_pid(pid);
            }
        }
        let status = worker.ended.map_or(UNKNOWN_STATUS, |ended| ended.status);
        // A template that died took the status of its workers with it.
        let agreed = self.has_left(row as usize) && matches!(status, 0 | UNKNOWN_STATUS);
        let (initializer_failed, ready) = (worker.initializer_failed, worker.ready_ns.is_some());
        let certificate = Certificate {
            row,
            pid: worker.pid,
            exit_code: (status >= 0).then_some(status),
            signal: status.checked_neg().filter(|signal| *signal > 0), // none if unknown
            peak_bytes: worker
                .ended
                .map(|ended| ended.peak_kib * 1024)
                .filter(|peak| *peak > 0),
            limit_bytes: (!agreed).then(limits::cgroup_memory_limit).flatten(),
            became: worker.became.take(),
            oom_killed: false,
            stack: read_story(&worker.story),
            last_output: worker
                .streams
                .iter()
                .map(|(_, lines)| lines.last_lines())
                .collect(),
        };
        let oom_now = if certificate.signal == Some(9) {
            limits::oom_kills()
        } else {
            oom_before
        };
        let certificate = Certificate {
            oom_killed: oom_now > oom_before,
            ..certificate
        };
        state.oom_kills = oom_now;
        if !agreed {
            state.last_death = describe(&certificate);
        }
        state.certificates[row as usize] = Some(Arc::new(certificate));
        let unserved = self.died_unserved(state, row);
        Some(match status {
            _ if initializer_failed => Event::BirthFailed {
                row,
                reason: BirthFailure::Initializer,
            },
            // Killed by somebody while it was being born: not the initializer's fault.
            signal if !ready && is_from_outside(signal) && oom_now == oom_before => {
                Event::BirthFailed {
                    row,
                    reason: BirthFailure::Killed,
                }
            }
            _ if agreed => Event::Died {
                row,
                cause: Cause::Retired,
            },
            _ if unserved => Event::Died {
                row,
                cause: if is_from_outside(status) && oom_now == oom_before {
                    Cause::Killed
                } else {
                    Cause::Unserved
                },
            },
            code if code >= 0 => Event::Died {
                row,
                cause: Cause::Exited(code),
            },
            signal => Event::Died {
                row,
                cause: Cause::Signalled(signal.saturating_neg()),
            },
        })
    }

    /// Bury the workers whose template died without having told of them, once they are gone.
    ///
    /// Until then their rows stay theirs: they may claim one task more.
    pub(super) fn lay_to_rest(&self, state: &mut State<T>) {
        let now = process::now_ns();
        for row in 0..state.workers.len() as u32 {
            let Some(worker) = &state.workers[row as usize] else {
                continue;
            };
            let gone = worker
                .ghost_since_ns
                .is_some_and(|since| worker.deaf_since_ns.is_some() || now - since > GHOST_NS);
            if !gone {
                continue;
            }
            if state.crew.row(row) != RowState::Dead {
                let cause = Cause::Signalled(9); // it was ready, and heard
                self.act(state, Event::Died { row, cause });
            }
            self.hear_output(state, row);
            self.flush_output(state, row);
            self.repair(state, row);
            self.act(state, Event::Repaired { row });
        }
    }

    /// End the workers that called `exec`: another program runs under their pid, and knows no task.
    pub(super) fn end_strangers(&self, state: &mut State<T>) {
        let now = process::now_ns();
        for (row, worker) in state.workers.iter_mut().enumerate() {
            let Some(worker) = worker.as_mut().filter(|worker| {
                worker.became.is_none()
                    && worker.dead_since_ns.is_none()
                    && worker
                        .deaf_since_ns
                        .is_some_and(|since| now - since > LEAVING_PATIENCE_NS)
            }) else {
                continue;
            };
            let (Some(pidfd), false) = (&worker.pidfd, self.has_left(row)) else {
                continue;
            };
            let program = std::fs::read_link(format!("/proc/{}/exe", worker.pid));
            worker.became = Some(program.map_or_else(
                |_| "unknown".to_owned(),
                |path| path.to_string_lossy().into_owned(),
            ));
            process::descendants(worker.pid)
                .into_iter()
                .for_each(process::kill_pid);
            let _ = process::signal(pidfd.as_fd(), 9);
        }
    }

    /// Whether the worker of `row` has said that it leaves.
    fn has_left(&self, row: usize) -> bool {
        self.control.row(row).flags.load(Ordering::Acquire) & row_flag::LEFT != 0
    }

    /// Remember the descendants of workers that no template guards: they go with their worker.
    pub(super) fn note_families(&self, state: &mut State<T>) {
        if matches!(self.config.start, Start::Template(_)) {
            return;
        }
        let now = process::now_ns();
        let grown = |worker: &&mut Worker| worker.pid != 0 && now - worker.ordered_ns >= YOUNG_NS;
        for worker in state.workers.iter_mut().flatten().filter(grown) {
            let lives = |(pid, started): &(i32, u64)| process::start_time(*pid) == Some(*started);
            worker.family.retain(lives); // others adopt them when their parent ends, maybe right now
            for pid in process::descendants(worker.pid) {
                if !worker.family.iter().any(|(known, _)| *known == pid) {
                    worker
                        .family
                        .extend(process::start_time(pid).map(|started| (pid, started)));
                }
            }
        }
    }

    /// Make whole what a dead worker held; afterwards its row may be used again.
    pub(super) fn repair(&self, state: &mut State<T>, row: u32) {
        park::release_spinner(&*self.control, row as usize);
        let certificate = state.certificates[row as usize].take().unwrap_or_default();
        for index in 0..self.control.slots() as u32 {
            let bits = self.control.word(index as usize).load(Ordering::Acquire);
            let Some(word) = Word::unpack(bits) else {
                continue;
            };
            // A slot without a task says what it likes.
            if u32::from(word.worker) != row || state.inflight[index as usize].is_none() {
                continue;
            }
            let slot = SlotRef {
                index,
                generation: word.generation,
            };
            match word.state {
                SlotState::Done => self.collect_slot(state, index), // it may have died before the mark
                SlotState::Claimed | SlotState::Running | SlotState::Condemned
                    if queue::advance(&*self.control, slot, word.state, SlotState::Collecting)
                        .is_ok() =>
                {
                    let progress = self
                        .control
                        .slot(index as usize)
                        .progress
                        .0
                        .load(Ordering::Acquire);
                    let flight = self.free_slot(state, slot);
                    self.settle_death(state, flight, word, progress, row, &certificate);
                }
                _ => {}
            }
        }
        state.arena.free_held_by(row);
        if let Some(worker) = state.workers[row as usize].take() {
            state
                .segments
                .retain(|id, _| id >> 12 != worker.serial & 0xf_ffff);
        }
        let shared = self.control.row(row as usize);
        shared.arena_bytes.store(0, Ordering::SeqCst);
    }

    fn settle_death(
        &self,
        state: &mut State<T>,
        flight: Inflight<T>,
        word: Word,
        progress: u64,
        row: u32,
        certificate: &Arc<Certificate>,
    ) {
        if let Some(broken) = state.broken.clone() {
            let stop = flight.stop.map(|stop| stop.reason);
            let unrun = (flight.ticket, flight.task);
            self.complete_unrun(state, unrun, Outcome::Abandoned(broken), stop);
            return;
        }
        let policy = RetryPolicy {
            retries: flight.task.retries,
        };
        let fates = if flight.stop.is_some() {
            on_item_stopped(flight.task.range, progress, policy, false)
        } else {
            on_worker_death(
                flight.task.range,
                word.state != SlotState::Claimed,
                progress,
                policy,
            )
        };
        self.settle(state, flight, fates, row, certificate);
    }
}

/// The rows of workers that have ended and whose certificates are not to come any more.
fn due_for_burial<T>(state: &State<T>) -> Vec<u32> {
    let now = process::now_ns();
    let due = |worker: &Worker| {
        let dead = worker.dead_since_ns.filter(|_| worker.pid != 0);
        dead.is_some_and(|since| !awaits_certificate(state, worker, now - since))
    };
    let rows = (0..).zip(&state.workers);
    rows.filter_map(|(row, worker)| worker.as_ref().is_some_and(due).then_some(row))
        .collect()
}

/// Whether the template may still tell how a worker ended. Another template knows nothing of it.
fn awaits_certificate<T>(state: &State<T>, worker: &Worker, dead_for_ns: u64) -> bool {
    let templates = worker.template.as_ref().zip(state.template.as_ref());
    worker.ended.is_none()
        && dead_for_ns < CERTIFICATE_PATIENCE_NS
        && templates.is_some_and(|(asked, now)| Arc::ptr_eq(asked, now))
}

/// Whether somebody else may have ended a process with this status, by a signal.
fn is_from_outside(status: i32) -> bool {
    status < 0 && status != UNKNOWN_STATUS && !process::is_fault(status.saturating_neg())
}

fn describe(certificate: &Certificate) -> String {
    let how = match (certificate.exit_code, certificate.signal) {
        (Some(code), _) => format!("exited with code {code}"),
        (_, Some(signal)) => format!("was ended by signal {signal}"),
        _ => "ended".to_owned(),
    };
    format!(
        "worker {} (pid {}) {how}\n{}{}",
        certificate.row, certificate.pid, certificate.stack, certificate.last_output
    )
}
