//! The vocabulary of a [`Crew`](super::Crew): what it is told, and what it asks for.

/// How many workers, and how much patience.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CrewConfig {
    /// Workers that the pool keeps; at least 1.
    pub workers: u32,
    /// Rows of the worker table; at least `workers`. Spare rows let a successor start before the
    /// row of the dead or retiring worker is repaired.
    pub rows: u32,
    /// Consecutive failures, without any worker becoming ready, after which the pool breaks or
    /// starves. 0 counts as 1.
    pub max_birth_failures: u32,
}

/// What happened.
///
/// The shell keeps these promises: a birth ends in exactly one of `BirthFailed` and `Died`, sent
/// once its process is gone (or was never made); what a template said before it died is delivered
/// before `TemplateLost`. An event that does not fit the state of its row is ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Begin: start the workers.
    Start,
    /// The process of a spawned row exists and can be signalled.
    Born {
        /// Its row.
        row: u32,
    },
    /// The worker has run its initializer and takes tasks.
    Ready {
        /// Its row.
        row: u32,
    },
    /// The spawn came to nothing, and no process of it is left.
    BirthFailed {
        /// Its row.
        row: u32,
        /// Why.
        reason: BirthFailure,
    },
    /// The worker takes no more tasks and leaves after the present one.
    Retiring {
        /// Its row.
        row: u32,
    },
    /// The worker's process ended.
    Died {
        /// Its row.
        row: u32,
        /// How.
        cause: Cause,
    },
    /// What the dead worker held has been released; the row may be used again.
    Repaired {
        /// Its row.
        row: u32,
    },
    /// No more tasks will come.
    Close,
    /// After `Close`: no task is left.
    Drained,
    /// End now, whatever runs.
    Terminate,
    /// The template process ended, or could not be started.
    TemplateLost,
    /// A template process is up and takes spawn requests.
    TemplateBorn,
    /// Time passed. Needed only when [`Crew::next_due_ns`](super::Crew::next_due_ns) says so.
    Tick {
        /// The time now, in nanoseconds of any monotonic clock.
        now_ns: u64,
    },
}

/// How a worker's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// It exited with this code without having been asked to leave.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
    /// It ended, unasked, soon after it became ready and before it had run or finished any task.
    Unserved,
    /// So did it, but somebody else may have ended it.
    Killed,
    /// It left as agreed.
    Retired,
}

/// Why a worker was not born.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BirthFailure {
    /// The user's initializer raised or exited.
    Initializer,
    /// The system refused a process, memory or descriptors.
    Resource,
    /// Somebody killed the process before it was ready; it may have been itself.
    Killed,
    /// The process died before it was ready.
    Crashed,
    /// The template cannot fork, and never will: something that it was to import stands against it.
    Refused,
}

/// What the shell shall do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a worker in this empty row.
    Spawn {
        /// The row.
        row: u32,
    },
    /// Release what the dead worker of this row held, then send [`Event::Repaired`].
    Repair {
        /// The row.
        row: u32,
    },
    /// Wake every announced sleeper: a wake-up may have died with its bearer.
    WakeAll,
    /// Start a new template process. The workers of the old one are the shell's to retire.
    StartTemplate,
    /// Tell every worker that exists to leave. Sent again for each one born later.
    AskAllToLeave,
    /// Kill every worker that exists. Sent again for each one born later.
    KillAll,
    /// Fail every task with this reason; the pool is unusable from now on.
    Break(BreakReason),
    /// Fail every task that waits with this reason; the crew goes on trying to have workers.
    Starve(Shortage),
    /// No worker is left and none will come. The last action of a crew, sent once.
    Finished,
}

/// Why a pool broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakReason {
    /// The initializer failed; every other worker would fail as well.
    Initializer,
    /// Worker after worker died before it was ready.
    Crashed,
    /// Worker after worker became ready and died before it did anything.
    Unserved,
    /// The template cannot fork; every other one would be the same.
    Refused,
}

/// Why there are no workers for the time being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// The system keeps refusing new workers.
    Resource,
    /// Worker after worker is killed before it is ready.
    Killed,
    /// Worker after worker is killed as soon as it is ready.
    KilledIdle,
    /// Template after template is lost.
    Template,
}

/// Where a row of the worker table stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    /// Free for a worker.
    Empty,
    /// A worker is wanted here as soon as there is a template.
    Held,
    /// Spawn requested; no process is known yet.
    Starting,
    /// The process exists and prepares itself.
    Born,
    /// Takes tasks.
    Ready,
    /// Takes no more tasks; gone after the present one.
    Retiring,
    /// Gone; under repair.
    Dead,
}

impl RowState {
    /// Counts towards the pool's `workers`.
    pub(super) fn is_active(self) -> bool {
        matches!(self, Self::Held | Self::Starting | Self::Born | Self::Ready)
    }

    /// A process is there or on its way.
    pub(super) fn is_occupied(self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Born | Self::Ready | Self::Retiring
        )
    }
}

/// How far the life of a crew has come. The order is that of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not started.
    Idle,
    /// Workers are kept at their number.
    Serving,
    /// Closed, with tasks left: workers are still replaced.
    Closing,
    /// Drained: workers have been asked to leave.
    Leaving,
    /// Terminated or broken: workers are being killed.
    Killing,
    /// Nobody is left.
    Finished,
}

/// Figures about a crew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CrewStatistics {
    /// Workers on their way.
    pub starting: u32,
    /// Workers that take tasks.
    pub ready: u32,
    /// Workers that leave after their present task.
    pub retiring: u32,
    /// Workers that ever became ready.
    pub births: u64,
    /// Spawns that came to nothing.
    pub birth_failures: u64,
    /// Ready workers that died unasked.
    pub deaths: u64,
    /// Workers that left as agreed.
    pub retirements: u64,
}
