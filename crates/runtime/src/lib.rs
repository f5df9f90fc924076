//! The local engine of bireme: workers, supervision, tasks.
//!
//! [`client::Client`] is a pool as its owner sees it, [`worker::Worker`] the same pool from a worker,
//! [`template::Host`] the process that workers are forked from. Decisions come from `bireme-sched`,
//! memory from `bireme-shm`; this crate carries them out. There is no Python in it.
#![warn(missing_docs)]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod birth;
pub mod certificate;
pub mod client;
mod family;
pub mod launcher;
pub mod limits;
mod lines;
pub mod message;
pub mod parcel;
mod parts;
mod received;
mod share;
pub mod task;
pub mod template;
pub mod watchdog;
mod whole;
pub mod worker;
