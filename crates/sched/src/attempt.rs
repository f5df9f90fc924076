//! What becomes of a chunk of items whose worker died, or had to be killed to stop one of them.
//!
//! The unit of "runs at most once" is the *item*. A dead worker leaves three kinds of items behind:
//!
//! | items | how they are known | no retry left | a retry left |
//! | --- | --- | --- | --- |
//! | before the one in progress | finished, unpublished | [`Fate::Lost`] | again, next attempt |
//! | the one in progress | recorded before it began | `Culprit` or `Stopped` | again, alone |
//! | after it | never started | again, same attempt | again, same attempt |
//!
//! The item in progress runs *alone* the second time: if it kills its worker once more, it takes no
//! neighbour along. A worker that dies between its claim and its first item has run nothing, so the
//! whole chunk goes back at the same attempt; such deaths are counted in [`Attempt::strikes`],
//! because something about the chunk may cause them.
//!
//! The progress is read from shared memory that the dying worker could scribble over. It is clamped
//! to the chunk: a wrong value blames the wrong item, but no item is ever dropped or answered
//! twice.

use std::ops::Range;

/// Deaths between claim and first item after which a chunk is given up.
///
/// The window is microseconds wide and holds no user code: one such death is chance, two are bad
/// luck, three have a cause.
pub const MAX_CLAIMED_DEATHS: u16 = 3;

/// One try at running a chunk of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// First item.
    pub first: u64,
    /// One past the last item.
    pub last: u64,
    /// How often these items were tried before; 0 the first time.
    pub attempt: u16,
    /// How many workers died holding the chunk without having started it.
    pub strikes: u16,
}

impl Attempt {
    /// Returns the first try at `items`.
    #[must_use]
    pub fn new(items: Range<u64>) -> Self {
        Self {
            first: items.start,
            last: items.end,
            attempt: 0,
            strikes: 0,
        }
    }

    /// Returns the items of the chunk.
    #[must_use]
    pub fn items(&self) -> Range<u64> {
        self.first..self.last
    }

    /// The same try for a part of the chunk, which has not been struck yet.
    fn part(&self, items: Range<u64>) -> Self {
        Self {
            attempt: self.attempt,
            ..Self::new(items)
        }
    }
}

/// How often an item may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct RetryPolicy {
    /// Runs allowed after the first; 0 means at most once.
    pub retries: u16,
}

impl RetryPolicy {
    /// The next try at `items`, if the policy allows one.
    fn again(self, chunk: Attempt, items: Range<u64>) -> Option<Fate> {
        (chunk.attempt < self.retries).then(|| {
            Fate::Requeue(Attempt {
                attempt: chunk.attempt + 1,
                ..Attempt::new(items)
            })
        })
    }
}

/// What is to be done with some items of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Append these items to the queue again.
    Requeue(Attempt),
    /// Fail this item: it was running when its worker died.
    Culprit {
        /// The item.
        index: u64,
        /// Its last attempt.
        attempt: u16,
    },
    /// End this item as cancelled or timed out: its worker was killed to stop it.
    Stopped {
        /// The item.
        index: u64,
        /// Its last attempt.
        attempt: u16,
    },
    /// Fail these items through no fault of their own: their results, or the chunk they lay in,
    /// went with the worker.
    Lost {
        /// First item.
        first: u64,
        /// One past the last item.
        last: u64,
    },
}

/// Decides about a chunk whose worker died by itself.
///
/// `started` says whether the worker had touched the chunk's payload, `progress` which item it was
/// in. A progress past the chunk means that the results were being written: the last item counts as
/// the one in progress. The fates cover every item once, in order; an empty chunk has none.
///
/// # Examples
///
/// ```
/// use bireme_sched::attempt::{Attempt, Fate, RetryPolicy, on_worker_death};
///
/// let chunk = Attempt::new(10..20);
/// assert_eq!(
///     on_worker_death(chunk, true, 12, RetryPolicy { retries: 0 }),
///     [
///         Fate::Lost { first: 10, last: 12 },
///         Fate::Culprit { index: 12, attempt: 0 },
///         Fate::Requeue(Attempt::new(13..20)),
///     ]
/// );
/// ```
#[must_use]
pub fn on_worker_death(
    chunk: Attempt,
    started: bool,
    progress: u64,
    policy: RetryPolicy,
) -> Vec<Fate> {
    let culprit = |index| Fate::Culprit {
        index,
        attempt: chunk.attempt,
    };
    if started {
        return divide(chunk, progress, policy, |index| {
            policy
                .again(chunk, index..index + 1)
                .unwrap_or_else(|| culprit(index))
        });
    }
    if chunk.items().is_empty() {
        return Vec::new();
    }
    let strikes = chunk.strikes.saturating_add(1);
    if strikes < MAX_CLAIMED_DEATHS {
        return vec![Fate::Requeue(Attempt { strikes, ..chunk })];
    }
    let rest = chunk.first + 1..chunk.last;
    let lost = (!rest.is_empty()).then_some(Fate::Lost {
        first: rest.start,
        last: rest.end,
    });
    std::iter::once(culprit(chunk.first)).chain(lost).collect()
}

/// Decides about a chunk whose worker was killed because the item in progress was cancelled or ran
/// out of time.
///
/// As [`on_worker_death`] of a started chunk, but the item in progress ends as [`Fate::Stopped`];
/// only when `retry_item` is set and a retry is left does it run again (a timeout that the task's
/// `retry_on` names).
///
/// # Examples
///
/// ```
/// use bireme_sched::attempt::{Attempt, Fate, RetryPolicy, on_item_stopped};
///
/// let once = RetryPolicy { retries: 0 };
/// let fates = on_item_stopped(Attempt::new(7..8), 7, once, false);
/// assert_eq!(fates, [Fate::Stopped { index: 7, attempt: 0 }]);
/// ```
#[must_use]
pub fn on_item_stopped(
    chunk: Attempt,
    progress: u64,
    policy: RetryPolicy,
    retry_item: bool,
) -> Vec<Fate> {
    divide(chunk, progress, policy, |index| {
        retry_item
            .then(|| policy.again(chunk, index..index + 1))
            .flatten()
            .unwrap_or(Fate::Stopped {
                index,
                attempt: chunk.attempt,
            })
    })
}

/// Splits a started chunk at its item in progress, whose fate `in_progress` decides.
fn divide(
    chunk: Attempt,
    progress: u64,
    policy: RetryPolicy,
    in_progress: impl Fn(u64) -> Fate,
) -> Vec<Fate> {
    if chunk.items().is_empty() {
        return Vec::new();
    }
    let index = progress.clamp(chunk.first, chunk.last - 1);
    let (before, after) = (chunk.first..index, index + 1..chunk.last);
    let mut fates = Vec::with_capacity(3);
    if !before.is_empty() {
        let lost = Fate::Lost {
            first: before.start,
            last: before.end,
        };
        fates.push(policy.again(chunk, before).unwrap_or(lost));
    }
    fates.push(in_progress(index));
    if !after.is_empty() {
        fates.push(Fate::Requeue(chunk.part(after)));
    }
    fates
}
