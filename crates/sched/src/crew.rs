//! The workers of one pool as a state machine: whom to start, replace, ask to leave, kill.
//!
//! A row of the worker table goes through these states ([`RowState`]):
//!
//! ```text
//!          Spawn           Born          Ready           Retiring
//! Empty ──────────▶ Starting ────▶ Born ────────▶ Ready ──────────▶ Retiring
//!   ▲ ╲ no template  ▲    │          │              │                  │
//!   │  ▶ Held ───────┘    │          │              │                  │   Died, BirthFailed,
//!   │    TemplateBorn     ▼          ▼              ▼                  ▼   or its template was lost
//!   └──────────────── Dead (Repair requested) ◀────────────────────────┘
//!       Repaired
//! ```
//!
//! After every event the crew is *filled*: while it serves, each missing worker is started in the
//! first empty row. That one rule covers the start, replacement after a death (in a spare row at
//! once, else in the same row after its repair) and the successor of a retiring worker. Four
//! things hold it back, each with a limit so that no failure loops for ever:
//!
//! - *The initializer failed, or the template cannot fork.* It would be so again: the crew breaks at once.
//! - *Workers die before they are ready.* `max_birth_failures` in a row break the crew, unless a
//!   worker lives that takes tasks: then each next one is started after a pause (as below).
//! - *Workers die as soon as they are ready*, before they ran anything. From the second one in a row
//!   on, the next is started after a pause (as below), and `max_birth_failures` break the crew,
//!   unless a worker lives that was ready before the first of them. Where somebody kills them the
//!   crew does not break: from then on each death gives up the tasks that wait.
//! - *The system refuses a process, somebody kills one that is being born, or the template is lost again.*
//!   All three are matters of supply, which may come back: they never break the crew. They are retried after a pause
//!   that doubles from 10 ms to 1 s. Once `max_birth_failures` rounds failed in a row and no worker is left, the crew
//!   *starves*: from then on each failed round gives up the tasks that wait. The first loss of a template is answered
//!   at once.
//!
//! A worker that becomes ready sets all other counts to zero. Breaking and terminating kill what is
//! there; a process that turns up later is killed as well (the action is repeated at its birth),
//! and [`Action::Finished`] follows once every row is repaired.

mod backoff;
mod births;
mod check;
mod ending;
mod event;
mod supply;

use backoff::Backoff;
pub use event::{
    Action, BirthFailure, BreakReason, Cause, CrewConfig, CrewStatistics, Event, Phase, RowState,
    Shortage,
};

/// The workers of one pool.
///
/// # Examples
///
/// ```
/// use bireme_sched::crew::{Action, Cause, Crew, CrewConfig, Event};
///
/// let mut crew = Crew::new(CrewConfig { workers: 1, rows: 2, max_birth_failures: 3 });
/// assert_eq!(crew.handle(Event::Start), [Action::Spawn { row: 0 }]);
/// crew.handle(Event::Born { row: 0 });
/// crew.handle(Event::Ready { row: 0 });
/// assert_eq!(
///     crew.handle(Event::Died { row: 0, cause: Cause::Signalled(9) }),
///     [Action::Repair { row: 0 }, Action::Spawn { row: 1 }]
/// );
/// assert_eq!(crew.handle(Event::Repaired { row: 0 }), [Action::WakeAll]);
/// ```
#[derive(Debug, Clone)]
pub struct Crew {
    workers: u32,
    max_birth_failures: u32,
    rows: Vec<RowState>,
    phase: Phase,
    template: Template,
    /// Births that died before they were ready, in a row.
    crashes: u32,
    /// Workers that died ready, having done nothing, in a row.
    unserved: u32,
    /// By row: `unserved` when its worker became ready.
    seniority: Vec<u32>,
    /// Rounds in which supply failed (no process, or no template), in a row.
    shortages: u32,
    /// While it runs, no spawn is asked for.
    backoff: Backoff,
    broken: Option<BreakReason>,
    totals: CrewStatistics,
}

