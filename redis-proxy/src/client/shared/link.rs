//! The connection that clients share: made, proven, and made again when it is lost.
//!
//! Decides whether there is anything to share: the connection has the server's default user, as one has that did not
//! authenticate, so that no client may do on it what it might not on one of its own. Where that user can't give a fence,
//! since it wants a password or may not ask, nothing is shared.

use super::plain::Plain;
use crate::client::protocol::{Protocol, version_of};
use crate::hold::keyed::Keyed;
use crate::session::Session;
use crate::upstream::fence::FENCE;
use crate::upstream::{OWN, ProveError, busy_is_no_answer, prove};
use redoubt_env::Env;
use redoubt_env::net::Conn;
use redoubt_resp::reply::Value;
use redoubt_types::limits::{PROVE_DEADLINE, UPSTREAM_RETRY_PAUSE};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// The connection's name at the server.
const NAME: &[u8] = b"redoubt-shared";
/// What `ECHO` is asked at first, to see whether it may be. It ends with the word by which MONITOR leaves it out.
const TRIED: &[u8] = b"shared redoubt";

/// A connection that was just made, and what its server says of its commands.
pub(super) struct Made {
    /// The connection; nothing is under way on it.
    pub(super) conn: Box<dyn Conn>,
    /// Which commands may use it.
    pub(super) plain: Arc<Plain>,
    /// Which commands name all the keys that they touch.
    pub(super) keyed: Keyed,
}

type Making = Pin<Box<dyn Future<Output = Option<Made>> + Send>>;

/// The connection, or the making of it.
pub(super) enum Link {
    /// Nobody has needed it yet.
    Unasked,
    /// It is being made, however often that fails.
    Making(Making),
    /// It is there.
    Up(Box<dyn Conn>),
    /// It takes nothing more; what it has brought is still to be read.
    Closing(Box<dyn Conn>),
}

impl Link {
    /// Begins to make a connection to the session's server that speaks `protocol`.
    pub(super) fn make(session: Arc<Session>, protocol: Protocol, env: Env) -> Self {
        Link::Making(Box::pin(async move {
            loop {
                match try_make(&session, protocol, &env).await {
                    Ok(made) => return Some(made),
                    // That has ended the session.
                    Err(ProveError::Changed(_)) => return None,
                    Err(error) => {
                        tracing::debug!(%error, "no connection for clients to share");
                        env.sleep(UPSTREAM_RETRY_PAUSE).await;
                    }
                }
            }
        }))
    }

    /// Ready with what there is to know of a connection when it has just been made.
    pub(super) fn poll_made(&mut self, cx: &mut Context<'_>) -> Poll<(Arc<Plain>, Keyed)> {
        let Link::Making(making) = self else {
            return Poll::Pending;
        };
        match ready!(making.as_mut().poll(cx)) {
            Some(Made { conn, plain, keyed }) => {
                *self = Link::Up(conn);
                Poll::Ready((plain, keyed))
            }
            None => {
                *self = Link::Making(Box::pin(std::future::pending()));
                Poll::Pending
            }
        }
    }

    /// The connection, if it is there.
    pub(super) fn conn(&mut self) -> Option<&mut Box<dyn Conn>> {
        match self {
            Link::Up(conn) | Link::Closing(conn) => Some(conn),
            Link::Unasked | Link::Making(_) => None,
        }
    }

    /// Whether something may be sent.
    pub(super) fn takes_more(&self) -> bool {
        matches!(self, Link::Up(_))
    }

    /// It could not be written to.
    pub(super) fn stop_writing(&mut self) {
        let was = std::mem::replace(self, Link::Unasked);
        *self = match was {
            Link::Up(conn) => Link::Closing(conn),
            other => other,
        };
    }
}

async fn try_make(session: &Session, protocol: Protocol, env: &Env) -> Result<Made, ProveError> {
    let mut control = prove(session, env).await?.control;
    let commands = control
        .call_all(&[&[b"PING", OWN], &[b"COMMAND"]], PROVE_DEADLINE)
        .await?;
    if session.upstream.login().is_some() {
        control.reset(PROVE_DEADLINE).await?;
    }
    let questions: &[&[&[u8]]] = &[
        // What a flight ends with.
        FENCE,
        &[b"ECHO", TRIED],
        // What it carries is of many clients: not to be closed for what it takes of memory.
        &[b"CLIENT", b"NO-EVICT", b"on"],
        // For people who read CLIENT LIST.
        &[b"CLIENT", b"SETNAME", NAME],
    ];
    let answers = control.call_all(questions, PROVE_DEADLINE).await?;
    busy_is_no_answer(&commands)?;
    let mut plain = commands.get(1).map(Plain::of).unwrap_or_default();
    let mut keyed = commands.get(1).map(Keyed::of).unwrap_or_default();
    if plain.is_empty() {
        tracing::warn!("COMMAND does not tell what may share a connection: every client gets one of its own");
    }
    if let Some(error) = answers.iter().take(2).filter_map(Value::as_error).find(forbids) {
        tracing::info!(
            error,
            "clients don't share a connection: the server's default user may not ask for fences"
        );
        (plain, keyed) = (Plain::default(), Keyed::default());
    }
    if protocol == Protocol::Resp3 {
        let answer = control.call(&[b"HELLO", b"3"], PROVE_DEADLINE).await?;
        if version_of(&answer) != Some(protocol) {
            return Err(io::Error::other("the server does not speak RESP3 any more").into());
        }
    }
    let (conn, early) = control.into_conn()?;
    if !early.is_empty() {
        return Err(io::Error::other("the server sent more than it was asked for").into());
    }
    Ok(Made {
        conn,
        plain: Arc::new(plain),
        keyed,
    })
}

/// Whether the server does not do it for this user. Busy is not forbidden.
fn forbids(error: &&str) -> bool {
    error.starts_with("NOAUTH") || error.starts_with("NOPERM")
}
