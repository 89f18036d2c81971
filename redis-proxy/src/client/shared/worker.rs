//! The worker: one task that moves the bytes of all clients of a shared connection.
//!
//! Decides when what is read and sent. Promises that nothing is written to a client that its flight's fence does not
//! release, that each client's commands are executed and answered in order, also over a move to a connection of its own,
//! and that a client whose command's outcome can't be known is dropped. A read never passes an earlier write of its
//! client: both take the same connection, in order.

use super::flights::{Arrived, FlightId, Flights, Slot};
use super::guest::{Guest, Taken, Then};
use super::link::Link;
use super::outbox::Outbox;
use super::plain::Plain;
use super::ready::{Ready, Signal};
use crate::client::connection::linger;
use crate::client::turn::Turn;
use crate::client::{Arrival, Common, Moved, Moving, asked_to_drain, serve_own};
use crate::hold::Horizon;
use crate::session::{EndReason, Session};
use crate::upstream::fence::{Meaning, Patience, meaning_of};
use crate::upstream::{Proven, prove_for_client};
use bytes::{Buf, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redoubt_env::{Task, planted};
use redoubt_resp::reply::Value;
use redoubt_resp::request::RequestScanner;
use redoubt_resp::stream::encode_command;
use redoubt_types::BootTime;
use redoubt_types::limits::{
    CLIENT_HELD_BYTES_MAX, CLIENT_HELD_PIECES_MAX, CLIENT_READ_BYTES_MAX, CLIENT_READ_BYTES_MIN,
    CLIENT_ROUNDS_MAX, FLIGHT_BYTES_MAX, FLIGHTS_IN_THE_AIR_MAX, UPSTREAM_RETRY_PAUSE,
};
use slab::Slab;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
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
    /// Clients with connections of their own; those that need them no more come back.
    away: FuturesUnordered<Task<Option<Arrival>>>,
    /// Connections that are ending.
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
    /// End of the flights that are released.
    released: FlightId,
    outbound: BytesMut,
    /// What is read goes here first: an idle client keeps no buffer.
    scratch: Box<[u8]>,
    horizon: watch::Receiver<Horizon>,
    horizon_changed: Waiting<()>,
    patience: Patience,
    /// When a fence is to be asked for again.
    again: Option<Waiting<()>>,
    turn: Turn,
    /// Whether clients may be read: their turn, and the connection is there.
    may_read: bool,
    /// A connection for the next client that needs its own: also while the server is busy with a script, and proves nothing
    /// (H11), it must be possible to end that script.
    spare: Option<Proven>,
    sparing: Option<Task<Option<Proven>>>,
    deadline: Option<Waiting<()>>,
    /// Ready when the proxy is to stop.
    drain: Waiting<()>,
    draining: bool,
}

impl Worker {
    /// A worker of `session` for the clients that come through `arrivals`.
    pub(in crate::client) fn new(
        common: Arc<Common>,
        session: Arc<Session>,
        arrivals: mpsc::Receiver<Arrival>,
    ) -> Self {
        let horizon = session.hold.horizon();
        Worker {
            drain: Box::pin(asked_to_drain(common.draining.clone())),
            draining: false,
            link: Link::make(Arc::clone(&session), common.env.clone()),
            turn: Turn::new(Arc::clone(&session)),
            patience: Patience::new(common.options.fence_failing_max),
            horizon_changed: changed(horizon.clone()),
            horizon,
            common,
            session,
            arrivals,
            away: FuturesUnordered::new(),
            ending: FuturesUnordered::new(),
            guests: Slab::new(),
            next_id: 0,
            ready: Arc::default(),
            listed: Vec::new(),
            deferred: VecDeque::new(),
            plain: Arc::default(),
            flights: Flights::default(),
            released: FlightId::default(),
            outbound: BytesMut::new(),
            scratch: vec![0; CLIENT_READ_BYTES_MIN].into(),
            again: None,
            may_read: false,
            spare: None,
            sparing: None,
            deadline: None,
        }
    }

