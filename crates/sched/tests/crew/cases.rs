//! One rule a test.

use bireme_sched::crew::{
    Action, BirthFailure, BreakReason, Cause, Crew, CrewConfig, Event, Phase, RowState, Shortage,
};

const KILLED: Cause = Cause::Signalled(9);

/// A crew with all its workers ready.
fn serving(workers: u32, rows: u32) -> Crew {
    let mut crew = Crew::new(CrewConfig {
        workers,
        rows,
        max_birth_failures: 3,
    });
    let spawns = (0..workers)
        .map(|row| Action::Spawn { row })
        .collect::<Vec<_>>();
    assert_eq!(crew.handle(Event::Start), spawns);
    for row in 0..workers {
        assert_eq!(crew.handle(Event::Born { row }), []);
        assert_eq!(crew.handle(Event::Ready { row }), []);
    }
    crew.sanity_check();
    crew
}

fn refuse(crew: &mut Crew, row: u32) -> Vec<Action> {
    crew.handle(Event::BirthFailed {
        row,
        reason: BirthFailure::Resource,
    })
}

#[test]
fn a_dead_worker_is_replaced_in_its_own_row_after_the_repair() {
    let mut crew = serving(2, 2);
    assert_eq!(
        crew.handle(Event::Died {
            row: 1,
            cause: KILLED
        }),
        [Action::Repair { row: 1 }]
    );
    assert_eq!(
        crew.handle(Event::Died {
            row: 1,
            cause: KILLED
        }),
        []
    );
    assert_eq!(
        crew.handle(Event::Repaired { row: 1 }),
        [Action::WakeAll, Action::Spawn { row: 1 }]
    );
    assert_eq!(crew.statistics().deaths, 1);
}

#[test]
fn a_successor_starts_while_the_old_worker_still_runs() {
    let mut crew = serving(1, 2);
    assert_eq!(
        crew.handle(Event::Retiring { row: 0 }),
        [Action::Spawn { row: 1 }]
    );
    assert_eq!(
        crew.handle(Event::Died {
            row: 0,
            cause: Cause::Retired
        }),
        [Action::Repair { row: 0 }]
    );
    assert_eq!(crew.handle(Event::Repaired { row: 0 }), [Action::WakeAll]);
    let figures = crew.statistics();
    assert_eq!(
        (
            figures.births,
            figures.retirements,
            figures.deaths,
            figures.starting
        ),
        (1, 1, 0, 1)
    );
}

#[test]
fn an_initializer_failure_breaks_at_once() {
    let mut crew = Crew::new(CrewConfig {
        workers: 2,
        rows: 4,
        max_birth_failures: 9,
    });
    crew.handle(Event::Start);
    crew.handle(Event::Born { row: 0 });
    assert_eq!(
        crew.handle(Event::BirthFailed {
            row: 0,
            reason: BirthFailure::Initializer
        }),
        [
            Action::Repair { row: 0 },
            Action::Break(BreakReason::Initializer),
            Action::KillAll
        ]
    );
    assert_eq!(crew.handle(Event::Repaired { row: 0 }), [Action::WakeAll]);
    // The other birth was under way: it is killed as it appears.
    assert_eq!(crew.handle(Event::Born { row: 1 }), [Action::KillAll]);
    assert_eq!(
        crew.handle(Event::Died {
            row: 1,
            cause: KILLED
        }),
        [Action::Repair { row: 1 }]
    );
    assert_eq!(
        crew.handle(Event::Repaired { row: 1 }),
        [Action::WakeAll, Action::Finished]
    );
    assert_eq!(crew.broken(), Some(BreakReason::Initializer));
    assert_eq!(crew.handle(Event::Start), []);
}

#[test]
fn a_template_that_cannot_fork_breaks_at_once() {
    let mut crew = Crew::new(CrewConfig {
        workers: 1,
        rows: 2,
        max_birth_failures: 9,
    });
    crew.handle(Event::Start);
    assert_eq!(
        crew.handle(Event::BirthFailed {
            row: 0,
            reason: BirthFailure::Refused
        }),
        [
            Action::Break(BreakReason::Refused),
            Action::KillAll,
            Action::Finished
        ]
    );
}

