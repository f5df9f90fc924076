//! `bireme._core`: conversions, lock release, errors. No decisions are made here.
//!
//! * [`client`]: a pool for its owner, and [`dispatch`]: the thread that calls back;
//! * [`detach`]: our frames at the end of the interpreter, [`forks`]: our threads around a fork;
//! * [`call`] and [`outcome`]: submitted calls and the objects users wait on;
//! * [`worker`] and [`template`]: the other two kinds of process, [`shared`]: results made in place;
//! * [`codec`] and [`block`]: values as bytes, memory as buffers.
#![allow(unsafe_code)] // shared memory, and what pyo3 has no safe form of: each block says why it is sound

mod arguments;
mod block;
mod call;
mod calls;
mod client;
mod codec;
mod core;
mod detach;
mod dispatch;
mod drain;
mod forks;
mod function;
mod items;
mod outcome;
mod recent;
mod returned;
mod shared;
mod template;
mod watch;
mod worker;

use pyo3::prelude::*;

/// bireme's core: shared memory, task queue and supervision for one machine.
#[pymodule]
mod _core {
    #[pymodule_export]
    use super::block::Block;
    #[pymodule_export]
    use super::client::Client;
    #[pymodule_export]
    use super::detach::end_begins;
    #[cfg(feature = "fail-points")]
    #[pymodule_export]
    use super::fail_points;
    #[pymodule_export]
    use super::forks::resume_pools;
    #[pymodule_export]
    use super::outcome::Outcome;
    #[pymodule_export]
    use super::template::{Birth, TemplateHost, end_templates, receive_birth, wait_for_thread_end};
    #[pymodule_export]
    use super::worker::{Worker, current_task, ended_children, stop_requested};
    #[pymodule_export]
    use super::{available_memory, set_title, usable_cpus};
}

/// Cores that this process may use.
#[pyfunction]
fn usable_cpus() -> u32 {
    bireme_runtime::limits::usable_cpus()
}

/// Name this process, for `ps` and `top`.
#[pyfunction]
fn set_title(title: &str) {
    bireme_shm::os::process::set_title(title);
}

/// Names of the steps at which a test may have a process die.
#[cfg(feature = "fail-points")]
#[pyfunction]
fn fail_points() -> Vec<&'static str> {
    let points = bireme_shm::fail::Point::ALL;
    points.iter().map(|point| point.name()).collect()
}

/// Memory that could be had now, in bytes.
#[pyfunction]
fn available_memory() -> u64 {
    bireme_runtime::limits::available_memory()
}
