//! A parcel: a pickle and its out-of-band buffers, as they lie in one block of shared memory.
//!
//! ```text
//! | buffers: u32 | 0: u32 | pickle length: u64 | per buffer: segment u32, 0 u32, offset u64, length u64 |
//! | pickle bytes | padding to 64 | buffer 0 | padding to 64 | buffer 1 | ...
//! ```
//!
//! A buffer with a segment lies in that shared segment; the others lie in the parcel.

use std::ops::Range;

const HEAD: usize = 16;
const ENTRY: usize = 24;
const ALIGN: usize = 64;

/// Where one buffer lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the parcel, from this offset on.
    Inside(usize),
    /// In a segment of its own.
    Elsewhere {
        /// The segment's id, not 0.
        segment: u32,
        /// Offset in the segment.
        offset: u64,
    },
}

/// The plan of a parcel to be written.
#[derive(Debug)]
pub struct Layout {
    /// What the parcel begins with.
    pub head: Vec<u8>,
    /// Where the pickle goes.
    pub pickle_at: usize,
    /// Where each buffer goes.
    pub places: Vec<Place>,
    /// Bytes in all.
    pub len: usize,
}

impl Layout {
    /// Lay out a pickle and buffers of these lengths; `elsewhere` tells those that lie in segments.
    pub fn new(
        pickle_len: usize,
        lengths: impl ExactSizeIterator<Item = usize>,
        mut elsewhere: impl FnMut(usize) -> Option<(u32, u64)>,
    ) -> Self {
        let count = lengths.len();
        let mut head = new_head(count, pickle_len);
        let pickle_at = HEAD + ENTRY * count;
        let mut end = pickle_at + pickle_len;
        let mut places = Vec::with_capacity(count);
        for (index, len) in lengths.enumerate() {
            if let Some((segment, offset)) = elsewhere(index) {
                places.push(Place::Elsewhere { segment, offset });
                add_entry(&mut head, segment, offset, len);
            } else {
                let at = end.next_multiple_of(ALIGN);
                end = at + len;
                places.push(Place::Inside(at));
                add_entry(&mut head, 0, at as u64, len);
            }
        }
        Self {
            head,
            pickle_at,
            places,
            len: end,
        }
    }
}

fn new_head(count: usize, pickle_len: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD + ENTRY * count);
    head.extend((count as u32).to_le_bytes());
    head.extend(0u32.to_le_bytes());
    head.extend((pickle_len as u64).to_le_bytes());
    head
}

fn add_entry(head: &mut Vec<u8>, segment: u32, offset: u64, len: usize) {
    head.extend(segment.to_le_bytes());
    head.extend(0u32.to_le_bytes());
    head.extend(offset.to_le_bytes());
    head.extend((len as u64).to_le_bytes());
}

/// The beginning of a parcel, pickle included, whose one buffer of `len` bytes already lies at
/// offset `at` of it.
pub fn head_before(pickle: &[u8], at: u64, len: usize) -> Vec<u8> {
    let mut head = new_head(1, pickle.len());
    add_entry(&mut head, 0, at, len);
    head.extend(pickle);
    head
}

/// A parcel that arrived: every range lies in its bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Parcel {
    /// Where the pickle lies.
    pub pickle: Range<usize>,
    /// Place and length of each buffer.
    pub buffers: Vec<(Place, usize)>,
}

impl Parcel {
    /// Read the head of `bytes`; `None` when it is damaged.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| -> Option<u64> {
            let bytes = bytes.get(at..at.checked_add(8)?)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let inside = |at: usize, len: usize| {
            let range = at..at.checked_add(len)?;
            (range.end <= bytes.len()).then_some(range)
        };
        let count = word(0)? as u32 as usize;
        let entries = inside(HEAD, count.checked_mul(ENTRY)?)?;
        let pickle = inside(entries.end, usize::try_from(word(8)?).ok()?)?;
        let mut buffers = Vec::with_capacity(count);
        for entry in entries.step_by(ENTRY) {
            let (segment, offset) = (word(entry)? as u32, word(entry + 8)?);
            let len = usize::try_from(word(entry + 16)?).ok()?;
            let place = if segment == 0 {
                Place::Inside(inside(usize::try_from(offset).ok()?, len)?.start)
            } else {
                Place::Elsewhere { segment, offset }
            };
            buffers.push((place, len));
        }
        Some(Self { pickle, buffers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The length of a pickle; length of each buffer and where it lies, if elsewhere.
    type Parts = (usize, Vec<(usize, Option<(u32, u64)>)>);

    fn parts() -> impl Strategy<Value = Parts> {
        let elsewhere = prop::option::of((1..u32::MAX, any::<u64>()));
        (
            0..300usize,
            prop::collection::vec((0..300usize, elsewhere), 0..5),
        )
    }

    fn written((pickle, buffers): &Parts) -> (Layout, Vec<u8>) {
        let lengths = buffers.iter().map(|(len, _)| *len);
        let layout = Layout::new(*pickle, lengths, |index| buffers[index].1);
        let mut bytes = layout.head.clone();
        bytes.resize(layout.len, 0);
        (layout, bytes)
    }

    fn check(parcel: &Parcel, len: usize) {
        assert!(parcel.pickle.start <= parcel.pickle.end && parcel.pickle.end <= len);
        for (place, length) in &parcel.buffers {
            if let Place::Inside(at) = place {
                assert!(at.checked_add(*length).is_some_and(|end| end <= len));
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_laid_out_is_read(parts in parts()) {
            let (layout, bytes) = written(&parts);
            let parcel = Parcel::read(&bytes).unwrap();
            check(&parcel, bytes.len());
            let pickle = layout.pickle_at..layout.pickle_at + parts.0;
            prop_assert_eq!(parcel.pickle, pickle.clone());
            let mut end = pickle.end;
            for ((place, len), planned) in parcel.buffers.into_iter().zip(&layout.places) {
                prop_assert_eq!(place, *planned);
                if let Place::Inside(at) = place {
                    prop_assert!(at >= end && at % ALIGN == 0, "parts overlap");
                    end = at + len;
                }
            }
        }

        #[test]
        fn random_bytes_are_refused_or_lie_inside(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(parcel) = Parcel::read(&bytes) {
                check(&parcel, bytes.len());
            }
        }

        #[test]
        fn a_damaged_parcel_is_refused_or_lies_inside(
            parts in parts(),
            changes in prop::collection::vec((0..100usize, any::<u8>()), 1..6),
            cut in 0..200usize,
        ) {
            let (_, mut bytes) = written(&parts);
            let len = bytes.len();
            for (at, byte) in changes {
                bytes[at % len] = byte;
            }
            bytes.truncate(len - cut % len);
            if let Some(parcel) = Parcel::read(&bytes) {
                check(&parcel, bytes.len());
            }
        }
    }

    #[test]
    fn a_block_that_was_filled_in_place_gets_its_head_before_it() {
        let mut bytes = head_before(b"pickle", 64, 8);
        bytes.resize(72, 0);
        let parcel = Parcel::read(&bytes).unwrap();
        assert_eq!(&bytes[parcel.pickle], b"pickle");
        assert_eq!(parcel.buffers, [(Place::Inside(64), 8)]);
    }
}
