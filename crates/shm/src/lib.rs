//! Crash-safe shared memory for bireme.
//!
//! Any process may die inside of any of these structures. *State words are the
//! truth, everything else is a hint*: a slot's word names its claimant, only the
//! owner of an arena allocates in it, and what a dead process held can be told from
//! words that name it. See `docs/design/kernel.md` for states, races and crash points.
//!
//! This crate knows nothing of Python and is usable from Rust alone.
#![warn(missing_docs)]

#[cfg(not(loom))]
pub mod arena;
#[cfg(not(loom))]
pub mod control;
pub mod fail;
#[cfg(not(loom))]
pub mod fork_lock;
#[cfg(not(loom))]
pub mod lease;
#[cfg(not(loom))]
pub mod os;
pub mod park;
pub mod prim;
pub mod queue;
pub mod release;
#[cfg(not(loom))]
pub mod segment;
pub mod view;
pub mod word;
