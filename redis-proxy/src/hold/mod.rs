//! Hold: every reply waits here until it may leave.
//!
//! The shell around the [`gate`]: a lock, a watermark that clients read without it, and the wakers of those
//! that wait. Promises that a client is woken when its ticket is released, and only then. Must not know what
//! a reply looks like, nor who its client is.
//!
//! Three parties meet here: clients take tickets ([`Waiter`]), the fence task gives batches their fence point
//! ([`Hold::next_batch`], [`Hold::fenced`]), and the append side tells what is committed and how long the
//! lease lasts ([`Hold::on_appended`], [`Hold::on_renewed`]).
//!
//! What need not wait for a commit at all is told by [`CleanReads`].

mod clean;
mod gate;
mod horizon;
pub mod keyed;
mod touched;

pub use clean::CleanReads;
pub use gate::{BatchId, FenceWentBack, Gate};
pub use horizon::Horizon;
pub use touched::{ReadKeys, Touched};

use futures_util::task::AtomicWaker;
use redoubt_env::{Env, planted};
use redoubt_types::{BootTime, Offset};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// One session's hold, cheap to clone.
#[derive(Clone)]
pub struct Hold {
    shared: Arc<Shared>,
}

struct Shared {
    env: Env,
    state: Mutex<State>,
    /// Copy of the gate's `released_end`, so that a client that is woken takes no lock.
    released_end: AtomicU64,
    /// Told when the open batch gets its first reply.
    joined: Notify,
    /// Copy of the gate's horizon, for whoever keeps batches of its own.
    horizon: watch::Sender<Horizon>,
}

struct State {
    gate: Gate,
    /// Who waits for which batch, oldest first; a client once per batch at most.
    waiting: VecDeque<(BatchId, Vec<Arc<AtomicWaker>>)>,
}

/// A place in the hold: the batch that some received bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(BatchId);

impl Hold {
    /// The hold of a session that begins when `committed` is committed and the lease lasts until
    /// `lease_until` (its margin taken off).
    pub fn new(committed: Offset, lease_until: BootTime, env: Env) -> Self {
        let state = State {
            gate: Gate::new(committed, lease_until),
            waiting: VecDeque::new(),
        };
        Hold {
            shared: Arc::new(Shared {
                env,
                state: Mutex::new(state),
                released_end: AtomicU64::new(0),
                joined: Notify::new(),
                horizon: watch::Sender::new(Horizon::new(committed, lease_until)),
            }),
        }
    }

    /// A client's access to the hold. One task may wait on it at a time.
    pub fn waiter(&self) -> Waiter {
        Waiter {
            hold: self.clone(),
            waker: Arc::new(AtomicWaker::new()),
            joined: None,
        }
    }

    /// Waits until something joined the open batch and no other batch waits for its fence, and seals it. For
    /// the fence task, which MUST send the fence only now: see [`gate`]. Cancel-safe.
    pub async fn next_batch(&self) -> BatchId {
        loop {
            let joined = self.shared.joined.notified();
            if let Some(batch) = self.lock().gate.seal() {
                return batch;
            }
            joined.await;
        }
    }

    /// Has a fence asked although nobody's replies wait for one.
    pub fn ask_for_fence(&self) {
        self.lock().gate.join();
        self.shared.joined.notify_one();
    }

    /// Gives the sealed batch its fence point. The fence's answer has just been received: the clock is read
    /// here, after that.
    ///
    /// # Errors
    /// When the point is below an earlier one: the session must end.
    pub fn fenced(&self, batch: BatchId, point: Offset) -> Result<(), FenceWentBack> {
        let at = self.shared.env.now();
        self.change(|gate| gate.fenced(batch, point, at))
    }

    /// An append was answered: everything before `end` is committed. `sent_at` is when the attempt that was
    /// answered was handed to the network; `lease` is the duration in force and `margin` what its holder
    /// takes off.
    ///
    /// Only a new commit renews the lease and is a round; a `duplicate`, the success of a retry, proves that
    /// its bytes are committed and nothing more (H14).
    pub fn on_appended(
        &self,
        end: Offset,
        sent_at: BootTime,
        duplicate: bool,
        lease: Duration,
        margin: Duration,
    ) {
        self.change(|gate| {
            gate.committed(end);
            if !duplicate {
                gate.lease(sent_at.plus(lease.saturating_sub(margin)));
                gate.round(sent_at);
            }
        });
    }

