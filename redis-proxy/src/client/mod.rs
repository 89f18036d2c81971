//! Clients: RESP connections in, one proven server connection behind each.
//!
//! Decides who is served: whoever comes while a session lasts, up to a number; whoever comes between two
//! sessions waits, unread, up to the release deadline. Promises that nothing is written to a client that the
//! session's hold has not released, but the refusal of the connection itself. Must not know the journal.
//!
//! In data-path order: `turn` says when a client is read, [`inspect`] judges commands (`wait` and `peers` for it), [`requests`] passes them on,
//! [`replies`] holds what comes back, and `connection` moves the bytes.

mod connection;
pub mod inspect;
pub mod peers;
pub mod replies;
pub mod requests;
mod turn;
pub mod wait;

use crate::config::Config;
use crate::session::Session;
use crate::upstream::{ProveError, Proven, prove};
use connection::{Connection, Ended};
use futures_util::stream::{FuturesUnordered, StreamExt};
use redoubt_env::net::{Conn, Listener};
use redoubt_env::{Env, Task};
use redoubt_types::BootTime;
use redoubt_types::limits::{ACCEPT_PAUSE, CLIENT_LINGER, UPSTREAM_RETRY_PAUSE};
use replies::Replies;
use requests::Requests;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

/// What is said to a client beyond the number allowed: Redis' own words.
const TOO_MANY: &str = "ERR max number of clients reached";

/// What clients are served with.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a reply is held, or a new connection waits for a session, before the connection is closed.
    pub release_deadline: Duration,
    /// Connections at most.
    pub clients_max: usize,
}

impl From<&Config> for Options {
    fn from(config: &Config) -> Self {
        Options {
            release_deadline: config.release_deadline(),
            clients_max: config.clients_max,
        }
    }
}

/// What all connections share.
struct Shared {
    serving: watch::Receiver<Option<Arc<Session>>>,
    options: Options,
    /// Begins every marker's name; random per process, so that no client can guess it.
    marker_prefix: Arc<str>,
    env: Env,
}

/// Accepts clients and serves each under the session that `serving` shows, as long as the future is polled;
/// dropping it drops every connection.
pub async fn serve(
    mut listener: Box<dyn Listener>,
    serving: watch::Receiver<Option<Arc<Session>>>,
    options: Options,
    env: Env,
) {
    let nonce = u128::from_le_bytes(env.random_bytes());
    let marker_prefix = format!("REDOUBT-REFUSED-{nonce:032x}-").into();
    let shared = Arc::new(Shared {
        serving,
        options,
        marker_prefix,
        env: env.clone(),
    });
    let mut clients: FuturesUnordered<Task<()>> = FuturesUnordered::new();
    loop {
        tokio::select! {
            // Those that are over first, so that they don't count when the next one comes.
            biased;
            Some(_) = clients.next() => {}
            accepted = listener.accept() => match accepted {
                Ok((conn, peer)) if clients.len() < options.clients_max => {
                    clients.push(env.spawn(serve_one(Arc::clone(&shared), conn, peer)));
                }
                Ok((conn, _)) => turn_away(&env, conn, TOO_MANY).await,
                Err(error) => {
                    tracing::warn!(%error, "no client connection can be accepted");
                    env.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve_one(shared: Arc<Shared>, client: Box<dyn Conn>, peer: String) {
    let deadline = shared.env.now().plus(shared.options.release_deadline);
    match begin(&shared, deadline).await {
        Begun::Served(session, proven) => match connect(&shared, session, proven, client) {
            Ok(connection) => {
                let ended = connection.run().await;
                if let Ended::Dropped(why) = ended {
                    tracing::debug!(peer, why, "client connection dropped");
                }
            }
            Err(error) => tracing::debug!(peer, %error, "no connection to the server"),
        },
        Begun::Refused(error) => turn_away(&shared.env, client, &error).await,
        Begun::NotServing => tracing::debug!(peer, "nothing was served up to the deadline"),
    }
}

/// What came of waiting for a session and a proven connection.
enum Begun {
    Served(Arc<Session>, Proven),
    Refused(String),
    NotServing,
}

/// Waits for a session and proves a connection to its server. Nothing of the client has been read, so a
/// session that ends meanwhile costs it nothing: it waits for the next one.
async fn begin(shared: &Shared, deadline: BootTime) -> Begun {
    let mut serving = shared.serving.clone();
    let attempts = async {
        loop {
            let current = serving
                .wait_for(|s| s.as_ref().is_some_and(|s| s.ended().is_none()))
                .await;
            let Some(session) = current.ok().and_then(|s| s.clone()) else {
                return Begun::NotServing;
            };
            match prove(&session, &shared.env).await {
                Ok(proven) => return Begun::Served(session, proven),
                Err(ProveError::Refused(error)) => return Begun::Refused(error),
                Err(error) => {
                    tracing::debug!(%error, "connection for a client");
                    shared.env.sleep(UPSTREAM_RETRY_PAUSE).await;
                }
            }
        }
    };
    let left = deadline.since(shared.env.now());
    shared
        .env
        .timeout(left, attempts)
        .await
        .unwrap_or(Begun::NotServing)
}

fn connect(
    shared: &Shared,
    session: Arc<Session>,
    proven: Proven,
    client: Box<dyn Conn>,
) -> io::Result<Connection> {
    let (id, addr) = (proven.id, proven.addr.clone());
    let (upstream, early) = proven.into_conn()?;
    if !early.is_empty() {
        return Err(io::Error::other("the server sent more than it was asked for"));
    }
    let member = session.peers.join(id, addr);
    let requests = Requests::new(member, Arc::clone(&shared.marker_prefix));
    let replies = Replies::new(session.hold.waiter(), &shared.marker_prefix);
    let deadline = shared.options.release_deadline;
    Ok(Connection::new(
        shared.env.clone(),
        session,
        deadline,
        client,
        upstream,
        requests,
        replies,
    ))
}

/// Tells a client why it is not served. Nothing of it was read.
async fn turn_away(env: &Env, mut conn: Box<dyn Conn>, error: &str) {
    let line = format!("-{error}\r\n");
    // The line fits any socket's buffer; a client that does not even take that is not waited for.
    let _ = env.timeout(CLIENT_LINGER, conn.write_all(line.as_bytes())).await;
}
