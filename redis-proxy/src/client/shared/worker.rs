//! The worker: one task that moves the bytes of all clients of a shared connection.
//!
//! Decides when what is read and sent. Promises that nothing is written to a client that its flight's fence does not
//! release, that each client's commands are executed and answered in order, also over a move to a connection of its own,
//! and that a client whose command's outcome can't be known is dropped. A read never passes an earlier write of its
//! client: both take the same connection, in order.
//!
//! `fly` reads the clients and sends, `receive` reads the server, `serve` writes to the clients, `spare` keeps connections for
//! those who will need their own, `drain` ends what there is when the proxy is to stop.

mod drain;
mod fly;
mod receive;
mod serve;
mod spare;

use super::allowance::Allowance;
use super::flights::{FlightId, Flights, Slot};
use super::guest::{Guest, Then};
use super::link::Link;
use super::outbox::{Outbox, Total};
use super::plain::Plain;
use super::ready::{Ready, Signal};
use crate::client::protocol::Protocol;
use crate::client::turn::Turn;
use crate::client::{Arrival, Common, asked_to_drain};
use crate::hold::Horizon;
use crate::pause::{self, Writes};
use crate::session::Session;
use crate::upstream::Proven;
use crate::upstream::fence::Patience;
use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redoubt_env::{Task, planted};
use redoubt_resp::request::RequestScanner;
use redoubt_types::limits::{CLIENT_READ_BYTES_MIN, CLIENT_ROUNDS_MAX};
use redoubt_types::{BootTime, Offset};
use slab::Slab;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How often it is looked who has waited too long, within a release deadline: a timer for each flight would cost more than
/// the flight.
const CHECKS_PER_DEADLINE: u32 = 16;

/// The state of one worker, for one session.
pub(in crate::client) struct Worker {
    common: Arc<Common>,
    session: Arc<Session>,
    arrivals: mpsc::Receiver<Arrival>,
    /// What its clients speak.
    protocol: Protocol,
    /// The way to the worker of those who speak otherwise.
    other: mpsc::Sender<Arrival>,
    /// Clients with connections of their own; those that need them no more come back.
    away: FuturesUnordered<Task<Option<Arrival>>>,
    /// Connections that are ending, or on their way to the other worker.
    ending: FuturesUnordered<Task<()>>,
    guests: Slab<Guest>,
    next_id: u64,
    ready: Arc<Ready>,
    /// Keys of those to be looked at in this round.
    listed: Vec<usize>,
    /// Those that have to wait with what they send, in the order in which they will be read.
    deferred: VecDeque<Slot>,
    link: Link,
    plain: Arc<Plain>,
    flights: Flights,
    outbound: BytesMut,
    /// What is read goes here first: an idle client keeps no buffer.
    scratch: Box<[u8]>,
    horizon: watch::Receiver<Horizon>,
    horizon_changed: Waiting<()>,
    indexed: watch::Receiver<Offset>,
    indexed_changed: Waiting<()>,
    patience: Patience,
    /// When a fence is to be asked for again.
    again: Option<Waiting<()>>,
    turn: Turn,
    paused: pause::Watcher,
    /// Commands that are not to be sent now: a client with one of them gets a connection of its own to wait at.
    held_writes: Option<Arc<Writes>>,
    /// When it is a stall that nothing can be sent, and what had landed when that was asked for.
    stall: Option<Waiting<()>>,
    stall_landed: Option<FlightId>,
    /// Nothing can be sent for longer than usual: those who wait are listened to.
    stalled: bool,
    /// Those who are to be listened to in a stall.
    ahead: Vec<Slot>,
    /// When an idle connection is used lest it be closed.
    idle: Option<Waiting<()>>,
    /// Bytes that all clients are owed.
    total: Total,
    /// For clients that need a connection of their own.
    spares: Vec<Proven>,
    sparing: Option<Task<Option<Proven>>>,
    deadline: Option<Waiting<()>>,
    /// Ready when the proxy is to stop.
    drain: Waiting<()>,
    draining: bool,
}

impl Worker {
    /// A worker of `session` for the clients that come through `arrivals`. Those that speak another version of RESP later
    /// are given to `other`.
    pub(in crate::client) fn new(
        common: Arc<Common>,
        session: Arc<Session>,
        protocol: Protocol,
        arrivals: mpsc::Receiver<Arrival>,
        other: mpsc::Sender<Arrival>,
    ) -> Self {
        let (horizon, indexed) = (session.hold.horizon(), session.clean.indexed());
        Worker {
            drain: Box::pin(asked_to_drain(common.draining.clone())),
            draining: false,
            link: Link::Unasked,
            turn: Turn::new(Arc::clone(&session)),
            paused: pause::Watcher::new(Arc::clone(&session), common.env.clone()),
            held_writes: None,
            patience: Patience::new(common.options.fence_failing_max),
            horizon_changed: changed(horizon.clone()),
            horizon,
            indexed_changed: changed(indexed.clone()),
            indexed,
            common,
            session,
            arrivals,
            protocol,
            other,
            away: FuturesUnordered::new(),
            ending: FuturesUnordered::new(),
            guests: Slab::new(),
            next_id: 0,
            ready: Arc::default(),
            listed: Vec::new(),
            deferred: VecDeque::new(),
            plain: Arc::default(),
            flights: Flights::default(),
            outbound: BytesMut::new(),
            scratch: vec![0; CLIENT_READ_BYTES_MIN].into(),
            again: None,
            stall: None,
            stall_landed: None,
            stalled: false,
            ahead: Vec::new(),
            idle: None,
            total: Total::default(),
            spares: Vec::new(),
            sparing: None,
            deadline: None,
        }
    }

