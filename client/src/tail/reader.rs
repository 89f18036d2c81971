//! The task of a tail: opens a stream at some node, has everything verified, and leaves the node for another
//! one when it can't be trusted or does not answer.

use super::doubt::{Doubt, Doubted};
use super::verify::{Marked, Received, Rejected, TailEvent, Verified, Verifier};
use crate::client::{Answered, Client};
use crate::error::TailError;
use crate::health::{Health, Hunt, Next, Want};
use crate::nodes::Fault;
use crate::reason::Reason;
use crate::refusal::{Refused, Scope};
use futures_util::future::{BoxFuture, OptionFuture};
use redoubt_proto::v1::{self, tail_response};
use redoubt_proto::{InvalidField, cluster_id, epoch, lineage_from, lineage_step_from, replid};
use redoubt_types::limits::{RPC_DEADLINE, TAIL_PREFETCH_BYTES, TAIL_SILENCE_MAX};
use redoubt_types::{Chain, Db, Lineage, Offset, Txid, WallTime};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

/// What the task tells the consumer.
#[derive(Debug)]
pub(super) enum Item {
    /// The lineage at the wanted offset.
    Began(Lineage),
    /// An event.
    Event(TailEvent),
    /// The end.
    Failed(TailError),
}

/// Why a stream from one node is over.
enum Over {
    /// The node failed.
    Fault(Fault),
    /// What it sent must not be passed on.
    Rejected(Rejected),
    /// It refused.
    Refused(Refused),
    /// The confirmed tail was reached, and no more is wanted.
    Done,
    /// The consumer is gone.
    Dropped,
}

impl From<Fault> for Over {
    fn from(fault: Fault) -> Self {
        Over::Fault(fault)
    }
}

impl From<Rejected> for Over {
    fn from(rejected: Rejected) -> Self {
        Over::Rejected(rejected)
    }
}

impl From<InvalidField> for Over {
    fn from(e: InvalidField) -> Self {
        Over::Fault(e.into())
    }
}

/// What a node said at the present position that lasts.
#[derive(Clone, Debug)]
enum Verdict {
    Damaged(String),
    /// It is of another cluster.
    Foreign,
}

/// Room that an event takes of what may be read ahead.
pub(super) fn room_of(event: &TailEvent) -> usize {
    match event {
        TailEvent::Entry(entry) => entry.bytes.len().min(TAIL_PREFETCH_BYTES),
        _ => 0,
    }
}

/// See the module's head.
pub(super) struct Reader {
    client: Client,
    follow: bool,
    verifier: Verifier,
    items: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
    /// The tail's own: a node whose copy is damaged may well be a good leader.
    health: Health,
    hunt: Hunt,
    verdicts: Vec<Option<Verdict>>,
    /// Where the verdicts were given.
    verdicts_at: Offset,
    /// The present stream has told something that brings the tail on.
    useful: bool,
    /// No stream was of use since the last warning.
    warned: bool,
}

impl Reader {
    pub(super) fn new(
        client: Client,
        from: Offset,
        follow: bool,
        items: mpsc::Sender<Item>,
        room: Arc<Semaphore>,
    ) -> Self {
        let nodes = client.inner.nodes.len();
        let first = (client.inner.env.random_nonzero() % nodes.max(1) as u64) as usize;
        Reader {
            follow,
            verifier: Verifier::new(from),
            items,
            room,
            health: Health::new(nodes, first),
            hunt: client.inner.nodes.hunt(Want::Any),
            verdicts: vec![None; nodes],
            verdicts_at: from,
            useful: false,
            warned: false,
            client,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let node = match self.hunt.next(&self.health, self.client.inner.env.now()) {
                Next::Node(node) => node,
                Next::Pause(pause) => {
                    self.client.inner.env.sleep(pause).await;
                    continue;
                }
            };
            self.useful = false;
            let Err(over) = self.stream(node).await;
            // What was verified ahead of the fault is good.
            if self.pass_on().await.is_err() {
                return;
            }
            let last = match over {
                Over::Done => Some(Item::Event(TailEvent::End)),
                Over::Dropped => return,
                Over::Fault(fault) => {
                    self.leave(node, &fault.0);
                    None
                }
                Over::Rejected(rejected) => self.rejected(node, rejected).map(Item::Failed),
                Over::Refused(refused) => self.refused(node, refused).await.map(Item::Failed),
            };
            if let Some(last) = last {
                // Fails only when the consumer is gone.
                let _ = self.items.send(last).await;
                return;
            }
        }
    }

