//! The state word of a task slot: who may do what with it, in one `u64`.
//!
//! ```text
//!  63            32 31        16 15       8 7        0
//! +----------------+------------+----------+----------+
//! |  generation    |  worker    |  state   |  flags   |
//! +----------------+------------+----------+----------+
//! ```
//!
//! The word is the truth about a slot; every queue position, bitmap and counter
//! beside it is a hint that may be late. The transitions and who makes them:
//!
//! ```text
//! Free -> Filling -> Queued            the client (only one: plain stores)
//! Queued -> Claimed(w) -> Running(w)   worker w (CAS, CAS)
//! Running(w) -> Done(w)                worker w (CAS; fails once condemned)
//! Running(w) -> Condemned(w)           the client, before a signal that kills
//! Queued -> Collecting                 the client takes a task back
//! Done -> Collecting                   whoever delivers the result, once
//! Claimed|Running|Condemned -> Collecting   the client, after w is dead
//! Collecting -> Free                   the client; the generation grows
//! ```

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Nobody's; only the client may take it.
    Free = 0,
    /// The client is writing the task.
    Filling = 1,
    /// Ready to be claimed by any worker.
    Queued = 2,
    /// A worker has it and has not looked at the payload yet.
    Claimed = 3,
    /// A worker is running it.
    Running = 4,
    /// The result is in place.
    Done = 5,
    /// The client is taking the result out.
    Collecting = 6,
    /// The client has decided to kill the worker that runs it.
    Condemned = 7,
}

impl State {
    const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Free,
            1 => Self::Filling,
            2 => Self::Queued,
            3 => Self::Claimed,
            4 => Self::Running,
            5 => Self::Done,
            6 => Self::Collecting,
            7 => Self::Condemned,
            _ => return None,
        })
    }
}

/// Set in the flags while a running task is asked to stop.
pub const FLAG_CANCEL: u8 = 1;

/// A decoded state word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// Grows each time the slot is used again; wraps.
    pub generation: u32,
    /// Row of the worker that holds the slot, meaningful from `Claimed` to `Done`.
    pub worker: u16,
    /// The state.
    pub state: State,
    /// `FLAG_*` bits.
    pub flags: u8,
}

impl Word {
    /// A word with no worker and no flags.
    pub const fn new(generation: u32, state: State) -> Self {
        Self {
            generation,
            worker: 0,
            state,
            flags: 0,
        }
    }

    /// Pack into the shared form.
    pub const fn pack(self) -> u64 {
        ((self.generation as u64) << 32)
            | ((self.worker as u64) << 16)
            | ((self.state as u64) << 8)
            | self.flags as u64
    }

    /// Unpack a word read from shared memory; `None` if its state is none of ours.
    pub const fn unpack(bits: u64) -> Option<Self> {
        let Some(state) = State::from_bits((bits >> 8) as u8) else {
            return None;
        };
        Some(Self {
            generation: (bits >> 32) as u32,
            worker: (bits >> 16) as u16,
            state,
            flags: bits as u8,
        })
    }

    /// The same word in another state.
    #[must_use]
    pub const fn to(self, state: State) -> Self {
        Self { state, ..self }
    }

    /// The same word held by `worker`.
    #[must_use]
    pub const fn held_by(self, worker: u16) -> Self {
        Self { worker, ..self }
    }

    /// Whether the task was asked to stop.
    pub const fn cancelled(self) -> bool {
        self.flags & FLAG_CANCEL != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_word_survives_packing(generation: u32, worker: u16, state in 0u8..8, flags: u8) {
            let word = Word { generation, worker, state: State::from_bits(state).unwrap(), flags };
            prop_assert_eq!(Word::unpack(word.pack()), Some(word));
        }

        #[test]
        fn hostile_bits_never_panic(bits: u64) {
            if let Some(word) = Word::unpack(bits) {
                prop_assert_eq!(word.pack(), bits);
            }
        }
    }
}
