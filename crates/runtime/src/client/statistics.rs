//! What a pool has done so far.

use super::{Shared, Ticket};
use bireme_shm::prim::Ordering;
use bireme_shm::view::View;

/// Figures of a pool since its start.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Tasks (chunks, single calls) that ended.
    pub tasks: u64,
    /// Items that ran.
    pub items: u64,
    /// Nanoseconds that workers spent in tasks.
    pub busy_ns: u64,
    /// Bytes of arguments and functions sent.
    pub bytes_sent: u64,
    /// Bytes of results received.
    pub bytes_received: u64,
    /// Bytes of shared memory that hold payloads, used or warm.
    pub arena_bytes: u64,
    /// Blocks of arguments that someone still sees.
    pub argument_blocks: u64,
    /// Workers that died without having been asked to.
    pub deaths: u64,
    /// Workers born and ready.
    pub births: u64,
    /// Time from the order to the ready message of the last birth, in nanoseconds.
    pub last_birth_ns: u64,
    /// Tasks that have not ended.
    pub outstanding: u64,
    /// Tasks run again after a death.
    pub retried: u64,
}

impl<T: Ticket> Shared<T> {
    pub(super) fn statistics(&self) -> Statistics {
        let mut state = self.state();
        let mut figures = state.statistics.clone();
        let rows = (0..self.control.rows()).map(|row| self.control.row(row));
        for row in rows {
            figures.items += row.items.load(Ordering::Relaxed); // RELAXED, both: figures
            figures.busy_ns += row.busy_ns.load(Ordering::Relaxed);
        }
        figures.arena_bytes = self.control.arena_bytes();
        figures.argument_blocks = state.arena.blocks_in_use() as u64;
        let crew = state.crew.statistics();
        figures.deaths = crew.deaths;
        figures.births = crew.births;
        figures.outstanding = state.outstanding as u64;
        figures
    }
}
