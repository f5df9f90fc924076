//! A lock for what all pools of this process share, which a forked child is never left without.

use crate::prim::{AtomicU64, Ordering};
use std::marker::PhantomData;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// Like a static `Mutex`. Threads without the interpreter's lock take it, so that a fork may meet it locked, by a
/// thread that the child does not have.
#[derive(Debug)]
pub struct ForkLock<T: 'static> {
    /// The address of a mutex that lives for ever; 0 until there is one.
    address: AtomicU64,
    kind: PhantomData<Mutex<T>>,
}

impl<T: Default> Default for ForkLock<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Default> ForkLock<T> {
    /// A lock of the default value.
    pub const fn new() -> Self {
        Self {
            address: AtomicU64::new(0),
            kind: PhantomData,
        }
    }

    fn mutex(&self) -> &'static Mutex<T> {
        // SYNC(fork-lock): whoever sees the address sees the mutex.
        let mut address = self.address.load(Ordering::Acquire);
        if address == 0 {
            let made = Box::into_raw(Box::new(Mutex::new(T::default())));
            let new = made as usize as u64;
            let placed = self
                .address
                .compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire);
            address = match placed {
                Ok(_) => new,
                Err(other) => {
                    // SAFETY: it comes from `Box::into_raw`, and nobody else has seen it.
                    drop(unsafe { Box::from_raw(made) });
                    other
                }
            };
        }
        // SAFETY: the address comes from `Box::into_raw` of such a mutex, which is never freed.
        unsafe { &*(address as usize as *const Mutex<T>) }
    }

    /// Wait for it.
    pub fn lock(&self) -> MutexGuard<'static, T> {
        self.mutex().lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a forked child: have it free. What a thread that is not here was changing at the fork is out of reach then.
    pub fn after_fork_in_child(&self) {
        if matches!(self.mutex().try_lock(), Err(TryLockError::WouldBlock)) {
            self.address.store(0, Ordering::Release); // SYNC(fork-lock): this thread is alone here
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_held_elsewhere_is_made_anew() {
        static LOCK: ForkLock<Vec<u32>> = ForkLock::new();
        LOCK.lock().push(1);
        LOCK.after_fork_in_child();
        assert_eq!(*LOCK.lock(), [1], "it was free");
        let held = LOCK.lock();
        LOCK.after_fork_in_child();
        assert!(LOCK.lock().is_empty());
        drop(held);
    }
}
