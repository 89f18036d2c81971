//! Bases, as the log sees them: whether one stands where it says in this node's own log, when one is committed, and how a node gets
//! the journal's base that it lacks.

use super::config::ProposeError;
use super::network::envelope;
use super::node::Node;
use super::types::carried;
use crate::append::{Command, NewBase, Seek, Verdict};
use crate::base::{Offer, PutError, ReadBaseError};
use crate::segment::ReadError;
use futures_util::future::join_all;
use openraft::async_runtime::WatchReceiver;
use redoubt_env::planted;
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_proto::v1::{self, get_base_response};
use redoubt_resp::stream::StreamScanner;
use redoubt_types::limits::{BASE_SILENCE_MAX, RPC_DEADLINE};
use redoubt_types::{Base, Chain, Db, NodeId, Offset, payload_crc};
use std::collections::BTreeSet;

/// Why a base is not vouched for.
#[derive(Debug, thiserror::Error)]
pub enum BaseDoubt {
    /// The RDB is not here.
    #[error("this node does not hold it")]
    NotHeld,
    /// This node has not come so far yet.
    #[error("this node's tail is {tail}")]
    NotThere {
        /// Its tail.
        tail: Offset,
    },
    /// The log no longer reaches back to its offset.
    #[error("this node's log begins at {beginning}")]
    Trimmed {
        /// Where it begins.
        beginning: Offset,
    },
    /// What it says of the stream is not so.
    #[error("{0}")]
    Lies(String),
    /// The log can't be read there.
    #[error("this node's log can't be read there: {0}")]
    Unreadable(#[from] ReadError),
}

/// The stream at an offset between two groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standpoint {
    /// Chain before it.
    pub chain: Chain,
    /// Groups before it.
    pub groups: u64,
    /// The database selected there.
    pub db: Db,
}

impl Node {
    /// The bases that this node holds.
    pub fn bases(&self) -> &crate::base::BaseStore {
        &self.bases
    }

    /// Where this node's log begins, and the chain there.
    pub fn begins_at(&self) -> (Offset, Chain) {
        let beginning = self.machine.beginning();
        beginning.map_or((Offset::ZERO, Chain::EMPTY), |b| {
            (b.standing.tail, b.standing.tail_chain)
        })
    }

    /// What this node's own log says of the stream at `at`.
    ///
    /// # Errors
    /// When it does not reach there, or `at` lies inside a group.
    pub async fn standpoint(&self, at: Offset) -> Result<Standpoint, BaseDoubt> {
        let (position, beginning) = {
            let state = self.state();
            (state.admission.position(), state.beginning())
        };
        if at > position.tail {
            return Err(BaseDoubt::NotThere { tail: position.tail });
        }
        if at == position.tail {
            return Ok(Standpoint {
                chain: position.tail_chain,
                groups: position.groups,
                db: position.db,
            });
        }
        if at < beginning {
            return Err(BaseDoubt::Trimmed { beginning });
        }
        let found = self.index(Seek::Offset(at), 1).await?;
        let index = *found.first().ok_or(BaseDoubt::NotThere { tail: position.tail })?;
        let records = self
            .records(index.log_index, index.log_index + 1, u64::MAX)
            .await?;
        let lies = |what: &str| BaseDoubt::Lies(format!("at {at} {what}"));
        let record = records.into_iter().next();
        let record = record.ok_or(ReadError::NotFound {
            index: index.log_index,
        })?;
        let Ok(Command::Append(entry)) = Command::decode(&record.payload) else {
            return Err(lies("this node's log has something else than its index says"));
        };
        let before = at
            .since(entry.start)
            .and_then(|n| entry.payload.get(..n as usize));
        let before = before.ok_or_else(|| lies("this node's index has another entry"))?;
        // Groups that ended before this entry; of one that begins inside a group, the first to end is counted by it.
        let ended = index.first_txid.get() - 1;
        if before.is_empty() && index.at_group_start {
            return Ok(Standpoint {
                chain: entry.chain,
                groups: ended,
                db: index.db,
            });
        }
        if !index.at_group_start {
            return Err(lies("a group is cut in two"));
        }
        let mut scanner = StreamScanner::with_db(index.db);
        let mut groups = ended;
        let scanned = scanner.scan(before, |_| groups += 1);
        if scanned.is_err() || !scanner.at_boundary() {
            return Err(lies("a group is cut in two"));
        }
        Ok(Standpoint {
            chain: entry.chain.extend(before),
            groups,
            db: scanner.db(),
        })
    }

