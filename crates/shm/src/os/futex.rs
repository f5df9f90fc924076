//! Sleeping on a word of shared memory.

use crate::prim::AtomicU32;
use rustix::thread::futex;
use std::time::Duration;

/// Sleep while `word == expected`: until woken, until `timeout`, at a signal, or for no reason.
pub fn wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) {
    let limit = timeout.map(|t| futex::Timespec {
        tv_sec: t.as_secs() as i64,
        tv_nsec: i64::from(t.subsec_nanos()),
    });
    // Not PRIVATE: the word lies in memory that other processes map. Every caller
    // checks its condition again, so the outcome of the call does not matter.
    let _ = futex::wait(word, futex::Flags::empty(), expected, limit.as_ref());
}

/// Wake up to `count` sleepers of `word`.
pub fn wake(word: &AtomicU32, count: u32) {
    let _ = futex::wake(word, futex::Flags::empty(), count);
}