    /// Serves until the session is over. Every client's connection is dropped then. It does not end because it has no clients,
    /// when the proxy is to stop: some may still come from the other worker.
    pub(in crate::client) async fn run(mut self) {
        let session = Arc::clone(&self.session);
        // Whoever waits for this worker must not wait for ever, however it ends.
        let mut end = session.end_with_guard("nobody serves those who share a connection any more");
        let mut over = pin!(session.wait_end());
        // It yields by its own count of rounds: a budget per socket call would end a round within a flight.
        let serve = poll_fn(|cx| {
            if over.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.poll(cx);
            if self.draining {
                // It is ended once all clients are, while the session still has bytes to commit.
                end.disarm();
            }
            Poll::Pending
        });
        tokio::task::unconstrained(serve).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) {
        // Before the list is taken, or a client that is listed in between would wake nobody.
        self.ready.register(cx.waker());
        if !self.draining && self.drain.as_mut().poll(cx).is_ready() {
            self.begin_drain();
        }
        for round in 1.. {
            let mut progress = self.take_arrivals(cx);
            progress |= self.read_link(cx);
            progress |= self.release(cx);
            progress |= self.serve_listed();
            progress |= self.fly(cx);
            if !progress {
                break;
            }
            if round == CLIENT_ROUNDS_MAX {
                cx.waker().wake_by_ref();
                break;
            }
        }
        self.keep_spares(cx);
        self.poll_deadline(cx);
    }

    /// Takes clients in: new ones, and those that come back.
    fn take_arrivals(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Poll::Ready(Some(())) = self.ending.poll_next_unpin(cx).map(|e| e.map(drop)) {}
        while let Poll::Ready(Some(back)) = self.away.poll_next_unpin(cx) {
            if let Some(arrival) = back.flatten() {
                if arrival.protocol == self.protocol {
                    self.admit(arrival);
                } else {
                    let other = self.other.clone();
                    // Should that worker be gone, so is the session.
                    let handed = async move { drop(other.send(arrival).await) };
                    self.ending.push(self.common.env.spawn(handed));
                }
                progress = true;
            }
        }
        while let Poll::Ready(Some(arrival)) = self.arrivals.poll_recv(cx) {
            self.admit(arrival);
            progress = true;
        }
        progress
    }

    fn admit(&mut self, arrival: Arrival) {
        if matches!(self.link, Link::Unasked) {
            // No earlier: not every session has clients of each kind.
            self.make_link();
        }
        let entry = self.guests.vacant_entry();
        let slot = Slot {
            key: entry.key(),
            id: self.next_id,
        };
        self.next_id += 1;
        entry.insert(Guest {
            slot,
            conn: arrival.conn,
            peer: arrival.peer,
            signal: Signal::new(slot.key, Arc::clone(&self.ready)),
            input: arrival.input,
            outbox: Outbox::new(self.total.clone()),
            unanswered: 0,
            allowance: Allowance::default(),
            is_full: false,
            next: None,
            then: Then::Stays,
            deferred: false,
            waits_since: None,
            names: arrival.names,
            permit: arrival.permit,
            scanner: RequestScanner::new(),
        });
        if self.draining {
            self.read_last(slot.key);
        }
    }

    /// Drops those whose answers have been held, or whose commands have waited, past the deadline.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) {
        let deadline = self.common.options.release_deadline;
        loop {
            let waits = self.stalled && !self.deferred.is_empty();
            if !waits && self.flights.held_since().is_none() {
                self.deadline = None;
                return;
            }
            let every = deadline / CHECKS_PER_DEADLINE;
            let env = self.common.env.clone();
            let timer = self
                .deadline
                .get_or_insert_with(|| Box::pin(async move { env.sleep(every).await }));
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
            self.deadline = None;
            if !planted::on("no_deadline") {
                self.drop_overdue(deadline);
            }
        }
    }

    fn drop_overdue(&mut self, deadline: Duration) {
        let now = self.common.env.now();
        let overdue = |since: BootTime| now >= since.plus(deadline);
        let held: Vec<_> = self.flights.held_if(overdue).collect();
        for (slot, flight) in held {
            let guest = self.guests.get(slot.key).filter(|g| g.slot == slot);
            // Its clean reads may have left.
            if guest.is_some_and(|guest| guest.outbox.holds_of(flight)) {
                self.drop_guest(slot);
            }
        }
        self.guests
            .retain(|_, guest| !guest.waits_since.is_some_and(overdue));
    }
}

fn changed<T: Send + Sync + 'static>(mut watched: watch::Receiver<T>) -> Waiting<()> {
    Box::pin(async move {
        if watched.changed().await.is_err() {
            // The hold is gone, and with it this worker.
            std::future::pending::<()>().await;
        }
    })
}
