//! The segments that a worker has received.

use bireme_shm::fail::{self, Point};
use bireme_shm::lease::Lease;
use bireme_shm::os::process;
use bireme_shm::segment::Segment;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// How long a worker waits for a segment that a task names.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits before it looks for signals.
const SLICE: Duration = Duration::from_millis(100);

/// Segments by their ids.
#[derive(Debug, Default)]
pub(crate) struct Received {
    segments: HashMap<u32, Arc<Segment>>,
    /// Of shared segments: let go when nobody will name them and their last view is gone.
    leases: HashMap<u32, Arc<Lease>>,
    /// Segments that there was no memory to map for, with the ticket of a shared one.
    unmapped: HashMap<u32, (OwnedFd, Option<u32>)>,
    /// Segments that will not be named again, since [`Received::take_forgotten`].
    forgotten: Vec<u32>,
}

impl Received {
    /// Whether the segment can be used.
    pub(crate) fn has(&self, id: u32) -> bool {
        self.segments.contains_key(&id)
    }

    /// The segment.
    pub(crate) fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.get(&id).map(Arc::clone)
    }

    /// The hold on a shared segment.
    pub(crate) fn lease(&self, id: u32) -> Option<Arc<Lease>> {
        self.leases.get(&id).map(Arc::clone)
    }

    /// Map a segment that has arrived, a shared one with its ticket.
    ///
    /// # Errors
    /// There is no memory for it, or no descriptor. [`Received::map_again`] tries again.
    pub(crate) fn map(&mut self, id: u32, fd: OwnedFd, ticket: Option<u32>) -> io::Result<()> {
        fail::point(Point::SegmentAttach);
        let spare = fd.try_clone();
        let segment = match Segment::attach(id, fd) {
            Ok(segment) => Arc::new(segment),
            Err(error) => {
                self.unmapped.insert(id, (spare?, ticket));
                return Err(error);
            }
        };
        if let Some(ticket) = ticket {
            let lease = Lease::new(Arc::clone(&segment), ticket);
            self.leases.insert(id, Arc::new(lease));
        }
        self.segments.insert(id, segment);
        Ok(())
    }

    /// Map a segment that could not be mapped when it arrived.
    pub(crate) fn map_again(&mut self, id: u32) -> io::Result<()> {
        match self.unmapped.remove(&id) {
            Some((fd, ticket)) => self.map(id, fd, ticket),
            None => Ok(()),
        }
    }

    /// This segment will not be named again.
    pub(crate) fn forget(&mut self, id: u32) {
        self.unmapped.remove(&id);
        self.segments.remove(&id);
        self.leases.remove(&id);
        self.forgotten.push(id);
    }

    /// The segments that were forgotten since this was last asked.
    pub(crate) fn take_forgotten(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.forgotten)
    }
}

/// A segment that a task names is under way. Waiting for it needs nothing of the worker, which others may use.
#[derive(Debug)]
pub struct Arrival {
    id: u32,
    /// The control socket; `None` without a descriptor to be had for it.
    socket: Option<OwnedFd>,
    deadline_ns: u64,
}

impl Arrival {
    /// Segment `id` is to come over `socket`.
    pub(crate) fn new(id: u32, socket: &OwnedFd) -> Self {
        Self {
            id,
            socket: socket.try_clone().ok(),
            deadline_ns: process::now_ns() + PATIENCE.as_nanos() as u64,
        }
    }

    /// Wait a little for messages.
    ///
    /// # Errors
    /// `TimedOut` once it has been awaited for long.
    pub fn wait(&self) -> io::Result<()> {
        if process::now_ns() > self.deadline_ns {
            let story = format!("segment {} did not arrive", self.id);
            return Err(io::Error::new(io::ErrorKind::TimedOut, story));
        }
        if let Some(socket) = &self.socket {
            process::poll(&[socket.as_fd()], Some(SLICE))?;
        } else {
            process::pause(SLICE / 10);
        }
        Ok(())
    }
}
