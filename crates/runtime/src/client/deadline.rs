//! Stopping tasks: cancellation and time limits, one rung of the ladder after the other.

use super::state::{State, Stop};
use super::{Shared, Ticket};
use crate::task::{Outcome, StopReason};
use bireme_sched::{Ladder, Rung};
use bireme_shm::os::process;
use bireme_shm::prim::Ordering;
use bireme_shm::queue;
use bireme_shm::view::View;
use bireme_shm::word::{FLAG_CANCEL, State as SlotState, Word};
use std::os::fd::AsFd;

const SIGINT: i32 = 2;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

impl<T: Ticket> Shared<T> {
    pub(super) fn cancel(
        &self,
        state: &mut State<T>,
        is: impl Fn(&T) -> bool,
        running: bool,
    ) -> usize {
        let mut count = 0;
        let mut taken = Vec::new();
        state.backlog.retain(|(ticket, task)| {
            let keep = !is(ticket);
            if !keep {
                taken.push((ticket.clone(), task.clone()));
            }
            keep
        });
        for index in 0..state.inflight.len() {
            let Some(flight) = state.inflight[index]
                .as_ref()
                .filter(|flight| is(&flight.ticket))
            else {
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
                taken.push((flight.ticket, flight.task));
            } else if running {
                let flight = state.inflight[index].as_mut().expect("seen");
                let ladder = match flight.stop.take() {
                    Some(stop) => stop.ladder, // its time is over: now the rest of it is, too
                    None => Ladder::start(process::now_ns()),
                };
                flight.stop = Some(Stop {
                    reason: StopReason::Cancel,
                    ladder,
                });
                count += 1;
            }
        }
        count += taken.len();
        for unrun in taken {
            let reason = StopReason::Cancel;
            self.complete_unrun(state, unrun, Outcome::Stopped(reason), Some(reason));
        }
        count
    }

    /// Look for tasks over their limit, and take every stop that is due one rung further.
    pub(super) fn pursue(&self, state: &mut State<T>) {
        let now = process::now_ns();
        if state.timed > 0 {
            self.find_overdue(state, now);
        }
        for index in 0..state.inflight.len() {
            let Some(flight) = &mut state.inflight[index] else {
                continue;
            };
            let Some(stop) = &mut flight.stop else {
                continue;
            };
            if stop.ladder.next_due_ns().is_none_or(|due| due > now) {
                continue;
            }
            let slot = flight.slot;
            let bits = self.control.word(index).load(Ordering::Acquire);
            let Some(word) = Word::unpack(bits) else {
                continue;
            };
            match word.state {
                SlotState::Running | SlotState::Condemned => {}
                _ => continue, // claimed: it will run in a moment; done: it is over
            }
            let Some(rung) = stop.ladder.step(now) else {
                continue;
            };
            let Some(worker) = state
                .workers
                .get(usize::from(word.worker))
                .and_then(Option::as_ref)
            else {
                continue;
            };
            let Some(pidfd) = &worker.pidfd else { continue };
            match rung {
                Rung::Interrupt => {
                    if queue::set_flag(&*self.control, slot, SlotState::Running, FLAG_CANCEL) {
                        let _ = process::signal(pidfd.as_fd(), SIGINT);
                    }
                }
                Rung::Terminate => {
                    if self.condemn(slot, word.state) {
                        let _ = process::signal(pidfd.as_fd(), SIGTERM);
                    }
                }
                Rung::Kill => {
                    if self.condemn(slot, word.state) {
                        process::descendants(worker.pid)
                            .into_iter()
                            .for_each(process::kill_pid);
                        let _ = process::signal(pidfd.as_fd(), SIGKILL);
                    }
                }
            }
        }
    }

    /// Whether the task is still that worker's, which from now on claims nothing more.
    fn condemn(&self, slot: queue::SlotRef, seen: SlotState) -> bool {
        seen == SlotState::Condemned
            || queue::advance(
                &*self.control,
                slot,
                SlotState::Running,
                SlotState::Condemned,
            )
            .is_ok()
    }

    fn find_overdue(&self, state: &mut State<T>, now: u64) {
        for row in 0..self.control.rows() {
            let worker = state.workers[row].as_ref();
            if worker.is_some_and(|worker| worker.dead_since_ns.is_some()) {
                continue; // its task ended with it
            }
            let current = self.control.row(row).current.load(Ordering::Relaxed) as usize; // RELAXED: a hint
            let Some(flight) = current
                .checked_sub(1)
                .and_then(|index| state.inflight.get_mut(index)?.as_mut())
            else {
                continue;
            };
            let started = self
                .control
                .slot(current - 1)
                .started_ns
                .load(Ordering::Acquire);
            let limit = flight.task.timeout_ns;
            if flight.stop.is_none()
                && limit != 0
                && started != 0
                && now > started.saturating_add(limit)
            {
                flight.stop = Some(Stop {
                    reason: StopReason::Timeout,
                    ladder: Ladder::start(now),
                });
            }
        }
    }

    /// Nanoseconds until [`pursue`](Self::pursue) should run again, if ever.
    pub(super) fn next_pursuit_ns(state: &State<T>) -> Option<u64> {
        const TICK_NS: u64 = 10_000_000;
        let stopping = state
            .inflight
            .iter()
            .flatten()
            .any(|flight| flight.stop.is_some());
        (stopping || state.timed > 0).then_some(TICK_NS)
    }
}
