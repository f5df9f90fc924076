//! The client's waiters: each is woken for what it waits for. Their sleeps have no limit here,
//! so a lost wake deadlocks the model.

use super::check;
use super::client::{Client, Ending};
use super::pool::{Pool, next, run};
use bireme_shm::park::{self, Wish};
use bireme_shm::prim::{AtomicBool, Ordering};
use loom::sync::Mutex;
use loom::thread;
use std::sync::Arc;
use std::time::Duration;

/// Sleep as a waiter of the client does, unless `news` holds after the announcement.
fn wait(pool: &Pool, wish: Wish, news: impl Fn() -> bool) {
    let announced = park::announce_wish(pool, wish);
    if !news() {
        park::client_sleep(pool, wish, announced, Duration::MAX);
    }
}

/// A worker that runs what is queued and goes.
fn worker(pool: &Arc<Pool>, row: u16) -> thread::JoinHandle<()> {
    let pool = Arc::clone(pool);
    thread::spawn(move || {
        while let Some(slot) = next(&*pool, row) {
            run(&pool, &*pool, slot);
        }
    })
}

fn one_waiter(tasks: u64, wish: Wish) {
    let pool = Pool::new(2, 1);
    let mut client = Client::default();
    (0..tasks).for_each(|payload| client.submit(&pool, payload));
    let worker = worker(&pool, 0);
    while client.outstanding() > 0 {
        client.drain(&pool);
        if client.outstanding() > 0 {
            wait(&pool, wish, || false);
        }
    }
    worker.join().unwrap();
    for payload in 0..tasks {
        assert_eq!(client.ending(payload), Some(Ending::Value(payload + 100)));
    }
}

#[test]
fn a_waiter_for_anything_is_woken() {
    check(3, || one_waiter(2, Wish::Any));
}

#[test]
fn a_waiter_for_a_slot_is_woken() {
    check(3, || one_waiter(1, Wish::Slot(0)));
}

/// With one worker the guess is exact.
#[test]
fn a_waiter_for_a_dry_queue_is_woken() {
    check(3, || one_waiter(2, Wish::Dry));
}

/// Two threads wait for a slot each; whoever drains tells the other.
#[test]
fn two_waiters_with_two_wishes_are_both_woken() {
    check(2, || {
        let pool = Pool::new(2, 1);
        let mut client = Client::default();
        client.submit(&pool, 0);
        client.submit(&pool, 1);
        let client = Arc::new(Mutex::new(client));
        let done = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let waiter = |payload: usize| {
            let (pool, client, done) = (Arc::clone(&pool), Arc::clone(&client), Arc::clone(&done));
            move || {
                while !done[payload].load(Ordering::Acquire) {
                    let mut news = false;
                    {
                        let mut client = client.lock().unwrap();
                        client.drain(&pool);
                        for (payload, done) in (0..).zip(&*done) {
                            if client.ending(payload).is_some() && !done.load(Ordering::Relaxed) {
                                done.store(true, Ordering::Release);
                                news = true;
                            }
                        }
                    }
                    if news {
                        park::wake_client(&*pool);
                    }
                    if !done[payload].load(Ordering::Acquire) {
                        wait(&pool, Wish::Slot(payload as u32), || {
                            done[payload].load(Ordering::Acquire)
                        });
                    }
                }
            }
        };
        let worker = worker(&pool, 0);
        let other = thread::spawn(waiter(1));
        waiter(0)();
        worker.join().unwrap();
        other.join().unwrap();
    });
}

/// News that no worker brings (a death, output): stored, then the wish is swapped.
#[test]
fn news_of_the_supervisor_wakes_the_waiter() {
    check(3, || {
        let pool = Pool::new(1, 1);
        pool.submit(1);
        let news = Arc::new(AtomicBool::new(false));
        let supervisor = {
            let (pool, news) = (Arc::clone(&pool), Arc::clone(&news));
            thread::spawn(move || {
                news.store(true, Ordering::Release);
                park::wake_client(&*pool);
            })
        };
        while !news.load(Ordering::Acquire) {
            wait(&pool, Wish::Slot(0), || news.load(Ordering::Acquire));
        }
        supervisor.join().unwrap();
    });
}
