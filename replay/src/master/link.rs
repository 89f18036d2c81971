//! One replica's connection: handshake, answer, stream.
//!
//! Promises that a PSYNC is answered only against a quorum-confirmed tail (H8), that nothing but newlines is
//! sent while that is waited for, and that once the stream has begun not one byte of our own is added (H15).
//! Buffers one entry; what the replica does not take is not read from the journal. What may be sent is
//! decided by [`LinkPlan`].

use super::registry::address;
use super::serve::Shared;
use crate::config::{CLOSE_DEADLINE, HANDSHAKE_DEADLINE, KEEPALIVE_EVERY, REPLICA_SILENCE_MAX};
use crate::source::{LinkPlan, PlanError, Verdict, confirmed};
use bytes::{BufMut, BytesMut};
use redoubt_client::{Description, TailError, TailEvent};
use redoubt_env::net::Conn;
use redoubt_resp::psync::{
    HandshakeError, MasterHandshake, PsyncAnswer, PsyncAsk, PsyncRequest, ReplicaAcks, answer, empty_rdb,
};
use redoubt_types::limits::HANDSHAKE_REQUEST_BYTES_MAX;
use redoubt_types::{LineageStep, Offset};
use std::future::pending;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

/// Why a link ended other than by its plan.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("the replica closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Handshake(#[from] HandshakeError),
    #[error("no PSYNC within {HANDSHAKE_DEADLINE:?}")]
    Slow,
    #[error("the replica was silent for {REPLICA_SILENCE_MAX:?}")]
    Silent,
    #[error("refused: {0}")]
    Refused(&'static str),
    #[error("the journal can't be tailed: {0}")]
    Tail(#[from] TailError),
    #[error("the journal contradicts the link: {0}")]
    Plan(#[from] PlanError),
}

/// A replica that asked, registered as long as this lives: also when the link's task is dropped.
struct Replica {
    shared: Arc<Shared>,
    id: u64,
    address: String,
}

impl Replica {
    fn new(shared: &Arc<Shared>, id: u64, address: String) -> Self {
        shared.registry().waiting(&address, id);
        Replica {
            shared: shared.clone(),
            id,
            address,
        }
    }

    fn sent(&self, sent: Offset) {
        self.shared.registry().sent(&self.address, self.id, sent);
    }

    fn acked(&self, acked: Offset) {
        self.shared.registry().acked(&self.address, self.id, acked);
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shared.registry().gone(&self.address, self.id);
    }
}

/// Serves one connection until it ends.
pub(super) async fn serve(shared: Arc<Shared>, id: u64, conn: Box<dyn Conn>, peer: String) {
    match link(&shared, id, conn, &peer).await {
        Ok(next) => {
            tracing::info!(peer, at = next.from.get(), newer = %next.replid, "link closed: its replid ended");
        }
        Err(e @ (LinkError::Tail(_) | LinkError::Plan(_))) => {
            tracing::error!(peer, "link closed: {e}");
            shared.registry().troubled(e.to_string());
        }
        Err(e) => tracing::info!(peer, "link closed: {e}"),
    }
}

/// The link's life; returns the step that ended its replid.
async fn link(
    shared: &Arc<Shared>,
    id: u64,
    mut conn: Box<dyn Conn>,
    peer: &str,
) -> Result<LineageStep, LinkError> {
    let mut input = BytesMut::new();
    let asked = shared
        .env
        .timeout(HANDSHAKE_DEADLINE, handshake(&mut conn, &mut input))
        .await;
    let asked = match asked.map_err(|_| LinkError::Slow)? {
        Err(error @ LinkError::Handshake(_)) => {
            // It was told why; closing with unread bytes could take that from it.
            conn.shutdown().await?;
            drain(shared, &mut conn).await;
            return Err(error);
        }
        asked => asked?,
    };
    let replica = Replica::new(shared, id, address(peer, asked.ip.as_deref(), asked.port));
    let description = wait_confirmed(shared, &mut conn, &mut input).await?;
    let plan = give_answer(&replica, &asked, description, &mut conn).await?;
    stream(&replica, plan, conn, input).await
}

/// Answers requests up to PSYNC.
async fn handshake(conn: &mut Box<dyn Conn>, input: &mut BytesMut) -> Result<PsyncRequest, LinkError> {
    let (mut handshake, mut out) = (MasterHandshake::new(), BytesMut::new());
    loop {
        let asked = handshake.feed(input, &mut out);
        if let Err(error) = &asked {
            // Before PSYNC is answered a line adds nothing to a stream (H15).
            out.put_slice(format!("-ERR {error}\r\n").as_bytes());
        }
        // Also before an error is acted on: the replica's log should say what we said.
        conn.write_all(&out).await?;
        out.clear();
        if let Some(asked) = asked? {
            return Ok(asked);
        }
        read_more(conn, input).await?;
    }
}

/// Waits for a quorum-confirmed description, and keeps the replica waiting with newlines meanwhile, which a
/// stock replica takes for a master that is preparing an answer.
async fn wait_confirmed(
    shared: &Shared,
    conn: &mut Box<dyn Conn>,
    input: &mut BytesMut,
) -> Result<Description, LinkError> {
    let env = &shared.env;
    let mut confirmed = pin!(confirmed(env, &shared.client, &shared.endpoints));
    let mut newline_at = env.now().plus(KEEPALIVE_EVERY);
    loop {
        tokio::select! {
            biased;
            description = &mut confirmed => return Ok(description),
            () = env.sleep_until(newline_at) => {
                conn.write_all(b"\n").await?;
                newline_at = env.now().plus(KEEPALIVE_EVERY);
            }
            // Nothing is expected, but a replica that goes away must not be waited for.
            read = read_more(conn, input) => {
                read?;
                if input.len() > HANDSHAKE_REQUEST_BYTES_MAX {
                    return Err(HandshakeError::TooLarge.into());
                }
            }
        }
    }
}

/// Answers the PSYNC, with the base if it is a full sync. Nothing but the stream may be written from here on.
async fn give_answer(
    replica: &Replica,
    asked: &PsyncRequest,
    description: Description,
    conn: &mut Box<dyn Conn>,
) -> Result<LinkPlan, LinkError> {
    let shared = &replica.shared;
    if !asked.psync2 {
        // It could not be told the newest replid, which every answer must name (H15).
        return refuse(conn, "this master needs replicas with capa psync2").await;
    }
    let had_base = shared.registry().full_syncs(&replica.address) > 0;
    let ask = if shared.base_first && !had_base {
        PsyncAsk::Full
    } else {
        asked.ask
    };
    let Description {
        lineage,
        position,
        beginning,
        ..
    } = description;
    let given = answer(&lineage, position.tail, beginning, &ask);
    let (from, full) = match given {
        PsyncAnswer::Continue { from, .. } => (from, false),
        PsyncAnswer::FullResync { at: Offset::ZERO, .. } => (Offset::ZERO, true),
        // The empty base is the only one there is, and it is of offset 0.
        PsyncAnswer::FullResync { .. } => return refuse(conn, "the journal has no base to begin from").await,
    };
    let replid = lineage.last().replid;
    let mut out = BytesMut::new();
    given.encode(asked.psync2, &mut out);
    if full {
        let base = empty_rdb();
        out.put_slice(format!("${}\r\n", base.len()).as_bytes());
        out.put_slice(base);
    }
    let full_syncs = shared
        .registry()
        .answered(&replica.address, replica.id, replid, from, full);
    let (address, offset, tail) = (&replica.address, from.get(), position.tail.get());
    if full {
        tracing::info!(address, %replid, offset, tail, full_syncs, asked = ?asked.ask, "full sync");
    } else {
        tracing::info!(address, %replid, offset, tail, full_syncs, asked = ?asked.ask, "continue");
    }
    conn.write_all(&out).await?;
    Ok(LinkPlan::new(lineage, from, shared.limit))
}

/// Sends the replica away without making it forget what it holds: after `-NOMASTERLINK` a stock replica
/// keeps its replid and offset and tries again, after any other error it would drop both.
async fn refuse<T>(conn: &mut Box<dyn Conn>, why: &'static str) -> Result<T, LinkError> {
    conn.write_all(format!("-NOMASTERLINK {why}\r\n").as_bytes())
        .await?;
    conn.shutdown().await?;
    Err(LinkError::Refused(why))
}

/// Feeds the replica until its replid ends; the connection is then closed behind the last byte.
async fn stream(
    replica: &Replica,
    plan: LinkPlan,
    conn: Box<dyn Conn>,
    input: BytesMut,
) -> Result<LineageStep, LinkError> {
    let (mut reader, mut writer) = split(conn);
    let next = tokio::select! {
        biased;
        gone = acknowledgements(replica, &mut reader, input) => return gone.map(|never| match never {}),
        fed = feed(replica, plan, &mut writer) => fed?,
    };
    // Half of the close first: with unread acknowledgements, closing at once would reset the connection and
    // might take bytes from the replica that it has not read yet.
    writer.shutdown().await?;
    drain(&replica.shared, &mut reader).await;
    Ok(next)
}

/// Reads until the other end closes, for a bounded time.
async fn drain(shared: &Shared, reader: &mut (impl AsyncRead + Unpin)) {
    let closed = async {
        let mut rest = BytesMut::with_capacity(1024);
        while read_more(reader, &mut rest).await.is_ok() {
            rest.clear();
        }
    };
    let _late = shared.env.timeout(CLOSE_DEADLINE, closed).await;
}

/// Passes on what the plan lets through; returns the step that ended the link's replid.
async fn feed(
    replica: &Replica,
    mut plan: LinkPlan,
    writer: &mut (impl AsyncWrite + Unpin),
) -> Result<LineageStep, LinkError> {
    if plan.verdict()? == Verdict::Rest {
        return pending().await;
    }
    let mut tailer = replica.shared.client.tail(plan.position(), true);
    let mut steps_known = 0;
    loop {
        let event = tailer.next().await?;
        // The lineage first: a promotion may have come between the answer and the tail's start, and an entry
        // must not be looked at before the link knows where its replid ends.
        let mut verdict = plan.verdict()?;
        if let Some(lineage) = tailer.lineage()
            && lineage.len() != steps_known
        {
            steps_known = lineage.len();
            verdict = plan.learn(lineage)?;
        }
        if verdict == Verdict::GoOn {
            verdict = match event {
                TailEvent::Entry(entry) => {
                    let bytes = plan.entry(entry.start, entry.bytes, entry.replid)?;
                    // Told before it is written, or an acknowledgement could overtake it.
                    replica.sent(plan.position());
                    writer.write_all(&bytes).await?;
                    plan.verdict()?
                }
                TailEvent::Lineage(step) => plan.step(&step)?,
                TailEvent::Mark { .. } | TailEvent::End => verdict,
            };
        }
        match verdict {
            Verdict::GoOn => {}
            Verdict::Ended(next) => return Ok(next),
            Verdict::Rest => return pending().await,
        }
    }
}

/// Reads acknowledgements until the replica is gone.
async fn acknowledgements(
    replica: &Replica,
    reader: &mut (impl AsyncRead + Unpin),
    mut input: BytesMut,
) -> Result<std::convert::Infallible, LinkError> {
    let mut acks = ReplicaAcks::new();
    loop {
        acks.feed(&mut input, |ack| replica.acked(ack.offset))?;
        let read = replica
            .shared
            .env
            .timeout(REPLICA_SILENCE_MAX, read_more(reader, &mut input))
            .await;
        read.map_err(|_| LinkError::Silent)??;
    }
}

/// Reads at least one byte. Cancel-safe.
async fn read_more(reader: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> Result<(), LinkError> {
    input.reserve(1024);
    match reader.read_buf(input).await? {
        0 => Err(LinkError::Closed),
        _ => Ok(()),
    }
}