/// The template process; pools without one never hear of its loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Template {
    Up,
    Starting,
    /// Lost; the next one is started after the pause.
    Down,
}

impl Crew {
    /// Returns a crew that has not started. Its template, if the pool has one, counts as up.
    ///
    /// # Panics
    ///
    /// If `workers` is 0 or exceeds `rows`.
    #[must_use]
    pub fn new(config: CrewConfig) -> Self {
        assert!(
            0 < config.workers && config.workers <= config.rows,
            "not a crew: {config:?}"
        );
        Self {
            workers: config.workers,
            max_birth_failures: config.max_birth_failures,
            rows: vec![RowState::Empty; config.rows as usize],
            phase: Phase::Idle,
            template: Template::Up,
            crashes: 0,
            unserved: 0,
            seniority: vec![0; config.rows as usize],
            shortages: 0,
            backoff: Backoff::Idle,
            broken: None,
            totals: CrewStatistics::default(),
        }
    }

    /// Takes one event and returns what to do about it, in order.
    pub fn handle(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.handle_into(event, &mut actions);
        actions
    }

    /// As [`handle`](Self::handle), appending to `actions`.
    pub fn handle_into(&mut self, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Start if self.phase == Phase::Idle => self.phase = Phase::Serving,
            Event::Close if self.phase == Phase::Idle => self.end(Phase::Leaving, actions),
            Event::Close if self.phase == Phase::Serving => self.phase = Phase::Closing,
            Event::Drained if self.phase == Phase::Closing => self.end(Phase::Leaving, actions),
            Event::Terminate => self.end(Phase::Killing, actions),
            Event::Start | Event::Close | Event::Drained => {}
            Event::Born { row } => self.born(row, actions),
            Event::Ready { row } => self.ready(row),
            Event::BirthFailed { row, reason } => self.birth_failed(row, reason, actions),
            Event::Retiring { row } => self.retiring(row),
            Event::Died { row, cause } => self.died(row, cause, actions),
            Event::Repaired { row } => self.repaired(row, actions),
            Event::TemplateLost => self.template_lost(actions),
            Event::TemplateBorn => self.template_born(actions),
            Event::Tick { now_ns } => self.tick(now_ns, actions),
        }
        self.fill(actions);
        self.finish(actions);
    }

    /// Returns when an [`Event::Tick`] is wanted: 0 for at once, `None` for never. Ask after every
    /// event.
    #[must_use]
    pub fn next_due_ns(&self) -> Option<u64> {
        self.backoff.next_due_ns()
    }

    /// Whether nobody is there and too many tries have failed: what is asked for now is given up at the next failure.
    /// A shell without tasks need not send ticks before there are some.
    #[must_use]
    pub fn starves(&self) -> bool {
        let nobody_left = !self.rows.iter().any(|state| state.is_occupied());
        nobody_left && !self.is_ending() && self.shortages >= self.max_birth_failures.max(1)
    }

    /// Returns the state of a row; a row outside of the table is empty for ever.
    #[must_use]
    pub fn row(&self, row: u32) -> RowState {
        self.rows
            .get(row as usize)
            .copied()
            .unwrap_or(RowState::Empty)
    }

    /// Returns how far the crew's life has come.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Returns why the crew broke, if it did.
    #[must_use]
    pub fn broken(&self) -> Option<BreakReason> {
        self.broken
    }

    /// Returns figures about the crew as it is and was.
    #[must_use]
    pub fn statistics(&self) -> CrewStatistics {
        let mut figures = self.totals;
        for state in &self.rows {
            match state {
                RowState::Held | RowState::Starting | RowState::Born => figures.starting += 1,
                RowState::Ready => figures.ready += 1,
                RowState::Retiring => figures.retiring += 1,
                RowState::Empty | RowState::Dead => {}
            }
        }
        figures
    }

    fn active(&self) -> usize {
        self.rows.iter().filter(|state| state.is_active()).count()
    }
}
