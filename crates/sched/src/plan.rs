//! How the items of a `map` are cut into chunks.
//!
//! An explicit chunk size is honoured exactly. Without one the plan is *factoring* (Hummel,
//! Schonberg & Flynn 1992), the batched form of *guided self-scheduling* (Polychronopoulos & Kuck
//! 1987): chunks are handed out in rounds of one per worker, and each round covers about half of
//! what remains. Early chunks are large, so that tiny items amortise the cost of a claim; late ones
//! are small, so that skewed items still end together. Where plain guided self-scheduling gives
//! each worker its full share of the remainder, factoring holds half of it back: it suffers less
//! when the early items are the expensive ones, for about half as many chunks again. On top of it
//! no chunk exceeds `ceil(len / (4 * workers))`, the size that `multiprocessing` would have chosen:
//! never a coarser grain than users are accustomed to.
//!
//! - C. D. Polychronopoulos, D. J. Kuck: Guided self-scheduling: a practical scheduling scheme for
//!   parallel supercomputers. IEEE Trans. Computers C-36(12), 1987.
//! - S. F. Hummel, E. Schonberg, L. E. Flynn: Factoring: a method for scheduling parallel loops.
//!   CACM 35(8), 1992.

use std::iter::FusedIterator;
use std::ops::Range;

/// The consecutive chunks of a range of items: every index exactly once, in order, no chunk empty.
///
/// # Examples
///
/// ```
/// use bireme_sched::ChunkPlan;
///
/// let sizes = |plan: ChunkPlan| plan.map(|chunk| chunk.end - chunk.start).collect::<Vec<_>>();
/// assert_eq!(sizes(ChunkPlan::explicit(14, 3)), [3, 3, 3, 3, 2]);
/// assert_eq!(sizes(ChunkPlan::guided(100, 2)), [13, 13, 13, 13, 12, 12, 6, 6, 3, 3, 2, 2, 1, 1]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkPlan {
    next: u64,
    end: u64,
    rule: Rule,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Fixed {
        size: u64,
    },
    Factoring {
        workers: u64,
        cap: u64,
        size: u64,
        left_in_round: u64,
    },
}

impl ChunkPlan {
    /// Cuts `0..len` into chunks of exactly `chunksize` items; the last may be shorter. A
    /// `chunksize` of 0 counts as 1.
    #[must_use]
    pub fn explicit(len: u64, chunksize: u64) -> Self {
        Self {
            next: 0,
            end: len,
            rule: Rule::Fixed {
                size: chunksize.max(1),
            },
        }
    }

    /// Cuts `0..len` into shrinking chunks for `workers` workers that take them one by one.
    ///
    /// No chunk is larger than [`default_chunksize`], none is larger than the one before it, and
    /// there are at most `workers * (log2(len) + 3)` of them. `workers` of 0 counts as 1.
    #[must_use]
    pub fn guided(len: u64, workers: u32) -> Self {
        Self::guided_over(0..len, workers)
    }

    fn guided_over(items: Range<u64>, workers: u32) -> Self {
        let end = items.end.max(items.start);
        let cap = default_chunksize(end - items.start, workers);
        let workers = u64::from(workers.max(1));
        Self {
            next: items.start,
            end,
            rule: Rule::Factoring {
                workers,
                cap,
                size: cap,
                left_in_round: 0,
            },
        }
    }

    /// Returns the items that no chunk has covered yet.
    ///
    /// ```
    /// let mut plan = bireme_sched::ChunkPlan::explicit(10, 4);
    /// plan.next();
    /// assert_eq!(plan.remaining(), 4..10);
    /// ```
    #[must_use]
    pub fn remaining(&self) -> Range<u64> {
        self.next..self.end
    }

    /// Checks the plan's invariants.
    ///
    /// # Panics
    ///
    /// When one is broken, which is a bug here.
    pub fn sanity_check(&self) {
        assert!(self.next <= self.end, "the plan ran past its end: {self:?}");
        match self.rule {
            Rule::Fixed { size } => assert!(size > 0, "a chunk size of nothing: {self:?}"),
            Rule::Factoring {
                workers,
                cap,
                size,
                left_in_round,
            } => {
                assert!(
                    0 < size && size <= cap,
                    "chunk size out of bounds: {self:?}"
                );
                assert!(
                    left_in_round < workers,
                    "a round has one chunk a worker: {self:?}"
                );
            }
        }
    }
}

impl Iterator for ChunkPlan {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        let remaining = self.end - self.next;
        if remaining == 0 {
            return None;
        }
        let size = match &mut self.rule {
            Rule::Fixed { size } => *size,
            Rule::Factoring {
                workers,
                cap,
                size,
                left_in_round,
            } => {
                if *left_in_round == 0 {
                    *left_in_round = *workers;
                    *size = remaining.div_ceil(2 * *workers).min(*cap);
                }
                *left_in_round -= 1;
                *size
            }
        };
        let first = self.next;
        self.next += size.min(remaining);
        Some(first..self.next)
    }

    /// Exact for an explicit chunk size, a lower bound for a guided plan.
    fn size_hint(&self) -> (usize, Option<usize>) {
        let (largest, exact) = match self.rule {
            Rule::Fixed { size } => (size, true),
            Rule::Factoring { cap, .. } => (cap, false),
        };
        let chunks = usize::try_from((self.end - self.next).div_ceil(largest));
        (chunks.unwrap_or(usize::MAX), chunks.ok().filter(|_| exact))
    }
}

impl FusedIterator for ChunkPlan {}

/// Returns the chunk size that `multiprocessing.Pool.map` takes by default: `ceil(len / (4 *
/// workers))`, at least 1.
///
/// ```
/// use bireme_sched::plan::default_chunksize;
///
/// assert_eq!(default_chunksize(1_000_000, 2), 125_000);
/// assert_eq!(default_chunksize(0, 2), 1);
/// ```
#[must_use]
pub fn default_chunksize(len: u64, workers: u32) -> u64 {
    len.div_ceil(4 * u64::from(workers.max(1))).max(1)
}

/// Cuts the unstarted rest of a guided chunk, handed back because other workers ran out of work,
/// for all `workers`.
///
/// The rest is planned afresh as in [`ChunkPlan::guided`]: at least `min(workers, rest.len())`
/// pieces, and a balanced end without another hand-back in the ordinary case. An inverted range
/// counts as empty.
///
/// ```
/// use bireme_sched::plan::split_remainder;
///
/// assert_eq!(split_remainder(90..94, 2).collect::<Vec<_>>(), [90..91, 91..92, 92..93, 93..94]);
/// ```
pub fn split_remainder(rest: Range<u64>, workers: u32) -> impl Iterator<Item = Range<u64>> {
    ChunkPlan::guided_over(rest, workers)
}
