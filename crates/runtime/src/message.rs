//! The rare messages between client, template and workers, over control sockets.
//!
//! One message is one packet: a tag byte, the numbers in little-endian order, then
//! free bytes; descriptors travel beside it. What a worker says at length comes in several: see
//! `parts`. Tasks and results never pass here.

use bireme_shm::os::process::End;

/// Largest packet that anyone sends.
pub const MAX_BYTES: usize = 64 << 10;

/// How a process ended, as the template tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Process id.
    pub pid: i32,
    /// Exit code, or minus the signal.
    pub status: i32,
    /// Peak resident memory in KiB.
    pub peak_kib: u64,
}

/// The status of a process whose end somebody else took note of.
pub const UNKNOWN_STATUS: i32 = i32::MIN;

impl Ended {
    /// The message for process `pid`.
    pub fn new(pid: i32, end: End, peak_kib: u64) -> Self {
        let status = match end {
            End::Exited(code) => code,
            End::Signalled(signal) => -signal,
            End::Unknown => UNKNOWN_STATUS,
        };
        Self {
            pid,
            status,
            peak_kib,
        }
    }
}

/// What a worker must know at birth; descriptors: see [`crate::birth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BirthOrder {
    /// Row in the control segment.
    pub row: u32,
    /// Number of this birth within the pool, from 1; also names its segments.
    pub serial: u32,
    /// Claims after which the worker retires; 0 for never.
    pub max_claims: u32,
    /// Nonzero when its output is to be forwarded.
    pub forward_output: u32,
}

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Client to template: serve the pool behind the attached socket.
    Attach,
    /// Client to template: leave once the last of your pools is gone; there will be no more.
    Retire,
    /// Client to template (fork one) or to a fresh interpreter (you are one).
    Birth(BirthOrder),
    /// Template to client: row, pid; the pidfd is attached.
    Born {
        /// Its row.
        row: u32,
        /// Its process id.
        pid: i32,
    },
    /// Template to client: the fork failed with this errno.
    NotBorn {
        /// The row that stays empty.
        row: u32,
        /// The error.
        errno: i32,
    },
    /// Template to client: it cannot fork and never will; it leaves after this.
    Refused {
        /// The row that stays empty.
        row: u32,
        /// Why, in UTF-8.
        why: Vec<u8>,
    },
    /// Template to client: a worker ended and was reaped.
    Ended(Ended),
    /// Either way: here is segment `id`; its descriptor is attached.
    Segment(u32),
    /// Client to worker: here is shared segment `id`; its descriptor is attached.
    Whole {
        /// Its id.
        id: u32,
        /// What the worker releases when it has let go of it.
        ticket: u32,
    },
    /// Client to worker: shared segment `id` will not be named again.
    Forget(u32),
    /// Worker to client: the initializer is done, tasks may come.
    Ready,
    /// Worker to client: the initializer failed; the bytes tell why.
    InitializerFailed(Vec<u8>),
    /// Worker to client: an encoded log record.
    Log(Vec<u8>),
    /// Worker to client: bytes of a message that is too long for one packet.
    Part {
        /// Which message; the worker counts them.
        of: u32,
        /// Nonzero when these are its last.
        last: u32,
        /// The bytes that come next.
        bytes: Vec<u8>,
    },
    /// Worker to client: the rest of this long message will not come.
    GivenUp(u32),
    /// Worker to client: a descendant stays behind when it leaves.
    Stays {
        /// Its process id.
        pid: i32,
        /// When it started, in clock ticks.
        started: u64,
    },
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn u32(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*head))
    }
    fn i32(&mut self) -> Option<i32> {
        self.u32().map(|bits| bits as i32)
    }
}

