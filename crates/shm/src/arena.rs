//! The owner's side of arena segments: an allocator whose state is private.
//!
//! Only the owner allocates, so a crash of anyone else cannot hurt the allocator,
//! and a crash of the owner ends it: what is left are blocks that others still see, which
//! the mappings keep alive. Freed memory stays *warm* (it has pages) and is used
//! first: copying into mapped pages is five times faster than into new ones. [`Arena::trim`]
//! gives warm memory back to the system.
//!
//! Large blocks are runs of whole pages, best fit; small ones are cut from slabs of one mebibyte.

use crate::fail::{self, Point};
use crate::os::memory;
use crate::segment::{HEADER_BYTES, Segment, TICKETS};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const PAGE: u64 = 4096;
const GRAIN: u64 = 256;
const SLAB: u64 = 1 << 20;
/// Blocks up to this size are cut from slabs; larger ones start on a page.
pub const SMALL_MAX: u64 = 64 << 10;
const FIRST_SEGMENT: u64 = 64 << 20;
const LARGEST_SEGMENT: u64 = 1 << 30;

/// Why there was no room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArenaError {
    /// The pool's own memory budget is used up.
    #[error(
        "{needed} bytes do not fit: bireme's memory budget of {limit} bytes holds {used} bytes already"
    )]
    Budget {
        /// Bytes asked for.
        needed: u64,
        /// Bytes in use.
        used: u64,
        /// The budget in bytes.
        limit: u64,
    },
    /// The system refused memory, an address range or a descriptor.
    #[error("the system refused {needed} bytes of shared memory: {source}")]
    System {
        /// Bytes asked for.
        needed: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Where the owner's real memory is counted, and its limit.
pub trait Budget {
    /// Add `bytes` if they fit; `Err` gives (used, limit).
    fn grow(&self, bytes: u64) -> Result<(), (u64, u64)>;
    /// Take `bytes` off.
    fn shrink(&self, bytes: u64);
    /// As [`grow`](Self::grow), with the error that callers see.
    fn reserve(&self, needed: u64) -> Result<(), ArenaError> {
        self.grow(needed)
            .map_err(|(used, limit)| ArenaError::Budget {
                needed,
                used,
                limit,
            })
    }
}

/// A block that the owner allocated.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its segment.
    pub segment: Arc<Segment>,
    /// Bit of the release map.
    pub ticket: u32,
    /// Offset in the segment.
    pub offset: u64,
    /// Length in bytes, as asked for.
    pub len: u64,
    serial: u64,
}

/// What the owner knows of a block.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    rounded: u64,
    serial: u64,
    /// Row + 1 of the one process that may still see it, when the owner has no other way to know.
    holder: u32,
}

impl Block {
    /// The same block, of which only the first `len` bytes count.
    #[must_use]
    pub fn up_to(mut self, len: u64) -> Self {
        self.len = self.len.min(len);
        self
    }

    /// Address of the first byte.
    ///
    /// # Panics
    /// If a block that the allocator handed out lay outside of its segment, which cannot be.
    pub fn base(&self) -> *mut u8 {
        self.segment
            .block(self.offset, self.len)
            .expect("a block lies in its segment")
    }
}

/// Free ranges of a segment, joined with their neighbours.
#[derive(Debug, Default)]
struct Runs {
    by_offset: BTreeMap<u64, u64>,
    by_len: BTreeSet<(u64, u64)>,
}

impl Runs {
    fn insert(&mut self, mut offset: u64, mut len: u64) {
        if let Some((&before, &before_len)) = self.by_offset.range(..offset).next_back()
            && before + before_len == offset
        {
            self.remove(before, before_len);
            (offset, len) = (before, before_len + len);
        }
        if let Some(&after_len) = self.by_offset.get(&(offset + len)) {
            self.remove(offset + len, after_len);
            len += after_len;
        }
        self.by_offset.insert(offset, len);
        self.by_len.insert((len, offset));
    }

    fn remove(&mut self, offset: u64, len: u64) {
        self.by_offset.remove(&offset);
        self.by_len.remove(&(len, offset));
    }

    fn take(&mut self, len: u64) -> Option<u64> {
        let &(run, offset) = self.by_len.range((len, 0)..).next()?;
        self.remove(offset, run);
        if run > len {
            self.by_offset.insert(offset + len, run - len);
            self.by_len.insert((run - len, offset + len));
        }
        Some(offset)
    }

