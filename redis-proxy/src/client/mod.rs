//! Clients: RESP connections in, proven server connections behind them.
//!
//! Decides who is served: whoever comes while a session lasts, up to a number; whoever comes between two
//! sessions waits, unread, up to the release deadline. Promises that nothing is written to a client that the
//! session's hold has not released, but the refusal of the connection itself. Must not know the journal.
//!
//! [`front`] is where they connect. Most clients share one connection ([`shared`]); a client whose command needs one of its own gets it (`own`), and keeps it as long
//! as its `ties` last. Of those, in data-path order: `turn` says when a client is read, [`inspect`] judges commands
//! (`wait` and `peers` for it),
//! [`requests`] passes them on, [`replies`] holds what comes back (`monitor` leaves out the proxy's own of it), and `connection` moves the bytes.

mod connection;
pub mod front;
pub mod inspect;
pub mod monitor;
mod own;
pub mod peers;
mod protocol;
mod proxied;
pub mod replies;
pub mod requests;
pub mod shared;
mod ties;
mod turn;
pub mod wait;

use crate::config::Config;
use crate::session::Session;
use bytes::BytesMut;
use futures_util::stream::{FuturesUnordered, StreamExt};
use own::{Begun, begin, serve_proven};
use protocol::Protocol;
use redoubt_env::net::{Conn, Listener};
use redoubt_env::{Env, Task};
use redoubt_types::limits::{ACCEPT_PAUSE, ARRIVALS_MAX, CLIENT_LINGER};
use shared::{Names, Worker};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

/// What is said to a client beyond the number allowed: Redis' own words.
const TOO_MANY: &str = "ERR max number of clients reached";

/// What clients are served with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a reply is held, or a new connection waits for a session, before the connection is closed.
    pub release_deadline: Duration,
    /// Connections at most.
    pub clients_max: usize,
    /// Whether clients share a connection to the server as long as their commands allow it.
    pub shared: bool,
    /// Connections at most that those who share may have of their own.
    pub own_max: usize,
    /// How long the server may answer with what is no fence before the session ends.
    pub fence_failing_max: Duration,
    /// Whether a read leaves before a commit if no uncommitted effect can have touched its keys.
    pub clean_reads: bool,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Options {
            release_deadline: config.release_deadline(),
            clients_max: config.clients_max,
            shared: config.shared_upstream,
            own_max: config.own_max,
            fence_failing_max: config.release_deadline(),
            clean_reads: config.clean_reads,
        }
    }
}

/// What all connections share.
struct Common {
    serving: watch::Receiver<Option<Arc<Session>>>,
    options: Options,
    /// Whether the proxy is to stop: nobody new, and nothing new from those that are there.
    draining: watch::Receiver<bool>,
    /// Begins every marker's name; random per process, so that no client can guess it.
    marker_prefix: Arc<str>,
    /// The way to the present session's worker.
    door: watch::Sender<Option<mpsc::Sender<Arrival>>>,
    /// Places for connections that clients who share have of their own.
    own: Arc<Semaphore>,
    env: Env,
}

/// A client's count among all clients.
type Permit = OwnedSemaphorePermit;

/// A client that comes in, or back.
struct Arrival {
    conn: Box<dyn Conn>,
    /// Where it connected from.
    peer: String,
    /// What was read of it and not passed on.
    input: BytesMut,
    names: Names,
    protocol: Protocol,
    permit: Permit,
}

impl Arrival {
    fn new(conn: Box<dyn Conn>, peer: String, permit: Permit) -> Self {
        Arrival {
            conn,
            peer,
            input: BytesMut::new(),
            names: Names::default(),
            protocol: Protocol::default(),
            permit,
        }
    }
}

