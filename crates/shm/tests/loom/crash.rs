//! A worker dies before any of its steps; the repair makes everything whole.
//!
//! Its life is a number of looks at shared words. Dying after its last atomic operation and before
//! the next look is the same to everybody else, so these are all of its crash points.

use super::check;
use super::client::{Client, Ending};
use super::pool::{LEAVE, Mortal, Pool, finish, next, rest, run};
use bireme_shm::park::{self, Wish};
use bireme_shm::prim::{AtomicBool, Ordering};
use bireme_shm::queue;
use bireme_shm::view::View;
use bireme_shm::word::State;
use loom::sync::Mutex;
use loom::thread;
use std::sync::Arc;
use std::time::Duration;

/// Row of the worker that dies: the first, so that wakes are spent on it.
const DYING: u16 = 0;
/// Row of the worker that lives.
const LIVING: u16 = 1;

/// Claim and run one task; without one, spin and lie down.
fn short_life(pool: &Pool, view: &Mortal<'_>) {
    if let Some(slot) = next(view, DYING) {
        return run(pool, view, slot);
    }
    park::spin(view, usize::from(DYING), 1, || false);
    rest(view, usize::from(DYING));
}

fn dying(pool: &Arc<Pool>, life: u32) -> thread::JoinHandle<bool> {
    let pool = Arc::clone(pool);
    thread::spawn(move || Mortal::live(&pool, life, |view| short_life(&pool, view)))
}

/// A worker that runs one task, or leaves when it is ordered to.
fn survivor(pool: &Arc<Pool>) -> thread::JoinHandle<()> {
    let pool = Arc::clone(pool);
    thread::spawn(move || {
        while pool.orders().load(Ordering::Relaxed) & LEAVE == 0 {
            if let Some(slot) = next(&*pool, LIVING) {
                return run(&pool, &*pool, slot);
            }
            rest(&*pool, usize::from(LIVING));
        }
    })
}

/// Number of steps of the longest life; more is no death at all.
fn longest(life: impl Fn(&Pool, &Mortal<'_>) + Send + Sync + 'static, tasks: u64) -> u32 {
    let (found, steps) = std::sync::mpsc::channel();
    check(0, move || {
        let dies = |steps: &u32| {
            let pool = Pool::new(2, 2);
            for payload in 0..tasks {
                pool.submit(payload);
            }
            Mortal::live(&pool, *steps, |view| life(&pool, view))
        };
        found
            .send((0..1000).find(|steps| !dies(steps)).unwrap())
            .unwrap();
    });
    steps.recv().unwrap()
}

/// One worker dies, another lives: every task ends once, and nobody oversleeps.
#[test]
fn survivors_finish_what_a_dead_worker_left() {
    for life in 0..=longest(short_life, 0).max(longest(short_life, 1)) {
        check(1, move || {
            let pool = Pool::new(1, 2);
            let mut client = Client::default();
            let (dying, survivor) = (dying(&pool, life), survivor(&pool));
            client.submit(&pool, 0);
            let died = dying.join().unwrap();
            client.repair(&pool, DYING);
            let spinner = pool.spinner().load(Ordering::Relaxed);
            assert_eq!(
                spinner, 0,
                "a dead spinner would keep submitters from waking anybody"
            );
            client.drain(&pool);
            if client.outstanding() == 0 {
                pool.dismiss(); // else the survivor runs it, asleep or not
            }
            survivor.join().unwrap();
            client.drain(&pool);
            match client.ending(0) {
                Some(Ending::Died) => assert!(died),
                ending => assert_eq!(ending, Some(Ending::Value(100))),
            }
        });
    }
}

/// The submitter's wake goes to a worker that announced its sleep and died: the other one sleeps on
/// until the repair wakes everybody.
#[test]
fn a_wake_spent_on_the_dead_is_made_good() {
    for life in 0..=longest(short_life, 0) {
        check(3, move || {
            let pool = Pool::new(1, 2);
            let mut client = Client::default();
            Mortal::live(&pool, life, |view| short_life(&pool, view));
            let survivor = survivor(&pool);
            client.submit(&pool, 0);
            client.repair(&pool, DYING);
            survivor.join().unwrap();
            client.drain(&pool);
            assert_eq!(client.ending(0), Some(Ending::Value(100)));
        });
    }
}

/// A worker without work stops for ever at any step, and is not dead: ticks get the other one to work.
#[test]
fn a_stopped_idle_worker_holds_nobody_up() {
    let idle = |_: &Pool, view: &Mortal<'_>| {
        park::spin(view, usize::from(DYING), 1, || false);
        rest(view, usize::from(DYING));
    };
    for life in 0..=longest(idle, 0) {
        check(2, move || {
            let pool = Pool::new(1, 2);
            let mut client = Client::default();
            let stopped = {
                let pool = Arc::clone(&pool);
                thread::spawn(move || Mortal::live(&pool, life, |view| idle(&pool, view)))
            };
            let survivor = survivor(&pool);
            client.submit(&pool, 0);
            stopped.join().unwrap();
            // One for the stopped worker, which may have announced itself, and one more.
            for _tick in 0..2 {
                if !queue::looks_empty(&*pool) {
                    park::wake_past_spinner(&*pool);
                }
            }
            survivor.join().unwrap();
            client.drain(&pool);
            assert_eq!(client.ending(0), Some(Ending::Value(100)));
        });
    }
}

