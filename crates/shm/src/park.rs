//! Sleeping and waking, between processes.
//!
//! A sleeper *announces* itself, looks again, and only then sleeps; a waker
//! *publishes*, fences, looks for announced sleepers, and makes the system call
//! only then. Both sides use sequentially consistent operations on the two
//! words that cross (what is published; who announced), so at least one of them
//! sees the other: no wake is lost. A wake may die with its bearer (the waker
//! cleared the announcement and was killed before the call): after any death
//! the client wakes everybody, and every sleep of the client is sliced.
//!
//! Three kinds of waiting:
//! * an idle worker spins (at most one does, and only when a core is free), then sleeps on its row's word;
//! * the client's waiters sleep on one word that holds their [`Wish`];
//! * a woken worker that sees more work wakes the next one, so that a burst costs its
//!   submitter one call.

use crate::fail::{self, Point};
use crate::prim::{Ordering, fence, spin_hint};
use crate::queue;
use crate::view::{View, bitmap_words};
use std::time::Duration;

/// What the client wants to be woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nobody waits.
    Nothing,
    /// Wake at every finished task.
    Any,
    /// Wake when the queue has run dry.
    Dry,
    /// Wake when this slot is done, or the queue has run dry.
    Slot(u32),
}

impl Wish {
    const fn pack(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Any => 1,
            Self::Dry => 2,
            Self::Slot(index) => index + 16,
        }
    }

    const fn unpack(bits: u32) -> Self {
        match bits {
            0 => Self::Nothing,
            1 => Self::Any,
            2..=15 => Self::Dry,
            _ => Self::Slot(bits - 16),
        }
    }
}

/// Wake one sleeping worker, unless one is spinning and will see the work itself.
///
/// Call after publishing. Returns whether a system call was made.
pub fn wake_one<V: View>(view: &V) -> bool {
    // SYNC(park): with the announcement in `sleep`: publish, fence, look.
    fence(Ordering::SeqCst);
    view.spinner().load(Ordering::SeqCst) == 0 && wake_sleeper(view)
}

/// Wake one sleeping worker though another one spins: for a tick that finds work queued.
///
/// A spinner claims within microseconds, so it may be stopped, and then submitters would wake nobody
/// until it goes on. The role may be taken from anybody at any time: it only saves wakes. One that lives
/// finds at the end of its spin that it has no role to give up, and looks at the queue all the same.
pub fn wake_past_spinner<V: View>(view: &V) -> bool {
    // SYNC(park): whoever saw the role taken, and woke nobody, published before this.
    view.spinner().swap(0, Ordering::SeqCst);
    wake_one(view)
}

fn wake_sleeper<V: View>(view: &V) -> bool {
    for word in 0..bitmap_words(view.rows()) {
        let mut bits = sleepers(view, word, Ordering::SeqCst);
        while bits != 0 {
            let bit = bits.trailing_zeros();
            let mask = 1u64 << bit;
            // Whoever clears the bit owes the wake.
            if view.sleepers(word).fetch_and(!mask, Ordering::SeqCst) & mask != 0 {
                fail::point(Point::WakeWord);
                wake_row(view, word * 64 + bit as usize);
                return true;
            }
            bits &= !mask;
        }
    }
    false
}

/// Word `word` of the sleepers bitmap, without bits that stand for no row: any process may have set them.
fn sleepers<V: View>(view: &V, word: usize, order: Ordering) -> u64 {
    let rows = view.rows() - word * 64;
    let valid = u64::MAX >> 64usize.saturating_sub(rows);
    view.sleepers(word).load(order) & valid
}

/// Wake row `row`, whether or not it announced itself.
pub fn wake_row<V: View>(view: &V, row: usize) {
    let word = view.park(row);
    word.store(0, Ordering::SeqCst);
    fail::point(Point::WakeCall);
    view.futex_wake(word, 1);
}

/// Wake every worker: after a death, at new orders.
pub fn wake_all<V: View>(view: &V) {
    // SYNC(park): with the announcement in `sleep`: whoever goes to sleep after its word was
    // cleared below sees what was published (a task, an order) before this call.
    fence(Ordering::SeqCst);
    for word in 0..bitmap_words(view.rows()) {
        view.sleepers(word).store(0, Ordering::SeqCst);
    }
    for row in 0..view.rows() {
        wake_row(view, row);
    }
}

/// Sleep until woken: for an idle worker that found no work.
///
/// Returns at once when `still_idle` says that there is something after all.
/// `still_idle` is asked after the announcement. Returns after `timeout`, or spuriously.
pub fn sleep<V: View>(
    view: &V,
    row: usize,
    timeout: Option<Duration>,
    still_idle: impl Fn() -> bool,
) {
    let word = view.park(row);
    let (bitmap, mask) = (view.sleepers(row / 64), 1u64 << (row % 64));
    fail::point(Point::SleepWord);
    word.store(1, Ordering::SeqCst);
    fail::point(Point::SleepBit);
    bitmap.fetch_or(mask, Ordering::SeqCst);
    fail::point(Point::SleepLook);
    // SYNC(park): announce, fence, look again; pairs with `wake_one`.
    fence(Ordering::SeqCst);
    if still_idle() {
        view.futex_wait(word, 1, timeout);
    }
    fail::point(Point::SleepEnd);
    bitmap.fetch_and(!mask, Ordering::SeqCst);
    word.store(0, Ordering::SeqCst);
}

