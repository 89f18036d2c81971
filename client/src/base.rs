//! Bases: read from whichever node holds one, given to a node, made the journal's.

use crate::client::{Answered, Client};
use crate::error::{ClientError, WriterError};
use crate::health::{Hunt, Next, Want};
use crate::nodes::Fault;
use crate::nouns::FoldReport;
use crate::refusal::{Refused, Scope, Verdicts};
use bytes::Bytes;
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_proto::v1::{self, get_base_response, offer_fold_response, put_base_request, put_base_response};
use redoubt_types::limits::BASE_SILENCE_MAX;
use redoubt_types::{Base, BaseChecksum, BaseName, HolderId, payload_crc};
use std::io;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Chunks on their way to a node ahead of what it said that it has.
const CHUNKS_AHEAD: usize = 8;

/// The chunks of an RDB from a byte on, of at most [`redoubt_types::limits::BASE_CHUNK_BYTES`] each, as a caller reads them from
/// wherever it has them, no faster than it wants them sent.
pub type Chunks = mpsc::Receiver<io::Result<Bytes>>;

/// A base's RDB as it comes, in order, each chunk as its sender's checksum says. A node that fails is replaced by another one at the
/// same byte.
pub struct BaseReader {
    client: Client,
    base: Base,
    at: u64,
    /// Of all before `at`; `None` when reading did not begin at the first byte.
    checksum: Option<BaseChecksum>,
    hunt: Hunt,
    from: Option<(usize, Streaming<v1::GetBaseResponse>)>,
    deadline: Duration,
}

impl BaseReader {
    /// The next chunk; `None` behind the last one, when the whole RDB was read and is as its checksum says.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when no node gave a byte within the deadline, [`ClientError::Refused`] when every node refused for
    /// good or what came is not the base. Final.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.at == self.base.bytes {
            let expected = self.base.name.checksum;
            return match self.checksum {
                Some(found) if found.get() != expected => Err(ClientError::Unavailable(format!(
                    "base {} was read with checksum {:016x}",
                    self.base.name,
                    found.get()
                ))),
                _ => Ok(None),
            };
        }
        let client = self.client.clone();
        let nodes = &client.inner.nodes;
        let until = client.inner.env.now().plus(self.deadline);
        let mut verdicts = Verdicts::new(nodes.len());
        while let Some(left) = client.left(until) {
            let node = match &self.from {
                Some((node, _)) => *node,
                None => match nodes.next(&mut self.hunt) {
                    Next::Node(node) => node,
                    Next::Pause(pause) => {
                        client.inner.env.sleep(pause.min(left)).await;
                        continue;
                    }
                },
            };
            match self.read(node, left.min(BASE_SILENCE_MAX)).await {
                Ok(Answered::Done(chunk)) => {
                    nodes.health().answered(node);
                    self.at += chunk.len() as u64;
                    self.checksum = self.checksum.map(|c| c.extend(&chunk));
                    return Ok(Some(chunk));
                }
                Ok(Answered::Refused(refused)) => {
                    self.from = None;
                    let gone = refused.scope() == Scope::Everywhere;
                    verdicts.refused(nodes, node, refused);
                    if !gone {
                        // It answers, and will not answer otherwise soon: the others first.
                        nodes.health().failed(node, client.inner.env.now());
                    }
                }
                Err(fault) => {
                    self.from = None;
                    nodes.failed(node, &fault);
                    verdicts.transient(node, fault.0);
                }
            }
            if let Some(refused) = verdicts.final_for_all() {
                return Err(refused.into());
            }
        }
        Err(ClientError::Unavailable(verdicts.text(nodes)))
    }

    async fn read(&mut self, node: usize, within: Duration) -> Result<Answered<Bytes>, Fault> {
        let inner = self.client.inner.clone();
        if self.from.is_none() {
            let request = v1::GetBaseRequest {
                cluster_id: inner.cluster_id(),
                journal: inner.journal.clone(),
                name: Some(redoubt_proto::base_name(&self.base.name)),
                from: self.at,
            };
            let mut journal = inner.nodes.journal_for_tail(node)?;
            let chunks = inner.nodes.within(within, journal.get_base(request)).await?;
            self.from = Some((node, chunks));
        }
        let Some((_, chunks)) = &mut self.from else {
            return Err(Fault("its stream has ended".to_owned()));
        };
        let event = inner.env.timeout(within, chunks.message()).await;
        let event = event.map_err(|elapsed| Fault(elapsed.to_string()))??;
        match event.and_then(|e| e.event) {
            Some(get_base_response::Event::Chunk(chunk)) => {
                let end = chunk.from.saturating_add(chunk.bytes.len() as u64);
                if chunk.from != self.at || chunk.bytes.is_empty() || end > self.base.bytes {
                    let (from, at) = (chunk.from, self.at);
                    return Err(Fault(format!(
                        "it gave bytes {from}..{end} of a base where {at} was next"
                    )));
                }
                if payload_crc(&chunk.bytes) != chunk.crc {
                    return Err(Fault(format!(
                        "a chunk of a base at {} was damaged on its way",
                        chunk.from
                    )));
                }
                Ok(Answered::Done(chunk.bytes))
            }
            Some(get_base_response::Event::Refused(r)) => Ok(Answered::Refused(Refused::from_wire(&r))),
            None => Err(Fault(format!("its base ended at byte {}", self.at))),
        }
    }
}

