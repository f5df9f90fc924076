//! The client's tables, reduced to what the models count, and its repair after a death.

use super::pool::Pool;
use bireme_shm::park;
use bireme_shm::prim::Ordering;
use bireme_shm::queue::{self, SlotRef};
use bireme_shm::view::View;
use bireme_shm::word::{State, Word};
use std::collections::BTreeMap;

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With this result.
    Value(u64),
    /// Its worker died while it ran.
    Died,
}

/// What the client knows of its tasks, by payload.
#[derive(Default)]
pub(crate) struct Client {
    inflight: BTreeMap<u32, (SlotRef, u64)>,
    endings: BTreeMap<u64, Ending>,
}

impl Client {
    /// Submit a task and wake a worker.
    pub(crate) fn submit(&mut self, pool: &Pool, payload: u64) {
        self.submit_quietly(pool, payload);
        park::wake_one(pool);
    }

    /// Submit a task; somebody else wakes a worker for it.
    pub(crate) fn submit_quietly(&mut self, pool: &Pool, payload: u64) {
        let slot = pool.submit(payload);
        self.inflight.insert(slot.index, (slot, payload));
    }

    /// Tasks that have not ended.
    pub(crate) fn outstanding(&self) -> usize {
        self.inflight.len()
    }

    /// How the task with this payload ended.
    pub(crate) fn ending(&self, payload: u64) -> Option<Ending> {
        self.endings.get(&payload).copied()
    }

    /// Collect what is marked done.
    pub(crate) fn drain(&mut self, pool: &Pool) {
        queue::take_done(pool, |index| self.collect(pool, index));
    }

    fn collect(&mut self, pool: &Pool, index: u32) {
        let Some(&(slot, payload)) = self.inflight.get(&index) else {
            return;
        };
        if queue::advance(pool, slot, State::Done, State::Collecting).is_ok() {
            let result = pool.result(slot);
            self.free(pool, slot);
            self.end(payload, Ending::Value(result));
        }
    }

    fn free(&mut self, pool: &Pool, slot: SlotRef) {
        self.inflight
            .remove(&slot.index)
            .expect("a collected slot has a task");
        let free = Word::new(slot.generation.wrapping_add(1), State::Free);
        pool.word(slot.index as usize)
            .store(free.pack(), Ordering::Release);
    }

    fn end(&mut self, payload: u64, ending: Ending) {
        let earlier = self.endings.insert(payload, ending);
        assert_eq!(earlier, None, "task {payload} ended twice");
    }

    /// Make whole what the dead worker of `row` held: the client's repair, step by step.
    pub(crate) fn repair(&mut self, pool: &Pool, row: u16) {
        park::release_spinner(pool, usize::from(row));
        for index in 0..pool.slots() as u32 {
            let bits = pool.word(index as usize).load(Ordering::Acquire);
            let word = Word::unpack(bits).expect("a word of ours");
            if word.worker != row {
                continue;
            }
            let slot = SlotRef {
                index,
                generation: word.generation,
            };
            match word.state {
                State::Done => self.collect(pool, index),
                State::Claimed | State::Running | State::Condemned => {
                    queue::advance(pool, slot, word.state, State::Collecting).expect("it is dead");
                    let (_, payload) = self.inflight[&index];
                    self.free(pool, slot);
                    match word.state {
                        State::Claimed => self.submit(pool, payload), // not looked at: again
                        _ => self.end(payload, Ending::Died),
                    }
                }
                _ => {}
            }
        }
        park::wake_all(pool);
    }
}
