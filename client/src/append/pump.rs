//! The task of an append stream: finds the leader, hands it what the window says, takes its answers.

use super::window::{Answer, AppendStart, Appended, Outgoing, Taken, Window};
use crate::client::{Client, Inner};
use crate::error::{AppendError, ClientError};
use crate::health::{Hunt, Next, Want};
use crate::nodes::Fault;
use crate::reason::Reason;
use crate::refusal::{Refused, Scope};
use bytes::Bytes;
use redoubt_env::planted;
use redoubt_proto::v1::{self, append_response};
use redoubt_types::limits::{APPEND_SILENCE_MAX, APPEND_WINDOW_ENTRIES, RPC_DEADLINE};
use redoubt_types::{BootTime, Offset, WallTime};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// What the writer pushed.
#[derive(Debug)]
pub(super) struct Pushed {
    pub(super) payload: Bytes,
    pub(super) captured: WallTime,
}

/// Why a stream to one node is over.
enum Over {
    /// The node failed, or broke the protocol.
    Fault(Fault),
    /// The node refused; everything unanswered goes out again.
    Again(Refused),
    /// The node refused what may never be admitted: the quorum must be asked.
    Doubtful(Refused),
    /// The append stream ends.
    Final(AppendError),
    /// The writer is gone.
    Dropped,
}

impl From<Fault> for Over {
    fn from(fault: Fault) -> Self {
        Over::Fault(fault)
    }
}

/// See the module's head.
pub(super) struct Pump {
    client: Client,
    start: AppendStart,
    /// As every entry names them; printed once, not once per entry.
    cluster_id: String,
    replid: String,
    window: Window,
    pushed: mpsc::Receiver<Pushed>,
    answered: mpsc::Sender<Result<Appended, AppendError>>,
    hunt: Hunt,
}

impl Pump {
    pub(super) fn new(
        inner: Arc<Inner>,
        start: AppendStart,
        pushed: mpsc::Receiver<Pushed>,
        answered: mpsc::Sender<Result<Appended, AppendError>>,
    ) -> Self {
        let hunt = inner.nodes.hunt(Want::Leader);
        let window = Window::new(start.start, start.chain);
        Pump {
            cluster_id: inner.cluster_id(),
            replid: start.replid.to_string(),
            client: Client { inner },
            start,
            window,
            pushed,
            answered,
            hunt,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            if self.window.is_empty() {
                match self.pushed.recv().await {
                    Some(pushed) => self.window.push(pushed.payload, pushed.captured),
                    None => return,
                }
            }
            let node = match self.client.inner.nodes.next(&mut self.hunt) {
                Next::Node(node) => node,
                Next::Pause(pause) => {
                    self.client.inner.env.sleep(pause).await;
                    continue;
                }
            };
            let Err(over) = self.stream(node).await;
            match over {
                Over::Fault(fault) => self.client.inner.nodes.failed(node, &fault),
                Over::Again(refused) => self.refused(node, &refused),
                Over::Doubtful(refused) => {
                    if let Some(error) = self.ask_the_quorum(refused).await {
                        return self.finish(error).await;
                    }
                }
                Over::Final(error) => return self.finish(error).await,
                Over::Dropped => return,
            }
        }
    }

    async fn finish(self, error: AppendError) {
        // Fails only when the writer is gone, who needs no error then.
        let _ = self.answered.send(Err(error)).await;
    }

    fn refused(&self, node: usize, refused: &Refused) {
        let nodes = &self.client.inner.nodes;
        let (endpoint, offset) = (nodes.endpoint(node), self.window.committed().get());
        let (reason, message) = (refused.reason, refused.message.as_str());
        tracing::debug!(node = endpoint, offset, %reason, message, "an append was refused and is repeated");
        match refused.scope() {
            Scope::Now if reason == Reason::NotLeader => nodes.not_leader(node, refused.leader.as_deref()),
            Scope::Now | Scope::Everywhere => nodes.health().answered(node),
            Scope::ThisNode | Scope::ThisNodeNow => nodes.failed(node, &Fault(message.to_owned())),
        }
    }

    /// The error to end with, if a quorum's position proves that the refusal can't heal.
    async fn ask_the_quorum(&self, refused: Refused) -> Option<AppendError> {
        match self.client.describe(RPC_DEADLINE).await {
            Ok(found)
                if found
                    .writer
                    .epoch
                    .is_some_and(|current| current > self.start.epoch) =>
            {
                let message = format!("{}; the epoch is {:?} now", refused.message, found.writer.epoch);
                Some(AppendError::Fenced(message))
            }
            Ok(found) if self.window.is_hopeless(&found.position) => {
                let (end, chain) = (found.position.pending_end, found.position.pending_chain);
                let message = format!("{}; a quorum stands at {end} with chain {chain}", refused.message);
                Some(AppendError::Refused {
                    reason: refused.reason,
                    message,
                })
            }
            Err(ClientError::Refused { reason, message }) => Some(AppendError::Refused { reason, message }),
            Ok(_) | Err(_) => None,
        }
    }

