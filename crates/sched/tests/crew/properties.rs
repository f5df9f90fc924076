//! Whatever happens, in whatever order: the caps hold, the crew becomes whole again, and it ends.

use crate::world::{Process, World};
use bireme_sched::crew::{Action, BirthFailure, Cause, Crew, CrewConfig, Event};
use proptest::prelude::*;

fn configs() -> impl Strategy<Value = CrewConfig> {
    (1u32..4, 0u32..4, 0u32..20).prop_map(|(workers, spare, max_birth_failures)| CrewConfig {
        workers,
        rows: workers + spare,
        max_birth_failures,
    })
}

fn picks() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0usize..1_000, 1..150)
}

fn after(config: CrewConfig, history: &[usize]) -> World {
    let mut world = World::new(config);
    world.send(Event::Start);
    world.wander(history);
    world
}

/// Any event at all, also ones that the world would never send.
fn events() -> impl Strategy<Value = Event> {
    let cause = prop_oneof![
        Just(Cause::Retired),
        Just(Cause::Exited(3)),
        Just(Cause::Unserved),
        Just(Cause::Killed),
        Just(Cause::Signalled(11))
    ];
    let reason = prop_oneof![
        1 => Just(BirthFailure::Initializer),
        1 => Just(BirthFailure::Refused),
        4 => Just(BirthFailure::Resource),
        2 => Just(BirthFailure::Killed),
        4 => Just(BirthFailure::Crashed),
    ];
    let rows = 0u32..6;
    prop_oneof![
        4 => Just(Event::Start),
        12 => rows.clone().prop_map(|row| Event::Born { row }),
        12 => rows.clone().prop_map(|row| Event::Ready { row }),
        3 => (rows.clone(), reason).prop_map(|(row, reason)| Event::BirthFailed { row, reason }),
        4 => rows.clone().prop_map(|row| Event::Retiring { row }),
        8 => (rows.clone(), cause).prop_map(|(row, cause)| Event::Died { row, cause }),
        12 => rows.prop_map(|row| Event::Repaired { row }),
        1 => Just(Event::Close),
        1 => Just(Event::Drained),
        1 => Just(Event::Terminate),
        3 => Just(Event::TemplateLost),
        4 => Just(Event::TemplateBorn),
        6 => (0u64..3_000_000_000).prop_map(|now_ns| Event::Tick { now_ns }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn terminate_ends_it(config in configs(), history in picks(), rest in picks()) {
        let mut world = after(config, &history);
        world.send(Event::Terminate);
        world.wander(&rest);
        world.settle(&rest);
        prop_assert!(world.finished);
    }

    #[test]
    fn close_and_drained_end_it(config in configs(), history in picks(), rest in picks()) {
        let mut world = after(config, &history);
        world.send(Event::Close);
        world.wander(&rest);
        world.send(Event::Drained);
        world.wander(&rest);
        world.settle(&rest);
        prop_assert!(world.finished);
    }

    #[test]
    fn it_becomes_whole_again_or_breaks(config in configs(), history in picks(), rest in picks()) {
        let mut world = after(config, &history);
        world.settle(&rest);
        let ready = world.processes.iter().filter(|&&process| process == Process::Alive).count();
        prop_assert_eq!(world.crew.statistics().ready as usize, ready);
        if world.broken {
            prop_assert!(world.finished);
        } else {
            prop_assert_eq!(ready, config.workers as usize);
            prop_assert_eq!(world.crew.next_due_ns(), None);
        }
    }

    #[test]
    fn an_initializer_failure_breaks_it_for_good(
        config in configs(),
        history in picks(),
        rest in picks(),
    ) {
        let mut world = after(config, &history);
        let born = (0..).zip(&world.processes).find(|&(_, &process)| process == Process::Child);
        let Some((row, _)) = born.filter(|_| !world.broken) else { return Ok(()) };
        world.send(Event::BirthFailed { row, reason: BirthFailure::Initializer });
        prop_assert!(world.broken);
        world.settle(&rest);
        prop_assert!(world.finished);
    }

    /// The shell may be wrong; the crew keeps its own rules all the same.
    #[test]
    fn nonsense_breaks_no_rule(
        config in configs(),
        events in prop::collection::vec(events(), 0..200),
    ) {
        let mut crew = Crew::new(config);
        let (mut ended, mut finished) = (false, false);
        for event in events {
            for action in crew.handle(event) {
                prop_assert!(!finished, "{:?} after the end", action);
                match action {
                    Action::Spawn { row } => prop_assert!(!ended && row < config.rows),
                    Action::StartTemplate => prop_assert!(!ended),
                    Action::AskAllToLeave | Action::KillAll | Action::Break(_) => ended = true,
                    Action::Finished => finished = true,
                    Action::Starve(_) => prop_assert!(!ended),
                    Action::Repair { .. } | Action::WakeAll => {}
                }
            }
            crew.sanity_check();
        }
    }
}
