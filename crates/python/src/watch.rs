//! Calls whose end, and whose progress, the dispatcher tells: somebody wants to know who does not wait.

use crate::call::Call;
use bireme_shm::prim::{AtomicU32, Ordering};
use pyo3::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The watched calls of one pool. No Python runs under its locks.
#[derive(Default)]
pub(crate) struct Watchers {
    /// By the address of their call.
    by_call: Mutex<HashMap<usize, Watcher>>,
    /// Those that have ended wait here for the dispatcher.
    ended: Mutex<Vec<Arc<Call>>>,
    /// Watched calls of which the dispatcher has not told the end.
    open: AtomicU32,
    /// Those of which it tells the progress, too.
    followed: AtomicU32,
}

/// The result of a watched call: its `_call_back` is called at the end.
struct Watcher {
    outcome: Py<PyAny>,
    /// It has an `_advance`, to be called as items end.
    follows: bool,
}

impl Watchers {
    fn by_call(&self) -> MutexGuard<'_, HashMap<usize, Watcher>> {
        self.by_call.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, Vec<Arc<Call>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watch `call`, which was not submitted yet, for `outcome`.
    pub(crate) fn add(&self, call: &Arc<Call>, outcome: &Bound<'_, PyAny>) -> PyResult<()> {
        let follows = outcome.hasattr("_advance")?;
        call.watched.store(true, Ordering::Release);
        let watcher = Watcher {
            outcome: outcome.clone().unbind(),
            follows,
        };
        self.by_call().insert(key(call), watcher);
        self.followed
            .fetch_add(u32::from(follows), Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// The call will never end by itself: forget it.
    pub(crate) fn forget(&self, call: &Arc<Call>) {
        if self.take(call).is_some() {
            self.open.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether any call is watched.
    pub(crate) fn any(&self) -> bool {
        self.open.load(Ordering::SeqCst) != 0
    }

    /// Take note that a watched call has ended.
    pub(crate) fn note_end(&self, call: Arc<Call>) {
        self.ended().push(call);
    }

    /// Whether there is something to tell: an end, or maybe progress.
    pub(crate) fn has_news(&self) -> bool {
        self.followed.load(Ordering::SeqCst) != 0 || !self.ended().is_empty()
    }

    /// Tell how far calls are.
    pub(crate) fn tell_progress(&self, py: Python<'_>) {
        if self.followed.load(Ordering::SeqCst) == 0 {
            return;
        }
        let followers: Vec<Py<PyAny>> = self
            .by_call()
            .values()
            .filter(|watcher| watcher.follows)
            .map(|watcher| watcher.outcome.clone_ref(py))
            .collect();
        for outcome in followers {
            if let Err(error) = outcome.bind(py).call_method0("_advance") {
                error.write_unraisable(py, None);
            }
        }
    }

    /// Tell of one call that it has ended; `false` if there was none.
    pub(crate) fn tell_end(&self, py: Python<'_>) -> bool {
        let Some(call) = self.ended().pop() else {
            return false;
        };
        if let Some(outcome) = self.take(&call)
            && let Err(error) = outcome.bind(py).call_method0("_call_back")
        {
            error.write_unraisable(py, None);
        }
        call.finish();
        self.open.fetch_sub(1, Ordering::SeqCst);
        true
    }

    fn take(&self, call: &Arc<Call>) -> Option<Py<PyAny>> {
        let watcher = self.by_call().remove(&key(call))?;
        self.followed
            .fetch_sub(u32::from(watcher.follows), Ordering::SeqCst);
        Some(watcher.outcome)
    }
}

fn key(call: &Arc<Call>) -> usize {
    Arc::as_ptr(call) as usize
}