    /// Whether this node holds `base`, and its own log says of the stream there what the base says (H19).
    ///
    /// # Errors
    /// Why it can't vouch for it.
    pub async fn vouch_for(&self, base: &Base) -> Result<(), BaseDoubt> {
        if !self.bases().holds(base) {
            return Err(BaseDoubt::NotHeld);
        }
        if planted::on("h19_any_base") {
            return Ok(());
        }
        let here = self.standpoint(base.at()).await?;
        let said = Standpoint {
            chain: base.chain,
            groups: base.groups,
            db: base.db,
        };
        if here != said {
            return Err(BaseDoubt::Lies(format!(
                "it says that the stream has {said:?} at {}, and there is {here:?}",
                base.at()
            )));
        }
        Ok(())
    }

    /// Makes a base the journal's, if a majority of the voters vouches for it.
    ///
    /// Asked before the entry is proposed: from when it is applied, a node that holds the base may trim what it covers, and whoever
    /// lags needs it from somebody. `h19_…` dies without the question.
    ///
    /// # Errors
    /// `Ok(Err(_))` says why the base is not vouched for; `Err(_)` as for [`Node::propose_if`].
    pub async fn commit_base(&self, new: NewBase) -> Result<Result<Verdict, String>, ProposeError> {
        let raft = self.raft()?;
        let (configs, peers): (Vec<BTreeSet<u64>>, _) = {
            let metrics = raft.metrics();
            let metrics = metrics.borrow_watched();
            let membership = metrics.membership_config.membership();
            (membership.get_joint_config().clone(), self.members())
        };
        let me = self.identity().node;
        let asked = peers.iter().filter(|(id, _)| *id != me).map(|(id, peer)| {
            let base = &new.base;
            async move { (id.get(), self.ask_for_base(*id, &peer.address, base).await) }
        });
        let mut answers: Vec<(u64, Result<(), String>)> = join_all(asked).await;
        let mine = self.vouch_for(&new.base).await;
        answers.push((me.get(), mine.map_err(|e| e.to_string())));
        let vouch = |id: u64| answers.iter().any(|(of, a)| *of == id && a.is_ok());
        if !carried(&configs, vouch) && !planted::on("h19_base_of_one") {
            let why: Vec<_> = answers
                .into_iter()
                .filter_map(|(id, a)| Some(format!("node {id:016x}: {}", a.err()?)))
                .collect();
            let text = format!(
                "no majority of the nodes holds base {}: {}",
                new.base.name,
                why.join("; ")
            );
            return Ok(Err(text));
        }
        self.propose_if(|_| Ok(Command::Base(new))).await
    }

    async fn ask_for_base(&self, id: NodeId, address: &str, base: &Base) -> Result<(), String> {
        let (me, cluster) = {
            let identity = self.identity();
            (identity.node, identity.cluster.as_ref().map(|c| c.cluster))
        };
        let request = v1::RaftHoldsBaseRequest {
            envelope: cluster.map(|c| envelope(c, me, id.get())),
            base: Some(redoubt_proto::base(base)),
        };
        let mut peer = self.peers().at(address);
        match self.env().timeout(RPC_DEADLINE, peer.holds_base(request)).await {
            Ok(Ok(answer)) => answer.into_inner().refused.map_or(Ok(()), Err),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(elapsed) => Err(elapsed.to_string()),
        }
    }

    /// Gets the journal's base from another node, if this one lacks it. Returns whether there was anything to do.
    ///
    /// # Errors
    /// A sentence: why no node gave it. What came is gone on from by the next attempt.
    pub(super) async fn fetch_base(&self) -> Result<bool, String> {
        let Some(base) = self.state().admission.base().cloned() else {
            return Ok(false);
        };
        if self.bases().holds(&base) {
            return Ok(false);
        }
        let me = self.identity().node;
        let mut why = Vec::new();
        for (id, peer) in self.members() {
            if id == me {
                continue;
            }
            match self.fetch_base_from(&peer.address, &base).await {
                Ok(()) => {
                    tracing::info!(base = %base.name, from = peer.name, bytes = base.bytes, "got the journal's base from another node");
                    return Ok(true);
                }
                Err(e) => why.push(format!("{}: {e}", peer.name)),
            }
        }
        Err(why.join("; "))
    }

