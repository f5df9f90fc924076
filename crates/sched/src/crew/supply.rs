//! Where workers come from: the template, what the system grants, and filling up.

use super::event::{Action, Phase, RowState, Shortage};
use super::{Crew, Template};

impl Crew {
    pub(super) fn template_lost(&mut self, actions: &mut Vec<Action>) {
        if self.template == Template::Down {
            return;
        }
        self.template = Template::Down;
        // Requests that it had not answered went with it. Their rows may have been touched, so they
        // are repaired first.
        for (row, state) in (0..).zip(&mut self.rows) {
            if *state == RowState::Starting {
                *state = RowState::Dead;
                actions.push(Action::Repair { row });
            }
        }
        if self.is_ending() {
            return;
        }
        self.shortages = self.shortages.saturating_add(1);
        if self.shortages == 1 && self.max_birth_failures > 1 {
            self.start_template(actions);
        } else {
            self.shortage(Shortage::Template, actions);
        }
    }

    pub(super) fn template_born(&mut self, actions: &mut Vec<Action>) {
        self.template = Template::Up;
        for (row, state) in (0..).zip(&mut self.rows) {
            if *state == RowState::Held {
                *state = RowState::Starting;
                actions.push(Action::Spawn { row });
            }
        }
    }

    pub(super) fn tick(&mut self, now_ns: u64, actions: &mut Vec<Action>) {
        let rounds = self.shortages.max(self.unserved).max(self.crashes);
        if self.backoff.tick(now_ns, rounds) && self.template == Template::Down {
            self.start_template(actions);
        }
    }

    fn start_template(&mut self, actions: &mut Vec<Action>) {
        self.template = Template::Starting;
        actions.push(Action::StartTemplate);
    }

    /// Pauses before the next try; when patience is at its end and nobody is left, no task waits for it.
    pub(super) fn shortage(&mut self, reason: Shortage, actions: &mut Vec<Action>) {
        if self.starves() {
            actions.push(Action::Starve(reason));
        }
        if !self.is_ending() {
            self.backoff.arm();
        }
    }

    /// Asks for every missing worker that an empty row can take.
    pub(super) fn fill(&mut self, actions: &mut Vec<Action>) {
        if !matches!(self.phase, Phase::Serving | Phase::Closing) || !self.backoff.is_idle() {
            return;
        }
        let missing = self.workers as usize - self.active();
        let empty = (0..)
            .zip(&mut self.rows)
            .filter(|(_, state)| **state == RowState::Empty);
        for (row, state) in empty.take(missing) {
            if self.template == Template::Up {
                *state = RowState::Starting;
                actions.push(Action::Spawn { row });
            } else {
                *state = RowState::Held;
            }
        }
    }
}
