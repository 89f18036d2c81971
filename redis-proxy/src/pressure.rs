//! How much clients may pass on to the server, so that its replica buffer is never overrun: capture would then be cut
//! for good, and the session with it.
//!
//! Two bounds. What is written and not committed stops clients past a mark, and lets them go below half of it. And
//! between two fences no more than a fixed number of bytes is passed on, since what the server has written is known
//! only from fences: clients that are let go all at once, after an outage say, could else write any amount before
//! anybody knew of it. The first is weighed at the fence, before the second lets anybody go: were that left to the task
//! that captures, several fences' worth could pass until its turn came. Must not know a socket.

use redoubt_env::planted;
use redoubt_types::Offset;
use redoubt_types::limits::PASSED_BYTES_MAX;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};

/// How many request bytes had been passed on at some moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// What is between the clients and the server's replica buffer.
#[derive(Debug)]
pub struct Pressure {
    uncommitted_max: u64,
    known: Mutex<Known>,
    on: watch::Sender<bool>,
    /// Request bytes that were passed on in all.
    passed: AtomicU64,
    /// How many of them had been when the newest fence that was answered was asked for.
    fenced_at: AtomicU64,
    /// Told at each fence.
    fenced: Notify,
}

#[derive(Debug)]
struct Known {
    written: Offset,
    captured: Offset,
    committed: Offset,
    capture_is_down: bool,
    heavy: bool,
}

impl Pressure {
    /// None yet. Clients are stopped at more than `uncommitted_max` bytes beyond what is committed, now `committed`.
    pub(crate) fn new(uncommitted_max: u64, committed: Offset) -> Self {
        Pressure {
            uncommitted_max,
            known: Mutex::new(Known {
                written: committed,
                captured: committed,
                committed,
                capture_is_down: false,
                heavy: false,
            }),
            on: watch::Sender::new(false),
            passed: AtomicU64::new(0),
            fenced_at: AtomicU64::new(0),
            fenced: Notify::new(),
        }
    }

    /// Capture stands here. While it is down nothing may be written: it could not be told to be durable (H12).
    pub fn capture(&self, captured: Offset, committed: Offset, is_down: bool) {
        let mut known = self.lock();
        known.captured = captured;
        known.committed = committed;
        known.capture_is_down = is_down;
        self.weigh(known);
    }

    /// How much has been passed on, to be asked *before* a fence is: what is passed on while it is under way is not among
    /// what it tells of.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.passed.load(Ordering::Relaxed))
    }

    /// A fence that was asked for at `asked` told how far the server has written.
    pub(crate) fn written(&self, written: Offset, asked: Mark) {
        let mut known = self.lock();
        // Several ask for fences, so that answers may overtake each other.
        known.written = known.written.max(written);
        self.weigh(known);
        let counted = if planted::on("fence_counts_what_came_after_it") {
            self.mark()
        } else {
            asked
        };
        self.fenced_at.fetch_max(counted.0, Ordering::Relaxed);
        self.fenced.notify_waiters();
    }

    /// What the server has written counts although it is not captured yet: after an outage that is what waits in its
    /// replica buffer, and clients that came on top of it would have it overrun.
    fn weigh(&self, mut known: MutexGuard<'_, Known>) {
        let end = if planted::on("capture_alone_presses") {
            known.captured
        } else {
            known.captured.max(known.written)
        };
        let uncommitted = end.since(known.committed).unwrap_or(0);
        known.heavy |= uncommitted > self.uncommitted_max;
        known.heavy &= uncommitted >= self.uncommitted_max / 2;
        let now = known.heavy || known.capture_is_down;
        // Under the lock, or an older verdict could be told last.
        self.on.send_if_modified(|on| std::mem::replace(on, now) != now);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Each of its fields is valid by itself, so a panicked holder left it usable.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `bytes` of requests were passed on to the server.
    pub(crate) fn passed(&self, bytes: usize) {
        self.passed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Whether requests may be passed on before the next fence.
    pub(crate) fn may_pass(&self) -> bool {
        // In this order: `passed` is never below the mark that was taken of it.
        let fenced_at = self.fenced_at.load(Ordering::Relaxed);
        let since = self.passed.load(Ordering::Relaxed).saturating_sub(fenced_at);
        since < PASSED_BYTES_MAX || planted::on("passed_without_bound")
    }

    /// Has a fence asked with `ask`, unless requests may be passed on already, and waits for it. Cancel-safe.
    pub(crate) async fn wait_fence(&self, ask: impl FnOnce()) {
        let fenced = self.fenced.notified();
        // Only now that the next one can't be missed.
        if self.may_pass() {
            return;
        }
        ask();
        fenced.await;
    }

    /// Whether clients are not to be read now; the receiver tells of changes.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.on.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Offset {
        Offset::new(offset)
    }

    fn pressed(p: &Pressure) -> bool {
        *p.watch().borrow()
    }

    #[test]
    fn it_has_two_marks() {
        let p = Pressure::new(1000, at(70));
        p.capture(at(1070), at(70), false);
        assert!(!pressed(&p), "as much as is allowed");
        p.capture(at(1071), at(70), false);
        assert!(pressed(&p));
        p.capture(at(1071), at(571), false);
        assert!(pressed(&p), "half is not below half");
        p.capture(at(1071), at(572), false);
        assert!(!pressed(&p));
    }

    #[test]
    fn what_the_server_has_written_presses_before_it_is_captured() {
        let p = Pressure::new(1000, at(0));
        p.written(at(1000), p.mark());
        assert!(!pressed(&p));
        p.written(at(1001), p.mark());
        assert!(pressed(&p));
        p.capture(at(14), at(14), false);
        assert!(
            pressed(&p),
            "what is captured is committed, what is written is not"
        );
        p.capture(at(600), at(502), false);
        assert!(!pressed(&p));
    }

    #[test]
    fn it_is_on_while_capture_is_down() {
        let p = Pressure::new(1000, at(0));
        p.capture(at(0), at(0), true);
        p.written(at(1), p.mark());
        assert!(pressed(&p), "a fence changes nothing about it");
        p.capture(at(0), at(0), false);
        assert!(!pressed(&p));
    }

    #[test]
    fn a_fence_stops_clients_before_it_lets_more_pass() {
        let p = Pressure::new(1000, at(0));
        p.passed(PASSED_BYTES_MAX as usize);
        assert!(!p.may_pass());
        p.written(at(5000), p.mark());
        assert!(p.may_pass() && pressed(&p));
    }

    #[test]
    fn a_fence_counts_for_what_was_passed_before_it_and_for_nothing_else() {
        let p = Pressure::new(u64::MAX, at(0));
        p.passed(1);
        let (older, newer) = (p.mark(), {
            p.passed(PASSED_BYTES_MAX as usize);
            p.mark()
        });
        p.written(at(1), older);
        assert!(!p.may_pass(), "all but one byte came behind it");
        p.written(at(2), newer);
        assert!(p.may_pass());
        p.written(at(1), older);
        assert!(p.may_pass(), "an older one takes nothing back");
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn catches_a_fence_that_counts_for_what_came_after_it() {
        planted::assert_catches(
            "a_fence_counts_for_what_was_passed_before_it_and_for_nothing_else",
            "fence_counts_what_came_after_it",
        );
    }
}
