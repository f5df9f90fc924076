//! The processes that a worker's tasks have started: which are whose, and the end of those of one task.
//!
//! A worker adopts orphans, so whatever a task starts hangs below a child of the worker, or is one. A child is
//! the present task's if it started no earlier than the task. The system tells that in ticks of 10 ms; a child that
//! started in the very tick in which the task did is an earlier task's if it was there when that ended.
//! So only a worker that has children at the end of a task lists them, and one that has none needs a single
//! system call to know.

use bireme_shm::os::process;
use std::time::Duration;

/// How often a worker looks whether what it has killed is gone, a millisecond apart.
const MOST_LOOKS: u32 = 200;
/// So many children, most of them ended no doubt, are worth the search for those that nobody will wait for. It
/// takes some ten milliseconds; to start as many takes longer.
const MANY: usize = 128;

/// The children of a worker.
#[derive(Debug)]
pub(crate) struct Family {
    /// Those that were there when the last task ended.
    elders: Vec<i32>,
    /// How many are too many.
    room: usize,
}

impl Default for Family {
    fn default() -> Self {
        Self {
            elders: Vec::new(),
            room: MANY,
        }
    }
}

impl Family {
    /// No task runs: all children that there are belong to none that is still to come.
    pub(crate) fn settle(&mut self) {
        self.elders.clear();
        if process::has_children() {
            self.elders = process::children(process::own_pid());
        }
    }

    /// Whether there are so many that those should be reaped that nobody will wait for.
    pub(crate) fn is_large(&self) -> bool {
        self.elders.len() >= self.room
    }

    /// They were, as far as that could be: the next search is due when there are twice as many.
    pub(crate) fn reaped(&mut self) {
        self.settle();
        self.room = MANY.max(2 * self.elders.len());
    }

    /// End the children that started at `since_ns` or later, with their descendants; bounded.
    ///
    /// They are not waited for: the code that started them may still ask how they ended.
    pub(crate) fn end_since(&self, since_ns: u64) {
        let since = process::ticks_at(since_ns);
        for _ in 0..MOST_LOOKS {
            let mut children = process::living_children();
            children.retain(|pid| self.is_younger(*pid, since));
            if children.is_empty() {
                return;
            }
            for child in children {
                let descendants = process::descendants(child);
                process::kill_pid(child); // first, so that it starts no more of them
                descendants.into_iter().for_each(process::kill_pid);
            }
            process::pause(Duration::from_millis(1));
        }
    }

    fn is_younger(&self, pid: i32, since: u64) -> bool {
        process::start_time(pid).is_some_and(|started| {
            started > since || (started == since && !self.elders.contains(&pid))
        })
    }
}
