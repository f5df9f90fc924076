//! The budget of shared memory, which all processes of a pool draw on.

use bireme_shm::arena::Budget;
use bireme_shm::control::Control;
use bireme_shm::fail::{self, Point};
use bireme_shm::prim::{AtomicU64, Ordering};
use std::sync::Arc;

/// Counts a process's memory in the one word that only it writes.
///
/// There is no word for the pool, which a death could leave wrong: whoever asks adds them up.
#[derive(Debug)]
pub(crate) struct Share {
    control: Arc<Control>,
    /// The worker's row; `None` for the client.
    row: Option<usize>,
}

impl Share {
    /// The client's share.
    pub(crate) fn of_client(control: Arc<Control>) -> Self {
        Self { control, row: None }
    }

    /// The share of the worker that works as `row`.
    pub(crate) fn of_worker(control: Arc<Control>, row: usize) -> Self {
        let row = Some(row);
        Self { control, row }
    }

    fn word(&self) -> &AtomicU64 {
        match self.row {
            Some(row) => &self.control.row(row).arena_bytes,
            None => &self.control.header().client_bytes.0,
        }
    }
}

impl Budget for Share {
    fn grow(&self, bytes: u64) -> Result<(), (u64, u64)> {
        fail::point(Point::ArenaCount);
        // SYNC(budget): counted, then added up, both sequentially consistent: of two that grow at
        // the same time at least one sees the other, so that together they never pass the limit.
        self.word().fetch_add(bytes, Ordering::SeqCst);
        let used = self.control.arena_bytes();
        let limit = self.control.header().arena_limit.0.load(Ordering::Relaxed); // RELAXED: written once
        if used > limit {
            self.shrink(bytes);
            return Err((used.saturating_sub(bytes), limit));
        }
        Ok(())
    }
    fn shrink(&self, bytes: u64) {
        self.word().fetch_sub(bytes, Ordering::SeqCst);
    }
}