impl Message {
    /// The packet for this message.
    pub fn encode(&self) -> Vec<u8> {
        let numbers = |tag: u8, numbers: &[u32]| {
            std::iter::once(tag)
                .chain(numbers.iter().flat_map(|n| n.to_le_bytes()))
                .collect::<Vec<u8>>()
        };
        let bytes = |tag: u8, bytes: &[u8]| {
            std::iter::once(tag)
                .chain(bytes.iter().copied())
                .collect::<Vec<u8>>()
        };
        match self {
            Self::Attach => vec![0],
            Self::Birth(order) => numbers(
                1,
                &[
                    order.row,
                    order.serial,
                    order.max_claims,
                    order.forward_output,
                ],
            ),
            Self::Born { row, pid } => numbers(2, &[*row, *pid as u32]),
            Self::NotBorn { row, errno } => numbers(3, &[*row, *errno as u32]),
            Self::Ended(Ended {
                pid,
                status,
                peak_kib,
            }) => numbers(
                4,
                &[
                    *pid as u32,
                    *status as u32,
                    (*peak_kib).min(u64::from(u32::MAX)) as u32,
                ],
            ),
            Self::Segment(id) => numbers(5, &[*id]),
            Self::Forget(id) => numbers(6, &[*id]),
            Self::Ready => vec![7],
            Self::InitializerFailed(text) => bytes(8, text),
            Self::Log(record) => bytes(9, record),
            Self::Whole { id, ticket } => numbers(10, &[*id, *ticket]),
            Self::Refused { row, why } => [numbers(11, &[*row]), why.clone()].concat(),
            Self::Part { of, last, bytes } => [numbers(12, &[*of, *last]), bytes.clone()].concat(),
            Self::GivenUp(of) => numbers(13, &[*of]),
            Self::Retire => vec![14],
            Self::Stays { pid, started } => {
                numbers(15, &[*pid as u32, *started as u32, (*started >> 32) as u32])
            }
        }
    }

    /// The message in a packet; `None` when it is none of ours.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let (&tag, rest) = packet.split_first()?;
        let mut read = Reader(rest);
        Some(match tag {
            0 => Self::Attach,
            1 => Self::Birth(BirthOrder {
                row: read.u32()?,
                serial: read.u32()?,
                max_claims: read.u32()?,
                forward_output: read.u32()?,
            }),
            2 => Self::Born {
                row: read.u32()?,
                pid: read.i32()?,
            },
            3 => Self::NotBorn {
                row: read.u32()?,
                errno: read.i32()?,
            },
            4 => Self::Ended(Ended {
                pid: read.i32()?,
                status: read.i32()?,
                peak_kib: u64::from(read.u32()?),
            }),
            5 => Self::Segment(read.u32()?),
            6 => Self::Forget(read.u32()?),
            7 => Self::Ready,
            8 => Self::InitializerFailed(rest.to_vec()),
            9 => Self::Log(rest.to_vec()),
            10 => Self::Whole {
                id: read.u32()?,
                ticket: read.u32()?,
            },
            11 => Self::Refused {
                row: read.u32()?,
                why: read.0.to_vec(),
            },
            12 => Self::Part {
                of: read.u32()?,
                last: read.u32()?,
                bytes: read.0.to_vec(),
            },
            13 => Self::GivenUp(read.u32()?),
            14 => Self::Retire,
            15 => Self::Stays {
                pid: read.i32()?,
                started: u64::from(read.u32()?) | u64::from(read.u32()?) << 32,
            },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hostile_packets_are_refused_or_understood(packet in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(message) = Message::decode(&packet) {
                prop_assert_eq!(Message::decode(&message.encode()), Some(message));
            }
        }
    }

    #[test]
    fn messages_survive_the_wire() {
        for message in [
            Message::Attach,
            Message::Retire,
            Message::Birth(BirthOrder {
                row: 1,
                serial: 2,
                max_claims: 3,
                forward_output: 1,
            }),
            Message::Born { row: 1, pid: 77 },
            Message::NotBorn { row: 1, errno: 11 },
            Message::Ended(Ended {
                pid: 5,
                status: -9,
                peak_kib: 10,
            }),
            Message::Segment(8),
            Message::Whole { id: 8, ticket: 3 },
            Message::Forget(8),
            Message::Ready,
            Message::InitializerFailed(b"why".to_vec()),
            Message::Log(b"record".to_vec()),
            Message::Part {
                of: 3,
                last: 1,
                bytes: b"end".to_vec(),
            },
            Message::GivenUp(3),
            Message::Stays {
                pid: 7,
                started: 1 << 40,
            },
            Message::Refused {
                row: 1,
                why: b"why".to_vec(),
            },
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }
}
