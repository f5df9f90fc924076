//! What the queue and parking protocols need to see of shared memory.
//!
//! The protocols are written against this trait, so that the same code runs on
//! the mapped control segment ([`crate::control::Control`]) and on a few heap
//! atomics inside a loom model.

use crate::prim::{AtomicU32, AtomicU64};
use std::time::Duration;

/// The shared words of one pool.
///
/// `slots()` is a power of two. Rows are workers; there are at most 65,535.
pub trait View {
    /// Number of task slots.
    fn slots(&self) -> usize;
    /// Number of worker rows.
    fn rows(&self) -> usize;
    /// The state word of slot `index`.
    fn word(&self, index: usize) -> &AtomicU64;
    /// Next queue position to fill. Written by the client only, after the slot is `Queued`.
    fn tail(&self) -> &AtomicU64;
    /// Where to start looking for work. A hint, moved forward by claimers.
    fn head(&self) -> &AtomicU64;
    /// Word `index` of the bitmap of finished slots: set by workers, cleared by the client.
    fn done(&self, index: usize) -> &AtomicU64;
    /// Summary of `done`: bit `i % 64` is set after `done(i)` became nonzero.
    fn done_summary(&self) -> &AtomicU64;
    /// Word `index` of the bitmap of rows that announced that they sleep.
    fn sleepers(&self, index: usize) -> &AtomicU64;
    /// Row + 1 of the one idle worker that spins, or 0. The client may clear it at any time.
    fn spinner(&self) -> &AtomicU32;
    /// The word that row `row` sleeps on: 1 while asleep.
    fn park(&self, row: usize) -> &AtomicU32;
    /// What the client's waiters ask for: see [`crate::park::Wish`].
    fn client_wish(&self) -> &AtomicU32;
    /// Nonzero while workers must look at the pool's orders before sleeping.
    fn orders(&self) -> &AtomicU32;
    /// Sleep while `word == expected`, until woken, `timeout`, or for no reason.
    fn futex_wait(&self, word: &AtomicU32, expected: u32, timeout: Option<Duration>);
    /// Wake up to `count` sleepers of `word`.
    fn futex_wake(&self, word: &AtomicU32, count: u32);
}

/// Number of `u64` words in a bitmap over `n` bits.
pub const fn bitmap_words(n: usize) -> usize {
    n.div_ceil(64)
}
