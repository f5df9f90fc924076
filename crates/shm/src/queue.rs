//! The task queue: a ring of slots, published by the client, claimed by one CAS.
//!
//! Queue position `p` is slot `p % slots`. The client stores `Queued` in a free
//! slot's word and then publishes the new tail; a slot that is still busy from
//! an earlier lap is stepped over. A worker walks from the head hint to the tail and
//! takes the first slot whose word it can change from `Queued` to `Claimed(me)`.
//!
//! * Nothing is lost: every `Queued` slot lies within the last `slots` positions
//!   below the tail, and a walk that is late covers just that window.
//! * Nothing is taken twice: the CAS is on the whole word, whose generation
//!   changes with every use.
//! * A claimer that dies after its CAS is named in the word; one that dies
//!   between its CAS and moving the head leaves only a late hint.
//! * The head moves from `h` to `p + 1` by a CAS on `h`, made only after every
//!   position from `h` to `p` was seen not `Queued`; such a position never becomes
//!   `Queued` again (the slot's next use is at a later position).

use crate::fail::{self, Point};
use crate::prim::{AtomicU64, Ordering};
use crate::view::View;
use crate::word::{State, Word};

/// A slot in one of its lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotRef {
    /// Index of the slot.
    pub index: u32,
    /// Its generation.
    pub generation: u32,
}

/// Queue the slot at the current tail, which the caller has filled, and publish it.
///
/// The caller is the client's only submitter (it holds the submission lock)
/// and got `index` from [`next_free`].
pub fn publish<V: View>(view: &V, slot: SlotRef) {
    let tail = view.tail().load(Ordering::Relaxed); // RELAXED: only the submitter writes it
    debug_assert_eq!(tail as usize % view.slots(), slot.index as usize);
    // SYNC(queue): pairs with the acquiring load in `claim`; the slot's payload becomes visible.
    view.word(slot.index as usize).store(
        Word::new(slot.generation, State::Queued).pack(),
        Ordering::Release,
    );
    // SYNC(queue): pairs with the load of the tail in `claim`; the word above becomes visible.
    view.tail().store(tail + 1, Ordering::Release);
}

/// Find the slot at the tail, stepping over busy ones; mark it `Filling`.
///
/// Returns `None` when every slot is in use.
pub fn next_free<V: View>(view: &V) -> Option<SlotRef> {
    let tail = view.tail().load(Ordering::Relaxed); // RELAXED: only the submitter writes it
    for position in tail..tail + view.slots() as u64 {
        let index = position as usize % view.slots();
        let word = view.word(index);
        // RELAXED: only the client makes a slot `Free`, under the same lock.
        if let Some(seen) = Word::unpack(word.load(Ordering::Relaxed))
            && seen.state == State::Free
        {
            view.tail().store(position, Ordering::Release);
            let filling = Word::new(seen.generation, State::Filling).pack();
            word.store(filling, Ordering::Relaxed); // RELAXED: nobody acts on `Filling`
            return Some(SlotRef {
                index: index as u32,
                generation: seen.generation,
            });
        }
    }
    None
}

/// Take the oldest queued task for `worker`, if there is one.
pub fn claim<V: View>(view: &V, worker: u16) -> Option<SlotRef> {
    let slots = view.slots() as u64;
    loop {
        // SYNC(queue): pairs with `publish`.
        let tail = view.tail().load(Ordering::Acquire);
        let head = view.head().load(Ordering::Relaxed); // RELAXED: a hint
        let start = head.max(tail.saturating_sub(slots));
        for position in start..tail {
            let index = (position % slots) as usize;
            if let Some(seen) = claim_slot(view.word(index), worker) {
                fail::point(Point::ClaimHead);
                improve_head(view, head, position + 1);
                return Some(SlotRef {
                    index: index as u32,
                    generation: seen.generation,
                });
            }
        }
        if view.tail().load(Ordering::Acquire) == tail {
            improve_head(view, head, tail.max(head));
            return None;
        }
    }
}

/// Turn a word from `Queued` to `Claimed(worker)`; `None` once it is seen not `Queued`.
fn claim_slot(word: &AtomicU64, worker: u16) -> Option<Word> {
    // SYNC(queue): pairs with the store of `Queued`; acquires the payload.
    let mut bits = word.load(Ordering::Acquire);
    loop {
        let seen = Word::unpack(bits).filter(|seen| seen.state == State::Queued)?;
        let mine = seen.to(State::Claimed).held_by(worker).pack();
        fail::point(Point::ClaimSwap);
        match word.compare_exchange(bits, mine, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => return Some(seen),
            Err(now) => bits = now,
        }
    }
}