#[test]
fn three_crashing_births_in_a_row_break_and_a_ready_worker_forgives() {
    let mut crew = Crew::new(CrewConfig {
        workers: 1,
        rows: 1,
        max_birth_failures: 3,
    });
    crew.handle(Event::Start);
    let crash = |crew: &mut Crew| {
        crew.handle(Event::Born { row: 0 });
        let actions = crew.handle(Event::Died {
            row: 0,
            cause: Cause::Exited(1),
        });
        crew.handle(Event::Repaired { row: 0 });
        actions
    };
    assert_eq!(crash(&mut crew), [Action::Repair { row: 0 }]);
    assert_eq!(crash(&mut crew), [Action::Repair { row: 0 }]);
    crew.handle(Event::Ready { row: 0 });
    assert_eq!(
        crash(&mut crew),
        [Action::Repair { row: 0 }],
        "the death of a ready worker is no failed birth"
    );
    assert_eq!(crash(&mut crew), [Action::Repair { row: 0 }]);
    assert_eq!(crash(&mut crew), [Action::Repair { row: 0 }]);
    let end = [
        Action::Repair { row: 0 },
        Action::Break(BreakReason::Crashed),
        Action::KillAll,
    ];
    assert_eq!(crash(&mut crew), end);
    assert_eq!(crew.phase(), Phase::Finished);
}

#[test]
fn a_refused_birth_is_retried_after_a_growing_pause_while_somebody_lives() {
    let mut crew = serving(2, 2);
    crew.handle(Event::Died {
        row: 1,
        cause: KILLED,
    });
    crew.handle(Event::Repaired { row: 1 });
    let mut now_ns = 1_000_000;
    for pause_ns in [10, 20, 40, 80, 160, 320, 640, 1000, 1000].map(|ms| ms * 1_000_000) {
        assert_eq!(refuse(&mut crew, 1), []);
        assert_eq!(crew.next_due_ns(), Some(0));
        assert_eq!(crew.handle(Event::Tick { now_ns }), []);
        assert_eq!(crew.next_due_ns(), Some(now_ns + pause_ns));
        now_ns += pause_ns;
        assert_eq!(
            crew.handle(Event::Tick { now_ns }),
            [Action::Spawn { row: 1 }]
        );
        assert_eq!(crew.next_due_ns(), None);
    }
}

#[test]
fn refusals_starve_it_when_nobody_lives_and_one_round_counts_once() {
    let mut crew = Crew::new(CrewConfig {
        workers: 2,
        rows: 2,
        max_birth_failures: 2,
    });
    crew.handle(Event::Start);
    assert_eq!(refuse(&mut crew, 0), []);
    assert_eq!(refuse(&mut crew, 1), []);
    crew.handle(Event::Tick { now_ns: 0 });
    assert_eq!(
        crew.handle(Event::Tick { now_ns: 10_000_000 }),
        [Action::Spawn { row: 0 }, Action::Spawn { row: 1 }]
    );
    assert_eq!(refuse(&mut crew, 0), [], "the other may still be born");
    assert!(!crew.starves());
    assert_eq!(refuse(&mut crew, 1), [Action::Starve(Shortage::Resource)]);
    assert!(crew.starves());
    crew.handle(Event::Tick { now_ns: 10_000_000 });
    assert_eq!(
        crew.handle(Event::Tick {
            now_ns: 2_000_000_000
        }),
        [Action::Spawn { row: 0 }, Action::Spawn { row: 1 }],
        "it goes on trying"
    );
    crew.handle(Event::Born { row: 0 });
    crew.handle(Event::Ready { row: 0 });
    assert!(!crew.starves());
    assert_eq!(refuse(&mut crew, 1), [], "all is forgiven");
}

#[test]
fn newborns_that_are_killed_starve_it_and_do_not_break_it() {
    let mut crew = Crew::new(CrewConfig {
        workers: 1,
        rows: 1,
        max_birth_failures: 1,
    });
    crew.handle(Event::Start);
    crew.handle(Event::Born { row: 0 });
    let reason = BirthFailure::Killed;
    assert_eq!(
        crew.handle(Event::BirthFailed { row: 0, reason }),
        [Action::Repair { row: 0 }, Action::Starve(Shortage::Killed)]
    );
    assert_eq!(crew.broken(), None);
}

#[test]
fn a_ready_worker_forgives_refusals() {
    let mut crew = Crew::new(CrewConfig {
        workers: 1,
        rows: 1,
        max_birth_failures: 2,
    });
    crew.handle(Event::Start);
    for _ in 0..5 {
        assert_eq!(refuse(&mut crew, 0), []);
        crew.handle(Event::Tick { now_ns: 0 });
        assert_eq!(crew.next_due_ns(), Some(10_000_000));
        crew.handle(Event::Tick { now_ns: u64::MAX });
        crew.handle(Event::Born { row: 0 });
        crew.handle(Event::Ready { row: 0 });
        crew.handle(Event::Died {
            row: 0,
            cause: KILLED,
        });
        assert_eq!(
            crew.handle(Event::Repaired { row: 0 }),
            [Action::WakeAll, Action::Spawn { row: 0 }]
        );
    }
}

