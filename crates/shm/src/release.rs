//! The release map of an arena segment: who is done with a block says so in one bit.
//!
//! Bit `t` of the words stands for the block with ticket `t`; bit `i % 64` of the summary
//! says that word `i` is worth a look. Anyone may set bits, only the owner of the segment
//! takes them. Setting a bit is idempotent and needs no reply.
//!
//! A releaser that dies after the bit and before the summary leaves a bit that no hint
//! points to. It must not stay: once the block is freed otherwise and its ticket is used
//! again, that bit would free a stranger's block. So after a death the owner takes *all*
//! bits ([`take_all_released`]) before it frees what the dead process held.

use crate::fail::{self, Point};
use crate::prim::{AtomicU64, Ordering};

/// The words of one release map.
pub trait ReleaseMap {
    /// Number of words, without the summary.
    fn words(&self) -> usize;
    /// Word `index`; the summary comes after the last one.
    fn release_word(&self, index: usize) -> &AtomicU64;
}

/// Say that nobody of this process sees the block with `ticket` any more.
pub fn release<M: ReleaseMap>(map: &M, ticket: u32) {
    let ticket = ticket as usize % (map.words() * 64);
    let word = ticket / 64;
    fail::point(Point::ReleaseBit);
    // SYNC(release): releases this process's last reads; pairs with the swap in `take_word`.
    map.release_word(word)
        .fetch_or(1 << (ticket % 64), Ordering::Release);
    fail::point(Point::ReleaseSummary);
    // SYNC(release): whoever takes the summary bit finds the bit above.
    map.release_word(map.words())
        .fetch_or(1 << (word % 64), Ordering::Release);
}

/// Take the released tickets that the summary tells of. Called by the owner only.
///
/// The summary is cleared before the words: a bit set meanwhile sets it again, so it
/// is seen by this call or the next.
pub fn take_released<M: ReleaseMap>(map: &M, mut each: impl FnMut(u32)) {
    let summary = map.release_word(map.words());
    // RELAXED: a release that is missed now is seen next time.
    if summary.load(Ordering::Relaxed) == 0 {
        return;
    }
    let summary = summary.swap(0, Ordering::Acquire);
    for index in (0..map.words()).filter(|index| summary & (1 << (index % 64)) != 0) {
        take_word(map, index, &mut each);
    }
}

/// Take every released ticket, hinted at or not: after the death of a process that may have
/// been about to say so. Called by the owner only.
pub fn take_all_released<M: ReleaseMap>(map: &M, mut each: impl FnMut(u32)) {
    for index in 0..map.words() {
        take_word(map, index, &mut each);
    }
}

fn take_word<M: ReleaseMap>(map: &M, index: usize, each: &mut impl FnMut(u32)) {
    // SYNC(release): pairs with `release`.
    let mut bits = map.release_word(index).swap(0, Ordering::Acquire);
    while bits != 0 {
        each(index as u32 * 64 + bits.trailing_zeros());
        bits &= bits - 1;
    }
}
