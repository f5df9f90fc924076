//! A worker as the client knows it, and what the client writes to it.

use crate::lines::Lines;
use crate::message::{Ended, Message};
use crate::parts::Parts;
use bireme_shm::os::socket;
use bireme_shm::segment::Segment;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A worker as the client knows it.
pub(super) struct Worker {
    pub(super) serial: u32,
    pub(super) ordered_ns: u64,
    /// The same in clock ticks: no process of its is older.
    pub(super) since: u64,
    pub(super) pid: i32,
    /// When its template died without having told of it: it may live, and its socket tells its end.
    pub(super) ghost_since_ns: Option<u64>,
    /// The connection to the template that was asked for it, and reaps it.
    pub(super) template: Option<Arc<OwnedFd>>,
    pub(super) pidfd: Option<Arc<OwnedFd>>,
    /// When it said that tasks may come.
    pub(super) ready_ns: Option<u64>,
    pub(super) initializer_failed: bool,
    /// When its control socket closed: it is ending, or it has become another program.
    pub(super) deaf_since_ns: Option<u64>,
    /// When its descriptor told its end. It is buried once its certificate is there, or not awaited any more.
    pub(super) dead_since_ns: Option<u64>,
    /// Long messages that it has not finished.
    pub(super) parts: Parts,
    /// The program that it has become.
    pub(super) became: Option<String>,
    pub(super) socket: Arc<OwnedFd>,
    /// The number of the socket's other end, which only it and its forks hold.
    pub(super) peer_inode: u64,
    /// Its standard output and error, until it closes them.
    pub(super) streams: [(Option<Arc<OwnedFd>>, Lines); 2],
    pub(super) story: OwnedFd,
    pub(super) outbox: VecDeque<Letter>,
    pub(super) ended: Option<Ended>,
    /// Its descendants when last seen, with their start times; kept where no template adopts orphans.
    pub(super) family: Vec<(i32, u64)>,
}

impl Worker {
    /// Whether it is ordered, and its birth is still to be told.
    pub(super) fn is_unborn(&self) -> bool {
        self.pid == 0 && self.ghost_since_ns.is_none()
    }

    /// Send a message now, or when the socket has room again. `false` if there is no need any more:
    /// what it is about was not sent either.
    pub(super) fn post(&mut self, letter: Letter) -> bool {
        if let Letter::Forget(id) = letter {
            let unsent = |waiting: &Letter| matches!(waiting, Letter::Whole(segment, _) if segment.id() == id);
            if let Some(place) = self.outbox.iter().position(unsent) {
                self.outbox.remove(place);
                return false;
            }
        }
        self.outbox.push_back(letter);
        self.flush_outbox();
        true
    }

    pub(super) fn flush_outbox(&mut self) {
        while let Some(letter) = self.outbox.front() {
            let sent = match letter {
                Letter::Segment(segment) => {
                    let message = Message::Segment(segment.id());
                    socket::send(&self.socket, &message.encode(), &[segment.fd()])
                }
                Letter::Whole(segment, ticket) => {
                    let message = Message::Whole {
                        id: segment.id(),
                        ticket: *ticket,
                    };
                    socket::send(&self.socket, &message.encode(), &[segment.fd()])
                }
                Letter::Forget(id) => {
                    socket::send(&self.socket, &Message::Forget(*id).encode(), &[])
                }
            };
            match sent {
                Err(error) if socket::may_pass(&error) => return, // the next tick tries again
                _ => drop(self.outbox.pop_front()),
            }
        }
    }
}

/// What the client writes to a worker that lives.
pub(super) enum Letter {
    /// Here is a segment.
    Segment(Arc<Segment>),
    /// Here is a shared segment, and the ticket by which to let go of it.
    Whole(Arc<Segment>, u32),
    /// The shared segment with this id will not be named again.
    Forget(u32),
}
