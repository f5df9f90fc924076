//! The one place that names atomics: the standard library's, or loom's when a
//! model is being checked (`RUSTFLAGS="--cfg loom"`).
//!
//! Everything that takes part in a protocol between processes imports its
//! atomics from here, so that the same code runs in production and in models.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

#[cfg(loom)]
use loom::sync::atomic;
#[cfg(not(loom))]
use std::sync::atomic;

pub use std::sync::atomic::Ordering;

// Aliases, not re-exports: the lint that bans the originals elsewhere looks through the latter.
/// A flag that several processes may touch.
pub type AtomicBool = atomic::AtomicBool;
/// A word that several processes may touch, and sleep on.
pub type AtomicU32 = atomic::AtomicU32;
/// A double word that several processes may touch.
pub type AtomicU64 = atomic::AtomicU64;

/// Order the accesses before it against those after it.
#[inline]
pub fn fence(order: Ordering) {
    atomic::fence(order);
}

/// Tell the processor (or the model checker) that this is a spin loop.
#[inline]
pub fn spin_hint() {
    #[cfg(loom)]
    loom::thread::yield_now();
    #[cfg(not(loom))]
    std::hint::spin_loop();
}

/// Id of the calling thread.
#[cfg(not(loom))]
pub fn current_thread() -> std::thread::ThreadId {
    thread_local! {
        static ME: std::thread::ThreadId = std::thread::current().id();
    }
    ME.with(|me| *me)
}