#[test]
fn a_worker_may_retire_before_it_is_ready() {
    let mut crew = Crew::new(CrewConfig {
        workers: 1,
        rows: 2,
        max_birth_failures: 1,
    });
    crew.handle(Event::Start);
    crew.handle(Event::Born { row: 0 });
    assert_eq!(
        crew.handle(Event::Retiring { row: 0 }),
        [Action::Spawn { row: 1 }]
    );
    crew.handle(Event::Ready { row: 0 });
    assert_eq!(crew.row(0), RowState::Retiring, "too late to take tasks");
    assert_eq!(
        crew.handle(Event::Died {
            row: 0,
            cause: Cause::Retired
        }),
        [Action::Repair { row: 0 }]
    );
}

#[test]
fn workers_are_replaced_while_closing_until_drained() {
    let mut crew = serving(1, 2);
    assert_eq!(crew.handle(Event::Drained), [], "not closed: more may come");
    assert_eq!(crew.handle(Event::Close), []);
    let actions = crew.handle(Event::Died {
        row: 0,
        cause: KILLED,
    });
    assert_eq!(
        actions,
        [Action::Repair { row: 0 }, Action::Spawn { row: 1 }]
    );
    assert_eq!(crew.handle(Event::Drained), [Action::AskAllToLeave]);
    assert_eq!(crew.handle(Event::Born { row: 1 }), [Action::AskAllToLeave]);
    assert_eq!(
        crew.handle(Event::Died {
            row: 1,
            cause: Cause::Retired
        }),
        [Action::Repair { row: 1 }]
    );
    assert_eq!(crew.handle(Event::Repaired { row: 1 }), [Action::WakeAll]);
    assert_eq!(
        crew.handle(Event::Repaired { row: 0 }),
        [Action::WakeAll, Action::Finished]
    );
    assert_eq!(crew.broken(), None);
}

#[test]
fn terminate_overtakes_a_polite_end() {
    let mut crew = serving(1, 1);
    crew.handle(Event::Close);
    crew.handle(Event::Drained);
    assert_eq!(crew.handle(Event::Terminate), [Action::KillAll]);
    assert_eq!(crew.handle(Event::Terminate), []);
    crew.handle(Event::Died {
        row: 0,
        cause: KILLED,
    });
    assert_eq!(
        crew.handle(Event::Repaired { row: 0 }),
        [Action::WakeAll, Action::Finished]
    );
}

#[test]
fn a_crew_that_never_started_ends_at_once() {
    let config = CrewConfig {
        workers: 1,
        rows: 1,
        max_birth_failures: 1,
    };
    assert_eq!(
        Crew::new(config).handle(Event::Close),
        [Action::AskAllToLeave, Action::Finished]
    );
    assert_eq!(
        Crew::new(config).handle(Event::Terminate),
        [Action::KillAll, Action::Finished]
    );
}

#[test]
fn births_wait_for_the_template() {
    let mut crew = serving(2, 3);
    assert_eq!(crew.handle(Event::TemplateLost), [Action::StartTemplate]);
    assert_eq!(crew.handle(Event::Retiring { row: 0 }), []);
    assert_eq!(crew.row(2), RowState::Held);
    assert_eq!(crew.handle(Event::TemplateBorn), [Action::Spawn { row: 2 }]);
    // The next loss takes the unanswered request along, and is not answered as promptly.
    assert_eq!(
        crew.handle(Event::TemplateLost),
        [Action::Repair { row: 2 }]
    );
    assert_eq!(crew.handle(Event::Repaired { row: 2 }), [Action::WakeAll]);
    crew.handle(Event::Tick { now_ns: 0 });
    assert_eq!(
        crew.handle(Event::Tick { now_ns: u64::MAX }),
        [Action::StartTemplate]
    );
    assert_eq!(crew.handle(Event::TemplateBorn), [Action::Spawn { row: 2 }]);
}

#[test]
fn a_template_that_never_comes_starves_a_crew_without_workers() {
    let mut crew = Crew::new(CrewConfig {
        workers: 1,
        rows: 1,
        max_birth_failures: 2,
    });
    crew.handle(Event::Start);
    assert_eq!(
        crew.handle(Event::TemplateLost),
        [Action::Repair { row: 0 }, Action::StartTemplate]
    );
    assert_eq!(
        crew.handle(Event::TemplateLost),
        [Action::Starve(Shortage::Template)]
    );
    crew.handle(Event::Repaired { row: 0 });
    crew.handle(Event::Tick { now_ns: 0 });
    assert_eq!(
        crew.handle(Event::Tick {
            now_ns: 1_000_000_000
        }),
        [Action::StartTemplate]
    );
    assert_eq!(crew.handle(Event::TemplateBorn), [Action::Spawn { row: 0 }]);
}

