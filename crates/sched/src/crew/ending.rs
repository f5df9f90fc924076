//! How a crew ends: broken off, killed, or asked to leave.

use super::event::{Action, BreakReason, Phase, RowState};
use super::{Backoff, Crew};

impl Crew {
    pub(super) fn break_off(&mut self, reason: BreakReason, actions: &mut Vec<Action>) {
        if !self.is_ending() {
            self.broken = Some(reason);
            actions.push(Action::Break(reason));
            self.end(Phase::Killing, actions);
        }
    }

    /// Enters the last part of the crew's life, from which only a harder end leads on.
    pub(super) fn end(&mut self, phase: Phase, actions: &mut Vec<Action>) {
        if self.phase < phase {
            self.phase = phase;
            self.backoff = Backoff::Idle;
            for state in &mut self.rows {
                if *state == RowState::Held {
                    *state = RowState::Empty;
                }
            }
            actions.extend(self.farewell());
        }
    }

    /// What a worker is told that exists, or comes into being, at the end.
    pub(super) fn farewell(&self) -> Option<Action> {
        match self.phase {
            Phase::Leaving => Some(Action::AskAllToLeave),
            Phase::Killing => Some(Action::KillAll),
            Phase::Idle | Phase::Serving | Phase::Closing | Phase::Finished => None,
        }
    }

    pub(super) fn finish(&mut self, actions: &mut Vec<Action>) {
        let over = matches!(self.phase, Phase::Leaving | Phase::Killing);
        if over && self.rows.iter().all(|&state| state == RowState::Empty) {
            self.phase = Phase::Finished;
            actions.push(Action::Finished);
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.phase >= Phase::Leaving
    }
}
