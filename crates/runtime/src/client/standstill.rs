//! Past processes that stand still between two steps: stopped by somebody, or starved of a core.
//!
//! A worker that stands still in the middle of a task is a matter for time limits. Here are the moments
//! around it, in which it holds something up that others could do.

use super::state::State;
use super::{Shared, Ticket};
use crate::task::Outcome;
use bireme_shm::os::process;
use bireme_shm::park;
use bireme_shm::prim::Ordering;
use bireme_shm::queue;
use bireme_shm::view::View;
use bireme_shm::word::{State as SlotState, Word};
use std::os::fd::AsFd;

/// Time between two looks.
const TICK_NS: u64 = 50_000_000;
/// How long a worker may take from the claim of a task to its beginning: it takes about 100 ns.
const CLAIM_NS: u64 = 500_000_000;
/// How long a template may leave a birth or a death untold before somebody looks whether it was stopped.
const ANSWER_NS: u64 = 500_000_000;

impl<T: Ticket> Shared<T> {
    /// Take back what was claimed and not begun, collect what has ended and is not marked, have what is
    /// queued looked at by another worker, wake a template that was stopped.
    pub(super) fn help_past(&self, state: &mut State<T>) {
        let now = process::now_ns();
        if now - state.helped_ns < TICK_NS {
            return;
        }
        state.helped_ns = now;
        for index in 0..state.inflight.len() {
            let Some(flight) = &mut state.inflight[index] else {
                continue;
            };
            let bits = self.control.word(index).load(Ordering::Acquire);
            let of_this_use = |word: &Word| word.generation == flight.slot.generation;
            let word = Word::unpack(bits).filter(of_this_use);
            match word.map(|word| word.state) {
                Some(SlotState::Done) => self.collect_slot(state, index as u32),
                Some(SlotState::Claimed) if flight.claimed_ns == 0 => flight.claimed_ns = now,
                Some(SlotState::Claimed) if now - flight.claimed_ns > CLAIM_NS => {
                    self.take_back(state, index);
                }
                Some(
                    SlotState::Queued
                    | SlotState::Claimed
                    | SlotState::Running
                    | SlotState::Condemned,
                ) => {}
                // A slot with a task says so whenever we hold the lock.
                _ => self.write_off(state, index),
            }
        }
        if !queue::looks_empty(&*self.control) {
            park::wake_past_spinner(&*self.control);
        }
        Self::rouse_template(state, now);
    }

    /// Queue a claimed task again; its claimant finds that it may not begin.
    fn take_back(&self, state: &mut State<T>, index: usize) {
        let slot = state.inflight[index].as_ref().expect("seen").slot;
        let (from, to) = (SlotState::Claimed, SlotState::Collecting);
        if queue::advance(&*self.control, slot, from, to).is_err() {
            return;
        }
        let flight = self.free_slot(state, slot);
        if let Some(stop) = flight.stop {
            let unrun = (flight.ticket, flight.task);
            self.complete_unrun(
                state,
                unrun,
                Outcome::Stopped(stop.reason),
                Some(stop.reason),
            );
        } else {
            self.enqueue(state, flight.ticket, flight.task);
        }
    }

    /// End a task whose slot was overwritten, and a worker that still runs it and would write to the slot.
    fn write_off(&self, state: &mut State<T>, index: usize) {
        let slot = state.inflight[index].as_ref().expect("seen").slot;
        let flight = self.free_slot(state, slot);
        self.complete_damaged(state, flight);
        for (row, worker) in state.workers.iter().enumerate() {
            let current = self.control.row(row).current.load(Ordering::Relaxed); // RELAXED: a hint
            let pidfd = worker.as_ref().and_then(|worker| worker.pidfd.as_ref());
            if let Some(pidfd) = pidfd.filter(|_| current as usize == index + 1) {
                let _ = process::signal(pidfd.as_fd(), 9);
            }
        }
    }

    /// A stopped template forks and reaps nobody, and is nobody's to stop: whoever wants that stops the caller too.
    fn rouse_template(state: &State<T>, now: u64) {
        let Some(pid) = state.template_pid else {
            return;
        };
        let late = state.workers.iter().flatten().any(|worker| {
            let asked_ns = if worker.is_unborn() {
                Some(worker.ordered_ns)
            } else {
                worker.dead_since_ns
            };
            asked_ns.is_some_and(|asked_ns| now - asked_ns > ANSWER_NS)
        });
        if late && process::is_stopped(pid) {
            process::continue_pid(pid);
        }
    }
}
