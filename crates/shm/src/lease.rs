//! A reader's hold on a block: it is released with the last view, and not before the
//! views that forked children inherited.
//!
//! A fork copies every view of the parent but tells nobody. So a process that forks while it
//! holds leases makes a *pin*: a pipe whose write end only the children keep. Leases older
//! than the fork that are dropped meanwhile wait in the pin, and are released when the pipe
//! hangs up: when the children, and theirs, have all ended or become other programs. A child
//! releases nothing itself. Without leases at the time of a fork nothing is made.

use crate::fork_lock::ForkLock;
use crate::os::process;
use crate::prim::{AtomicU64, Ordering, current_thread};
use crate::segment::Segment;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

/// Leases of this process.
static LEASES: AtomicU64 = AtomicU64::new(0);
/// Number of the last pin.
static LAST_PIN: AtomicU64 = AtomicU64::new(0);
static PINS: ForkLock<Vec<Pin>> = ForkLock::new();

/// One fork that children with views came from.
#[derive(Debug)]
struct Pin {
    /// It holds leases that are older than this.
    number: u64,
    /// Hangs up with the last child.
    children: OwnedFd,
    /// The children's end, and the thread that forks: until the fork is over.
    forking: Option<(OwnedFd, ThreadId)>,
    waiting: Vec<(Arc<Segment>, u32)>,
}

/// The right to see the block with a ticket, until dropped.
#[derive(Debug)]
pub struct Lease {
    segment: Arc<Segment>,
    ticket: u32,
    /// The process that releases: a forked child inherits the object, not the duty.
    owner: i32,
    born: u64,
    passed_on: bool,
}

impl Lease {
    /// A lease of the block that the calling process has to release.
    pub fn new(segment: Arc<Segment>, ticket: u32) -> Self {
        LEASES.fetch_add(1, Ordering::Relaxed); // RELAXED, both: the one who forks has the interpreter's lock
        Self {
            segment,
            ticket,
            owner: process::own_pid(),
            born: LAST_PIN.load(Ordering::Relaxed),
            passed_on: false,
        }
    }

    /// Give the block to somebody else, who releases it.
    pub fn pass_on(mut self) {
        self.passed_on = true;
    }

    /// Whether children that this process has forked since may see the block.
    pub fn is_pinned(&self) -> bool {
        LAST_PIN.load(Ordering::Relaxed) > self.born
            && PINS.lock().iter().any(|pin| pin.number > self.born) // RELAXED: as above
    }

    /// The segment that holds the block.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.owner != process::own_pid() {
            return;
        }
        LEASES.fetch_sub(1, Ordering::Relaxed); // RELAXED, both: as above
        if self.passed_on {
            return;
        }
        if LAST_PIN.load(Ordering::Relaxed) > self.born {
            let mut pins = PINS.lock();
            if let Some(pin) = pins.iter_mut().rfind(|pin| pin.number > self.born) {
                pin.waiting.push((Arc::clone(&self.segment), self.ticket));
                return;
            }
        }
        self.segment.release(self.ticket);
    }
}

/// Release what waited for forked children that are gone by now.
pub fn unpin() {
    if LAST_PIN.load(Ordering::Relaxed) == 0 {
        return; // RELAXED: nothing to do is right at any time before a fork
    }
    let mut pins = PINS.lock();
    // Newest first: what an older pin does not hold either is free.
    for index in (0..pins.len()).rev() {
        let gone = pins[index].forking.is_none()
            && process::poll(&[pins[index].children.as_fd()], Some(Duration::ZERO))
                .is_ok_and(|ready| ready[0]);
        if !gone {
            continue;
        }
        let pin = pins.remove(index);
        match index.checked_sub(1) {
            Some(older) => pins[older].waiting.extend(pin.waiting),
            None => {
                for (segment, ticket) in pin.waiting {
                    segment.release(ticket);
                }
            }
        }
    }
}

/// This thread is about to fork.
pub fn before_fork() {
    // RELAXED: leases come and go under the interpreter's lock, which this thread has.
    if LEASES.load(Ordering::Relaxed) == 0 {
        return;
    }
    unpin();
    // Without a pipe to be had the fork goes on: its child sees views that may change.
    let Ok((children, theirs)) = process::pipe() else {
        return;
    };
    let mut pins = PINS.lock();
    let number = LAST_PIN.fetch_add(1, Ordering::Relaxed) + 1;
    pins.push(Pin {
        number,
        children,
        forking: Some((theirs, current_thread())),
        waiting: Vec::new(),
    });
}

/// The thread has forked, or failed to: in the parent.
pub fn after_fork_in_parent() {
    let me = current_thread();
    for pin in PINS.lock().iter_mut() {
        if pin
            .forking
            .as_ref()
            .is_some_and(|(_, thread)| *thread == me)
        {
            pin.forking = None;
        }
    }
}

/// In the forked child: keep the pins of all ancestors down, as long as this process lives.
pub fn after_fork_in_child() {
    LEASES.store(0, Ordering::Relaxed); // RELAXED: one thread lives
    PINS.after_fork_in_child();
    for pin in PINS.lock().drain(..) {
        if let Some((theirs, _)) = pin.forking {
            let _ = theirs.into_raw_fd(); // closed by this process's end
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tickets of a segment that are released.
    fn released(segment: &Segment) -> Vec<u32> {
        let mut seen = Vec::new();
        segment.take_released(|ticket| seen.push(ticket));
        seen.sort_unstable();
        seen
    }

    /// One test: pins belong to the process, and tests are its threads.
    #[test]
    fn leases_wait_for_the_children_of_older_forks_only() {
        let segment = Arc::new(Segment::create(3, 1 << 20).unwrap());
        let lease = |ticket| Lease::new(Arc::clone(&segment), ticket);
        drop(lease(1));
        assert_eq!(released(&segment), [1], "without a fork nothing waits");

        let (old, ended) = (lease(2), lease(3));
        before_fork();
        let child = PINS.lock()[0]
            .forking
            .as_ref()
            .unwrap()
            .0
            .try_clone()
            .unwrap();
        after_fork_in_parent();
        drop(old);
        drop(lease(4));
        unpin();
        assert_eq!(released(&segment), [4], "older leases wait, younger do not");

        before_fork(); // `ended` is seen by two generations of children
        let second = PINS.lock()[1]
            .forking
            .as_ref()
            .unwrap()
            .0
            .try_clone()
            .unwrap();
        after_fork_in_parent();
        drop(ended);
        drop(second);
        unpin();
        assert_eq!(released(&segment), [], "the first child still sees it");
        drop(child);
        unpin();
        assert_eq!(released(&segment), [2, 3]);
        assert!(PINS.lock().is_empty());
    }
}
