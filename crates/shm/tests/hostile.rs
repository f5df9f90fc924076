//! Whatever lies in a memory file, attaching to it is an error or sound: never a crash.
#![cfg(not(loom))]

use bireme_shm::control::{Control, Location};
use bireme_shm::os::memory::{self, Mapping, Sharing};
use bireme_shm::park;
use bireme_shm::prim::Ordering;
use bireme_shm::queue;
use bireme_shm::segment::{HEADER_BYTES, Segment};
use bireme_shm::view::{View, bitmap_words};
use proptest::prelude::*;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

/// A sealed memory file of `size` bytes that begins with `bytes`.
fn file(size: usize, bytes: &[u8]) -> OwnedFd {
    let fd = memory::create("bireme-test", size).unwrap();
    let map = Mapping::new(&fd, 0, size, Sharing::Shared).unwrap();
    for (at, byte) in bytes.iter().take(size).enumerate() {
        // SAFETY: inside the mapping, which only this test has.
        unsafe { map.base().add(at).write_volatile(*byte) };
    }
    fd
}

/// A memory file like a real control segment, with some bytes of its header changed.
fn nearly(slots: usize, rows: usize, changes: &[(usize, u8)]) -> OwnedFd {
    let control = Control::create(slots, rows, 1, 0).unwrap();
    let fd = control.fd().try_clone_to_owned().unwrap();
    let map = Mapping::new(&fd, 0, 64, Sharing::Shared).unwrap();
    for (at, byte) in changes {
        // SAFETY: inside the mapping of the first 64 bytes.
        unsafe { map.base().add(at % 64).write_volatile(*byte) };
    }
    fd
}

/// Look at everything that an attached segment offers.
fn walk(control: &Control) {
    for index in 0..control.slots() {
        let slot = control.slot(index);
        let location = slot.args_at.load();
        let _ = slot.read_inline_args(location.len);
        let _ = slot.read_inline_result(location.len);
        let _ = queue::is_done(control, index as u32);
    }
    let _ = control
        .row(control.rows() - 1)
        .flags
        .load(Ordering::Relaxed);
    let _ = queue::claim(control, 0);
    queue::take_done(control, |_| {});
}

proptest! {
    #[test]
    fn random_files_are_refused(size in 0usize..20_000, bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(Control::attach(file(size, &bytes)).is_err());
    }

    #[test]
    fn a_changed_header_is_refused_or_harmless(
        slots in 0u32..4,
        rows in 1usize..4,
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 0..4),
    ) {
        if let Ok(control) = Control::attach(nearly(1 << slots, rows, &changes)) {
            prop_assert_eq!((control.slots(), control.rows()), (1 << slots, rows));
            walk(&control);
        }
    }

    #[test]
    fn random_words_in_a_real_segment_are_harmless(words in prop::collection::vec(any::<u64>(), 8)) {
        let control = Control::create(8, 2, 1, 0).unwrap();
        for (index, bits) in words.iter().enumerate() {
            control.word(index).store(*bits, Ordering::Relaxed);
        }
        control.tail().store(words[0] >> 1, Ordering::Relaxed);
        control.head().store(words[1] >> 1, Ordering::Relaxed);
        control.slot(0).args_at.store(Location { len: words[2], ..Location::default() });
        walk(&control);
    }

    #[test]
    fn sleepers_that_no_row_stands_for_are_nobody(rows in 1usize..130, bits: [u64; 3]) {
        let control = Control::create(8, rows, 1, 0).unwrap();
        let words = bitmap_words(rows);
        for (word, bits) in bits.iter().enumerate().take(words) {
            control.sleepers(word).store(*bits, Ordering::Relaxed);
        }
        let sleep = |row: &usize| bits[row / 64] & 1 << (row % 64) != 0;
        let asleep = (0..rows).filter(sleep).count();
        prop_assert_eq!(park::count_sleepers(&control) as usize, asleep);
        prop_assert_eq!(park::someone_idle(&control), asleep != 0);
        for _ in 0..asleep {
            prop_assert!(park::wake_one(&control));
        }
        prop_assert!(!park::wake_one(&control));
    }

    #[test]
    fn blocks_of_a_segment_lie_inside_it(size in 0usize..100_000, offset: u64, len: u64) {
        match Segment::attach(9, file(size, &[])) {
            Err(_) => prop_assert!((size as u64) < HEADER_BYTES),
            Ok(segment) => for (offset, len) in [(offset, len), (offset % 200_000, len % 200_000)] {
                let inside = offset >= HEADER_BYTES
                    && offset.checked_add(len).is_some_and(|end| end <= size as u64);
                prop_assert_eq!(segment.block(offset, len).is_some(), inside);
                if offset % 4096 != 0 {
                    prop_assert!(segment.private_view(offset, len.max(1)).is_err());
                }
            },
        }
    }
}

/// A file that could shrink under the mapping would turn a read into a signal.
#[test]
fn files_that_may_shrink_are_refused() {
    let unsealed = || {
        // SAFETY: the name is a constant with its zero; the descriptor is new and ours.
        unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"bireme-test".as_ptr(), 0)) }
    };
    assert!(!memory::is_sealed(unsealed().as_fd()));
    assert!(Control::attach(unsealed()).is_err());
    assert!(Segment::attach(1, unsealed()).is_err());
}