impl Client {
    /// The RDB of `base` from byte `from` on; the end of what is read from its first byte on is verified. A chunk comes within
    /// `deadline`, or the reader gives up.
    pub fn read_base(&self, base: &Base, from: u64, deadline: Duration) -> BaseReader {
        BaseReader {
            client: self.clone(),
            base: base.clone(),
            at: from,
            checksum: (from == 0).then(BaseChecksum::default),
            hunt: self.inner.nodes.hunt(Want::Any),
            from: None,
            deadline,
        }
    }

    /// Gives the node at `endpoint` what it lacks of `base`'s RDB; `open` is asked for its chunks from a byte on, once. When this
    /// returns, the node has all of it on disk and its checksum was right. After a failure it may be called again, and goes on from
    /// what the node has.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when the node does not answer, or the chunks can't be read, [`ClientError::Refused`] when it
    /// refuses.
    pub async fn put_base(
        &self,
        endpoint: &str,
        base: &Base,
        open: impl FnOnce(u64) -> Chunks,
    ) -> Result<(), ClientError> {
        self.put(endpoint, base, open)
            .await
            .unwrap_or_else(|fault| Err(ClientError::Unavailable(format!("{endpoint}: {}", fault.0))))
    }

    async fn put(
        &self,
        endpoint: &str,
        base: &Base,
        open: impl FnOnce(u64) -> Chunks,
    ) -> Result<Result<(), ClientError>, Fault> {
        let node = match self.node(endpoint) {
            Ok(node) => node,
            Err(e) => return Ok(Err(e)),
        };
        let nodes = &self.inner.nodes;
        self.know_cluster(node, BASE_SILENCE_MAX).await?;
        let mut journal = nodes.journal(node)?;
        let (parts, rest) = mpsc::channel(CHUNKS_AHEAD);
        let start = v1::PutBaseStart {
            cluster_id: self.inner.cluster_id(),
            journal: self.inner.journal.clone(),
            base: Some(redoubt_proto::base(base)),
        };
        let send = |part| {
            let parts = parts.clone();
            async move { parts.send(v1::PutBaseRequest { part: Some(part) }).await.is_ok() }
        };
        let told_start = send(put_base_request::Part::Start(start)).await;
        debug_assert!(told_start, "the channel has room for its first part");
        let request = journal.put_base(ReceiverStream::new(rest));
        let mut answers = nodes.within(BASE_SILENCE_MAX, request).await?;
        let mut open = Some(open);
        let mut chunks: Option<(u64, Chunks)> = None;
        loop {
            let heard = self.inner.env.timeout(BASE_SILENCE_MAX, answers.message());
            let next = async {
                match &mut chunks {
                    // Nothing is left to send, or nothing is asked for yet.
                    None => std::future::pending().await,
                    Some((_, chunks)) => {
                        let room = parts.reserve().await;
                        (room.is_ok(), chunks.recv().await)
                    }
                }
            };
            tokio::select! {
                biased; // a refusal before more is sent
                answer = heard => {
                    let answer = answer.map_err(|elapsed| Fault(elapsed.to_string()))??;
                    match answer.and_then(|a| a.outcome) {
                        Some(put_base_response::Outcome::Stored(stored)) => {
                            if let Some(open) = open.take() {
                                chunks = Some((stored, open(stored)));
                            }
                        }
                        Some(put_base_response::Outcome::Held(_)) => return Ok(Ok(())),
                        Some(put_base_response::Outcome::Refused(r)) => {
                            return Ok(Err(Refused::from_wire(&r).into()));
                        }
                        None => return Err(Fault("it ended the transfer of a base".to_owned())),
                    }
                }
                (room, chunk) = next => {
                    let Some((from, _)) = &mut chunks else { continue };
                    match chunk {
                        None => chunks = None,
                        Some(Err(e)) => return Err(Fault(format!("the base can't be read: {e}"))),
                        Some(Ok(bytes)) if room => {
                            let chunk = v1::BaseChunk {
                                from: *from,
                                crc: payload_crc(&bytes),
                                bytes,
                            };
                            *from += chunk.bytes.len() as u64;
                            // It has room: what was reserved above is free again.
                            send(put_base_request::Part::Chunk(chunk)).await;
                        }
                        // The node has hung up: its last answer says why.
                        Some(Ok(_)) => chunks = None,
                    }
                }
            }
        }
    }

