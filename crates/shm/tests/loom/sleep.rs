//! Idle workers: no wake is lost, whoever was about to sleep or spin.
//!
//! Each worker claims one task and goes; a worker that nobody wakes deadlocks the model.

use super::check;
use super::pool::{LEAVE, Pool, next, rest};
use bireme_shm::park;
use bireme_shm::prim::{AtomicU32, Ordering};
use bireme_shm::view::View;
use loom::thread;
use std::sync::Arc;

/// Where the tasks come from: the queue itself or, where several workers meet, two flags
/// that are as weakly ordered, for the number of executions grows with every look at a slot.
#[derive(Clone)]
enum Tasks {
    Queue,
    Flags(Arc<[AtomicU32; 2]>),
}

impl Tasks {
    fn flags() -> Self {
        Self::Flags(Arc::new([AtomicU32::new(0), AtomicU32::new(0)]))
    }

    /// Publish task `index`.
    fn publish(&self, pool: &Pool, index: usize) {
        match self {
            Self::Queue => {
                pool.submit(1);
            }
            Self::Flags(flags) => flags[index].store(1, Ordering::Release),
        }
    }

    fn none_left(&self, pool: &Pool) -> bool {
        match self {
            Self::Queue => bireme_shm::queue::looks_empty(pool),
            Self::Flags(flags) => flags.iter().all(|flag| flag.load(Ordering::Acquire) == 0),
        }
    }

    /// Claim a task and, when there are more, wake the next worker.
    fn claim(&self, pool: &Pool, row: usize) -> bool {
        let Self::Flags(flags) = self else {
            return next(pool, row as u16).is_some();
        };
        let take = |flag: &AtomicU32| {
            flag.load(Ordering::Acquire) == 1
                && flag
                    .compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
        };
        let taken = flags.iter().any(take);
        if taken && park::someone_idle(pool) && !self.none_left(pool) {
            park::wake_one(pool);
        }
        taken
    }
}

/// A worker that claims one task, sleeping until there is one.
fn worker(pool: &Arc<Pool>, tasks: &Tasks, row: usize, spin_rounds: u32) -> thread::JoinHandle<()> {
    let (pool, tasks) = (Arc::clone(pool), tasks.clone());
    thread::spawn(move || {
        while !tasks.claim(&pool, row) {
            let found = || !tasks.none_left(&pool);
            if spin_rounds == 0 || park::spin(&*pool, row, spin_rounds, found) != Some(true) {
                park::sleep(&*pool, row, None, || tasks.none_left(&pool));
            }
        }
    })
}

fn join(workers: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
}

/// One worker and the real queue.
fn one_sleeper(spin_rounds: u32) {
    let pool = Pool::new(1, 1);
    let worker = worker(&pool, &Tasks::Queue, 0, spin_rounds);
    Tasks::Queue.publish(&pool, 0);
    park::wake_one(&*pool);
    join([worker]);
}

/// Two workers and two tasks, with a wake for each task or one for both.
fn two_sleepers(spin_rounds: [u32; 2], wake_each: bool) {
    let (pool, tasks) = (Pool::new(1, 2), Tasks::flags());
    let workers = [0, 1].map(|row| worker(&pool, &tasks, row, spin_rounds[row]));
    tasks.publish(&pool, 0);
    if wake_each {
        park::wake_one(&*pool);
    }
    tasks.publish(&pool, 1);
    park::wake_one(&*pool);
    join(workers);
}

#[test]
fn a_sleeper_is_woken_for_a_task() {
    check(3, || one_sleeper(0));
}

/// The submitter may skip the wake while somebody spins: the spinner must then see the task.
#[test]
fn a_spinner_that_gives_up_sees_what_was_published() {
    check(3, || one_sleeper(1));
}

/// A tick takes the role away from a spinner that lives, whatever it is just doing.
#[test]
fn a_spinner_without_its_role_sees_what_was_published() {
    check(1, || {
        let (pool, tasks) = (Pool::new(1, 2), Tasks::flags());
        let workers = [0, 1].map(|row| worker(&pool, &tasks, row, 1));
        let tick = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || park::wake_past_spinner(&*pool))
        };
        tasks.publish(&pool, 0);
        park::wake_one(&*pool);
        tasks.publish(&pool, 1);
        park::wake_one(&*pool);
        join(workers);
        tick.join().unwrap();
    });
}

#[test]
fn two_tasks_wake_two_sleepers() {
    check(2, || two_sleepers([0, 0], true));
}

#[test]
fn a_burst_with_one_wake_reaches_everybody() {
    check(2, || two_sleepers([0, 0], false));
}

#[test]
fn a_spinner_passes_the_wake_on() {
    check(2, || two_sleepers([1, 0], true));
}

#[test]
fn two_would_be_spinners_share_the_role() {
    check(1, || two_sleepers([1, 1], false));
}

#[test]
fn an_order_reaches_everybody() {
    check(3, || {
        let pool = Pool::new(1, 2);
        let workers = [0, 1].map(|row| {
            let pool = Arc::clone(&pool);
            thread::spawn(move || {
                while pool.orders().load(Ordering::Relaxed) & LEAVE == 0 {
                    rest(&*pool, row);
                }
            })
        });
        pool.dismiss();
        join(workers);
    });
}

/// Two callers of `wake_one` never spend both wakes on one sleeper.
#[test]
fn two_wakes_reach_two_sleepers() {
    check(1, || {
        let (pool, tasks) = (Pool::new(1, 2), Tasks::flags());
        let workers = [0, 1].map(|row| worker(&pool, &tasks, row, 0));
        let other = {
            let (pool, tasks) = (Arc::clone(&pool), tasks.clone());
            thread::spawn(move || {
                tasks.publish(&pool, 0);
                park::wake_one(&*pool);
            })
        };
        tasks.publish(&pool, 1);
        park::wake_one(&*pool);
        join(workers.into_iter().chain([other]));
    });
}
