//! One replica's connection: handshake, answer, stream.
//!
//! Promises that a PSYNC is answered only against a quorum-confirmed tail (H8), that nothing but newlines is
//! sent while that is waited for, and that once the stream has begun not one byte of our own is added (H15).
//! Buffers one entry; what the replica does not take is not read from the journal. What may be sent is
//! decided by [`LinkPlan`].

use super::full_sync::{FullSync, readable};
use super::registry::address;
use super::serve::Shared;
use crate::config::{CLOSE_DEADLINE, HANDSHAKE_DEADLINE, KEEPALIVE_EVERY, REPLICA_SILENCE_MAX};
use crate::source::{LinkPlan, PlanError, Verdict, confirmed};
use bytes::{BufMut, BytesMut};
use redoubt_client::{ClientError, Description, TailError, TailEvent};
use redoubt_env::net::Conn;
use redoubt_resp::psync::{
    HandshakeError, MasterHandshake, PsyncAnswer, PsyncAsk, PsyncRequest, ReplicaAcks, answer,
};
use redoubt_types::limits::HANDSHAKE_REQUEST_BYTES_MAX;
use redoubt_types::{LineageStep, Offset};
use std::future::{Future, pending};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

/// Why a link ended other than by its plan.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
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
    Refused(String),
    #[error("the base can't be given to the replica: {0}")]
    Base(ClientError),
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
    /// It is being sent a base, and says nothing meanwhile.
    takes_base: AtomicBool,
}

impl Replica {
    fn new(shared: &Arc<Shared>, id: u64, address: String) -> Self {
        shared.registry().waiting(&address, id);
        Replica {
            shared: shared.clone(),
            id,
            address,
            takes_base: AtomicBool::new(false),
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
        Err(e @ (LinkError::Tail(_) | LinkError::Plan(_) | LinkError::Base(_))) => {
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
    let quorum = confirmed(&shared.env, &shared.client, &shared.endpoints);
    let description = keep_waiting(shared, &mut conn, &mut input, quorum).await?;
    let (plan, full) = give_answer(&replica, &asked, description, &mut conn, &mut input).await?;
    stream(&replica, plan, full, conn, input).await
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

/// Waits for what the answer depends on, and keeps the replica waiting with newlines meanwhile, which a stock
/// replica takes for a master that is preparing an answer.
async fn keep_waiting<T>(
    shared: &Shared,
    conn: &mut Box<dyn Conn>,
    input: &mut BytesMut,
    wanted: impl Future<Output = T>,
) -> Result<T, LinkError> {
    let env = &shared.env;
    let mut wanted = pin!(wanted);
    let mut newline_at = env.now().plus(KEEPALIVE_EVERY);
    loop {
        tokio::select! {
            biased;
            found = &mut wanted => return Ok(found),
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

/// Answers the PSYNC. Nothing but the base, if it is a full sync, and the stream may be written from here on.
async fn give_answer(
    replica: &Replica,
    asked: &PsyncRequest,
    description: Description,
    conn: &mut Box<dyn Conn>,
    input: &mut BytesMut,
) -> Result<(LinkPlan, Option<FullSync>), LinkError> {
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
        base,
        ..
    } = description;
    let base_at = base.as_ref().map_or(Offset::ZERO, |b| b.at());
    let given = answer(&lineage, position.tail, beginning, base_at, &ask);
    let (from, full) = match given {
        PsyncAnswer::Continue { from, .. } => (from, None),
        PsyncAnswer::FullResync { at, .. } if at < beginning => {
            return refuse(conn, "the journal has no base to begin from").await;
        }
        PsyncAnswer::FullResync { at, .. } if shared.limit.is_some_and(|limit| limit < at) => {
            let why = format!("the journal's base is at {at}, behind what is wanted here");
            shared.registry().troubled(why.clone());
            return refuse(conn, &why).await;
        }
        // What the replica has is not given up for a base that it can't load (H24), or that can't be had (H16): both are seen to
        // before it is told of a full sync.
        PsyncAnswer::FullResync { at, .. } => {
            if let Some(why) = base
                .as_ref()
                .and_then(|b| readable(b, asked.version.as_deref()).err())
            {
                shared.registry().troubled(why.clone());
                return refuse(conn, &why).await;
            }
            let begun = FullSync::begin(&shared.env, &shared.client, base);
            match keep_waiting(shared, conn, input, begun).await? {
                Ok(full) => (at, Some(full)),
                Err(e) => {
                    shared.registry().troubled(e.to_string());
                    return refuse(conn, &format!("the journal's base can't be read: {e}")).await;
                }
            }
        }
    };
    let replid = lineage.last().replid;
    let mut out = BytesMut::new();
    given.encode(asked.psync2, &mut out);
    replica.takes_base.store(full.is_some(), Ordering::Relaxed);
    let full_syncs = shared
        .registry()
        .answered(&replica.address, replica.id, replid, from, full.is_some());
    let (address, offset, tail) = (&replica.address, from.get(), position.tail.get());
    match &full {
        Some(full) => {
            let bytes = full.bytes();
            tracing::info!(address, %replid, offset, bytes, tail, full_syncs, asked = ?asked.ask, "full sync");
        }
        None => tracing::info!(address, %replid, offset, tail, full_syncs, asked = ?asked.ask, "continue"),
    }
    conn.write_all(&out).await?;
    Ok((LinkPlan::new(lineage, from, shared.limit), full))
}

/// Sends the replica away without making it forget what it holds: after `-NOMASTERLINK` a stock replica
/// keeps its replid and offset and tries again, after any other error it would drop both.
async fn refuse<T>(conn: &mut Box<dyn Conn>, why: &str) -> Result<T, LinkError> {
    // One line, whatever it is made of.
    let line = why.replace(['\r', '\n'], " ");
    conn.write_all(format!("-NOMASTERLINK {line}\r\n").as_bytes())
        .await?;
    conn.shutdown().await?;
    Err(LinkError::Refused(line))
}

/// Gives the replica its base, if it is to have one, and feeds it until its replid ends; the connection is then closed behind the
/// last byte.
async fn stream(
    replica: &Replica,
    plan: LinkPlan,
    full: Option<FullSync>,
    conn: Box<dyn Conn>,
    input: BytesMut,
) -> Result<LineageStep, LinkError> {
    let (mut reader, mut writer) = split(conn);
    let given = async {
        if let Some(full) = full {
            full.send(&replica.shared.env, &mut writer).await?;
            replica.takes_base.store(false, Ordering::Relaxed);
        }
        feed(replica, plan, &mut writer).await
    };
    let next = tokio::select! {
        biased;
        gone = acknowledgements(replica, &mut reader, input) => return gone.map(|never| match never {}),
        fed = given => fed?,
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

/// Reads acknowledgements until the replica is gone. One that takes a base is silent until it loads it, and then sends newlines: how long
/// it may take for the base is bounded where that is sent.
async fn acknowledgements(
    replica: &Replica,
    reader: &mut (impl AsyncRead + Unpin),
    mut input: BytesMut,
) -> Result<std::convert::Infallible, LinkError> {
    let mut acks = ReplicaAcks::new();
    loop {
        acks.feed(&mut input, |ack| replica.acked(ack.offset))?;
        let takes_base = replica.takes_base.load(Ordering::Relaxed);
        let read = replica
            .shared
            .env
            .timeout(REPLICA_SILENCE_MAX, read_more(reader, &mut input))
            .await;
        match read {
            Ok(read) => read?,
            Err(_) if takes_base => {}
            Err(_) => return Err(LinkError::Silent),
        }
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