/// Whether a worker announced that it sleeps, or spins for want of work.
pub fn someone_idle<V: View>(view: &V) -> bool {
    // RELAXED: a guess.
    (0..bitmap_words(view.rows())).any(|word| sleepers(view, word, Ordering::Relaxed) != 0)
        || spins(view)
}

/// Whether a worker spins for want of work.
pub fn spins<V: View>(view: &V) -> bool {
    view.spinner().load(Ordering::Relaxed) != 0
}

/// How many workers announced that they sleep.
pub fn count_sleepers<V: View>(view: &V) -> u32 {
    (0..bitmap_words(view.rows()))
        .map(|word| sleepers(view, word, Ordering::Relaxed).count_ones()) // RELAXED: a guess
        .sum()
}

/// Spin as the pool's one spinner until `found` or `rounds` are over.
///
/// Returns `None` when another worker holds the role, else whether it was found.
/// Giving the role up is sequentially consistent and comes before the caller's
/// next look at the queue: a submitter that still saw the role taken, and
/// therefore woke nobody, has published before that look.
pub fn spin<V: View>(
    view: &V,
    row: usize,
    rounds: u32,
    mut found: impl FnMut() -> bool,
) -> Option<bool> {
    let me = row as u32 + 1;
    fail::point(Point::SpinTake);
    view.spinner()
        .compare_exchange(0, me, Ordering::SeqCst, Ordering::Relaxed)
        .ok()?;
    let mut hit = false;
    for _ in 0..rounds {
        if found() {
            hit = true;
            break;
        }
        spin_hint();
    }
    fail::point(Point::SpinGive);
    // RELAXED on failure: the role was taken away. The fence orders that with the next look as well.
    let _ = view
        .spinner()
        .compare_exchange(me, 0, Ordering::SeqCst, Ordering::Relaxed);
    fail::point(Point::SpinLook);
    fence(Ordering::SeqCst);
    Some(hit)
}

/// Take the spinner's role from a dead row.
pub fn release_spinner<V: View>(view: &V, row: usize) {
    let _ = view
        .spinner()
        .compare_exchange(row as u32 + 1, 0, Ordering::SeqCst, Ordering::Relaxed);
}

/// Tell the client's waiters, if their wish is met: `finished` is done and marked.
pub fn notify_client<V: View>(view: &V, finished: u32) {
    // SYNC(wish): the done mark is set before; pairs with `client_sleep`.
    fence(Ordering::SeqCst);
    let wish = view.client_wish().load(Ordering::SeqCst);
    let met = match Wish::unpack(wish) {
        Wish::Nothing => false,
        Wish::Any => true,
        Wish::Slot(index) if index == finished => true,
        Wish::Dry | Wish::Slot(_) => queue::looks_empty(view),
    };
    if met {
        wake_client(view);
    }
}

/// Wake all of the client's waiters.
pub fn wake_client<V: View>(view: &V) {
    let word = view.client_wish();
    if word.swap(0, Ordering::SeqCst) != 0 {
        fail::point(Point::NotifyCall);
        view.futex_wake(word, u32::MAX >> 1);
    }
}

/// Announce `wish`; a waiter with another wish makes it `Any`. Returns the word to sleep on.
pub fn announce_wish<V: View>(view: &V, wish: Wish) -> u32 {
    let word = view.client_wish();
    let mine = wish.pack();
    let mut now = word.load(Ordering::Relaxed); // RELAXED: the CAS checks it
    loop {
        let next = if now == 0 || now == mine {
            mine
        } else {
            Wish::Any.pack()
        };
        match word.compare_exchange_weak(now, next, Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => return next,
            Err(seen) => now = seen,
        }
    }
}

/// Sleep as a waiter of the client, unless `wish` is met already.
///
/// `announced` comes from [`announce_wish`] for the same wish. `Dry` is a guess
/// about other processes: its sleeps must be short.
pub fn client_sleep<V: View>(view: &V, wish: Wish, announced: u32, timeout: Duration) {
    // SYNC(wish): announced, fence, look; pairs with `notify_client`.
    fence(Ordering::SeqCst);
    let met = match wish {
        Wish::Nothing => true,
        Wish::Any => queue::any_done(view),
        Wish::Dry => queue::any_done(view) && queue::looks_empty(view),
        Wish::Slot(index) => queue::is_done(view, index),
    };
    if !met {
        view.futex_wait(view.client_wish(), announced, Some(timeout));
    }
}
