//! The capture link: one connection to the master, as its replica.
//!
//! Decides whether the server at the other end is the one that is meant, and takes nothing but `+CONTINUE` for
//! an answer. Promises that the very connection was proved by run_id and role before PSYNC was sent (H9), and
//! that a full sync is never taken: it would be a new beginning, not a continuation. Knows no session, no
//! journal and no buffer.

use crate::upstream::{Control, OWN, Upstream};
use bytes::BytesMut;
use redoubt_env::Env;
use redoubt_env::net::Conn;
use redoubt_resp::info::{Role, parse_replication, parse_server};
use redoubt_resp::psync::{HandshakeOutcome, ReplicaHandshake, ReplicaIdentity, ack_command};
use redoubt_resp::reply::Value;
use redoubt_types::{Offset, ReplId, RunId};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long connecting and the whole handshake may take. A master that forks stands still for a while.
const ATTACH_DEADLINE: Duration = Duration::from_secs(10);
/// How long a few bytes may take to be taken by the socket.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// Which server is meant, and from where its stream is wanted.
#[derive(Clone, Debug)]
pub struct Target {
    /// The way to it.
    pub upstream: Upstream,
    /// The process that it must be.
    pub run_id: RunId,
    /// The replid to ask under.
    pub under: ReplId,
    /// Everything behind this offset is asked for.
    pub from: Offset,
    /// What the server shows as the capture's port.
    pub listening_port: u16,
}

/// Why there is no link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// No connection, or one that was cut: try again, but not for ever.
    #[error("the server can't be reached: {0}")]
    Unreachable(String),
    /// Loading, or busy with a script, which may take any time (H11): try again.
    #[error("the server can't be captured now: {0}")]
    NotNow(String),
    /// It is another process, or no master.
    #[error("the server is not the one that is meant: {0}")]
    Other(String),
    /// It can't continue from there.
    #[error("the server does not continue: {0}")]
    NotContinued(String),
}

fn unreachable(e: impl ToString) -> AttachError {
    AttachError::Unreachable(e.to_string())
}

/// What is asked before anything else is said: who it is, and whether and how soon it refuses writes when it hears
/// of no replica.
const QUESTIONS: [&[&[u8]]; 3] = [
    &[b"INFO", b"default", OWN],
    &[b"CONFIG", b"GET", b"min-replicas-to-write"],
    &[b"CONFIG", b"GET", b"min-replicas-max-lag"],
];

/// Connects, and asks who is at the other end of this very connection. Returns its patience too.
async fn prove(env: &Env, target: &Target) -> Result<(Control, Option<Duration>), AttachError> {
    let mut control = Control::connect(env, &target.upstream, ATTACH_DEADLINE)
        .await
        .map_err(unreachable)?;
    let answers = control
        .call_all(&QUESTIONS, ATTACH_DEADLINE)
        .await
        .map_err(unreachable)?;
    if let Some(error) = answers.iter().find_map(Value::as_error) {
        // Only a server that is busy or loading may take any time; one that won't answer us for another reason
        // would otherwise keep every client waiting for ever.
        let passes = ["BUSY", "LOADING"].iter().any(|word| error.starts_with(word));
        let error = error.to_owned();
        return Err(if passes {
            AttachError::NotNow(error)
        } else {
            AttachError::Unreachable(error)
        });
    }
    let text = answers.first().and_then(Value::as_bytes).unwrap_or_default();
    let server = parse_server(text).map_err(unreachable)?;
    let replication = parse_replication(text).map_err(unreachable)?;
    if server.run_id != target.run_id {
        return Err(AttachError::Other(format!(
            "its run_id is {}, not {}",
            server.run_id, target.run_id
        )));
    }
    if replication.role != Role::Master {
        return Err(AttachError::Other("it is a replica now".to_owned()));
    }
    let setting = |nth: usize, name| answers.get(nth)?.field(name)?.as_int();
    let (wanted, lag) = (
        setting(1, "min-replicas-to-write"),
        setting(2, "min-replicas-max-lag"),
    );
    // Either being 0 turns it off.
    let seconds = lag.and_then(|s| u64::try_from(s).ok()).filter(|s| *s > 0);
    let patience = seconds.filter(|_| wanted > Some(0)).map(Duration::from_secs);
    Ok((control, patience))
}