    /// A renewal of the lease that was sent at `sent_at` succeeded.
    pub fn on_renewed(&self, sent_at: BootTime, lease: Duration, margin: Duration) {
        self.change(|gate| {
            gate.lease(sent_at.plus(lease.saturating_sub(margin)));
            gate.round(sent_at);
        });
    }

    /// What the journal has committed, as far as the hold was told.
    pub fn committed(&self) -> Offset {
        self.lock().gate.committed_end()
    }

    /// What fence points are compared with, for whoever keeps batches of its own; the receiver tells of changes.
    pub fn horizon(&self) -> watch::Receiver<Horizon> {
        self.shared.horizon.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The gate is valid between any two statements of its own, so a panicked holder left it usable.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the gate and wakes those whose batches that released.
    fn change<T>(&self, f: impl FnOnce(&mut Gate) -> T) -> T {
        let mut released = Vec::new();
        let mut state = self.lock();
        let result = f(&mut state.gate);
        let end = state.gate.released_end();
        while state.waiting.front().is_some_and(|(batch, _)| *batch < end) {
            released.extend(state.waiting.pop_front());
        }
        // Before the wakers, and under the lock so that two changes can't store in the wrong order.
        self.shared.released_end.store(end.get(), Ordering::Release);
        let horizon = state.gate.horizon();
        self.shared
            .horizon
            .send_if_modified(|told| std::mem::replace(told, horizon) != horizon);
        drop(state);
        for waker in released.iter().flat_map(|(_, wakers)| wakers) {
            waker.wake();
        }
        result
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hold").field(&self.lock().gate).finish()
    }
}

/// One client's access to the hold.
pub struct Waiter {
    hold: Hold,
    waker: Arc<AtomicWaker>,
    /// The first and the last batch that it joined since it last had nothing to wait for.
    joined: Option<(BatchId, BatchId)>,
}

impl Waiter {
    /// Puts bytes that were just received from the server into the open batch, and lets the fence task know.
    pub fn ticket(&mut self) -> Ticket {
        let shared = &self.hold.shared;
        let mut state = self.hold.lock();
        let opens = state.gate.open_is_empty();
        let batch = state.gate.join();
        let before = self.joined.filter(|(_, last)| *last >= state.gate.released_end());
        if before.is_none_or(|(_, last)| last != batch) {
            let waker = Arc::clone(&self.waker);
            match state.waiting.back_mut() {
                Some((last, wakers)) if *last == batch => wakers.push(waker),
                _ => state.waiting.push_back((batch, vec![waker])),
            }
        }
        drop(state);
        self.joined = Some((before.map_or(batch, |(first, _)| first), batch));
        if opens {
            shared.joined.notify_one();
        }
        Ticket(batch)
    }

    /// Whether what the ticket stands for may leave.
    pub fn is_released(&self, ticket: Ticket) -> bool {
        if planted::on("hold_no_hold") {
            return true;
        }
        ticket.0.get() < self.hold.shared.released_end.load(Ordering::Acquire)
    }