/// Move the head hint on from `head`, after every position up to `to` was seen not `Queued`.
fn improve_head<V: View>(view: &V, head: u64, to: u64) {
    // RELAXED: guards nothing; losing this race leaves a hint that another claimer improved.
    let _ = view
        .head()
        .compare_exchange(head, to, Ordering::Relaxed, Ordering::Relaxed);
}

/// Whether a walk from the head would find queued work. May err towards `true`.
pub fn looks_empty<V: View>(view: &V) -> bool {
    let slots = view.slots() as u64;
    let tail = view.tail().load(Ordering::SeqCst);
    let head = view.head().load(Ordering::Relaxed); // RELAXED: a hint
    !(head.max(tail.saturating_sub(slots))..tail).any(|position| {
        let bits = view
            .word((position % slots) as usize)
            .load(Ordering::Acquire);
        Word::unpack(bits).is_some_and(|word| word.state == State::Queued)
    })
}

/// Whether the task in `slot` waits for a worker.
pub fn is_queued<V: View>(view: &V, slot: SlotRef) -> bool {
    let bits = view.word(slot.index as usize).load(Ordering::Acquire);
    Word::unpack(bits)
        .is_some_and(|word| word.state == State::Queued && word.generation == slot.generation)
}

/// Move a slot held by this process from one state to another, keeping flags
/// that the other side may set meanwhile. `Err` gives the word that was found.
pub fn advance<V: View>(view: &V, slot: SlotRef, from: State, to: State) -> Result<Word, Word> {
    let word = view.word(slot.index as usize);
    let mut bits = word.load(Ordering::Relaxed); // RELAXED: the CAS below checks it
    loop {
        let seen = Word::unpack(bits).ok_or(Word::new(0, State::Free))?;
        if seen.generation != slot.generation || seen.state != from {
            return Err(seen);
        }
        // SYNC(slot): releases what this side wrote (a result, a claim), acquires what the other did.
        match word.compare_exchange_weak(
            bits,
            seen.to(to).pack(),
            Ordering::AcqRel,
            Ordering::Relaxed,
        ) {
            Ok(_) => return Ok(seen),
            Err(now) => bits = now,
        }
    }
}

/// Set `flag` on a task that is in `state`; `false` if it is no longer so.
pub fn set_flag<V: View>(view: &V, slot: SlotRef, state: State, flag: u8) -> bool {
    let word = view.word(slot.index as usize);
    let mut bits = word.load(Ordering::Relaxed); // RELAXED: the CAS below checks it
    loop {
        match Word::unpack(bits) {
            Some(seen) if seen.generation == slot.generation && seen.state == state => {
                let flagged = Word {
                    flags: seen.flags | flag,
                    ..seen
                };
                match word.compare_exchange_weak(
                    bits,
                    flagged.pack(),
                    Ordering::AcqRel,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => return true,
                    Err(now) => bits = now,
                }
            }
            _ => return false,
        }
    }
}

/// Say that a slot is done, in the bitmap that the client drains. Idempotent.
pub fn mark_done<V: View>(view: &V, index: u32) {
    let word = index as usize / 64;
    // SYNC(done): pairs with the swap in `take_done`. SeqCst: `park::notify_client` fences after it.
    view.done(word)
        .fetch_or(1 << (index % 64), Ordering::SeqCst);
    fail::point(Point::FinishSummary);
    view.done_summary()
        .fetch_or(1 << (word % 64), Ordering::SeqCst);
}

/// Whether any slot is marked done.
pub fn any_done<V: View>(view: &V) -> bool {
    view.done_summary().load(Ordering::SeqCst) != 0
}

/// Take all done marks and call `each` with the slot indices.
///
/// The summary is cleared before the words: a mark set meanwhile sets it again,
/// so it is seen by this call or the next, never by none.
pub fn take_done<V: View>(view: &V, mut each: impl FnMut(u32)) {
    let summary = view.done_summary().swap(0, Ordering::SeqCst);
    if summary == 0 {
        return;
    }
    for word in 0..crate::view::bitmap_words(view.slots()) {
        if summary & (1 << (word % 64)) == 0 {
            continue;
        }
        let mut bits = view.done(word).swap(0, Ordering::SeqCst);
        while bits != 0 {
            let bit = bits.trailing_zeros();
            bits &= bits - 1;
            each(word as u32 * 64 + bit);
        }
    }
}

/// Whether slot `index` holds a result that [`take_done`] will tell of.
///
/// A worker sets the mark after the word. Between the two (and it may die or be stopped there)
/// there is nothing to take yet: whoever waits goes on waiting, and is told after the mark.
pub fn is_done<V: View>(view: &V, index: u32) -> bool {
    let bits = view
        .word(index as usize % view.slots())
        .load(Ordering::Acquire);
    Word::unpack(bits).is_some_and(|word| word.state == State::Done) && any_done(view)
}
