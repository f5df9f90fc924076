//! Two sides that change one slot's word: exactly one of them wins.

use super::check;
use super::pool::{Pool, finish};
use bireme_shm::prim::Ordering;
use bireme_shm::queue::{self, SlotRef};
use bireme_shm::view::View;
use bireme_shm::word::{FLAG_CANCEL, State, Word};
use loom::thread;
use std::sync::Arc;

fn state(pool: &Pool, slot: SlotRef) -> Word {
    Word::unpack(pool.word(slot.index as usize).load(Ordering::Acquire)).unwrap()
}

/// A pool whose only task runs in row 3.
fn running() -> (Arc<Pool>, SlotRef) {
    let pool = Pool::new(1, 1);
    pool.submit(5);
    let slot = queue::claim(&*pool, 3).unwrap();
    queue::advance(&*pool, slot, State::Claimed, State::Running).unwrap();
    (pool, slot)
}

#[test]
fn a_task_is_claimed_or_taken_back() {
    check(3, || {
        let pool = Pool::new(2, 1);
        let slot = pool.submit(5);
        let claimer = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || queue::claim(&*pool, 3).map(|slot| pool.payload(slot)))
        };
        let back = queue::advance(&*pool, slot, State::Queued, State::Collecting).is_ok();
        let claimed = claimer.join().unwrap();
        assert_eq!(claimed, (!back).then_some(5));
    });
}

#[test]
fn a_task_is_done_or_its_worker_is_condemned() {
    check(3, || {
        let (pool, slot) = running();
        let worker = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || finish(&pool, &*pool, slot, 6))
        };
        let condemned = queue::advance(&*pool, slot, State::Running, State::Condemned).is_ok();
        assert_eq!(worker.join().unwrap(), !condemned);
        let word = state(&pool, slot);
        assert_eq!(word.worker, 3, "the word still names the worker");
        assert_eq!(
            word.state,
            if condemned {
                State::Condemned
            } else {
                State::Done
            }
        );
        assert_eq!(queue::any_done(&*pool), !condemned);
    });
}

#[test]
fn a_flag_arrives_before_the_end_or_not_at_all() {
    check(3, || {
        let (pool, slot) = running();
        let worker = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || finish(&pool, &*pool, slot, 6))
        };
        let flagged = queue::set_flag(&*pool, slot, State::Running, FLAG_CANCEL);
        assert!(worker.join().unwrap(), "a flag never stops a result");
        let word = state(&pool, slot);
        assert_eq!((word.state, word.cancelled()), (State::Done, flagged));
    });
}

#[test]
fn a_result_is_collected_once() {
    check(3, || {
        let (pool, slot) = running();
        let worker = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || finish(&pool, &*pool, slot, 6))
        };
        let collect = move |pool: &Pool| {
            queue::advance(pool, slot, State::Done, State::Collecting)
                .ok()
                .map(|_| pool.result(slot))
        };
        let other = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || collect(&pool))
        };
        let mine = collect(&pool);
        worker.join().unwrap();
        let found = [mine, other.join().unwrap(), collect(&pool)];
        assert_eq!(found.iter().flatten().collect::<Vec<_>>(), [&6]);
    });
}
