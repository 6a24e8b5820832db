//! Locks that outlive a panic.
//!
//! A panic ends one request, not the mount: state behind these locks is changed in steps that are whole, so the
//! next holder may go on from what it finds. Not for state that a panic could leave half changed.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn read_lock<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub fn write_lock<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_a_panic_left_can_be_taken() {
        let (mutex, shared) = (Mutex::new(1), RwLock::new(1));
        let panicked = std::thread::scope(|scope| {
            let broken = scope.spawn(|| {
                let (_mutex, _shared) = (lock(&mutex), write_lock(&shared));
                panic!("on purpose");
            });
            broken.join().is_err()
        });
        assert!(panicked && mutex.is_poisoned() && shared.is_poisoned());
        *lock(&mutex) += 1;
        *write_lock(&shared) += 1;
        assert_eq!((*lock(&mutex), *read_lock(&shared)), (2, 2));
    }
}