    /// Remove `len` bytes at `offset` if all of them are free.
    fn take_at(&mut self, offset: u64, len: u64) -> bool {
        let Some((&start, &run)) = self.by_offset.range(..=offset).next_back() else {
            return false;
        };
        if start + run < offset + len {
            return false;
        }
        self.remove(start, run);
        if offset > start {
            self.insert(start, offset - start);
        }
        if start + run > offset + len {
            self.insert(offset + len, start + run - offset - len);
        }
        true
    }
}

#[derive(Debug)]
struct Owned {
    segment: Arc<Segment>,
    warm: Runs,
    cold: Runs,
    small: Runs,
    slabs: Vec<u64>,
    tickets: Vec<u32>,
    blocks: Vec<Option<Entry>>,
}

impl Owned {
    fn new(segment: Segment) -> Self {
        let mut cold = Runs::default();
        cold.insert(HEADER_BYTES, (segment.size() - HEADER_BYTES) / PAGE * PAGE);
        Self {
            segment: Arc::new(segment),
            warm: Runs::default(),
            cold,
            small: Runs::default(),
            slabs: Vec::new(),
            tickets: (0..TICKETS).rev().collect(),
            blocks: vec![None; TICKETS as usize],
        }
    }

    fn hand_out(&mut self, offset: u64, rounded: u64, len: u64, serial: u64) -> Block {
        let ticket = self.tickets.pop().expect("checked by the caller");
        self.blocks[ticket as usize] = Some(Entry {
            offset,
            rounded,
            serial,
            holder: 0,
        });
        Block {
            segment: Arc::clone(&self.segment),
            ticket,
            offset,
            len,
            serial,
        }
    }

    fn free(&mut self, ticket: u32) {
        // A ticket that is not ours to free comes from a confused process: ignored.
        let entry = self.blocks.get_mut(ticket as usize).and_then(Option::take);
        let Some(Entry {
            offset, rounded, ..
        }) = entry
        else {
            return;
        };
        if rounded <= SMALL_MAX {
            self.small.insert(offset, rounded);
        } else {
            self.warm.insert(offset, rounded);
        }
        self.tickets.push(ticket);
    }

    fn sweep(&mut self) {
        let segment = Arc::clone(&self.segment);
        segment.take_released(|ticket| self.free(ticket));
    }

    fn sweep_all(&mut self) {
        let segment = Arc::clone(&self.segment);
        segment.take_all_released(|ticket| self.free(ticket));
    }
}

/// The arena of one process.
#[derive(Debug)]
pub struct Arena<B> {
    owned: Vec<Owned>,
    next_id: u32,
    budget: B,
    held: u64,
    serial: u64,
}

impl<B: Budget> Arena<B> {
    /// An arena whose segments are numbered from `first_id`, which nobody else uses.
    pub fn new(first_id: u32, budget: B) -> Self {
        Self {
            owned: Vec::new(),
            next_id: first_id,
            budget,
            held: 0,
            serial: 0,
        }
    }

    /// Bytes of real memory held.
    pub fn held_bytes(&self) -> u64 {
        self.held
    }

    /// Blocks handed out and not yet released.
    pub fn blocks_in_use(&mut self) -> usize {
        self.owned.iter_mut().for_each(Owned::sweep);
        self.owned
            .iter()
            .map(|owned| owned.blocks.iter().flatten().count())
            .sum()
    }

    /// Allocate `len` bytes. `announce` is called with a new segment before any block of it exists.
    ///
    /// # Panics
    /// If a run that was just made for the block could not hold it, which cannot be.
    pub fn allocate(
        &mut self,
        len: u64,
        announce: impl FnOnce(&Arc<Segment>),
    ) -> Result<Block, ArenaError> {
        let rounded = if len <= SMALL_MAX {
            len.max(1).next_multiple_of(GRAIN)
        } else {
            len.next_multiple_of(PAGE)
        };
        if let Some(block) = self.take_warm(rounded, len) {
            return Ok(block);
        }
        self.owned.iter_mut().for_each(Owned::sweep);
        if let Some(block) = self.take_warm(rounded, len) {
            return Ok(block);
        }
        self.grow(
            if rounded <= SMALL_MAX { SLAB } else { rounded },
            rounded <= SMALL_MAX,
            announce,
        )?;
        Ok(self.take_warm(rounded, len).expect("grown by enough"))
    }

