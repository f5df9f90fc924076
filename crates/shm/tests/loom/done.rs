//! The bitmap of finished slots: no mark is lost, however it meets a drainer.

use super::check;
use super::pool::Pool;
use bireme_shm::queue;
use loom::thread;
use std::sync::Arc;

fn marker(pool: &Arc<Pool>, indices: &'static [u32]) -> thread::JoinHandle<()> {
    let pool = Arc::clone(pool);
    thread::spawn(move || {
        for index in indices {
            queue::mark_done(&*pool, *index);
        }
    })
}

fn take(pool: &Pool) -> Vec<u32> {
    let mut seen = Vec::new();
    queue::take_done(pool, |index| seen.push(index));
    seen
}

fn settle(pool: &Pool, markers: Vec<thread::JoinHandle<()>>, mut seen: Vec<u32>, marked: &[u32]) {
    for marker in markers {
        marker.join().unwrap();
    }
    while queue::any_done(pool) {
        seen.extend(take(pool));
    }
    seen.sort_unstable();
    assert_eq!(seen, marked);
}

#[test]
fn marks_in_one_word_are_all_taken() {
    check(3, || {
        let pool = Pool::new(4, 1);
        let markers = vec![marker(&pool, &[0, 1]), marker(&pool, &[2])];
        let seen = take(&pool);
        settle(&pool, markers, seen, &[0, 1, 2]);
    });
}

#[test]
fn marks_in_two_words_are_all_taken() {
    check(3, || {
        let pool = Pool::new(128, 1);
        let markers = vec![marker(&pool, &[0, 127]), marker(&pool, &[64])];
        let seen = take(&pool);
        settle(&pool, markers, seen, &[0, 64, 127]);
    });
}
