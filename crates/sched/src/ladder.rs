//! The cancellation ladder: ask, then insist, then force.
//!
//! Each rung is climbed at most once and in order. The grace of a rung counts from the moment it
//! was really climbed, so a supervisor that comes late never robs a task of its chance to clean up.

/// Nanoseconds between [`Rung::Interrupt`] and [`Rung::Terminate`] (300 ms).
///
/// A Python loop sees the interrupt at its next bytecode and shall have stopped within 0.2 s of the
/// cancel; what still runs 0.1 s later sits in a C call that does not look.
pub const INTERRUPT_GRACE_NS: u64 = 300_000_000;

/// Nanoseconds between [`Rung::Terminate`] and [`Rung::Kill`] (200 ms, 500 ms after the start).
///
/// A blocked C call shall be gone within 1 s of the cancel; the other half of that second is for
/// the kernel to take a large process down and for the repair.
pub const TERMINATE_GRACE_NS: u64 = 200_000_000;

/// What is done to the worker, from gentle to final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rung {
    /// Raise in the task; the worker survives.
    Interrupt,
    /// SIGTERM; the worker is replaced.
    Terminate,
    /// SIGKILL, which also reaches a stopped process.
    Kill,
}

/// One climb: the rungs left for one running task.
///
/// # Examples
///
/// ```
/// use bireme_sched::ladder::{Ladder, Rung};
///
/// const MS: u64 = 1_000_000;
/// let mut ladder = Ladder::start(0);
/// assert_eq!(ladder.step(0), Some(Rung::Interrupt));
/// assert_eq!(ladder.step(299 * MS), None);
/// assert_eq!(ladder.next_due_ns(), Some(300 * MS));
/// assert_eq!(ladder.step(300 * MS), Some(Rung::Terminate));
/// assert_eq!(ladder.step(500 * MS), Some(Rung::Kill));
/// assert_eq!(ladder.next_due_ns(), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    started_ns: u64,
    next: Option<(Rung, u64)>,
}

impl Ladder {
    /// Begins at the bottom; the interrupt is due at once.
    #[must_use]
    pub fn start(now_ns: u64) -> Self {
        Self {
            started_ns: now_ns,
            next: Some((Rung::Interrupt, now_ns)),
        }
    }

    /// Returns the rung to climb now, if one is due. At most one a call.
    pub fn step(&mut self, now_ns: u64) -> Option<Rung> {
        let (rung, _) = self.next.filter(|&(_, due_ns)| due_ns <= now_ns)?;
        self.next = match rung {
            Rung::Interrupt => Some((Rung::Terminate, now_ns.saturating_add(INTERRUPT_GRACE_NS))),
            Rung::Terminate => Some((Rung::Kill, now_ns.saturating_add(TERMINATE_GRACE_NS))),
            Rung::Kill => None,
        };
        Some(rung)
    }

    /// Returns when [`step`](Self::step) has something to say next; `None` once the top is reached.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        self.next.map(|(_, due_ns)| due_ns)
    }

    /// Checks the ladder's invariants.
    ///
    /// # Panics
    ///
    /// When one is broken, which is a bug here.
    pub fn sanity_check(&self) {
        let earliest_ns = match self.next {
            None | Some((Rung::Interrupt | Rung::Kill, _)) => self.started_ns,
            Some((Rung::Terminate, _)) => self.started_ns.saturating_add(INTERRUPT_GRACE_NS),
        };
        assert!(
            self.next.is_none_or(|(_, due_ns)| due_ns >= earliest_ns),
            "a rung without its grace: {self:?}"
        );
    }
}