    fn take_warm(&mut self, rounded: u64, len: u64) -> Option<Block> {
        self.serial += 1;
        for owned in &mut self.owned {
            if owned.tickets.is_empty() {
                continue;
            }
            let runs = if rounded <= SMALL_MAX {
                &mut owned.small
            } else {
                &mut owned.warm
            };
            if let Some(offset) = runs.take(rounded) {
                return Some(owned.hand_out(offset, rounded, len, self.serial));
            }
        }
        None
    }

    /// Get real memory for a run of `len` bytes.
    fn grow(
        &mut self,
        len: u64,
        slab: bool,
        announce: impl FnOnce(&Arc<Segment>),
    ) -> Result<(), ArenaError> {
        let system = |source| ArenaError::System {
            needed: len,
            source,
        };
        if self.budget.grow(len).is_err() {
            self.trim();
            self.budget.reserve(len)?;
        }
        let mut place = self.owned.iter().position(|owned| {
            !owned.tickets.is_empty() && owned.cold.by_len.range((len, 0)..).next().is_some()
        });
        if place.is_none() {
            let wanted = (FIRST_SEGMENT << self.owned.len().min(4))
                .min(LARGEST_SEGMENT)
                .max(len + HEADER_BYTES);
            // Under a file-size limit a smaller segment may still do.
            let made = Segment::create(self.next_id, wanted).or_else(|_| {
                Segment::create(self.next_id, (len + HEADER_BYTES).next_multiple_of(PAGE))
            });
            match made {
                Ok(segment) => {
                    self.next_id += 1;
                    self.owned.push(Owned::new(segment));
                    announce(&self.owned[self.owned.len() - 1].segment);
                    place = Some(self.owned.len() - 1);
                }
                Err(source) => {
                    self.budget.shrink(len);
                    return Err(system(source));
                }
            }
        }
        let owned = &mut self.owned[place.expect("found or made")];
        fail::point(Point::ArenaReserve);
        let offset = owned.cold.take(len).expect("checked above");
        if let Err(source) = memory::reserve(owned.segment.fd(), offset, len) {
            owned.cold.insert(offset, len);
            self.budget.shrink(len);
            return Err(system(source));
        }
        fail::point(Point::ArenaKeep);
        self.held += len;
        if slab {
            owned.slabs.push(offset);
            owned.small.insert(offset, len);
        } else {
            owned.warm.insert(offset, len);
        }
        Ok(())
    }

    /// Free a block that only the owner saw, or whose readers are all gone.
    pub fn free(&mut self, segment: u32, ticket: u32) {
        if let Some(owned) = self
            .owned
            .iter_mut()
            .find(|owned| owned.segment.id() == segment)
        {
            owned.free(ticket);
        }
    }

    /// Note that row `holder` may see `block` until it releases it or dies.
    pub fn set_holder(&mut self, block: &Block, holder: u32) {
        let Some(owned) = self
            .owned
            .iter_mut()
            .find(|owned| owned.segment.id() == block.segment.id())
        else {
            return;
        };
        // The block may have been released and handed out again since: the serial tells.
        if let Some(entry) = &mut owned.blocks[block.ticket as usize]
            && entry.serial == block.serial
        {
            entry.holder = holder + 1;
        }
    }

    /// Free what only the dead row `holder` could still see.
    pub fn free_held_by(&mut self, holder: u32) {
        for owned in &mut self.owned {
            // Its last release may lack the hint: left behind, that bit would free the ticket's next block.
            owned.sweep_all();
            let held =
                |entry: &Option<Entry>| entry.is_some_and(|entry| entry.holder == holder + 1);
            let tickets: Vec<u32> = (0..TICKETS)
                .filter(|ticket| held(&owned.blocks[*ticket as usize]))
                .collect();
            for ticket in tickets {
                owned.free(ticket);
            }
        }
    }

    /// Give all free memory back to the system.
    pub fn trim(&mut self) {
        for owned in &mut self.owned {
            owned.sweep();
            let slabs = std::mem::take(&mut owned.slabs);
            for slab in slabs {
                if owned.small.take_at(slab, SLAB) {
                    owned.warm.insert(slab, SLAB);
                } else {
                    owned.slabs.push(slab);
                }
            }
            for (offset, len) in std::mem::take(&mut owned.warm).by_offset {
                if memory::punch(owned.segment.fd(), offset, len).is_ok() {
                    owned.cold.insert(offset, len);
                    self.held -= len;
                    fail::point(Point::ArenaShrink);
                    self.budget.shrink(len);
                } else {
                    owned.warm.insert(offset, len);
                }
            }
        }
    }