/// Lets the worker of `row` die with `cause`, and its successor become ready.
fn replace(crew: &mut Crew, row: u32, cause: Cause) -> Vec<Action> {
    let actions = crew.handle(Event::Died { row, cause });
    crew.handle(Event::Repaired { row });
    while let Some(due_ns) = crew.next_due_ns() {
        crew.handle(Event::Tick { now_ns: due_ns });
    }
    crew.handle(Event::Born { row });
    crew.handle(Event::Ready { row });
    crew.sanity_check();
    actions
}

#[test]
fn three_ready_workers_that_did_nothing_break_it() {
    let mut crew = serving(1, 1);
    let repair = [Action::Repair { row: 0 }];
    assert_eq!(replace(&mut crew, 0, Cause::Unserved), repair);
    assert_eq!(replace(&mut crew, 0, Cause::Unserved), repair);
    assert_eq!(replace(&mut crew, 0, KILLED), repair, "this one had worked");
    assert_eq!(replace(&mut crew, 0, Cause::Unserved), repair);
    assert_eq!(replace(&mut crew, 0, Cause::Unserved), repair);
    assert_eq!(
        replace(&mut crew, 0, Cause::Unserved),
        [
            Action::Repair { row: 0 },
            Action::Break(BreakReason::Unserved),
            Action::KillAll
        ]
    );
    assert_eq!(crew.phase(), Phase::Finished);
}

#[test]
fn three_ready_workers_that_somebody_killed_cost_the_waiting_tasks_only() {
    let mut crew = serving(1, 1);
    let repair = [Action::Repair { row: 0 }];
    let starve = Action::Starve(Shortage::KilledIdle);
    assert_eq!(replace(&mut crew, 0, Cause::Killed), repair);
    assert_eq!(replace(&mut crew, 0, Cause::Killed), repair);
    for _ in 0..10 {
        assert_eq!(
            replace(&mut crew, 0, Cause::Killed),
            [Action::Repair { row: 0 }, starve]
        );
    }
    assert_eq!(replace(&mut crew, 0, KILLED), repair, "this one had worked");
    assert_eq!(replace(&mut crew, 0, Cause::Killed), repair);
    assert_eq!(crew.phase(), Phase::Serving);
}

#[test]
fn who_did_nothing_is_replaced_at_once_the_first_time_then_after_pauses() {
    let mut crew = serving(1, 1);
    for pauses in [false, true] {
        let died = Event::Died {
            row: 0,
            cause: Cause::Unserved,
        };
        crew.handle(died);
        let spawned = crew
            .handle(Event::Repaired { row: 0 })
            .contains(&Action::Spawn { row: 0 });
        assert_eq!((spawned, crew.next_due_ns().is_some()), (!pauses, pauses));
        crew.handle(Event::Born { row: 0 });
        crew.handle(Event::Ready { row: 0 });
    }
}

#[test]
fn a_worker_that_saw_all_of_it_keeps_the_pool() {
    let mut crew = serving(2, 2);
    for _ in 0..20 {
        assert_eq!(
            replace(&mut crew, 1, Cause::Unserved),
            [Action::Repair { row: 1 }]
        );
    }
    assert_eq!(
        replace(&mut crew, 0, Cause::Unserved),
        [
            Action::Repair { row: 0 },
            Action::Break(BreakReason::Unserved),
            Action::KillAll
        ]
    );
}

#[test]
#[should_panic(expected = "not a crew")]
fn fewer_rows_than_workers_are_refused() {
    let _ = Crew::new(CrewConfig {
        workers: 2,
        rows: 1,
        max_birth_failures: 1,
    });
}

/// Have the one worker that is being born die, after the pause that may come first.
fn crash_the_next(crew: &mut Crew, row: u32, now_ns: &mut u64) {
    for _ in 0..2 {
        *now_ns += 2_000_000_000;
        crew.handle(Event::Tick { now_ns: *now_ns });
    }
    assert_eq!(crew.row(row), RowState::Starting);
    crew.handle(Event::Born { row });
    crew.handle(Event::BirthFailed {
        row,
        reason: BirthFailure::Crashed,
    });
    crew.handle(Event::Repaired { row });
    crew.sanity_check();
}

#[test]
fn crashes_at_birth_do_not_end_a_crew_that_serves() {
    let mut crew = serving(2, 2);
    let mut now_ns = 0;
    let killed = |row| Event::Died { row, cause: KILLED };
    crew.handle(killed(1));
    crew.handle(Event::Repaired { row: 1 });
    for _ in 0..50 {
        crash_the_next(&mut crew, 1, &mut now_ns);
    }
    assert_eq!(crew.broken(), None);
    assert!(crew.next_due_ns().is_some(), "there are pauses");
    crew.handle(killed(0));
    crew.handle(Event::Repaired { row: 0 });
    crash_the_next(&mut crew, 1, &mut now_ns);
    assert_eq!(crew.broken(), Some(BreakReason::Crashed));
}
