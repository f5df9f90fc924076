//! The decisions of bireme as pure values and state machines.
//!
//! Everything here takes events and returns actions. Nothing does I/O, reads a clock (time arrives
//! as `u64` nanoseconds of any monotonic clock) or draws a random number, so a scheduling bug
//! replays from its list of events. The shell in `bireme-runtime` turns what happens into events
//! and carries the actions out.
//!
//! | module | question it answers |
//! | --- | --- |
//! | [`plan`] | how are the items of a `map` cut into chunks? |
//! | [`attempt`] | what becomes of a chunk whose worker died or was killed? |
//! | [`ladder`] | how hard may a running task be asked to stop, and when? |
//! | [`crew`] | which workers of a pool are started, replaced, asked to leave? |
//!
//! Each machine has a `sanity_check` that panics when an invariant is broken; the property tests
//! call it after every event.
#![forbid(unsafe_code)]

pub mod attempt;
pub mod crew;
pub mod ladder;
pub mod plan;

pub use attempt::{Attempt, Fate, RetryPolicy};
pub use crew::{Action, BirthFailure, BreakReason, Cause, Crew, CrewConfig, Event, Shortage};
pub use ladder::{Ladder, Rung};
pub use plan::ChunkPlan;