    /// All segments of this arena.
    pub fn segments(&self) -> impl Iterator<Item = &Arc<Segment>> {
        self.owned.iter().map(|owned| &owned.segment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prim::Ordering;
    use crate::release::ReleaseMap;
    use proptest::prelude::*;
    use std::cell::Cell;

    struct Cap(Cell<u64>, u64);
    impl Budget for &Cap {
        fn grow(&self, bytes: u64) -> Result<(), (u64, u64)> {
            if self.0.get() + bytes > self.1 {
                return Err((self.0.get(), self.1));
            }
            self.0.set(self.0.get() + bytes);
            Ok(())
        }
        fn shrink(&self, bytes: u64) {
            self.0.set(self.0.get() - bytes);
        }
    }

    #[test]
    fn freed_memory_is_used_first_and_given_back() {
        let cap = Cap(Cell::new(0), 1 << 30);
        let mut arena = Arena::new(1, &cap);
        let first = arena.allocate(10 << 20, |_| {}).unwrap();
        let place = (first.offset, first.ticket);
        first.segment.release(first.ticket);
        let second = arena
            .allocate(10 << 20, |_| panic!("no new segment is needed"))
            .unwrap();
        assert_eq!(second.offset, place.0);
        assert_eq!(cap.0.get(), 10 << 20);
        arena.free(second.segment.id(), second.ticket);
        arena.trim();
        assert_eq!((cap.0.get(), arena.held_bytes()), (0, 0));
    }

    #[test]
    fn the_budget_is_an_error_and_nothing_is_lost() {
        let cap = Cap(Cell::new(0), 8 << 20);
        let mut arena = Arena::new(1, &cap);
        let kept = arena.allocate(6 << 20, |_| {}).unwrap();
        assert!(
            matches!(arena.allocate(4 << 20, |_| {}), Err(ArenaError::Budget { limit, .. }) if limit == 8 << 20)
        );
        arena.free(kept.segment.id(), kept.ticket);
        assert!(
            arena.allocate(7 << 20, |_| {}).is_ok(),
            "the freed run is punched to make room"
        );
    }

    #[test]
    fn a_release_cut_short_by_a_death_does_not_free_a_later_block() {
        let cap = Cap(Cell::new(0), 1 << 30);
        let mut arena = Arena::new(1, &cap);
        let lent = arena.allocate(100_000, |_| {}).unwrap();
        arena.set_holder(&lent, 3);
        // Row 3 dies after the block's bit and before the summary that tells of it.
        let word = lent.segment.release_word(lent.ticket as usize / 64);
        word.fetch_or(1 << (lent.ticket % 64), Ordering::Release);
        arena.free_held_by(3);
        let next = arena.allocate(100_000, |_| {}).unwrap();
        assert_eq!(next.ticket, lent.ticket, "the ticket is used again");
        let other = arena.allocate(100_000, |_| {}).unwrap();
        other.segment.release(other.ticket);
        assert_eq!(arena.blocks_in_use(), 1, "the later block is still there");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn blocks_never_overlap_and_all_memory_comes_back(
            steps in prop::collection::vec((1u64..300_000, any::<prop::sample::Index>(), any::<bool>()), 1..200)
        ) {
            let cap = Cap(Cell::new(0), 1 << 30);
            let mut arena = Arena::new(1, &cap);
            let mut live: Vec<Block> = Vec::new();
            for (len, pick, release) in steps {
                if release && !live.is_empty() {
                    let block = live.swap_remove(pick.index(live.len()));
                    block.segment.release(block.ticket);
                    continue;
                }
                let block = arena.allocate(len, |_| {}).unwrap();
                for other in live.iter().filter(|other| other.segment.id() == block.segment.id()) {
                    prop_assert!(block.offset + block.len <= other.offset || other.offset + other.len <= block.offset);
                }
                if len > SMALL_MAX { prop_assert_eq!(block.offset % PAGE, 0); }
                live.push(block);
            }
            prop_assert_eq!(arena.blocks_in_use(), live.len());
            for block in live.drain(..) { block.segment.release(block.ticket); }
            arena.trim();
            prop_assert_eq!((cap.0.get(), arena.held_bytes()), (0, 0));
        }
    }
}