    /// Makes `base`, which a majority of the nodes hold, the journal's in the place of `previous`. Repeating it is answered as the
    /// success it was.
    ///
    /// # Errors
    /// [`WriterError::Refused`] when it can't be; after [`WriterError::Unavailable`] it may be the journal's all the same.
    pub async fn commit_base(
        &self,
        base: &Base,
        previous: Option<BaseName>,
        deadline: Duration,
    ) -> Result<(), WriterError> {
        let ask = |mut journal: JournalClient<Channel>, cluster_id, within| async move {
            let request = v1::CommitBaseRequest {
                cluster_id,
                journal: self.inner.journal.clone(),
                base: Some(redoubt_proto::base(base)),
                previous: previous.as_ref().map(redoubt_proto::base_name),
            };
            self.done(within, journal.commit_base(request), |r| r.refused)
                .await
        };
        self.at_leader(deadline, ask).await.map(drop)
    }

    /// Tells the leader that `replay` could fold, or how its fold goes, and what it has to do besides: `load`, the replicas that it
    /// feeds. Returns whether it is this replay's turn to fold.
    ///
    /// # Errors
    /// As of [`Client::commit_base`].
    pub async fn offer_fold(
        &self,
        replay: &str,
        holder: HolderId,
        load: u32,
        report: &FoldReport,
        differing: &[String],
        deadline: Duration,
    ) -> Result<bool, WriterError> {
        let (state, message) = match report {
            FoldReport::Idle => (v1::FoldState::Idle, ""),
            FoldReport::Folding(how_far) => (v1::FoldState::Folding, how_far.as_str()),
            FoldReport::Done => (v1::FoldState::Done, ""),
            FoldReport::Failed(why) => (v1::FoldState::Failed, why.as_str()),
        };
        let ask = |mut journal: JournalClient<Channel>, cluster_id, within| async move {
            let request = v1::OfferFoldRequest {
                cluster_id,
                journal: self.inner.journal.clone(),
                replay: replay.to_owned(),
                holder: holder.get(),
                load,
                state: state.into(),
                message: message.to_owned(),
                differing: differing.to_vec(),
            };
            let answer = self
                .inner
                .nodes
                .within(within, journal.offer_fold(request))
                .await?;
            match answer.outcome {
                Some(offer_fold_response::Outcome::Yours(yours)) => Ok(Answered::Done(yours)),
                Some(offer_fold_response::Outcome::Refused(r)) => {
                    Ok(Answered::Refused(Refused::from_wire(&r)))
                }
                None => Err(Fault("its answer to OfferFold is empty".to_owned())),
            }
        };
        self.at_leader(deadline, ask).await
    }

    /// Asks for a fold now, whatever the journal's size.
    ///
    /// # Errors
    /// As of [`Client::commit_base`].
    pub async fn compact(&self, deadline: Duration) -> Result<(), WriterError> {
        let ask = |mut journal: JournalClient<Channel>, cluster_id, within| async move {
            let request = v1::CompactRequest {
                cluster_id,
                journal: self.inner.journal.clone(),
            };
            self.done(within, journal.compact(request), |r| r.refused).await
        };
        self.at_leader(deadline, ask).await.map(drop)
    }
}