    /// Serves until the session is over. Every client's connection is dropped then. Or until the proxy is to stop, and all have
    /// the answers to what they had sent.
    pub(in crate::client) async fn run(mut self) {
        let session = Arc::clone(&self.session);
        let mut over = pin!(session.wait_end());
        // It yields by its own count of rounds: a budget per socket call would end a round within a flight.
        let serve = poll_fn(|cx| {
            if over.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            self.poll(cx);
            if self.is_drained() {
                return Poll::Ready(());
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
        self.keep_spare(cx);
        self.poll_deadline(cx);
    }

    /// The proxy is to stop: reads what clients have sent by now. Nothing that they send later is read.
    fn begin_drain(&mut self) {
        self.draining = true;
        let keys: Vec<usize> = self.guests.iter().map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.read_last(key));
    }

    /// Reads what a client has sent by now, and lists it for that being taken.
    fn read_last(&mut self, key: usize) {
        let guest = &mut self.guests[key];
        let waker = Waker::from(Arc::clone(&guest.signal));
        let cx = &mut Context::from_waker(&waker);
        // Its end, or that it is gone, is found out when it is written to.
        while guest.input.len() < CLIENT_READ_BYTES_MAX
            && let Poll::Ready(Some(1..)) = read_into(guest, &mut self.scratch, cx)
        {}
        let slot = guest.slot;
        self.defer(slot);
    }

    fn is_drained(&self) -> bool {
        self.draining && self.guests.is_empty() && self.away.is_empty() && self.ending.is_empty()
    }

    /// Takes clients in: new ones, and those that come back.
    fn take_arrivals(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while let Poll::Ready(Some(())) = self.ending.poll_next_unpin(cx).map(|e| e.map(drop)) {}
        while let Poll::Ready(Some(back)) = self.away.poll_next_unpin(cx) {
            if let Some(arrival) = back.flatten() {
                self.admit(arrival);
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
            outbox: Outbox::default(),
            unanswered: 0,
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

    /// Makes the connection, or reads it, and takes in what the server says.
    fn read_link(&mut self, cx: &mut Context<'_>) -> bool {
        if let Poll::Ready(plain) = self.link.poll_made(cx) {
            self.plain = plain;
            if self.flights.wants_fence() {
                self.send_fence();
            }
            return true;
        }
        let Some(conn) = self.link.conn() else {
            return false;
        };
        let mut buffer = ReadBuf::new(&mut self.scratch);
        match Pin::new(conn).poll_read(cx, &mut buffer) {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
            Poll::Ready(_) => {
                self.lose_link("it was closed");
                return true;
            }
        }
        // A reading of the clock after what was received: H14 counts from here.
        let now = self.common.env.now();
        let mut fences: Vec<(FlightId, Value)> = Vec::new();
        let guests = &mut self.guests;
        let taken = self
            .flights
            .received(buffer.filled(), now, |arrived| match arrived {
                Arrived::Reply(slot, flight, bytes, ends) => {
                    if let Some(guest) = guests.get_mut(slot.key).filter(|g| g.slot == slot) {
                        guest.outbox.hold(flight, bytes);
                        guest.unanswered -= usize::from(ends);
                    }
                }
                Arrived::Fence(flight, value) => fences.push((flight, value)),
            });
        if let Err(error) = taken {
            self.lose_link(&error.to_string());
            return true;
        }
        for (flight, value) in fences {
            let meaning = match planted::held("pause_before_fence") {
                // As if it were busy: it is asked again.
                true => Meaning::NotYet,
                false => meaning_of(&self.session, &value),
            };
            let fenced = match self.patience.point(meaning, now) {
                Ok(Some(point)) => {
                    self.session.pressure.written(point);
                    let fenced = self.flights.fenced(flight, point, now);
                    fenced.map_err(|e| EndReason::ServerChanged(e.to_string()))
                }
                Ok(None) => Ok(()),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = fenced {
                self.session.end(reason);
                return false;
            }
        }
        true
    }

    /// Drops those whose commands' outcomes can't be known, and begins to make another connection.
    fn lose_link(&mut self, why: &str) {
        tracing::info!(why, "the connection that clients share is lost");
        self.flights.cut();
        self.outbound.clear();
        self.guests.retain(|_, guest| guest.unanswered == 0);
        self.link = Link::make(Arc::clone(&self.session), self.common.env.clone());
    }

    /// Writes what the journal's progress releases, and asks again for a fence that was not given.
    fn release(&mut self, cx: &mut Context<'_>) -> bool {
        while self.horizon_changed.as_mut().poll(cx).is_ready() {
            self.horizon.mark_unchanged();
            self.horizon_changed = changed(self.horizon.clone());
        }
        let horizon = *self.horizon.borrow();
        let (end, slots) = self.flights.release(horizon);
        self.released = end;
        for slot in &slots {
            self.serve(*slot);
        }
        if self.flights.wants_fence() && self.flights.in_the_air() == 0 && self.link.conn().is_some() {
            let env = self.common.env.clone();
            let again = self
                .again
                .get_or_insert_with(|| Box::pin(async move { env.sleep(UPSTREAM_RETRY_PAUSE).await }));
            if again.as_mut().poll(cx).is_ready() {
                self.again = None;
                self.send_fence();
                return true;
            }
        } else {
            self.again = None;
        }
        !slots.is_empty()
    }

    /// Looks at each client that has something to do.
    fn serve_listed(&mut self) -> bool {
        let mut listed = std::mem::take(&mut self.listed);
        self.ready.take(&mut listed);
        for key in &listed {
            if let Some(guest) = self.guests.get(*key) {
                guest.signal.seen();
                let slot = guest.slot;
                self.serve(slot);
            }
        }
        let any = !listed.is_empty();
        listed.clear();
        self.listed = listed;
        any
    }

    /// Writes what a client may have, and lists it for being read; or ends or moves it.
    fn serve(&mut self, slot: Slot) {
        let Some(guest) = self.guests.get_mut(slot.key).filter(|g| g.slot == slot) else {
            return;
        };
        let waker = Waker::from(Arc::clone(&guest.signal));
        let cx = &mut Context::from_waker(&waker);
        loop {
            let bytes = guest.outbox.released(self.released);
            if bytes.is_empty() {
                break;
            }
            match Pin::new(&mut guest.conn).poll_write(cx, bytes) {
                Poll::Ready(Ok(n)) if n > 0 => guest.outbox.written(n),
                Poll::Ready(_) => {
                    self.guests.remove(slot.key);
                    return;
                }
                Poll::Pending => break,
            }
        }
        match guest.then {
            Then::Stays => self.defer(slot),
            _ if guest.is_quiet() => self.let_go(slot),
            _ => {}
        }
    }

    /// Lists a client for being read as soon as that may be.
    fn defer(&mut self, slot: Slot) {
        let guest = &mut self.guests[slot.key];
        if !guest.deferred {
            guest.deferred = true;
            self.deferred.push_back(slot);
        }
    }

    /// Ends or moves a client that has had all its answers.
    fn let_go(&mut self, slot: Slot) {
        let guest = self.guests.remove(slot.key);
        let env = &self.common.env;
        match guest.then {
            Then::Moves(first) => {
                // The server may have closed it since it was last looked at.
                let cx = &mut Context::from_waker(Waker::noop());
                let spare = self.spare.take();
                let spare = spare.and_then(|mut spare| spare.control.poll_is_idle(cx).then_some(spare));
                let moving = Moving {
                    arrival: Arrival {
                        conn: guest.conn,
                        peer: guest.peer,
                        input: guest.input,
                        names: guest.names,
                        permit: guest.permit,
                    },
                    moved: Moved {
                        scanner: guest.scanner,
                        first,
                        plain: Arc::clone(&self.plain),
                    },
                    spare,
                };
                let (common, session) = (Arc::clone(&self.common), Arc::clone(&self.session));
                self.away.push(env.spawn(serve_own(common, session, moving)));
            }
            Then::Stays | Then::Ends => {
                let (env, conn, permit) = (env.clone(), guest.conn, guest.permit);
                self.ending.push(self.common.env.spawn(async move {
                    linger(&env, conn).await;
                    drop(permit);
                }));
            }
        }
    }

    /// Reads those that may be read, and sends what they say as one flight.
    fn fly(&mut self, cx: &mut Context<'_>) -> bool {
        let turn = self.turn.poll(cx).is_ready();
        self.may_read = turn && self.link.conn().is_some();
        let mut progress = false;
        if !self.may_read {
            self.read_ahead();
        } else if self.outbound.is_empty() && self.flights.in_the_air() < FLIGHTS_IN_THE_AIR_MAX {
            while self.outbound.len() < FLIGHT_BYTES_MAX
                && let Some(slot) = self.deferred.pop_front()
            {
                self.read(slot);
                // It may have been let go, which is to be looked at.
                progress = true;
            }
            if !self.outbound.is_empty() {
                self.session.pressure.passed(self.outbound.len());
                self.send_fence();
            }
        }
        progress | self.write_link(cx)
    }

    /// Ends a flight, or asks again for the fence of one that has landed.
    fn send_fence(&mut self) {
        encode_command(&[b"INFO", b"replication"], &mut self.outbound);
        self.flights.seal();
    }

    fn write_link(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        while !self.outbound.is_empty() {
            let Some(conn) = self.link.conn() else {
                break;
            };
            match Pin::new(conn).poll_write(cx, &self.outbound) {
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.outbound.advance(n);
                    progress = true;
                }
                Poll::Ready(_) => {
                    self.lose_link("it can't be written to");
                    return true;
                }
                Poll::Pending => break,
            }
        }
        progress
    }

    /// Takes commands of a client that is not listed any more, as many as there may be.
    fn read(&mut self, slot: Slot) {
        let Some(guest) = self.guests.get_mut(slot.key).filter(|g| g.slot == slot) else {
            return;
        };
        guest.deferred = false;
        guest.waits_since = None;
        let waker = Waker::from(Arc::clone(&guest.signal));
        let cx = &mut Context::from_waker(&waker);
        loop {
            if guest.unanswered >= CLIENT_HELD_PIECES_MAX || guest.outbox.len() >= CLIENT_HELD_BYTES_MAX {
                // It is looked at again when it has been written to.
                return;
            }
            if self.outbound.len() >= FLIGHT_BYTES_MAX {
                return self.defer(slot);
            }
            match guest.take(&self.plain, &self.session.peers) {
                Taken::Command(bytes, instead) => {
                    self.outbound.extend_from_slice(&bytes);
                    guest.unanswered += 1;
                    self.flights.send(slot, instead);
                }
                Taken::Stopped if guest.is_quiet() => return self.let_go(slot),
                Taken::Stopped => return,
                Taken::Incomplete if self.draining => {
                    guest.then = Then::Ends;
                    if guest.is_quiet() {
                        self.let_go(slot);
                    }
                    return;
                }
                Taken::Incomplete => match read_into(guest, &mut self.scratch, cx) {
                    Poll::Ready(Some(0)) => guest.then = Then::Ends,
                    Poll::Ready(Some(_)) => {}
                    Poll::Ready(None) => {
                        self.guests.remove(slot.key);
                        return;
                    }
                    Poll::Pending => return,
                },
            }
        }
    }

    /// Reads a little that is not sent yet: what waits for its turn counts for the deadline as an answer does. Whoever
    /// sent it may be gone long since, and nothing of it has been executed.
    fn read_ahead(&mut self) {
        let now = self.common.env.now();
        let mut gone = Vec::new();
        for slot in &self.deferred {
            let Some(guest) = self.guests.get_mut(slot.key).filter(|g| g.slot == *slot) else {
                continue;
            };
            let waker = Waker::from(Arc::clone(&guest.signal));
            let cx = &mut Context::from_waker(&waker);
            while !self.draining
                && guest.input.len() < CLIENT_READ_BYTES_MIN
                && let Poll::Ready(read) = read_into(guest, &mut self.scratch, cx)
            {
                match read {
                    // It is seen again when what came before it was taken.
                    Some(0) => break,
                    Some(_) => {}
                    None => {
                        gone.push(slot.key);
                        break;
                    }
                }
            }
            if !guest.input.is_empty() {
                guest.waits_since.get_or_insert(now);
            }
        }
        for key in gone {
            self.guests.remove(key);
        }
    }

    /// Keeps a proven connection for the next client that needs its own.
    fn keep_spare(&mut self, cx: &mut Context<'_>) {
        if self
            .spare
            .as_mut()
            .is_some_and(|spare| !spare.control.poll_is_idle(cx))
        {
            self.spare = None;
        }
        if self.spare.is_some() {
            return;
        }
        let (session, env) = (Arc::clone(&self.session), self.common.env.clone());
        let sparing = self.sparing.get_or_insert_with(|| {
            self.common.env.spawn(async move {
                match prove_for_client(&session, &env).await {
                    Ok(proven) => Some(proven),
                    Err(error) => {
                        tracing::debug!(%error, "no spare connection");
                        env.sleep(UPSTREAM_RETRY_PAUSE).await;
                        None
                    }
                }
            })
        });
        if let Poll::Ready(made) = Pin::new(sparing).poll(cx) {
            self.sparing = None;
            self.spare = made.flatten();
            // Watched, or tried again.
            cx.waker().wake_by_ref();
        }
    }

    /// Drops those whose answers have been held, or whose commands have waited, past the deadline.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) {
        let deadline = self.common.options.release_deadline;
        loop {
            let waits = !self.may_read && !self.deferred.is_empty();
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
        let held: Vec<Slot> = self.flights.held_if(overdue).collect();
        for slot in held {
            if self.guests.get(slot.key).is_some_and(|g| g.slot == slot) {
                self.guests.remove(slot.key);
            }
        }
        self.guests
            .retain(|_, guest| !guest.waits_since.is_some_and(overdue));
    }
}

/// Reads into a client's input. The number of bytes; 0 at its end, `None` when its connection has failed.
fn read_into(guest: &mut Guest, scratch: &mut [u8], cx: &mut Context<'_>) -> Poll<Option<usize>> {
    let mut buffer = ReadBuf::new(scratch);
    Pin::new(&mut guest.conn).poll_read(cx, &mut buffer).map(|read| {
        read.ok().map(|()| {
            guest.input.extend_from_slice(buffer.filled());
            buffer.filled().len()
        })
    })
}

fn changed(mut watched: watch::Receiver<Horizon>) -> Waiting<()> {
    Box::pin(async move {
        if watched.changed().await.is_err() {
            // The hold is gone, and with it this worker.
            std::future::pending::<()>().await;
        }
    })
}
