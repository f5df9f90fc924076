//! The life of one worker, from its birth to the repair of its row.

use super::Crew;
use super::event::{Action, BirthFailure, BreakReason, Cause, RowState, Shortage};

impl Crew {
    pub(super) fn born(&mut self, row: u32, actions: &mut Vec<Action>) {
        if self.row(row) == RowState::Starting {
            self.rows[row as usize] = RowState::Born;
        }
        if self.row(row).is_occupied() {
            actions.extend(self.farewell());
        }
    }

    pub(super) fn ready(&mut self, row: u32) {
        if matches!(self.row(row), RowState::Starting | RowState::Born) {
            self.rows[row as usize] = RowState::Ready;
            self.crashes = 0;
            self.shortages = 0;
            self.seniority[row as usize] = self.unserved;
            self.totals.births += 1;
        }
    }

    pub(super) fn retiring(&mut self, row: u32) {
        if matches!(self.row(row), RowState::Born | RowState::Ready) {
            self.rows[row as usize] = RowState::Retiring;
        }
    }

    pub(super) fn birth_failed(
        &mut self,
        row: u32,
        reason: BirthFailure,
        actions: &mut Vec<Action>,
    ) {
        match self.row(row) {
            // Nobody ever touched the row: there is nothing to repair.
            RowState::Starting
                if matches!(reason, BirthFailure::Resource | BirthFailure::Refused) =>
            {
                self.rows[row as usize] = RowState::Empty;
            }
            RowState::Starting | RowState::Born => self.bury(row, actions),
            _ => return,
        }
        self.totals.birth_failures += 1;
        match reason {
            BirthFailure::Initializer => self.break_off(BreakReason::Initializer, actions),
            BirthFailure::Refused => self.break_off(BreakReason::Refused, actions),
            BirthFailure::Resource | BirthFailure::Killed => {
                // Several refusals between two pauses are one round.
                if self.backoff.is_idle() {
                    self.shortages = self.shortages.saturating_add(1);
                }
                let why = if reason == BirthFailure::Resource {
                    Shortage::Resource
                } else {
                    Shortage::Killed
                };
                self.shortage(why, actions);
            }
            BirthFailure::Crashed => {
                self.crashes = self.crashes.saturating_add(1);
                if self.crashes < self.max_birth_failures || self.is_ending() {
                    return;
                }
                let serves =
                    |state: &RowState| matches!(state, RowState::Ready | RowState::Retiring);
                if self.rows.iter().any(serves) {
                    self.backoff.arm(); // running tasks are worth more than a full crew
                } else {
                    self.break_off(BreakReason::Crashed, actions);
                }
            }
        }
    }

    pub(super) fn died(&mut self, row: u32, cause: Cause, actions: &mut Vec<Action>) {
        match self.row(row) {
            RowState::Starting | RowState::Born => {
                self.birth_failed(row, BirthFailure::Crashed, actions);
            }
            RowState::Ready | RowState::Retiring => {
                match cause {
                    _ if self.is_ending() => {}
                    Cause::Retired => self.totals.retirements += 1,
                    Cause::Exited(_) | Cause::Signalled(_) | Cause::Unserved | Cause::Killed => {
                        self.totals.deaths += 1;
                    }
                }
                self.bury(row, actions);
                self.count_unserved(cause, actions);
            }
            RowState::Empty | RowState::Held | RowState::Dead => {}
        }
    }

    /// Counts deaths of workers that did nothing, in a row. The first is answered at once, as any
    /// death; then there are pauses, and an end, unless a worker lives that saw the whole row: of
    /// the crew, or where somebody kills them, of the patience with which tasks wait.
    fn count_unserved(&mut self, cause: Cause, actions: &mut Vec<Action>) {
        if !matches!(cause, Cause::Unserved | Cause::Killed) {
            self.unserved = 0;
            self.seniority.fill(0);
            return;
        }
        self.unserved = self.unserved.saturating_add(1);
        let mut rows = self.rows.iter().zip(&self.seniority);
        let elder = rows.any(|(state, since)| {
            matches!(state, RowState::Ready | RowState::Retiring) && *since == 0
        });
        let hopeless = self.unserved >= self.max_birth_failures && !elder;
        if hopeless && cause == Cause::Unserved {
            self.break_off(BreakReason::Unserved, actions);
        }
        if self.is_ending() {
            return;
        }
        if hopeless {
            actions.push(Action::Starve(Shortage::KilledIdle));
        }
        if hopeless || self.unserved > 1 {
            self.backoff.arm();
        }
    }

    fn bury(&mut self, row: u32, actions: &mut Vec<Action>) {
        self.rows[row as usize] = RowState::Dead;
        actions.push(Action::Repair { row });
    }

    pub(super) fn repaired(&mut self, row: u32, actions: &mut Vec<Action>) {
        if self.row(row) == RowState::Dead {
            self.rows[row as usize] = RowState::Empty;
            actions.push(Action::WakeAll);
        }
    }
}
