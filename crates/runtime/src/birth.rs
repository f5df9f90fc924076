//! What a worker is born with: an order, eight descriptors, and those that the initializer is given.
//!
//! The same package serves every start method. A worker of the template gets it
//! through the template, whose forked child continues with it; a spawned interpreter
//! reads it from its control socket (which is its standard input); a forked child
//! of the client inherits it.

use crate::message::{BirthOrder, MAX_BYTES, Message};
use bireme_shm::os::socket;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Descriptors that every worker is born with.
const OWN_FDS: usize = 8;
/// Most descriptors that an initializer can be given.
pub const MAX_GIVEN: usize = socket::MAX_FDS - OWN_FDS;

/// Everything a worker starts from.
#[derive(Debug)]
pub struct Birth {
    /// Row, serial and habits.
    pub order: BirthOrder,
    /// The control segment.
    pub control: OwnedFd,
    /// A memory file with the pickled surroundings and initializer.
    pub boot: OwnedFd,
    /// A memory file for the last words of a crash.
    pub story: OwnedFd,
    /// The client's process descriptor.
    pub client: OwnedFd,
    /// Eventfd that wakes the client's supervisor.
    pub bell: OwnedFd,
    /// Where standard output goes.
    pub out: OwnedFd,
    /// Where standard error goes.
    pub err: OwnedFd,
    /// What the initializer's arguments name by position.
    pub given: Vec<OwnedFd>,
    /// Control socket to the client.
    pub socket: OwnedFd,
}

impl Birth {
    /// The descriptors in the order in which they travel; the socket goes last.
    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let own = [
            &self.control,
            &self.boot,
            &self.story,
            &self.client,
            &self.bell,
            &self.out,
            &self.err,
        ];
        let all = own.into_iter().chain(&self.given).chain([&self.socket]);
        all.map(|fd| fd.as_fd()).collect()
    }

    /// Send the package to the template, which forks the worker.
    pub fn send_to_template(&self, template: impl AsFd) -> io::Result<()> {
        socket::send(template, &Message::Birth(self.order).encode(), &self.fds())
    }

    /// Send the package to a fresh interpreter, which already holds its socket.
    pub fn send_to_interpreter(&self, peer: impl AsFd) -> io::Result<()> {
        let mut fds = self.fds();
        fds.pop();
        socket::send(peer, &Message::Birth(self.order).encode(), &fds)
    }

    /// Read the package that the client sent over `socket`, which becomes the control socket.
    pub fn receive(socket: OwnedFd) -> io::Result<Self> {
        let mut buffer = vec![0; MAX_BYTES];
        let (len, mut fds) = socket::receive(&socket, &mut buffer, true)?;
        let Some(Message::Birth(order)) = Message::decode(&buffer[..len]) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "expected a birth order",
            ));
        };
        fds.push(socket);
        Self::from_parts(order, fds)
    }

    /// Put the package together from what travelled.
    pub fn from_parts(order: BirthOrder, mut fds: Vec<OwnedFd>) -> io::Result<Self> {
        let few = |len| {
            let story = format!("a birth needs {OWN_FDS} descriptors, got {len}");
            io::Error::new(io::ErrorKind::InvalidData, story)
        };
        let len = fds.len();
        if len < OWN_FDS {
            return Err(few(len));
        }
        let given = fds.drain(OWN_FDS - 1..len - 1).collect();
        let [control, boot, story, client, bell, out, err, socket] =
            <[OwnedFd; OWN_FDS]>::try_from(fds).map_err(|fds| few(fds.len()))?;
        Ok(Self {
            order,
            control,
            boot,
            story,
            client,
            bell,
            out,
            err,
            given,
            socket,
        })
    }
}
