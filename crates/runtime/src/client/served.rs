//! Whether a dead worker had done anything: a worker that is born only to die tells of a broken
//! installation, one that a task or a stranger ended does not.

use super::Shared;
use super::state::State;
use bireme_shm::os::process;
use bireme_shm::prim::Ordering;
use bireme_shm::view::View;
use bireme_shm::word::{State as SlotState, Word};

/// A worker that waited so long for work, and could have done it, was born well.
const SOUND_AFTER_NS: u64 = 1_000_000_000;

impl<T> Shared<T> {
    /// Whether the ready worker of `row` died young and idle, and nobody has finished a task since
    /// the last one did. Asked once for each death, before the repair.
    pub(super) fn died_unserved(&self, state: &mut State<T>, row: u32) -> bool {
        let young = state.workers[row as usize]
            .as_ref()
            .and_then(|worker| worker.ready_ns)
            .is_some_and(|ready_ns| process::now_ns() - ready_ns < SOUND_AFTER_NS);
        let claims = (0..self.control.rows())
            .map(|row| self.control.row(row).claims.load(Ordering::Relaxed)) // RELAXED: a figure
            .sum();
        let progress = std::mem::replace(&mut state.claims_at_last_death, claims) != claims;
        young && !progress && !self.has_begun(row)
    }

    /// Whether a slot says that the worker of `row` had begun its task: its death may be the task's.
    fn has_begun(&self, row: u32) -> bool {
        (0..self.control.slots()).any(|index| {
            let bits = self.control.word(index).load(Ordering::Acquire);
            Word::unpack(bits).is_some_and(|word| {
                let begun = [SlotState::Running, SlotState::Condemned, SlotState::Done];
                u32::from(word.worker) == row && begun.contains(&word.state)
            })
        })
    }
}