    /// Has `waker` woken at every release of a ticket of this client. To be called *before*
    /// [`Waiter::is_released`], or a release between the two is missed.
    pub fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Waits for the release of a ticket of this client. Cancel-safe.
    pub async fn released(&self, ticket: Ticket) {
        poll_fn(|cx| {
            self.register(cx.waker());
            if self.is_released(ticket) {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl Drop for Waiter {
    /// Forgets the waker, so that clients which come and go while nothing is committed leave nothing behind.
    fn drop(&mut self) {
        let mut state = self.hold.lock();
        let Some((first, last)) = self.joined.filter(|(_, last)| *last >= state.gate.released_end()) else {
            return;
        };
        let begin = state.waiting.partition_point(|(batch, _)| *batch < first);
        for (_, wakers) in state
            .waiting
            .range_mut(begin..)
            .take_while(|(batch, _)| *batch <= last)
        {
            wakers.retain(|w| !Arc::ptr_eq(w, &self.waker));
        }
        // Batches of which nobody is left would pile up as well.
        state
            .waiting
            .retain(|(batch, wakers)| *batch < first || !wakers.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);
    const MARGIN: Duration = Duration::from_millis(300);

    fn hold(committed: u64) -> (Hold, Env) {
        let env = Env::real();
        (
            Hold::new(Offset::new(committed), env.now().plus(LEASE), env.clone()),
            env,
        )
    }

    #[tokio::test]
    async fn a_ticket_is_released_when_its_batch_is_committed() {
        let (hold, env) = hold(0);
        let mut waiter = hold.waiter();
        let ticket = waiter.ticket();
        let batch = hold.next_batch().await;
        hold.fenced(batch, Offset::new(10)).unwrap();
        assert!(!waiter.is_released(ticket));
        let other = hold.clone();
        let task = env.spawn(async move { waiter.released(ticket).await });
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        other.on_appended(Offset::new(10), env.now(), false, LEASE, MARGIN);
        assert!(task.await.is_some());
    }

    #[tokio::test]
    async fn the_fence_task_is_woken_by_the_first_reply_of_a_batch() {
        let (hold, env) = hold(0);
        let sealing = hold.clone();
        let task = env.spawn(async move { sealing.next_batch().await });
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        let mut waiter = hold.waiter();
        let ticket = waiter.ticket();
        assert_eq!(task.await, Some(ticket.0));
    }

    #[tokio::test]
    async fn replies_that_join_while_a_fence_is_out_are_the_next_batch() {
        let (hold, _) = hold(0);
        let mut waiter = hold.waiter();
        let first = waiter.ticket();
        let batch = hold.next_batch().await;
        let second = waiter.ticket();
        hold.fenced(batch, Offset::ZERO).unwrap();
        assert!(waiter.is_released(first));
        assert!(!waiter.is_released(second));
        assert!(hold.next_batch().await > batch);
    }

    #[tokio::test]
    async fn h14_a_retrys_success_moves_what_is_committed_and_renews_nothing() {
        let env = Env::real();
        let hold = Hold::new(Offset::ZERO, BootTime::default(), env.clone());
        let mut waiter = hold.waiter();
        let ticket = waiter.ticket();
        let batch = hold.next_batch().await;
        hold.fenced(batch, Offset::new(10)).unwrap();
        hold.on_appended(Offset::new(10), env.now(), true, LEASE, MARGIN);
        assert_eq!(hold.committed(), Offset::new(10));
        assert!(!waiter.is_released(ticket));
        hold.on_renewed(env.now(), LEASE, MARGIN);
        assert!(waiter.is_released(ticket));
    }

    #[tokio::test]
    async fn clients_that_come_and_go_leave_nothing_behind() {
        let (hold, _) = hold(0);
        let mut stays = hold.waiter();
        for n in 1..100 {
            stays.ticket();
            let mut goes = hold.waiter();
            goes.ticket();
            let batch = hold.next_batch().await;
            hold.fenced(batch, Offset::new(n)).unwrap();
            goes.ticket();
        }
        let ticket = stays.ticket();
        let wakers: usize = hold.lock().waiting.iter().map(|(_, wakers)| wakers.len()).sum();
        assert_eq!(wakers, 100, "one per batch for the client that stays");
        let batch = hold.next_batch().await;
        hold.fenced(batch, Offset::new(100)).unwrap();
        hold.on_appended(Offset::new(100), hold.shared.env.now(), false, LEASE, MARGIN);
        assert!(stays.is_released(ticket));
        assert!(hold.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_fence_point_that_goes_back_is_told() {
        let (hold, _) = hold(100);
        let mut waiter = hold.waiter();
        waiter.ticket();
        let batch = hold.next_batch().await;
        hold.fenced(batch, Offset::new(50)).unwrap();
        waiter.ticket();
        let batch = hold.next_batch().await;
        assert!(hold.fenced(batch, Offset::new(49)).is_err());
    }
}
