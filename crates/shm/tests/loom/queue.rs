//! Publishing and claiming: nothing is lost, nothing is taken twice.

use super::check;
use super::pool::Pool;
use bireme_shm::prim::Ordering;
use bireme_shm::queue::{self, SlotRef};
use bireme_shm::view::View;
use bireme_shm::word::{State, Word};
use loom::thread;
use std::sync::Arc;

/// Claim at most `count` tasks; gives their payloads.
fn claim_some(pool: &Pool, worker: u16, count: usize) -> Vec<u64> {
    (0..count)
        .filter_map(|_| queue::claim(pool, worker))
        .map(|slot| pool.payload(slot))
        .collect()
}

fn claimer(pool: &Arc<Pool>, worker: u16, count: usize) -> thread::JoinHandle<Vec<u64>> {
    let pool = Arc::clone(pool);
    thread::spawn(move || claim_some(&pool, worker, count))
}

/// Whatever the claimers missed is still there; all payloads together are `expected`.
fn settle(pool: &Pool, claimers: Vec<thread::JoinHandle<Vec<u64>>>, expected: &[u64]) {
    let mut taken: Vec<u64> = claimers
        .into_iter()
        .flat_map(|join| join.join().unwrap())
        .collect();
    taken.extend(claim_some(pool, 9, expected.len() + 1));
    taken.sort_unstable();
    assert_eq!(taken, expected);
}

fn free(pool: &Pool, slot: SlotRef) {
    let word = Word::new(slot.generation + 1, State::Free).pack();
    pool.word(slot.index as usize)
        .store(word, Ordering::Release);
}

#[test]
fn a_claimer_takes_what_is_published() {
    check(2, || {
        let pool = Pool::new(2, 1);
        let claimers = vec![claimer(&pool, 1, 2)];
        pool.submit(1);
        pool.submit(2);
        settle(&pool, claimers, &[1, 2]);
    });
}

#[test]
fn two_claimers_never_take_the_same_task() {
    check(2, || {
        let pool = Pool::new(4, 2);
        pool.submit(1);
        let claimers = vec![claimer(&pool, 1, 2), claimer(&pool, 2, 1)];
        pool.submit(2);
        settle(&pool, claimers, &[1, 2]);
    });
}

/// Slot 0 stays queued while slot 1 goes round: the submitter steps over position 2.
#[test]
fn a_queued_slot_that_is_stepped_over_is_not_lost() {
    check(2, || {
        let pool = Pool::new(2, 2);
        pool.submit(1);
        let second = pool.submit(2);
        queue::advance(&*pool, second, State::Queued, State::Collecting).unwrap();
        free(&pool, second);
        let claimers = vec![claimer(&pool, 1, 1), claimer(&pool, 2, 1)];
        pool.submit(3);
        assert_eq!(
            pool.tail().load(Ordering::Relaxed),
            4,
            "position 2 was stepped over"
        );
        settle(&pool, claimers, &[1, 3]);
    });
}

/// Slot 0 is with a worker while slot 1 goes round twice under the claimers' feet.
#[test]
fn laps_around_a_busy_slot_lose_nothing() {
    check(2, || {
        let pool = Pool::new(2, 2);
        pool.submit(1);
        let busy = queue::claim(&*pool, 7).unwrap();
        let claimers = vec![claimer(&pool, 1, 2)];
        let mut expected = Vec::new();
        for payload in [2, 3] {
            let slot = pool.submit(payload);
            if queue::advance(&*pool, slot, State::Queued, State::Collecting).is_ok() {
                free(&pool, slot); // taken back: the slot is used again on the next lap
            } else {
                expected.push(payload);
                break;
            }
        }
        assert_eq!(pool.payload(busy), 1);
        settle(&pool, claimers, &expected);
    });
}

/// A claimer with an old idea of the tail meets the next life of the slot it looks at.
#[test]
fn a_late_claimer_takes_only_the_life_that_it_claims() {
    check(2, || {
        let pool = Pool::new(1, 2);
        let first = pool.submit(1);
        let claimers = vec![claimer(&pool, 1, 1), claimer(&pool, 2, 1)];
        let expected = match queue::advance(&*pool, first, State::Queued, State::Collecting) {
            Ok(_) => {
                free(&pool, first);
                let second = pool.submit(2);
                assert_ne!(second.generation, first.generation);
                [2]
            }
            Err(_) => [1],
        };
        settle(&pool, claimers, &expected);
    });
}
