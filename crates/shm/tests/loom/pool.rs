//! A pool's shared words on the heap, with a futex made of a mutex and condition variables.

use bireme_shm::park;
use bireme_shm::prim::{AtomicU32, AtomicU64, Ordering};
use bireme_shm::queue::{self, SlotRef};
use bireme_shm::view::{View, bitmap_words};
use bireme_shm::word::State;
use loom::cell::UnsafeCell;
use loom::sync::{Condvar, Mutex};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

/// The order to leave.
pub(crate) const LEAVE: u32 = 1;

/// The words of a pool. Payload and result are plain cells: an access that
/// the slot's word does not order is an error of the model.
pub(crate) struct Pool {
    words: Vec<AtomicU64>,
    payload: Vec<UnsafeCell<u64>>,
    result: Vec<UnsafeCell<u64>>,
    tail: AtomicU64,
    head: AtomicU64,
    done: Vec<AtomicU64>,
    summary: AtomicU64,
    sleepers: AtomicU64,
    spinner: AtomicU32,
    park: Vec<AtomicU32>,
    wish: AtomicU32,
    orders: AtomicU32,
    kernel: Mutex<()>,
    beds: Vec<Condvar>,
}

// SAFETY: the cells are loom's, which checks every access to them.
unsafe impl Sync for Pool {}
// SAFETY: as above.
unsafe impl Send for Pool {}

fn some<T>(count: usize, make: impl Fn() -> T) -> Vec<T> {
    (0..count).map(|_| make()).collect()
}

impl Pool {
    /// A pool with so many slots and rows.
    pub(crate) fn new(slots: usize, rows: usize) -> Arc<Self> {
        Arc::new(Self {
            words: some(slots, || AtomicU64::new(0)),
            payload: some(slots, || UnsafeCell::new(0)),
            result: some(slots, || UnsafeCell::new(0)),
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            done: some(bitmap_words(slots), || AtomicU64::new(0)),
            summary: AtomicU64::new(0),
            sleepers: AtomicU64::new(0),
            spinner: AtomicU32::new(0),
            park: some(rows, || AtomicU32::new(0)),
            wish: AtomicU32::new(0),
            orders: AtomicU32::new(0),
            kernel: Mutex::new(()),
            beds: some(rows + 1, Condvar::new),
        })
    }

    /// Submit a task with this payload, which must find a slot.
    pub(crate) fn submit(&self, payload: u64) -> SlotRef {
        let slot = queue::next_free(self).expect("a free slot");
        // SAFETY: the slot is ours until it is published; loom checks.
        self.payload[slot.index as usize].with_mut(|cell| unsafe { *cell = payload });
        queue::publish(self, slot);
        slot
    }

    /// What was submitted: for the one who holds the slot.
    pub(crate) fn payload(&self, slot: SlotRef) -> u64 {
        // SAFETY: whoever holds the slot may read; loom checks.
        self.payload[slot.index as usize].with(|cell| unsafe { *cell })
    }

    /// The result: for the one who collects the slot.
    pub(crate) fn result(&self, slot: SlotRef) -> u64 {
        // SAFETY: as above.
        self.result[slot.index as usize].with(|cell| unsafe { *cell })
    }

    /// Order all workers to leave.
    pub(crate) fn dismiss(&self) {
        self.orders.fetch_or(LEAVE, Ordering::SeqCst);
        park::wake_all(self);
    }

    /// The bed of whoever sleeps on `word`: a row's, or the client's, which is the last.
    fn bed(&self, word: &AtomicU32) -> &Condvar {
        let row = self.park.iter().position(|park| std::ptr::eq(park, word));
        &self.beds[row.unwrap_or(self.park.len())]
    }
}

impl View for Pool {
    fn slots(&self) -> usize {
        self.words.len()
    }
    fn rows(&self) -> usize {
        self.park.len()
    }
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.words[index]
    }
    fn tail(&self) -> &AtomicU64 {
        &self.tail
    }
    fn head(&self) -> &AtomicU64 {
        &self.head
    }
    fn done(&self, index: usize) -> &AtomicU64 {
        &self.done[index]
    }
    fn done_summary(&self) -> &AtomicU64 {
        &self.summary
    }
    fn sleepers(&self, _: usize) -> &AtomicU64 {
        &self.sleepers
    }
    fn spinner(&self) -> &AtomicU32 {
        &self.spinner
    }
    fn park(&self, row: usize) -> &AtomicU32 {
        &self.park[row]
    }
    fn client_wish(&self) -> &AtomicU32 {
        &self.wish
    }
    fn orders(&self) -> &AtomicU32 {
        &self.orders
    }
    fn futex_wait(&self, word: &AtomicU32, expected: u32, _: Option<Duration>) {
        let held = self.kernel.lock().unwrap();
        if word.load(Ordering::SeqCst) == expected {
            drop(self.bed(word).wait(held).unwrap());
        }
    }
    fn futex_wake(&self, word: &AtomicU32, count: u32) {
        let _held = self.kernel.lock().unwrap();
        match count {
            1 => self.bed(word).notify_one(),
            _ => self.bed(word).notify_all(),
        }
    }
}

