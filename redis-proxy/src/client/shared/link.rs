//! The connection that clients share: made, proven, and made again when it is lost.
//!
//! Decides whether there is anything to share: the connection has the server's default user, as one has that did not
//! authenticate, so that no client may do on it what it might not on one of its own. Where that user can't give a fence,
//! since it wants a password or may not ask, nothing is shared.

use super::plain::Plain;
use crate::session::Session;
use crate::upstream::{ProveError, prove};
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

/// A connection that was just made, and what its server says of its commands.
pub(super) struct Made {
    /// The connection; nothing is under way on it.
    pub(super) conn: Box<dyn Conn>,
    /// Which commands may use it.
    pub(super) plain: Arc<Plain>,
}

type Making = Pin<Box<dyn Future<Output = Option<Made>> + Send>>;

/// The connection, or the making of it.
pub(super) enum Link {
    /// It is being made, however often that fails.
    Making(Making),
    /// It is there.
    Up(Box<dyn Conn>),
}

impl Link {
    /// Begins to make a connection to the session's server.
    pub(super) fn make(session: Arc<Session>, env: Env) -> Self {
        Link::Making(Box::pin(async move {
            loop {
                match try_make(&session, &env).await {
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
    pub(super) fn poll_made(&mut self, cx: &mut Context<'_>) -> Poll<Arc<Plain>> {
        let Link::Making(making) = self else {
            return Poll::Pending;
        };
        match ready!(making.as_mut().poll(cx)) {
            Some(Made { conn, plain }) => {
                *self = Link::Up(conn);
                Poll::Ready(plain)
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
            Link::Up(conn) => Some(conn),
            Link::Making(_) => None,
        }
    }
}

async fn try_make(session: &Session, env: &Env) -> Result<Made, ProveError> {
    let mut control = prove(session, env).await?.control;
    let commands = control.call(&[b"COMMAND"], PROVE_DEADLINE).await?;
    if session.upstream.login().is_some() {
        control.reset(PROVE_DEADLINE).await?;
    }
    let questions: &[&[&[u8]]] = &[
        &[b"INFO", b"replication"],
        // What it carries is of many clients: not to be closed for what it takes of memory.
        &[b"CLIENT", b"NO-EVICT", b"on"],
        // For people who read CLIENT LIST.
        &[b"CLIENT", b"SETNAME", NAME],
    ];
    let answers = control.call_all(questions, PROVE_DEADLINE).await?;
    let mut plain = Plain::of(&commands);
    if plain.is_empty() {
        tracing::warn!("COMMAND does not tell what may share a connection: every client gets one of its own");
    }
    // Busy is not forbidden: NOAUTH and NOPERM are.
    if let Some(error) = answers.first().and_then(Value::as_error)
        && error.starts_with("NO")
    {
        tracing::info!(
            error,
            "clients don't share a connection: the server's default user may not ask for fences"
        );
        plain = Plain::default();
    }
    let (conn, early) = control.into_conn()?;
    if !early.is_empty() {
        return Err(io::Error::other("the server sent more than it was asked for").into());
    }
    Ok(Made {
        conn,
        plain: Arc::new(plain),
    })
}
