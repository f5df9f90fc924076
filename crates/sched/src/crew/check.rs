//! What must hold for a [`Crew`] between any two events, whatever the events were.

use super::{Crew, Phase, RowState, Template};

impl Crew {
    /// Checks the crew's invariants: the caps, the phases, and that something is under way whenever
    /// a worker is missing.
    ///
    /// # Panics
    ///
    /// When one is broken, which is a bug here.
    pub fn sanity_check(&self) {
        let any = |test: fn(RowState) -> bool| self.rows.iter().any(|&state| test(state));
        let all_empty = self.rows.iter().all(|&state| state == RowState::Empty);
        let ending = self.is_ending();

        assert!(
            self.active() <= self.workers as usize,
            "more workers than asked for: {self:?}"
        );
        if any(|state| state == RowState::Held) {
            assert!(
                self.template != Template::Up && !ending,
                "a spawn held back for nothing: {self:?}"
            );
        }
        match self.phase {
            Phase::Idle | Phase::Finished => {
                assert!(all_empty, "a worker outside of the crew's life: {self:?}");
            }
            Phase::Serving | Phase::Closing => assert!(
                self.active() == self.workers as usize
                    || !self.backoff.is_idle()
                    || !any(|state| state == RowState::Empty),
                "a worker is missing and nothing is under way: {self:?}"
            ),
            Phase::Leaving | Phase::Killing => {
                assert!(!all_empty, "ended without saying so: {self:?}");
            }
        }
        if ending {
            assert!(
                self.backoff.is_idle(),
                "a pause before a spawn that will not come: {self:?}"
            );
        } else {
            assert!(
                self.template != Template::Down || !self.backoff.is_idle(),
                "no template, and none coming: {self:?}"
            );
            assert!(self.broken.is_none(), "broken and still serving: {self:?}");
        }
    }
}
