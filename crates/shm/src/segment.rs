//! An arena segment: payload memory that one process allocates in and others read.
//!
//! The first page is the *release map* ([`crate::release`]): one bit per block (its *ticket*).
//! Whoever is done with a block sets its bit; the owner takes the bits and frees the blocks.
//! Setting a bit is idempotent and needs no reply, so a releaser may die at any point:
//! before it, the block stays until the owner learns of the death; after it, the block is free.

use crate::os::memory::{self, Mapping, Sharing};
use crate::prim::AtomicU64;
use crate::release::{self, ReleaseMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Blocks that one segment can have at a time.
pub const TICKETS: u32 = 16_384;
const WORDS: usize = TICKETS as usize / 64;
/// Bytes before the first block.
pub const HEADER_BYTES: u64 = 4096;

/// A mapped arena segment.
#[derive(Debug)]
pub struct Segment {
    id: u32,
    fd: OwnedFd,
    map: Mapping,
}

impl Segment {
    /// Make segment `id` with `size` bytes of address space; memory is reserved block by block.
    pub fn create(id: u32, size: u64) -> io::Result<Self> {
        let fd = memory::create("bireme-arena", size as usize)?;
        memory::reserve(fd.as_fd(), 0, HEADER_BYTES)?;
        Self::map(id, fd, size)
    }

    /// Attach to segment `id` behind `fd`.
    pub fn attach(id: u32, fd: OwnedFd) -> io::Result<Self> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        if !memory::is_sealed(fd.as_fd()) {
            return Err(invalid("an arena segment that may shrink"));
        }
        let size = memory::size(fd.as_fd())?;
        if size < HEADER_BYTES {
            return Err(invalid("too small for an arena segment"));
        }
        Self::map(id, fd, size)
    }

    fn map(id: u32, fd: OwnedFd, size: u64) -> io::Result<Self> {
        let map = Mapping::new(&fd, 0, size as usize, Sharing::Shared)?;
        map.exclude_from_dumps();
        Ok(Self { id, fd, map })
    }

    /// The same memory under another id.
    pub fn renamed(&self, id: u32) -> io::Result<Self> {
        Self::map(id, self.fd.try_clone()?, self.size())
    }

    /// The id that locations name.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Descriptor to pass on.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.map.len() as u64
    }

    /// Address of a block, if it lies within the payload area.
    pub fn block(&self, offset: u64, len: u64) -> Option<*mut u8> {
        if offset < HEADER_BYTES {
            None
        } else {
            self.map.at(offset, len)
        }
    }

    /// A copy-on-write mapping of `len` bytes at `offset`, a multiple of the page size.
    pub fn private_view(&self, offset: u64, len: u64) -> io::Result<Mapping> {
        if self.block(offset, len).is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Mapping::new(&self.fd, offset, len as usize, Sharing::Private)
    }

    /// Say that nobody of this process sees the block with `ticket` any more.
    pub fn release(&self, ticket: u32) {
        release::release(self, ticket);
    }

    /// Take all released tickets. Called by the owner only.
    pub fn take_released(&self, each: impl FnMut(u32)) {
        release::take_released(self, each);
    }

    /// As [`take_released`](Self::take_released), after the death of a process that may have
    /// released blocks: nothing that it marked is left behind, whatever its last step was.
    pub fn take_all_released(&self, each: impl FnMut(u32)) {
        release::take_all_released(self, each);
    }
}

impl ReleaseMap for Segment {
    fn words(&self) -> usize {
        WORDS
    }

    #[expect(clippy::cast_ptr_alignment, reason = "mappings start on a page")]
    fn release_word(&self, index: usize) -> &AtomicU64 {
        assert!(index <= WORDS);
        // SAFETY: the release map and the summary word after it lie in the first
        // page, which is mapped and holds atomics only; the mapping is page aligned.
        unsafe { &*self.map.base().cast::<AtomicU64>().add(index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_tickets_come_back_once() {
        let segment = Segment::create(7, 1 << 20).unwrap();
        for ticket in [0, 63, 64, 4095, TICKETS - 1, 63] {
            segment.release(ticket);
        }
        let mut seen = Vec::new();
        segment.take_released(|ticket| seen.push(ticket));
        seen.sort_unstable();
        assert_eq!(seen, [0, 63, 64, 4095, TICKETS - 1]);
        segment.take_released(|_| panic!("nothing is left"));
    }

    #[test]
    fn blocks_outside_are_refused() {
        let segment = Segment::create(1, 1 << 20).unwrap();
        assert!(
            segment.block(0, 8).is_none(),
            "the release map is not payload"
        );
        assert!(segment.block(HEADER_BYTES, u64::MAX).is_none());
        assert!(segment.block((1 << 20) - 8, 9).is_none());
        assert!(segment.block((1 << 20) - 8, 8).is_some());
    }
}
