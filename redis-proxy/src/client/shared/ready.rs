//! Which of a worker's clients have something to do.
//!
//! One task serves many clients. Polling all of them at each wake-up would cost as much as there are clients, so each
//! has a waker of its own, which puts its key on a list and wakes the task.

use futures_util::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The list.
#[derive(Debug, Default)]
pub(super) struct Ready {
    keys: Mutex<Vec<usize>>,
    task: AtomicWaker,
}

/// One client's waker.
#[derive(Debug)]
pub(super) struct Signal {
    key: usize,
    listed: AtomicBool,
    ready: Arc<Ready>,
}

impl Ready {
    /// Has `waker` woken when a client is listed. To be called *before* [`Ready::take`].
    pub(super) fn register(&self, waker: &Waker) {
        self.task.register(waker);
    }

    /// Moves the keys of those listed to `into`. Each must be handed to [`Signal::seen`] before the client is polled.
    pub(super) fn take(&self, into: &mut Vec<usize>) {
        into.append(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Signal {
    /// A client that is to be looked at as soon as may be.
    pub(super) fn new(key: usize, ready: Arc<Ready>) -> Arc<Signal> {
        let signal = Arc::new(Signal {
            key,
            listed: AtomicBool::new(false),
            ready,
        });
        signal.wake_by_ref();
        signal
    }

    /// It is looked at now: what happens from here on lists it again.
    pub(super) fn seen(&self) {
        self.listed.store(false, Ordering::Release);
    }
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.listed.swap(true, Ordering::AcqRel) {
            let mut keys = self.ready.keys.lock().unwrap_or_else(PoisonError::into_inner);
            keys.push(self.key);
            drop(keys);
            self.ready.task.wake();
        }
    }
}
