//! The protocols on a real control segment with real threads and futexes: every task once.
#![cfg(not(loom))]
#![allow(
    clippy::disallowed_methods,
    reason = "tests start threads of the standard library"
)]

use bireme_shm::control::{Control, Location, order};
use bireme_shm::park::{self, Wish};
use bireme_shm::prim::{AtomicU32, AtomicU64, Ordering};
use bireme_shm::queue::{self, SlotRef};
use bireme_shm::view::View;
use bireme_shm::word::{State, Word};
use proptest::prelude::*;
use std::collections::HashSet;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);

/// Run tasks until the order to leave; the result of a task is its payload, inverted.
fn work(control: &Control, row: usize, runs: &[AtomicU32]) {
    loop {
        if let Some(slot) = queue::claim(control, row as u16) {
            if park::someone_idle(control) && !queue::looks_empty(control) {
                park::wake_one(control);
            }
            queue::advance(control, slot, State::Claimed, State::Running).unwrap();
            let fields = control.slot(slot.index as usize);
            let task = fields.first.load(Ordering::Relaxed);
            runs[task as usize].fetch_add(1, Ordering::Relaxed);
            fields.write_inline_result(&(!task).to_le_bytes());
            fields.result_at.store(Location {
                len: 8,
                ..Location::default()
            });
            queue::advance(control, slot, State::Running, State::Done).unwrap();
            queue::mark_done(control, slot.index);
            park::notify_client(control, slot.index);
        } else if control.orders().load(Ordering::SeqCst) & order::LEAVE != 0 {
            return;
        } else {
            let tail = control.tail().load(Ordering::Relaxed);
            let moved = || control.tail().load(Ordering::Relaxed) != tail;
            if park::spin(control, row, 100, moved) != Some(true) {
                park::sleep(control, row, Some(PATIENCE), || {
                    queue::looks_empty(control) && control.orders().load(Ordering::SeqCst) == 0
                });
            }
        }
    }
}

/// Submit as many of `tasks` as there are free slots.
fn submit(control: &Control, inflight: &mut [Option<SlotRef>], tasks: &mut std::ops::Range<u64>) {
    while !tasks.is_empty() {
        let Some(slot) = queue::next_free(control) else {
            return;
        };
        let task = tasks.next().unwrap();
        control
            .slot(slot.index as usize)
            .first
            .store(task, Ordering::Relaxed);
        inflight[slot.index as usize] = Some(slot);
        queue::publish(control, slot);
        park::wake_one(control);
    }
}

/// Take what is done; gives the results.
fn drain(control: &Control, inflight: &mut [Option<SlotRef>]) -> Vec<u64> {
    let mut results = Vec::new();
    queue::take_done(control, |index| {
        let Some(slot) = inflight[index as usize] else {
            return;
        };
        if queue::advance(control, slot, State::Done, State::Collecting).is_err() {
            return;
        }
        let fields = control.slot(index as usize);
        let (bytes, len) = fields.read_inline_result(fields.result_at.load().len);
        results.push(!u64::from_le_bytes(bytes[..len].try_into().unwrap()));
        inflight[index as usize] = None;
        let free = Word::new(slot.generation.wrapping_add(1), State::Free);
        control
            .word(index as usize)
            .store(free.pack(), Ordering::Release);
    });
    results
}

fn every_task_runs_once(slots: usize, rows: usize, count: u64, wish: impl Fn(u32) -> Wish) {
    let control = Control::create(slots, rows, 2, 1 << 30).unwrap();
    let runs: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
    let mut inflight = vec![None; slots];
    let (mut tasks, mut seen) = (0..count, HashSet::new());
    std::thread::scope(|scope| {
        for row in 0..rows {
            let (control, runs) = (&control, &runs);
            scope.spawn(move || work(control, row, runs));
        }
        while seen.len() < count as usize {
            for task in drain(&control, &mut inflight) {
                assert!(seen.insert(task), "task {task} was delivered twice");
            }
            submit(&control, &mut inflight, &mut tasks);
            let Some(awaited) = inflight.iter().flatten().next() else {
                continue;
            };
            let wish = wish(awaited.index);
            // A wish for a dry queue is a guess: its sleeps are short.
            let slice = if wish == Wish::Dry {
                Duration::from_millis(1)
            } else {
                PATIENCE
            };
            let announced = park::announce_wish(&control, wish);
            park::client_sleep(&control, wish, announced, slice);
        }
        control.orders().store(order::LEAVE, Ordering::SeqCst);
        park::wake_all(&control);
    });
    assert!(runs.iter().all(|runs| runs.load(Ordering::Relaxed) == 1));
    assert!((0..slots).all(|index| {
        let word: &AtomicU64 = control.word(index);
        Word::unpack(word.load(Ordering::Relaxed)).unwrap().state == State::Free
    }));
}

#[test]
fn thousands_of_tasks_run_once_each() {
    every_task_runs_once(64, 3, 20_000, |_| Wish::Any);
}

#[test]
fn waiters_for_a_slot_or_a_dry_queue_get_everything() {
    every_task_runs_once(128, 2, 5_000, Wish::Slot);
    every_task_runs_once(128, 2, 5_000, |_| Wish::Dry);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn any_size_of_pool_loses_nothing(slots in 0u32..8, rows in 1usize..5, count in 1u64..500) {
        every_task_runs_once(1 << slots, rows, count, |_| Wish::Any);
    }

    /// Any order of the client's and workers' steps, one at a time: a queue of the standard
    /// library says what must be there.
    #[test]
    fn the_queue_agrees_with_a_model(steps in prop::collection::vec(0u8..4, 1..300)) {
        let control = Control::create(8, 1, 1, 0).unwrap();
        let (mut queued, mut held) = (Vec::new(), Vec::new());
        for step in steps {
            match step {
                0 => {
                    if let Some(slot) = queue::next_free(&control) {
                        queue::publish(&control, slot);
                        queued.push(slot);
                    } else {
                        prop_assert_eq!(queued.len() + held.len(), 8);
                    }
                }
                1 => match queue::claim(&control, 0) {
                    Some(slot) => {
                        let place = queued.iter().position(|queued| *queued == slot);
                        prop_assert!(place.is_some(), "{:?} was not queued", slot);
                        queued.remove(place.unwrap());
                        held.push((slot, State::Claimed));
                    }
                    None => prop_assert!(queued.is_empty()),
                },
                2 if !queued.is_empty() => {
                    let slot = queued.remove(0);
                    prop_assert!(queue::advance(&control, slot, State::Queued, State::Collecting).is_ok());
                    held.push((slot, State::Collecting));
                }
                _ if !held.is_empty() => {
                    let (slot, _) = held.remove(0);
                    let free = Word::new(slot.generation + 1, State::Free).pack();
                    control.word(slot.index as usize).store(free, Ordering::Release);
                }
                _ => {}
            }
            prop_assert_eq!(queue::looks_empty(&control), queued.is_empty());
        }
    }
}
