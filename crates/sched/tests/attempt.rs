//! Cases and properties of what becomes of a chunk.

use bireme_sched::attempt::{
    Attempt, Fate, MAX_CLAIMED_DEATHS, RetryPolicy, on_item_stopped, on_worker_death,
};
use proptest::prelude::*;
use std::ops::Range;

const ONCE: RetryPolicy = RetryPolicy { retries: 0 };
const TWICE: RetryPolicy = RetryPolicy { retries: 1 };

fn second(items: Range<u64>) -> Fate {
    Fate::Requeue(Attempt {
        attempt: 1,
        ..Attempt::new(items)
    })
}

fn items(fate: Fate) -> Range<u64> {
    match fate {
        Fate::Requeue(chunk) => chunk.items(),
        Fate::Culprit { index, .. } | Fate::Stopped { index, .. } => index..index + 1,
        Fate::Lost { first, last } => first..last,
    }
}

#[test]
fn with_a_retry_the_item_in_progress_runs_alone() {
    assert_eq!(
        on_worker_death(Attempt::new(0..9), true, 4, TWICE),
        [
            second(0..4),
            second(4..5),
            Fate::Requeue(Attempt::new(5..9))
        ]
    );
    let last_try = Attempt {
        attempt: 1,
        ..Attempt::new(4..5)
    };
    assert_eq!(
        on_worker_death(last_try, true, 4, TWICE),
        [Fate::Culprit {
            index: 4,
            attempt: 1
        }]
    );
}

#[test]
fn a_stopped_item_is_retried_only_on_request() {
    let chunk = Attempt::new(0..3);
    let rest = Fate::Requeue(Attempt::new(2..3));
    let stopped = Fate::Stopped {
        index: 1,
        attempt: 0,
    };
    assert_eq!(
        on_item_stopped(chunk, 1, ONCE, true),
        [Fate::Lost { first: 0, last: 1 }, stopped, rest]
    );
    assert_eq!(
        on_item_stopped(chunk, 1, TWICE, false),
        [second(0..1), stopped, rest]
    );
    assert_eq!(
        on_item_stopped(chunk, 1, TWICE, true),
        [second(0..1), second(1..2), rest]
    );
}

#[test]
fn a_wild_progress_is_clamped() {
    let chunk = Attempt::new(5..7);
    let at_last = [
        Fate::Lost { first: 5, last: 6 },
        Fate::Culprit {
            index: 6,
            attempt: 0,
        },
    ];
    assert_eq!(on_worker_death(chunk, true, 7, ONCE), at_last);
    assert_eq!(on_worker_death(chunk, true, u64::MAX, ONCE), at_last);
    assert_eq!(
        on_worker_death(chunk, true, 0, ONCE),
        on_worker_death(chunk, true, 5, ONCE)
    );
}

#[test]
fn a_chunk_that_nobody_starts_is_given_up() {
    let mut chunk = Attempt::new(3..6);
    for strikes in 1..MAX_CLAIMED_DEATHS {
        let fates = on_worker_death(chunk, false, 0, ONCE);
        chunk = Attempt { strikes, ..chunk };
        assert_eq!(fates, [Fate::Requeue(chunk)]);
    }
    assert_eq!(
        on_worker_death(chunk, false, 0, ONCE),
        [
            Fate::Culprit {
                index: 3,
                attempt: 0
            },
            Fate::Lost { first: 4, last: 6 }
        ]
    );
    let single = Attempt {
        strikes: u16::MAX,
        ..Attempt::new(3..4)
    };
    assert_eq!(
        on_worker_death(single, false, 0, ONCE),
        [Fate::Culprit {
            index: 3,
            attempt: 0
        }]
    );
}

#[test]
fn an_empty_chunk_has_no_fate() {
    for empty in [
        Attempt {
            first: 4,
            last: 4,
            ..Attempt::new(0..0)
        },
        Attempt {
            first: 4,
            last: 2,
            ..Attempt::new(0..0)
        },
    ] {
        assert_eq!(on_worker_death(empty, true, 4, ONCE), []);
        assert_eq!(on_worker_death(empty, false, 4, ONCE), []);
        assert_eq!(on_item_stopped(empty, 4, TWICE, true), []);
    }
}

prop_compose! {
    fn chunks()(first in 0u64..50, len in 1u64..20, retries in 0u16..4)
        (attempt in 0..=retries, strikes in 0u16..5, first in Just(first), len in Just(len),
         retries in Just(retries)) -> (Attempt, RetryPolicy) {
        (Attempt { first, last: first + len, attempt, strikes }, RetryPolicy { retries })
    }
}

fn check(chunk: Attempt, policy: RetryPolicy, fates: &[Fate]) {
    let mut next = chunk.first;
    for &fate in fates {
        let range = items(fate);
        assert_eq!(range.start, next, "out of order, twice, or left out");
        assert!(!range.is_empty());
        next = range.end;
        match fate {
            Fate::Requeue(again) => {
                assert!(again.attempt <= policy.retries);
                assert!(again.attempt - chunk.attempt <= 1);
                assert!(again.strikes < MAX_CLAIMED_DEATHS);
            }
            Fate::Culprit { attempt, .. } | Fate::Stopped { attempt, .. } => {
                assert_eq!(attempt, chunk.attempt);
            }
            Fate::Lost { .. } => {}
        }
    }
    assert_eq!(next, chunk.last);
}

proptest! {
    #[test]
    fn every_item_meets_one_fate(
        (chunk, policy) in chunks(),
        started: bool,
        retry_item: bool,
        progress in prop_oneof![0u64..80, any::<u64>()],
    ) {
        check(chunk, policy, &on_worker_death(chunk, started, progress, policy));
        check(chunk, policy, &on_item_stopped(chunk, progress, policy, retry_item));
    }

    /// Whatever keeps killing workers, the deaths of a chunk are bounded by its items, retries and
    /// strikes.
    #[test]
    fn a_chunk_comes_to_an_end(
        (chunk, policy) in chunks(),
        picks in prop::collection::vec((any::<bool>(), 0u64..80), 1..8),
    ) {
        let chunk = Attempt { strikes: 0, attempt: 0, ..chunk };
        let (mut queue, mut deaths, mut ended) = (vec![chunk], 0u64, 0u64);
        let tries = (chunk.last - chunk.first) * (u64::from(policy.retries) + 1);
        let bound = tries * u64::from(MAX_CLAIMED_DEATHS);
        for &(started, progress) in picks.iter().cycle() {
            let Some(chunk) = queue.pop() else { break };
            deaths += 1;
            for fate in on_worker_death(chunk, started, progress, policy) {
                match fate {
                    Fate::Requeue(again) => queue.push(again),
                    other => ended += items(other).end - items(other).start,
                }
            }
            prop_assert!(deaths <= bound);
        }
        prop_assert_eq!(ended, chunk.last - chunk.first);
    }
}
