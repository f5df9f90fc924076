//! Threads of ours, whose end can be waited for as the system sees it.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use super::process;
use crate::prim::{AtomicU32, Ordering};
use rustix::thread::gettid;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// A thread of ours that runs, or has ended.
#[derive(Debug)]
pub struct Thread {
    handle: JoinHandle<()>,
    id: Arc<AtomicU32>,
}

/// Start a named thread of ours.
///
/// # Errors
/// What the system says when it has no thread to give.
pub fn spawn<F>(name: &str, run: F) -> io::Result<Thread>
where
    F: FnOnce() + Send + 'static,
{
    let id = Arc::new(AtomicU32::new(0));
    let told = Arc::clone(&id);
    let handle = Builder::new()
        .name(name.to_owned())
        .stack_size(256 << 10)
        .spawn(move || {
            told.store(own_id(), Ordering::SeqCst);
            run();
        })?;
    Ok(Thread { handle, id })
}

impl Thread {
    /// Whether it has run to its end.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Whether it is the calling thread.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.id.load(Ordering::SeqCst) == own_id()
    }

    /// Wait until it has ended and the system has seen it go: a fork finds no trace of it.
    pub fn join(self) {
        let _ = self.handle.join();
        let id = self.id.load(Ordering::SeqCst);
        if id != 0 {
            wait_until_gone(id as i32);
        }
    }
}

/// Id of the calling thread, as the system knows it.
pub fn own_id() -> u32 {
    gettid().as_raw_nonzero().get() as u32
}

/// Wait until this process has no thread `id`, which is about to end.
///
/// Whoever joins a thread is let go a moment before the system forgets it, and on a busy machine that
/// moment lasts. Bounded, for the id may be given to another thread meanwhile.
pub fn wait_until_gone(id: i32) {
    let begun = process::now_ns();
    while is_here(id) && process::now_ns() - begun < 1_000_000_000 {
        process::pause(Duration::from_micros(20));
    }
}

fn is_here(id: i32) -> bool {
    // SAFETY: signal 0 is sent to nobody; the call only looks the thread up.
    unsafe { libc::syscall(libc::SYS_tgkill, process::own_pid(), id, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joined_thread_is_gone_for_the_system_too() {
        for _ in 0..2000 {
            let thread = spawn("short", || {}).unwrap();
            let id = Arc::clone(&thread.id);
            thread.join();
            let task = format!("/proc/self/task/{}", id.load(Ordering::SeqCst));
            assert!(!std::path::Path::new(&task).exists());
        }
    }
}