/// A connection on which the master sends its stream.
pub struct Link {
    env: Env,
    conn: Box<dyn Conn>,
    /// Bytes of the stream that came along with the handshake's answer.
    early: BytesMut,
    patience: Option<Duration>,
}

impl Link {
    /// Connects and asks for the stream. Returns the link and the replid that the master writes under.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub async fn attach(env: &Env, target: &Target) -> Result<(Link, ReplId), AttachError> {
        let attaching = async {
            let (control, patience) = prove(env, target).await?;
            let (conn, early) = control.into_conn().map_err(unreachable)?;
            let mut link = Link {
                env: env.clone(),
                conn,
                early,
                patience,
            };
            let replid = link.psync(target).await?;
            Ok((link, replid))
        };
        env.timeout(ATTACH_DEADLINE, attaching)
            .await
            .map_err(unreachable)?
    }

    /// How long the master goes on taking writes without hearing of a replica; `None` if it does not care. As it was
    /// when the link was made: clients can't change it.
    pub fn patience(&self) -> Option<Duration> {
        self.patience
    }

    async fn psync(&mut self, target: &Target) -> Result<ReplId, AttachError> {
        let identity = ReplicaIdentity {
            auth: None,
            listening_port: target.listening_port,
        };
        let mut out = BytesMut::new();
        let mut handshake = ReplicaHandshake::start(identity, target.under, target.from, &mut out);
        let outcome = loop {
            self.conn.write_all(&out).await.map_err(unreachable)?;
            out.clear();
            self.read_early().await?;
            if handshake.awaits_psync() && self.early.first() == Some(&b'\n') {
                let why = format!("what follows {} is not in its backlog", target.from);
                return Err(AttachError::NotContinued(why));
            }
            if let Some(outcome) = handshake.feed(&mut self.early, &mut out).map_err(unreachable)? {
                break outcome;
            }
        };
        match outcome {
            HandshakeOutcome::Continue { replid } => Ok(replid.unwrap_or(target.under)),
            HandshakeOutcome::FullResync { replid, offset } => Err(AttachError::NotContinued(format!(
                "asked for what follows {} under {}, it offered a full sync of {replid} at {offset}",
                target.from, target.under
            ))),
            HandshakeOutcome::Retry(why) => Err(AttachError::NotNow(why)),
            HandshakeOutcome::Refused(why) => Err(AttachError::NotContinued(why)),
        }
    }

    async fn read_early(&mut self) -> Result<(), AttachError> {
        match self.conn.read_buf(&mut self.early).await {
            Ok(0) => Err(unreachable("it closed the connection")),
            Ok(_) => Ok(()),
            Err(e) => Err(unreachable(e)),
        }
    }

    /// Appends what the master sent to `into`, as much as fits its spare capacity. Returns the number of
    /// bytes, 0 when the link is cut. Cancel-safe.
    ///
    /// # Errors
    /// What the network says.
    pub async fn read(&mut self, into: &mut BytesMut) -> io::Result<usize> {
        if self.early.is_empty() {
            return self.conn.read_buf(into).await;
        }
        let early = std::mem::take(&mut self.early);
        into.extend_from_slice(&early);
        Ok(early.len())
    }

    /// Puts bytes back that were read and are not used yet.
    pub fn put_back(&mut self, bytes: BytesMut) {
        debug_assert!(self.early.is_empty(), "bytes that came later are in front");
        self.early = bytes;
    }

    /// Tells the master that everything before `held` is held. MUST NOT be past what is committed (H12).
    ///
    /// # Errors
    /// What the network says.
    pub async fn ack(&mut self, held: Offset) -> io::Result<()> {
        let mut out = BytesMut::new();
        ack_command(held, &mut out);
        self.env
            .timeout(WRITE_DEADLINE, self.conn.write_all(&out))
            .await
            .map_err(io::Error::other)?
    }
}
