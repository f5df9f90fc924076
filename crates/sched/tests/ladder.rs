//! Properties of the cancellation ladder.

use bireme_sched::ladder::{INTERRUPT_GRACE_NS, Ladder, Rung, TERMINATE_GRACE_NS};
use proptest::prelude::*;

/// Climbs as soon as each rung is due.
fn climb(mut ladder: Ladder) -> Vec<(Rung, u64)> {
    let mut climbed = Vec::new();
    while let Some(due_ns) = ladder.next_due_ns() {
        ladder.sanity_check();
        climbed.push((ladder.step(due_ns).expect("it was due"), due_ns));
    }
    climbed
}

#[test]
fn a_punctual_climb() {
    let terminate_ns = 7 + INTERRUPT_GRACE_NS;
    let expected = [
        (Rung::Interrupt, 7),
        (Rung::Terminate, terminate_ns),
        (Rung::Kill, terminate_ns + TERMINATE_GRACE_NS),
    ];
    assert_eq!(climb(Ladder::start(7)), expected);
}

#[test]
fn the_end_of_time_is_no_panic() {
    let rungs = climb(Ladder::start(u64::MAX));
    assert_eq!(rungs.len(), 3);
}

proptest! {
    #[test]
    fn rungs_come_once_in_order_and_with_their_grace(
        start_ns in 0u64..1_000_000_000,
        waits_ns in prop::collection::vec(0u64..400_000_000, 0..20),
    ) {
        let mut ladder = Ladder::start(start_ns);
        let (mut now_ns, mut climbed) = (start_ns, Vec::new());
        for wait_ns in waits_ns {
            now_ns += wait_ns;
            let due_ns = ladder.next_due_ns();
            let rung = ladder.step(now_ns);
            prop_assert_eq!(rung.is_some(), due_ns.is_some_and(|due_ns| due_ns <= now_ns));
            climbed.extend(rung.map(|rung| (rung, now_ns)));
            ladder.sanity_check();
        }
        let order = [Rung::Interrupt, Rung::Terminate, Rung::Kill];
        let rungs = climbed.iter().map(|&(rung, _)| rung);
        prop_assert!(rungs.eq(order.into_iter().take(climbed.len())));
        for (pair, grace_ns) in climbed.windows(2).zip([INTERRUPT_GRACE_NS, TERMINATE_GRACE_NS]) {
            prop_assert!(pair[1].1 - pair[0].1 >= grace_ns);
        }
    }
}
