//! Clients with a server connection of their own: how they come to it, and how they leave it.
//!
//! Promises that a client that comes from a shared connection goes on behind its last command there, as whom it was there, and
//! that nothing of a client has been read when it is told that there is no connection for it.

use super::connection::{Connection, Ended};
use super::protocol::{Protocol, version_of};
use super::replies::Replies;
use super::requests::Requests;
use super::shared::Names;
use super::shared::plain::Plain;
use super::{Arrival, Common, TOO_MANY, asked_to_drain, session_before_drain, turn_away};
use crate::session::Session;
use crate::upstream::{Control, ProveError, Proven, prove_for_client};
use bytes::BytesMut;
use redoubt_env::net::Conn;
use redoubt_resp::request::{RequestHead, RequestScanner};
use redoubt_types::limits::UPSTREAM_RETRY_PAUSE;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// A client on its way to a connection of its own.
pub(super) struct Moving {
    pub(super) arrival: Arrival,
    pub(super) moved: Moved,
    /// A connection, if one was at hand.
    pub(super) spare: Option<Proven>,
}

/// Where a client that moves stands among its requests.
pub(super) struct Moved {
    /// Has the bytes of `first`.
    pub(super) scanner: RequestScanner,
    /// Its next command, if that was looked at.
    pub(super) first: Option<RequestHead>,
    pub(super) plain: Arc<Plain>,
    /// Answers that were released and that it has not taken.
    pub(super) owed: BytesMut,
}

/// Serves a client over a connection of its own that comes from a shared one. Returned is one that goes back.
pub(super) async fn serve_own(common: Arc<Common>, session: Arc<Session>, moving: Moving) -> Option<Arrival> {
    let deadline = common.options.release_deadline;
    let room = Arc::clone(&common.own).try_acquire_owned();
    let proven = match moving.spare {
        _ if room.is_err() => Err(Some(TOO_MANY.to_owned())),
        Some(proven) => Ok(proven),
        None => match common
            .env
            .timeout(deadline, prove_within(&common, &session))
            .await
        {
            Ok(proven) => proven,
            Err(_) => Err(None),
        },
    };
    let arrival = moving.arrival;
    let mut proven = match proven {
        Ok(proven) => proven,
        // In the midst of answers the line would be taken for one of them, or for a part of it.
        Err(Some(error)) if moving.moved.owed.is_empty() => {
            turn_away(&common.env, arrival.conn, &error).await;
            return None;
        }
        Err(_) => {
            tracing::debug!(arrival.peer, "no connection to the server up to the deadline");
            return None;
        }
    };
    if let Err(error) = introduce(&mut proven, &arrival.names, arrival.protocol, deadline).await {
        tracing::debug!(arrival.peer, %error, "the server was not told who the client is");
        return None;
    }
    serve_proven(&common, session, proven, arrival, Some(moving.moved)).await
}

/// Has a client's own connection begin as the client left off elsewhere.
async fn introduce(
    proven: &mut Proven,
    names: &Names,
    protocol: Protocol,
    deadline: Duration,
) -> io::Result<()> {
    let mut commands = names.commands();
    if protocol == Protocol::Resp3 {
        commands.insert(0, vec![b"HELLO", b"3"]);
    }
    if commands.is_empty() {
        return Ok(());
    }
    let commands: Vec<&[&[u8]]> = commands.iter().map(Vec::as_slice).collect();
    let answers = proven.control.call_all(&commands, deadline).await?;
    // What the server says of a name decides nothing.
    let granted =
        protocol == Protocol::Resp2 || answers.first().and_then(version_of) == Some(Protocol::Resp3);
    if granted {
        Ok(())
    } else {
        Err(io::Error::other("the server does not speak RESP3 any more"))
    }
}

