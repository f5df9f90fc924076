//! Models of the protocols between processes, run by loom through every interleaving (up to a
//! number of preemptions) and every value that the memory model lets a load return:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release -p bireme-shm --target-dir target/loom --test loom
//! ```
//!
//! A lost wake shows as a deadlock, a lost or doubled task as a failed count, a missing
//! acquire or release as a causality violation on a payload cell.
#![cfg(loom)]

mod client;
mod crash;
mod done;
mod pool;
mod queue;
mod release;
mod sleep;
mod slot;
mod wish;

use loom::model::Builder;

/// Run a model with at most `preemptions` forced switches of thread per execution.
///
/// `LOOM_MAX_PREEMPTIONS` overrides it, for a deeper search by hand.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}
