//! The release map: every release frees its block once, and none outlives its releaser.

use super::check;
use bireme_shm::prim::AtomicU64;
use bireme_shm::release::{ReleaseMap, release, take_all_released, take_released};
use loom::cell::UnsafeCell;
use loom::thread;
use std::sync::Arc;

struct Map {
    words: [AtomicU64; 3],
    block: UnsafeCell<u64>,
}

// SAFETY: the cell is loom's, which checks every access to it.
unsafe impl Sync for Map {}
// SAFETY: as above.
unsafe impl Send for Map {}

impl ReleaseMap for Map {
    fn words(&self) -> usize {
        2
    }
    fn release_word(&self, index: usize) -> &AtomicU64 {
        &self.words[index]
    }
}

fn map() -> Arc<Map> {
    Arc::new(Map {
        words: [0, 0, 0].map(AtomicU64::new),
        block: UnsafeCell::new(7),
    })
}

fn take(map: &Map) -> Vec<u32> {
    let mut seen = Vec::new();
    take_released(map, |ticket| seen.push(ticket));
    seen
}

#[test]
fn releases_are_taken_once() {
    check(3, || {
        let map = map();
        let releasers = [[0, 64], [1, 65]].map(|tickets| {
            let map = Arc::clone(&map);
            thread::spawn(move || {
                for ticket in tickets {
                    release(&*map, ticket);
                }
            })
        });
        let mut seen = take(&map);
        for releaser in releasers {
            releaser.join().unwrap();
        }
        seen.extend(take(&map));
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 64, 65]);
    });
}

fn take_all(map: &Map) -> Vec<u32> {
    let mut seen = Vec::new();
    take_all_released(map, |ticket| seen.push(ticket));
    seen
}

#[test]
fn a_released_block_is_no_longer_read() {
    for take in [take, take_all] {
        check(3, move || {
            let map = map();
            let reader = {
                let map = Arc::clone(&map);
                thread::spawn(move || {
                    // SAFETY: not released yet; loom checks.
                    map.block.with(|block| assert_eq!(unsafe { *block }, 7));
                    release(&*map, 65);
                })
            };
            if take(&map) == [65] {
                // SAFETY: released; loom checks.
                map.block.with_mut(|block| unsafe { *block = 8 });
            }
            reader.join().unwrap();
        });
    }
}

/// A reader that dies anywhere in its release leaves nothing that could free the ticket's next block.
#[test]
fn a_release_cut_short_does_not_free_the_next_block() {
    struct Dying<'a>(&'a Map, u32, std::cell::Cell<u32>);
    impl ReleaseMap for Dying<'_> {
        fn words(&self) -> usize {
            2
        }
        fn release_word(&self, index: usize) -> &AtomicU64 {
            let step = self.2.replace(self.2.get() + 1);
            // Dead: what it would have written goes nowhere.
            if step < self.1 {
                &self.0.words[index]
            } else {
                Box::leak(Box::new(AtomicU64::new(0)))
            }
        }
    }
    for steps in 0..=2 {
        check(3, move || {
            let map = map();
            let dying = {
                let map = Arc::clone(&map);
                thread::spawn(move || release(&Dying(&map, steps, 0.into()), 1))
            };
            let mut freed = take(&map).len();
            dying.join().unwrap();
            take_all_released(&*map, |ticket| {
                assert_eq!(ticket, 1);
                freed += 1;
            });
            assert!(freed <= 1);
            // The dead process's block is freed by its holder's name; ticket 1 is handed out again.
            release(&*map, 0);
            assert_eq!(take(&map), [0], "the new block of ticket 1 is still in use");
        });
    }
}
