//! What ends a process of ours when the client is gone.

use bireme_shm::os::process::{self, Woken};
use bireme_shm::os::thread::{self, Thread};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// A watchdog that has not heard of its end by then never will.
const DEAF_AFTER_NS: u64 = 500_000_000;
/// How often a watchdog that has been made deaf looks whose child this process is.
const DEAF_TICK: Duration = Duration::from_millis(50);

/// The client is gone, or has hung up: end the worker's descendants and the worker itself.
pub(crate) fn give_up() -> ! {
    process::end_descendants();
    process::leave(1)
}

/// The thread of a worker, or of a template that prepares itself, that waits for the client's end, then ends
/// the process's descendants and the process itself. It never takes the interpreter's lock.
#[derive(Debug)]
pub struct Watchdog {
    stop: Arc<OwnedFd>,
    thread: Option<Thread>,
}

impl Watchdog {
    /// Start watching the client's process descriptor and the control socket.
    pub fn start(client: OwnedFd, peer: OwnedFd) -> io::Result<Self> {
        let stop = Arc::new(process::event()?);
        let heard = Arc::clone(&stop);
        let parent = process::parent();
        let thread = thread::spawn("bireme-watchdog", move || {
            process::block_signals();
            loop {
                match process::poll_or_hangup(&[heard.as_fd(), client.as_fd()], peer.as_fd()) {
                    Some(Woken::By(0)) => return,
                    Some(Woken::By(_)) => give_up(),
                    Some(Woken::Deaf) => break,
                    None => {}
                }
            }
            // A task has closed all descriptors. The worker leaves after it; until then the parent, which is
            // the client or the template, tells as much.
            while process::parent() == parent {
                process::pause(DEAF_TICK);
            }
            give_up();
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            process::ring(&*self.stop);
            // A task that has closed all descriptors has left the thread deaf: then it stays.
            let begun = process::now_ns();
            while !thread.is_finished() && process::now_ns() - begun < DEAF_AFTER_NS {
                process::pause(Duration::from_micros(20));
            }
            if thread.is_finished() {
                thread.join();
            }
        }
    }
}