    /// Masks the node; the tail goes on elsewhere.
    fn leave(&mut self, node: usize, why: &str) {
        let (endpoint, offset) = (
            self.client.inner.nodes.endpoint(node),
            self.verifier.position().get(),
        );
        if self.useful || !self.warned {
            tracing::warn!(
                node = endpoint,
                offset,
                reason = why,
                "a tail leaves a journal node for another"
            );
            self.warned = true;
        } else {
            tracing::debug!(
                node = endpoint,
                offset,
                reason = why,
                "a tail found no way to go on at a node"
            );
        }
        self.health.failed(node, self.client.inner.env.now());
    }

    fn rejected(&mut self, node: usize, rejected: Rejected) -> Option<TailError> {
        match rejected {
            Rejected::Misbehaved(why) => self.leave(node, &why),
            Rejected::Damaged(why) => return self.damaged(node, why),
            Rejected::Forked(what) => {
                return Some(TailError::Forked {
                    node: self.client.inner.nodes.endpoint(node).to_owned(),
                    at: self.verifier.position(),
                    chain: self.verifier.chain(),
                    what,
                });
            }
        }
        None
    }

    fn damaged(&mut self, node: usize, why: String) -> Option<TailError> {
        self.leave(node, &why);
        self.judge(node, Verdict::Damaged(why));
        let mut all = String::new();
        for (node, verdict) in self.verdicts.iter().enumerate() {
            let Some(Verdict::Damaged(why)) = verdict else {
                return None;
            };
            let separator = if all.is_empty() { "" } else { "; " };
            all.push_str(&format!(
                "{separator}{}: {why}",
                self.client.inner.nodes.endpoint(node)
            ));
        }
        Some(TailError::DamagedEverywhere(all))
    }

    fn judge(&mut self, node: usize, verdict: Verdict) {
        let position = self.verifier.position();
        if self.verdicts_at != position {
            self.verdicts.fill(None);
            self.verdicts_at = position;
        }
        self.verdicts[node] = Some(verdict);
    }

    async fn refused(&mut self, node: usize, refused: Refused) -> Option<TailError> {
        let why = format!("{} ({})", refused.message, refused.reason);
        match (refused.reason, refused.position) {
            (Reason::Damaged, _) => return self.damaged(node, why),
            (Reason::BeyondEnd, Some(position)) => return Some(TailError::BeyondEnd { tail: position.tail }),
            (Reason::BeyondEnd | Reason::BeforeBeginning, _) => return self.out_of_range(node, &why).await,
            _ => {}
        }
        match refused.scope() {
            Scope::Now | Scope::ThisNodeNow => {
                self.leave(node, &why);
                return None;
            }
            Scope::ThisNode => {
                self.leave(node, &why);
                self.judge(node, Verdict::Foreign);
                if !self.verdicts.iter().all(|v| matches!(v, Some(Verdict::Foreign))) {
                    return None;
                }
            }
            Scope::Everywhere => {}
        }
        Some(TailError::Refused {
            reason: refused.reason,
            message: refused.message,
        })
    }

    /// The node refused the position, and did not say what it has instead.
    async fn out_of_range(&mut self, node: usize, why: &str) -> Option<TailError> {
        let position = self.verifier.position();
        match self.client.describe_at(node, true, RPC_DEADLINE).await {
            Ok(Answered::Done(d)) if d.confirmed && position > d.position.tail => {
                let tail = d.position.tail;
                return Some(TailError::BeyondEnd { tail });
            }
            Ok(Answered::Done(d)) if position < d.beginning => {
                let beginning = d.beginning;
                return Some(TailError::BeforeBeginning { beginning });
            }
            // It has it by now, or can't say.
            Ok(_) | Err(_) => self.leave(node, why),
        }
        None
    }