/// A worker claims the first of two tasks and dies while it wakes the next worker.
#[test]
fn a_wake_that_dies_with_its_bearer_is_made_good() {
    for life in 0..=longest(short_life, 2) {
        check(1, move || {
            let pool = Pool::new(2, 2);
            let mut client = Client::default();
            let survivor = survivor(&pool);
            client.submit_quietly(&pool, 0);
            client.submit_quietly(&pool, 1);
            Mortal::live(&pool, life, |view| short_life(&pool, view));
            client.repair(&pool, DYING);
            survivor.join().unwrap();
            while let Some(slot) = next(&*pool, DYING) {
                run(&pool, &*pool, slot); // a successor
            }
            client.drain(&pool);
            assert_eq!(client.outstanding(), 0);
        });
    }
}

/// A waiter sleeps on its task while the only worker dies: the supervisor's repair wakes it.
#[test]
fn a_waiter_learns_of_a_death() {
    for life in 0..=longest(short_life, 1) {
        check(2, move || {
            let pool = Pool::new(1, 2);
            let mut client = Client::default();
            client.submit(&pool, 0);
            let client = Arc::new(Mutex::new(client));
            let news = Arc::new(AtomicBool::new(false));
            let supervisor = {
                let (pool, client, news) =
                    (Arc::clone(&pool), Arc::clone(&client), Arc::clone(&news));
                let dying = dying(&pool, life);
                thread::spawn(move || {
                    dying.join().unwrap();
                    client.lock().unwrap().repair(&pool, DYING);
                    // A successor runs what had not begun.
                    while let Some(slot) = next(&*pool, DYING) {
                        run(&pool, &*pool, slot);
                    }
                    news.store(true, Ordering::Release);
                    park::wake_client(&*pool);
                })
            };
            loop {
                {
                    let mut client = client.lock().unwrap();
                    client.drain(&pool);
                    if client.outstanding() == 0 {
                        break;
                    }
                }
                let announced = park::announce_wish(&*pool, Wish::Slot(0));
                if !news.load(Ordering::Acquire) {
                    park::client_sleep(&*pool, Wish::Slot(0), announced, Duration::MAX);
                }
            }
            supervisor.join().unwrap();
        });
    }
}

/// A worker is condemned while it finishes, and dies wherever the signal finds it.
#[test]
fn a_condemned_worker_ends_its_task_once() {
    let last_words = |pool: &Pool, view: &Mortal<'_>| {
        if let Some(slot) = next(view, DYING) {
            let begun = queue::advance(view, slot, State::Claimed, State::Running);
            if begun.is_ok() {
                finish(pool, view, slot, 6);
            }
        }
    };
    for life in 0..=longest(last_words, 1) {
        check(3, move || {
            let pool = Pool::new(1, 2);
            let mut client = Client::default();
            client.submit(&pool, 0);
            let slot = queue::SlotRef {
                index: 0,
                generation: 0,
            };
            let dying = {
                let pool = Arc::clone(&pool);
                thread::spawn(move || Mortal::live(&pool, life, |view| last_words(&pool, view)))
            };
            let condemned = queue::advance(&*pool, slot, State::Running, State::Condemned).is_ok();
            client.drain(&pool);
            dying.join().unwrap();
            client.drain(&pool);
            client.repair(&pool, DYING);
            if condemned {
                assert_eq!(client.ending(0), Some(Ending::Died));
            }
            assert_eq!(
                client.outstanding(),
                usize::from(client.ending(0).is_none())
            );
        });
    }
}