    /// Runs one stream to `node` until it is over.
    async fn stream(&mut self, node: usize) -> Result<Infallible, Over> {
        let client = self.client.clone();
        let inner = &client.inner;
        client.know_cluster(node, RPC_DEADLINE).await?;
        self.cluster_id = inner.cluster_id();
        let mut journal = inner.nodes.journal(node)?;
        // As long as the window, so that it never fills.
        let (requests, requested) = mpsc::channel(APPEND_WINDOW_ENTRIES);
        self.window.opened();
        // Ahead of the answer to the call: a node may wait for the first entry before it answers at all.
        self.fill(&requests)?;
        let mut answers = inner
            .nodes
            .within(RPC_DEADLINE, journal.append(ReceiverStream::new(requested)))
            .await?;
        let mut heard_at = inner.env.now();
        let mut led = false;
        loop {
            // One timer per so often, not one per entry; a coarse one will do.
            let mut tick = std::pin::pin!(inner.env.sleep(APPEND_SILENCE_MAX / 4));
            loop {
                tokio::select! {
                    biased;
                    answer = answers.message() => {
                        heard_at = inner.env.now();
                        self.take(answer).await?;
                        if !led {
                            led = true;
                            inner.nodes.led(node);
                            self.hunt = inner.nodes.hunt(Want::Leader);
                        }
                        self.fill(&requests)?;
                    }
                    pushed = self.pushed.recv() => {
                        let pushed = pushed.ok_or(Over::Dropped)?;
                        self.window.push(pushed.payload, pushed.captured);
                        while let Ok(pushed) = self.pushed.try_recv() {
                            self.window.push(pushed.payload, pushed.captured);
                        }
                        self.fill(&requests)?;
                    }
                    () = &mut tick => break,
                }
            }
            self.check_silence(heard_at)?;
        }
    }

    fn check_silence(&self, heard_at: BootTime) -> Result<(), Over> {
        let now = self.client.inner.env.now();
        match self.window.waiting_since() {
            Some(since) if now.since(since.max(heard_at)) > APPEND_SILENCE_MAX => Err(Over::Fault(Fault(
                format!("appends are unanswered for {:?}", now.since(since)),
            ))),
            _ => Ok(()),
        }
    }

    /// Hands everything to the stream that the window wants sent.
    fn fill(&mut self, requests: &mpsc::Sender<v1::AppendRequest>) -> Result<(), Over> {
        while let Some(next) = self.window.next_to_send(self.client.inner.env.now()) {
            let request = self.request(next);
            requests
                .try_send(request)
                .map_err(|_| Over::Fault(Fault("the append stream broke".to_owned())))?;
        }
        Ok(())
    }

    fn request(&self, next: Outgoing) -> v1::AppendRequest {
        v1::AppendRequest {
            request_id: next.id,
            cluster_id: self.cluster_id.clone(),
            journal: self.client.inner.journal.clone(),
            entry: Some(v1::Entry {
                epoch: self.start.epoch.get(),
                replid: self.replid.clone(),
                start: next.start.get(),
                chain: next.chain.get(),
                payload: next.payload,
                payload_crc: next.crc,
                captured_wall_ms: next.captured.ms(),
            }),
        }
    }

    /// Takes one answer; what it commits is told to the writer.
    async fn take(&mut self, answer: Result<Option<v1::AppendResponse>, Status>) -> Result<(), Over> {
        let answer = answer.map_err(Fault::from)?;
        let answer = answer.ok_or_else(|| Fault("the node closed the append stream".to_owned()))?;
        if planted::held("answers_are_lost") {
            return Err(Over::Fault(Fault("the answer was lost".to_owned())));
        }
        let id = answer.request_id;
        let answer = match answer.outcome {
            Some(append_response::Outcome::Admitted(a)) => Answer::Admitted {
                id,
                end: Offset::new(a.end),
                tail: Offset::new(a.tail),
                duplicate: a.duplicate,
            },
            Some(append_response::Outcome::Refused(r)) => Answer::Refused {
                id,
                refused: Refused::from_wire(&r),
            },
            None => return Err(Over::Fault(Fault("its answer to Append is empty".to_owned()))),
        };
        match self.window.answered(answer) {
            Taken::Appended(mut appended) => {
                if planted::on("h14_sent_at_of_answer") {
                    appended.sent_at = self.client.inner.env.now();
                }
                self.answered.send(Ok(appended)).await.map_err(|_| Over::Dropped)
            }
            Taken::Again(refused) => Err(Over::Again(refused)),
            Taken::Doubtful(refused) => Err(Over::Doubtful(refused)),
            Taken::Final(error) => Err(Over::Final(error)),
            Taken::Broken(why) => Err(Over::Fault(Fault(why))),
        }
    }
}