    /// Runs one stream from `node` until it is over.
    async fn stream(&mut self, node: usize) -> Result<Infallible, Over> {
        let client = self.client.clone();
        let inner = &client.inner;
        let request = v1::TailRequest {
            cluster_id: inner.cluster_id(),
            journal: inner.journal.clone(),
            from: self.verifier.position().get(),
            follow: self.follow,
        };
        let mut journal = inner.nodes.journal_for_tail(node)?;
        let mut messages: Streaming<_> = inner.nodes.within(RPC_DEADLINE, journal.tail(request)).await?;
        self.verifier.opened();
        let mut heard_at = inner.env.now();
        let mut doubt = Doubt::new(self.verifier.position(), heard_at);
        let mut asking: Option<BoxFuture<'_, Option<Offset>>> = None;
        loop {
            // One timer per so often, not one per message; a coarse one will do.
            let mut tick = std::pin::pin!(inner.env.sleep(TAIL_SILENCE_MAX / 4));
            loop {
                tokio::select! {
                    biased;
                    message = messages.message() => {
                        let brings_on = self.take(node, message).await?;
                        self.pass_on().await?;
                        // Read behind `pass_on`: the consumer's slowness is not the node's silence.
                        if brings_on {
                            heard_at = inner.env.now();
                        }
                    }
                    tail = OptionFuture::from(asking.as_mut()), if asking.is_some() => {
                        asking = None;
                        if let Some(tail) = tail.flatten() {
                            doubt.told(tail, inner.env.now());
                        }
                    }
                    () = &mut tick => break,
                }
            }
            let now = inner.env.now();
            let silence = now.since(heard_at);
            if silence > TAIL_SILENCE_MAX {
                return Err(Over::Fault(Fault(format!(
                    "nothing of use was heard for {silence:?}"
                ))));
            }
            match doubt.check(self.verifier.position(), now) {
                Doubted::Nothing => {}
                Doubted::Ask => {
                    let client = &client;
                    asking = Some(Box::pin(async {
                        client.describe(RPC_DEADLINE).await.ok().map(|d| d.position.tail)
                    }));
                }
                Doubted::CutOff(tail) => {
                    let why = format!("it seems cut off: a quorum stands at {tail}");
                    return Err(Over::Fault(Fault(why)));
                }
            }
        }
    }

    /// Has one message verified; returns whether it brings the tail on.
    async fn take(
        &mut self,
        node: usize,
        message: Result<Option<v1::TailResponse>, Status>,
    ) -> Result<bool, Over> {
        let Some(message) = message.map_err(Fault::from)? else {
            let done = !self.follow && self.verifier.reached_tail();
            return Err(if done {
                Over::Done
            } else {
                Over::Fault(Fault("the node closed the tail".to_owned()))
            });
        };
        match message.event {
            Some(tail_response::Event::Start(start)) => {
                let cluster = cluster_id("start.cluster_id", &start.cluster_id)?;
                self.client.inner.pin(cluster).map_err(Over::Refused)?;
                self.verifier
                    .start(&lineage_from(&start.lineage)?, Offset::new(start.tail))?;
                return Ok(true);
            }
            Some(tail_response::Event::Entry(entry)) => self.verifier.entry(received(entry)?)?,
            Some(tail_response::Event::Lineage(step)) => self.verifier.step(lineage_step_from(&step)?)?,
            Some(tail_response::Event::Mark(mark)) => {
                let chain = Chain::from_u64(mark.tail_chain);
                if self.verifier.mark(Offset::new(mark.tail), chain)? == Marked::Behind {
                    return Ok(false);
                }
            }
            Some(tail_response::Event::Refused(refused)) => {
                return Err(Over::Refused(Refused::from_wire(&refused)));
            }
            None => return Err(Over::Fault(Fault("an event of the tail is empty".to_owned()))),
        }
        if !self.useful {
            // Not before: a node that begins every stream and can't go on would be welcomed back each time.
            self.useful = true;
            self.warned = false;
            self.health.answered(node);
            self.hunt = self.client.inner.nodes.hunt(Want::Any);
        }
        Ok(true)
    }

    /// Hands what was verified to the consumer, as far as there is room.
    async fn pass_on(&mut self) -> Result<(), Over> {
        while let Some(verified) = self.verifier.pop() {
            let item = match verified {
                Verified::Began(lineage) => Item::Began(lineage),
                Verified::Event(event) => {
                    let room = room_of(&event) as u32;
                    self.room
                        .acquire_many(room)
                        .await
                        .map_err(|_| Over::Dropped)?
                        .forget();
                    Item::Event(event)
                }
            };
            self.items.send(item).await.map_err(|_| Over::Dropped)?;
        }
        Ok(())
    }
}

fn received(tailed: v1::TailEntry) -> Result<Received, InvalidField> {
    let e = tailed
        .entry
        .ok_or_else(|| InvalidField::new("entry", "is missing"))?;
    Ok(Received {
        start: Offset::new(e.start),
        chain: Chain::from_u64(e.chain),
        crc: e.payload_crc,
        epoch: epoch("entry.epoch", e.epoch)?,
        replid: replid("entry.replid", &e.replid)?,
        first_txid: Txid::new(tailed.first_txid)
            .ok_or_else(|| InvalidField::new("first_txid", "must not be 0"))?,
        groups: tailed.groups,
        db: Db::new(tailed.db),
        at_group_start: tailed.at_group_start,
        captured: WallTime::from_ms(e.captured_wall_ms),
        payload: e.payload,
    })
}