/// Accepts clients and serves each under the session that `serving` shows, as long as the future is polled;
/// dropping it drops every connection. From when `draining` shows true, nobody is accepted; those that are there get the
/// answers to what they have sent by then, and are closed. Ready when that is done.
pub async fn serve(
    mut listener: Box<dyn Listener>,
    serving: watch::Receiver<Option<Arc<Session>>>,
    options: Options,
    env: Env,
    draining: watch::Receiver<bool>,
) {
    let nonce = u128::from_le_bytes(env.random_bytes());
    let marker_prefix = format!("REDOUBT-REFUSED-{nonce:032x}-").into();
    let common = Arc::new(Common {
        serving,
        options,
        draining: draining.clone(),
        marker_prefix,
        door: watch::Sender::new(None),
        own: Arc::new(Semaphore::new(options.own_max.min(Semaphore::MAX_PERMITS))),
        env: env.clone(),
    });
    let _keeper = options
        .shared
        .then(|| env.spawn(keep_worker(Arc::clone(&common))));
    let clients_max = u32::try_from(options.clients_max).unwrap_or(u32::MAX);
    let permits = Arc::new(Semaphore::new(clients_max as usize));
    let mut clients: FuturesUnordered<Task<()>> = FuturesUnordered::new();
    let mut stops = pin!(asked_to_drain(draining));
    loop {
        tokio::select! {
            // Those that are over first, so that they don't count when the next one comes.
            biased;
            Some(_) = clients.next() => {}
            () = &mut stops => break,
            accepted = listener.accept() => match accepted {
                Ok((conn, peer)) => match Arc::clone(&permits).try_acquire_owned() {
                    Ok(permit) => {
                        let arrival = Arrival::new(conn, peer, permit);
                        clients.push(env.spawn(serve_one(Arc::clone(&common), arrival)));
                    }
                    Err(_) => turn_away(&env, conn, TOO_MANY).await,
                }
                Err(error) => {
                    tracing::warn!(%error, "no client connection can be accepted");
                    env.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    // Whoever comes now is refused by the operating system, and goes elsewhere.
    drop(listener);
    // Clients move from task to task, and each has its permit until it is gone.
    let _all = permits.acquire_many(clients_max).await;
}

/// Waits until the proxy is to stop.
async fn asked_to_drain(mut draining: watch::Receiver<bool>) {
    if draining.wait_for(|drains| *drains).await.is_err() {
        // Nobody is there who could ask.
        std::future::pending::<()>().await;
    }
    // Lets the network be looked at, so that what has arrived by now can be read.
    tokio::task::yield_now().await;
}

/// Keeps workers for each session, one for each version of RESP, to which clients come through `common.door`.
async fn keep_worker(common: Arc<Common>) {
    let mut serving = common.serving.clone();
    loop {
        let Some(session) = session_before_drain(&common, &mut serving).await else {
            return;
        };
        let (door, arrivals) = mpsc::channel(ARRIVALS_MAX);
        let (other, others) = mpsc::channel(ARRIVALS_MAX);
        common.door.send_replace(Some(door.clone()));
        let workers = [
            (Protocol::Resp2, arrivals, other),
            (Protocol::Resp3, others, door),
        ];
        // Tasks of their own, so that the next session has workers even if one of these fails.
        let workers = workers.map(|(protocol, arrivals, other)| {
            let worker = Worker::new(
                Arc::clone(&common),
                Arc::clone(&session),
                protocol,
                arrivals,
                other,
            );
            common.env.spawn(worker.run())
        });
        for worker in workers {
            worker.await;
        }
        common.door.send_replace(None);
    }
}

/// The session that is not over; waits for one unless the proxy is to stop.
async fn session_before_drain(
    common: &Common,
    serving: &mut watch::Receiver<Option<Arc<Session>>>,
) -> Option<Arc<Session>> {
    tokio::select! {
        // One that is there already goes before the end.
        biased;
        session = session_of(serving) => session,
        () = asked_to_drain(common.draining.clone()) => None,
    }
}

/// Waits for a session that is not over.
async fn session_of(serving: &mut watch::Receiver<Option<Arc<Session>>>) -> Option<Arc<Session>> {
    let current = serving
        .wait_for(|s| s.as_ref().is_some_and(|s| s.ended().is_none()))
        .await;
    current.ok().and_then(|s| s.clone())
}

async fn serve_one(common: Arc<Common>, arrival: Arrival) {
    let patience = common.options.release_deadline;
    if common.options.shared {
        let peer = arrival.peer.clone();
        if common
            .env
            .timeout(patience, show_in(&common, arrival))
            .await
            .is_err()
        {
            tracing::debug!(peer, "nothing was served up to the deadline");
        }
        return;
    }
    match begin(&common, patience).await {
        Begun::Served(session, proven) => {
            // Nobody goes back who does not come from there.
            serve_proven(&common, session, proven, arrival, None).await;
        }
        Begun::Refused(error) => turn_away(&common.env, arrival.conn, &error).await,
        Begun::NotServing => tracing::debug!(arrival.peer, "nothing was served up to the deadline"),
    }
}

/// Hands a client to the worker, of this session or a later one: nothing of it has been read.
async fn show_in(common: &Common, mut arrival: Arrival) {
    let mut door = common.door.subscribe();
    loop {
        let current = tokio::select! {
            biased;
            current = door.wait_for(Option::is_some) => match current {
                Ok(current) => current.clone(),
                Err(_) => return,
            },
            () = asked_to_drain(common.draining.clone()) => return,
        };
        let Some(worker) = current else {
            continue;
        };
        match worker.send(arrival).await {
            Ok(()) => return,
            Err(back) => arrival = back.0,
        }
        // That worker is gone; its successor, or that there is none, is told.
        if door.changed().await.is_err() {
            return;
        }
    }
}

/// Tells a client why it is not served. Nothing of it was read.
async fn turn_away(env: &Env, mut conn: Box<dyn Conn>, error: &str) {
    let line = format!("-{error}\r\n");
    // The line fits any socket's buffer; a client that does not even take that is not waited for.
    let _ = env.timeout(CLIENT_LINGER, conn.write_all(line.as_bytes())).await;
}
