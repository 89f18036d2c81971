//! The lock on a directory, for all threads that change files there.
//!
//! Promises that nothing is changed once it was let go, by whichever thread: the directory may be another's then, or be under
//! repair.

use super::state::lock;
use redoubt_env::files::DirLock;
use std::sync::{Arc, Mutex};

/// A handle on the lock.
#[derive(Clone)]
pub(crate) struct Held(Arc<Mutex<Option<Box<dyn DirLock>>>>);

/// Whoever has this lets go by dropping it, and waits for a change that is being made.
pub(crate) struct Hold(Held);

impl Hold {
    pub(crate) fn new(of_dir: Box<dyn DirLock>) -> Self {
        Hold(Held(Arc::new(Mutex::new(Some(of_dir)))))
    }

    pub(crate) fn handle(&self) -> Held {
        self.0.clone()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        lock(&self.0.0).take();
    }
}

impl Held {
    /// Makes a change, unless the lock was let go: then `None`.
    pub(crate) fn change<T>(&self, make: impl FnOnce() -> T) -> Option<T> {
        let held = lock(&self.0);
        held.is_some().then(make)
    }
}