    pub(super) async fn fetch_base_from(&self, address: &str, base: &Base) -> Result<(), String> {
        let text = |e: PutError| e.to_string();
        let Some(mut incoming) = self.bases().begin(base.clone()).await.map_err(text)? else {
            return Ok(());
        };
        let request = v1::GetBaseRequest {
            cluster_id: String::new(),
            journal: crate::server::JOURNAL.to_owned(),
            name: Some(redoubt_proto::base_name(&base.name)),
            from: incoming.came(),
        };
        // A connection of its own: on the shared one a large transfer would keep elections and appends waiting.
        let mut journal = JournalClient::new(crate::server::channel(self.env(), address))
            .max_decoding_message_size(redoubt_types::limits::GRPC_MESSAGE_BYTES_MAX);
        let opened = self
            .env()
            .timeout(BASE_SILENCE_MAX, journal.get_base(request))
            .await;
        let opened = opened.map_err(|e| e.to_string())?;
        let mut chunks = opened.map_err(|s| s.message().to_owned())?.into_inner();
        while !incoming.is_whole() {
            let event = self.env().timeout(BASE_SILENCE_MAX, chunks.message()).await;
            let event = event.map_err(|e| e.to_string())?;
            match event.map_err(|s| s.message().to_owned())?.and_then(|e| e.event) {
                Some(get_base_response::Event::Chunk(chunk)) => {
                    if chunk.from != incoming.came() || payload_crc(&chunk.bytes) != chunk.crc {
                        return Err(format!(
                            "a chunk at byte {} is damaged or not the next",
                            chunk.from
                        ));
                    }
                    incoming = incoming.write(chunk.bytes).await.map_err(text)?.0;
                }
                Some(get_base_response::Event::Refused(r)) => return Err(r.message),
                None => return Err(format!("it ended at byte {}", incoming.came())),
            }
        }
        incoming.finish().await.map_err(text)
    }

    /// How much of the journal lies behind its base: bytes of the stream, and editlogs of this node.
    pub fn since_base(&self) -> (u64, u64) {
        let (at, tail) = {
            let state = self.state();
            let at = state.admission.base().map_or(Offset::ZERO, Base::at);
            (at, state.admission.position().tail)
        };
        let bytes = tail.since(at).unwrap_or(0);
        (
            bytes,
            bytes / u64::from(self.config().storage.segment_bytes).max(1),
        )
    }

    /// Hears of a replay that could fold, or does; returns whether it is its turn.
    ///
    /// # Errors
    /// When this node does not lead.
    pub fn hear_offer(&self, offer: Offer) -> Result<bool, ProposeError> {
        self.leading()?;
        let (bytes, editlogs) = self.since_base();
        let due = self.config().fold_after.is_due(bytes, editlogs);
        Ok(self.turns().hear(offer, due, self.env().now()))
    }

    /// Wants a fold now. `false` when there is nothing to fold.
    ///
    /// # Errors
    /// When this node does not lead.
    pub fn want_fold(&self) -> Result<bool, ProposeError> {
        self.leading()?;
        let any = self.since_base().0 > 0;
        if any {
            self.turns().want();
        }
        Ok(any)
    }

    /// The bytes of a base from `from` on. A copy that turns out damaged is given up: the node gets it again from another one.
    ///
    /// # Errors
    /// [`ReadBaseError`].
    pub async fn read_base(
        &self,
        name: redoubt_types::BaseName,
        from: u64,
    ) -> Result<bytes::Bytes, ReadBaseError> {
        let read = self.bases().read(name, from).await;
        if let Err(ReadBaseError::Damaged { at, .. }) = &read {
            tracing::error!(base = %name, at, "this node's copy of a base is damaged: it is fetched again");
            if let Err(error) = self.bases().remove(name).await {
                tracing::error!(base = %name, %error, "a damaged base can't be removed");
            }
        }
        read
    }
}