/// Run the claimed task as a worker does; the result is the payload plus 100.
pub(crate) fn run(pool: &Pool, view: &impl View, slot: SlotRef) {
    queue::advance(view, slot, State::Claimed, State::Running).expect("claimed by us");
    let payload = pool.payload(slot);
    finish(pool, view, slot, payload + 100);
}

/// Publish the result of a running task; `false` if its worker was condemned.
pub(crate) fn finish(pool: &Pool, view: &impl View, slot: SlotRef, result: u64) -> bool {
    // SAFETY: the result is the worker's until `Done`; loom checks.
    pool.result[slot.index as usize].with_mut(|cell| unsafe { *cell = result });
    if queue::advance(view, slot, State::Running, State::Done).is_err() {
        return false;
    }
    queue::mark_done(view, slot.index);
    park::notify_client(view, slot.index);
    true
}

/// Claim a task and, when more is queued, wake the next worker.
pub(crate) fn next(view: &impl View, row: u16) -> Option<SlotRef> {
    let slot = queue::claim(view, row)?;
    if park::someone_idle(view) && !queue::looks_empty(view) {
        park::wake_one(view);
    }
    Some(slot)
}

/// Sleep while the queue is empty and no order is out.
pub(crate) fn rest(view: &impl View, row: usize) {
    park::sleep(view, row, None, || {
        queue::looks_empty(view) && view.orders().load(Ordering::SeqCst) == 0
    });
}

/// A view through the eyes of a worker that is killed before its `life`-th look at a shared word.
pub(crate) struct Mortal<'a> {
    pool: &'a Pool,
    life: Cell<u32>,
}

struct Died;

impl<'a> Mortal<'a> {
    /// Live as `live` says, for at most `life` steps. Whether it died of that.
    pub(crate) fn live(pool: &'a Pool, life: u32, live: impl FnOnce(&Self)) -> bool {
        let mortal = Self {
            pool,
            life: Cell::new(life),
        };
        match catch_unwind(AssertUnwindSafe(|| live(&mortal))) {
            Ok(()) => false,
            Err(cause) if cause.is::<Died>() => true,
            Err(cause) => resume_unwind(cause),
        }
    }

    fn step(&self) -> &'a Pool {
        match self.life.get().checked_sub(1) {
            Some(left) => self.life.set(left),
            None => resume_unwind(Box::new(Died)),
        }
        self.pool
    }
}

impl View for Mortal<'_> {
    fn slots(&self) -> usize {
        self.pool.slots()
    }
    fn rows(&self) -> usize {
        self.pool.rows()
    }
    fn word(&self, index: usize) -> &AtomicU64 {
        self.step().word(index)
    }
    fn tail(&self) -> &AtomicU64 {
        self.step().tail()
    }
    fn head(&self) -> &AtomicU64 {
        self.step().head()
    }
    fn done(&self, index: usize) -> &AtomicU64 {
        self.step().done(index)
    }
    fn done_summary(&self) -> &AtomicU64 {
        self.step().done_summary()
    }
    fn sleepers(&self, index: usize) -> &AtomicU64 {
        self.step().sleepers(index)
    }
    fn spinner(&self) -> &AtomicU32 {
        self.step().spinner()
    }
    fn park(&self, row: usize) -> &AtomicU32 {
        self.step().park(row)
    }
    fn client_wish(&self) -> &AtomicU32 {
        self.step().client_wish()
    }
    fn orders(&self) -> &AtomicU32 {
        self.step().orders()
    }
    /// Returns at once, for no reason: a killed worker does not wait for a wake.
    fn futex_wait(&self, _: &AtomicU32, _: u32, _: Option<Duration>) {
        self.step();
    }
    fn futex_wake(&self, word: &AtomicU32, count: u32) {
        self.step().futex_wake(word, count);
    }
}