/// Proves a connection to this session's server, however often that fails.
///
/// # Errors
/// The server's own error when it takes no connection, `None` when the session is over.
async fn prove_within(common: &Common, session: &Session) -> Result<Proven, Option<String>> {
    while session.ended().is_none() {
        match prove_for_client(session, &common.env).await {
            Ok(proven) => return Ok(proven),
            Err(ProveError::Refused(error)) => return Err(Some(error)),
            Err(ProveError::Changed(_)) => return Err(None),
            Err(ProveError::Unavailable(error)) => {
                tracing::debug!(%error, "connection for a client");
                common.env.sleep(UPSTREAM_RETRY_PAUSE).await;
            }
        }
    }
    Err(None)
}

/// Serves a client over a proven connection. Returned is one that needs it no more.
pub(super) async fn serve_proven(
    common: &Common,
    session: Arc<Session>,
    proven: Proven,
    arrival: Arrival,
    moved: Option<Moved>,
) -> Option<Arrival> {
    let Arrival {
        conn,
        peer,
        input,
        names,
        protocol,
        permit,
    } = arrival;
    let connection = match connect(common, session, proven, (conn, input), moved, names) {
        Ok(connection) => connection,
        Err(error) => {
            tracing::debug!(peer, %error, "no connection to the server");
            return None;
        }
    };
    match connection.run(asked_to_drain(common.draining.clone())).await {
        Ok(loose) => Some(Arrival {
            conn: loose.client,
            peer,
            input: loose.input,
            names: loose.names,
            protocol: match loose.unsure {
                None => protocol,
                Some(upstream) => protocol_at(common, upstream).await?,
            },
            permit,
        }),
        Err(Ended::Dropped(why)) => {
            tracing::debug!(peer, why, "client connection dropped");
            None
        }
        Err(_) => None,
    }
}

/// Which version of RESP is spoken on a connection on which nothing is under way; `None` if the server does not say.
async fn protocol_at(common: &Common, upstream: Box<dyn Conn>) -> Option<Protocol> {
    let mut control = Control::over(&common.env, upstream);
    let answer = control.call(&[b"HELLO"], common.options.release_deadline).await;
    answer.ok().and_then(|answer| version_of(&answer))
}

/// What came of waiting for a session and a proven connection.
pub(super) enum Begun {
    Served(Arc<Session>, Proven),
    Refused(String),
    NotServing,
}

/// Waits for a session and proves a connection to its server. Nothing of the client has been read, so a
/// session that ends meanwhile costs it nothing: it waits for the next one.
pub(super) async fn begin(common: &Common, patience: Duration) -> Begun {
    let mut serving = common.serving.clone();
    let attempts = async {
        loop {
            let Some(session) = session_before_drain(common, &mut serving).await else {
                return Begun::NotServing;
            };
            match prove_within(common, &session).await {
                Ok(proven) => return Begun::Served(session, proven),
                Err(Some(error)) => return Begun::Refused(error),
                Err(None) => {}
            }
        }
    };
    common
        .env
        .timeout(patience, attempts)
        .await
        .unwrap_or(Begun::NotServing)
}

fn connect(
    common: &Common,
    session: Arc<Session>,
    proven: Proven,
    (client, input): (Box<dyn Conn>, BytesMut),
    moved: Option<Moved>,
    names: Names,
) -> io::Result<Connection> {
    let (id, addr) = (proven.id, proven.addr.clone());
    let (upstream, early) = proven.into_conn()?;
    if !early.is_empty() {
        return Err(io::Error::other("the server sent more than it was asked for"));
    }
    let member = session.peers.join(id, addr);
    let requests = Requests::new(member, Arc::clone(&common.marker_prefix));
    let replies = Replies::new(session.hold.waiter(), &common.marker_prefix);
    let (requests, replies) = match moved {
        Some(moved) => (
            requests.moved(moved.scanner, moved.first, moved.plain, names),
            replies.behind(moved.owed),
        ),
        None => (requests, replies),
    };
    let deadline = common.options.release_deadline;
    Ok(Connection::new(
        common.env.clone(),
        session,
        deadline,
        (client, input),
        upstream,
        requests,
        replies,
    ))
}
