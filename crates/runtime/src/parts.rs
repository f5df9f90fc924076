//! Messages of workers that are too long for one packet: cut there, joined here.
//!
//! ```text
//!   nothing ──part──▶ begun ──part──▶ begun ──last part──▶ joined
//!                       └──given up──▶ nothing
//! ```
//!
//! Several may be under way at a time, of threads of a task, or of a signal handler that interrupts the
//! first one; each has a number. A worker that dies leaves them unfinished: they go with its row.

use crate::message::{MAX_BYTES, Message};
use std::collections::HashMap;

/// Longest message, encoded.
const MAX_WHOLE_BYTES: usize = 17 << 20;
/// Of one message in one packet, which the tag and numbers must fit beside.
const PART_BYTES: usize = MAX_BYTES - 16;

/// The packets of message number `of`.
pub(crate) fn packets(message: &Message, of: u32) -> Vec<Vec<u8>> {
    let whole = message.encode();
    if whole.len() <= MAX_BYTES {
        return vec![whole];
    }
    let count = whole.len().div_ceil(PART_BYTES);
    let part = |(index, bytes): (usize, &[u8])| Message::Part {
        of,
        last: u32::from(index + 1 == count),
        bytes: bytes.to_vec(),
    };
    let parts = whole.chunks(PART_BYTES).enumerate().map(part);
    parts.map(|part| part.encode()).collect()
}

/// What one worker has begun to say.
#[derive(Debug, Default)]
pub(crate) struct Parts(HashMap<u32, Vec<u8>>);

impl Parts {
    /// The message that `message` is or completes, if it does.
    pub(crate) fn join(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::Part { of, last, bytes } => {
                let begun = self.0.entry(of).or_default();
                begun.extend_from_slice(&bytes);
                begun.truncate(MAX_WHOLE_BYTES); // ours are shorter
                if last == 0 {
                    return None;
                }
                Message::decode(&self.0.remove(&of)?)
            }
            Message::GivenUp(of) => {
                self.0.remove(&of);
                None
            }
            whole => Some(whole),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Deliver the packets of both, in any order that keeps each one's own.
    fn interleave(
        one: Vec<Vec<u8>>,
        other: Vec<Vec<u8>>,
        turns: &[bool],
        parts: &mut Parts,
    ) -> Vec<Message> {
        let (mut one, mut other) = (one.into_iter(), other.into_iter());
        let mut turns = turns.iter().cycle();
        let mut joined = Vec::new();
        loop {
            let next = match turns.next() {
                Some(true) => one.next().or_else(|| other.next()),
                _ => other.next().or_else(|| one.next()),
            };
            let Some(packet) = next else { return joined };
            assert!(packet.len() <= MAX_BYTES);
            joined.extend(parts.join(Message::decode(&packet).expect("ours")));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whatever_is_said_at_the_same_time_arrives_whole(
            lens in (0..4 * MAX_BYTES, 0..4 * MAX_BYTES),
            turns in prop::collection::vec(any::<bool>(), 1..16),
        ) {
            let log = Message::Log((0..lens.0).map(|at| at as u8).collect());
            let why = Message::InitializerFailed((0..lens.1).map(|at| (at / 7) as u8).collect());
            let mut parts = Parts::default();
            let joined = interleave(packets(&log, 1), packets(&why, 2), &turns, &mut parts);
            prop_assert!(joined.contains(&log) && joined.contains(&why));
            prop_assert_eq!((joined.len(), parts.0.len()), (2, 0));
        }
    }

    #[test]
    fn what_is_given_up_leaves_nothing() {
        let mut parts = Parts::default();
        let packets = packets(&Message::Log(vec![0; 3 * MAX_BYTES]), 5);
        let first = Message::decode(&packets[0]).expect("ours");
        assert_eq!(parts.join(first), None);
        assert_eq!(parts.join(Message::GivenUp(5)), None);
        assert!(parts.0.is_empty());
    }

    #[test]
    fn a_message_without_end_is_bounded() {
        let mut parts = Parts::default();
        let bytes = vec![0; MAX_BYTES];
        for _ in 0..=MAX_WHOLE_BYTES / MAX_BYTES {
            let part = Message::Part {
                of: 1,
                last: 0,
                bytes: bytes.clone(),
            };
            assert_eq!(parts.join(part), None);
        }
        assert!(parts.0[&1].len() <= MAX_WHOLE_BYTES);
    }
}
