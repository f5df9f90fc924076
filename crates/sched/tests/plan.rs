//! Properties of the chunk plans.

use bireme_sched::plan::{ChunkPlan, default_chunksize, split_remainder};
use proptest::prelude::*;
use std::ops::Range;

fn sizes(chunks: impl Iterator<Item = Range<u64>>) -> Vec<u64> {
    chunks.map(|chunk| chunk.end - chunk.start).collect()
}

/// Walks a plan, checking it at every step, and returns the sizes of its chunks.
fn check(mut plan: ChunkPlan, len: u64) -> Vec<u64> {
    let (least, most) = plan.size_hint();
    let (mut next, mut sizes) = (0, Vec::new());
    while let Some(chunk) = plan.next() {
        plan.sanity_check();
        assert_eq!(chunk.start, next);
        assert!(chunk.start < chunk.end);
        assert_eq!(plan.remaining(), chunk.end..len);
        sizes.push(chunk.end - chunk.start);
        next = chunk.end;
    }
    assert_eq!(next, len);
    assert_eq!(plan.next(), None);
    assert!(least <= sizes.len() && most.is_none_or(|most| most == sizes.len()));
    sizes
}

#[test]
fn explicit_sizes_are_honoured_exactly() {
    assert_eq!(sizes(ChunkPlan::explicit(14, 3)), [3, 3, 3, 3, 2]);
    assert_eq!(sizes(ChunkPlan::explicit(3, 10)), [3]);
    assert_eq!(sizes(ChunkPlan::explicit(2, 0)), [1, 1]);
    assert_eq!(sizes(ChunkPlan::explicit(0, 3)), []);
}

#[test]
fn the_largest_lengths_do_not_overflow() {
    assert_eq!(
        ChunkPlan::explicit(u64::MAX, u64::MAX).collect::<Vec<_>>(),
        vec![0..u64::MAX]
    );
    check(ChunkPlan::guided(u64::MAX, 3), u64::MAX);
    assert_eq!(ChunkPlan::guided(5, u32::MAX).count(), 5);
    assert_eq!(
        ChunkPlan::guided(5, 0).map(|chunk| chunk.end).last(),
        Some(5)
    );
    assert_eq!(
        split_remainder(u64::MAX - 1..u64::MAX, 9).collect::<Vec<_>>(),
        vec![u64::MAX - 1..u64::MAX]
    );
}

#[test]
fn a_million_items_for_two_workers_take_few_claims() {
    let sizes = check(ChunkPlan::guided(1_000_000, 2), 1_000_000);
    assert_eq!(sizes[..5], [125_000, 125_000, 125_000, 125_000, 125_000]);
    assert!(sizes.len() < 50, "{}", sizes.len());
}

#[test]
fn default_chunksize_is_that_of_multiprocessing() {
    for (len, workers, size) in [
        (0, 4, 1),
        (1, 4, 1),
        (16, 4, 1),
        (17, 4, 2),
        (1000, 3, 84),
        (9, 0, 3),
    ] {
        assert_eq!(
            default_chunksize(len, workers),
            size,
            "{len} items, {workers} workers"
        );
    }
}

proptest! {
    #[test]
    fn explicit_covers_every_index_once(len in 0u64..5_000, chunksize in 1u64..6_000) {
        let sizes = check(ChunkPlan::explicit(len, chunksize), len);
        let whole = sizes.len().saturating_sub(1);
        prop_assert!(sizes[..whole].iter().all(|&size| size == chunksize));
        prop_assert!(sizes.iter().all(|&size| size <= chunksize));
    }

    #[test]
    fn guided_covers_every_index_once_in_few_shrinking_chunks(
        len in 0u64..3_000_000,
        workers in 1u32..65,
    ) {
        let sizes = check(ChunkPlan::guided(len, workers), len);
        prop_assert!(sizes.is_sorted_by(|earlier, later| earlier >= later));
        prop_assert!(sizes.iter().all(|&size| size <= default_chunksize(len, workers)));
        let bound = f64::from(workers) * (f64::from(u32::try_from(len).unwrap() + 1).log2() + 3.0);
        prop_assert!(f64::from(u32::try_from(sizes.len()).unwrap()) <= bound);
    }

    #[test]
    fn a_remainder_has_a_piece_for_everybody(
        start in 0u64..1_000,
        len in 0u64..10_000,
        workers in 1u32..65,
    ) {
        let pieces = split_remainder(start..start + len, workers).collect::<Vec<_>>();
        prop_assert!(pieces.len() as u64 >= len.min(u64::from(workers)));
        prop_assert!(pieces.is_sorted_by(|earlier, later| earlier.end == later.start));
        prop_assert!(pieces.iter().all(|piece| piece.start < piece.end));
        prop_assert_eq!(pieces.first().map_or(start, |piece| piece.start), start);
        prop_assert_eq!(pieces.last().map_or(start, |piece| piece.end), start + len);
    }

    #[test]
    fn an_inverted_remainder_is_empty(
        start in 1u64..1_000,
        back in 1u64..1_000,
        workers in 0u32..4,
    ) {
        prop_assert_eq!(split_remainder(start..start.saturating_sub(back), workers).count(), 0);
    }
}
