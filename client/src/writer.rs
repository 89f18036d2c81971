//! What a writer asks of the leader: acquire, renew, release, and the two records of a promotion.
//!
//! Every operation looks for the leader and is repeated until it is answered or its deadline passes. All of
//! them may be repeated: renewing, releasing and recording have the same effect twice, and a second
//! acquisition by the same holder gives a newer epoch, the only one that is reported.

use crate::client::{Answered, Client};
use crate::convert;
use crate::error::WriterError;
use crate::health::{Next, Want};
use crate::nodes::Fault;
use crate::nouns::{Grant, Renewed, Session};
use crate::refusal::{Refused, Verdicts};
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_proto::v1::{self, acquire_writer_response};
use redoubt_types::limits::RPC_DEADLINE;
use redoubt_types::{BootTime, Epoch, HolderId, LineageStep};
use std::future::Future;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Response, Status};

impl Client {
    /// Raises the epoch, which fences every earlier writer, and takes a lease of length `lease`.
    ///
    /// # Errors
    /// See [`WriterError`]. After [`WriterError::Unavailable`] an epoch may have been granted all the same.
    pub async fn acquire(
        &self,
        holder: HolderId,
        name: &str,
        lease: Duration,
        deadline: Duration,
    ) -> Result<Grant, WriterError> {
        let ask = |mut journal: JournalClient<Channel>, cluster_id, within| async move {
            let request = v1::AcquireWriterRequest {
                cluster_id,
                journal: self.inner.journal.clone(),
                holder: holder.get(),
                holder_name: name.to_owned(),
                lease_ms: lease.as_millis() as u64,
                sent_wall_ms: self.inner.env.wall().ms(),
            };
            // Before the request is handed over: a lease that is counted from too early is only shorter.
            let sent_at = self.inner.env.now();
            let answer = self
                .inner
                .nodes
                .within(within, journal.acquire_writer(request))
                .await?;
            match answer.outcome {
                Some(acquire_writer_response::Outcome::Grant(g)) => {
                    Ok(Answered::Done(convert::grant(&g, sent_at)?))
                }
                Some(acquire_writer_response::Outcome::Refused(r)) => {
                    Ok(Answered::Refused(Refused::from_wire(&r)))
                }
                None => Err(Fault("its answer to AcquireWriter is empty".to_owned())),
            }
        };
        self.at_leader(deadline, ask).await
    }

    /// Extends the lease of `epoch`. Only its own success counts, from when that attempt was sent.
    ///
    /// # Errors
    /// See [`WriterError`].
    pub async fn renew(
        &self,
        epoch: Epoch,
        holder: HolderId,
        deadline: Duration,
    ) -> Result<Renewed, WriterError> {
        let ask = |mut journal: JournalClient<Channel>, cluster_id, within| async move {
            let request = v1::RenewWriterRequest {
                cluster_id,
                journal: self.inner.journal.clone(),
                epoch: epoch.get(),
                holder: holder.get(),
                sent_wall_ms: self.inner.env.wall().ms(),
            };
            self.done(within, journal.renew_writer(request), |r| r.refused)
                .await
        };
        let sent_at = self.at_leader(deadline, ask).await?;
        Ok(Renewed { sent_at })
    }

    /// Gives the lease of `epoch` back: the next writer need not wait for its end. The epoch stays.
    ///
    /// # Errors
    /// See [`WriterError`].
    pub async fn release(
        &self,
        epoch: Epoch,
        holder: HolderId,
        deadline: Duration,
    ) -> Result<(), WriterError> {
        let ask = |mut journal: JournalClient<Channel>, cluster_id, within| async move {
            let request = v1::ReleaseWriterRequest {
                cluster_id,
                journal: self.inner.journal.clone(),
                epoch: epoch.get(),
                holder: holder.get(),
            };
            self.done(within, journal.release_writer(request), |r| r.refused)
                .await
        };
        self.at_leader(deadline, ask).await.map(drop)
    }

    /// Records which server process an epoch is about to promote, and where.
    ///
    /// # Errors
    /// See [`WriterError`].
    pub async fn record_session(&self, session: &Session, deadline: Duration) -> Result<(), WriterError> {
        let ask = |mut journal: JournalClient<Channel>, cluster_id, within| async move {
            let request = v1::RecordSessionRequest {
                cluster_id,
                journal: self.inner.journal.clone(),
                session: Some(convert::session_to(session)),
            };
            self.done(within, journal.record_session(request), |r| r.refused)
                .await
        };
        self.at_leader(deadline, ask).await.map(drop)
    }

    /// Records the replid that the promoted server took.
    ///
    /// # Errors
    /// See [`WriterError`].
    pub async fn record_lineage(&self, step: &LineageStep, deadline: Duration) -> Result<(), WriterError> {
        let ask = |mut journal: JournalClient<Channel>, cluster_id, within| async move {
            let request = v1::RecordLineageRequest {
                cluster_id,
                journal: self.inner.journal.clone(),
                step: Some(redoubt_proto::lineage_step(step)),
            };
            self.done(within, journal.record_lineage(request), |r| r.refused)
                .await
        };
        self.at_leader(deadline, ask).await.map(drop)
    }

    /// Awaits an answer that says no more than "done" or "refused"; done is told with when it was sent.
    pub(crate) async fn done<T>(
        &self,
        within: Duration,
        rpc: impl Future<Output = Result<Response<T>, Status>>,
        refused: impl FnOnce(T) -> Option<v1::Refusal>,
    ) -> Result<Answered<BootTime>, Fault> {
        // `rpc` is lazy: nothing of it has been handed to the network yet.
        let sent_at = self.inner.env.now();
        let answer = self.inner.nodes.within(within, rpc).await?;
        Ok(match refused(answer) {
            None => Answered::Done(sent_at),
            Some(r) => Answered::Refused(Refused::from_wire(&r)),
        })
    }

    /// Asks the leader, wherever it is, until it answers for good or `deadline` passes.
    pub(crate) async fn at_leader<T, F>(
        &self,
        deadline: Duration,
        ask: impl Fn(JournalClient<Channel>, String, Duration) -> F,
    ) -> Result<T, WriterError>
    where
        F: Future<Output = Result<Answered<T>, Fault>> + Send,
    {
        let nodes = &self.inner.nodes;
        let until = self.inner.env.now().plus(deadline);
        let mut verdicts = Verdicts::new(nodes.len());
        let mut hunt = nodes.hunt(Want::Leader);
        while let Some(left) = self.left(until) {
            let node = match nodes.next(&mut hunt) {
                Next::Node(node) => node,
                Next::Pause(pause) => {
                    self.inner.env.sleep(pause.min(left)).await;
                    continue;
                }
            };
            let within = left.min(RPC_DEADLINE);
            let asked = async {
                self.know_cluster(node, within).await?;
                ask(nodes.journal(node)?, self.inner.cluster_id(), within).await
            };
            match asked.await {
                Ok(Answered::Done(done)) => {
                    nodes.led(node);
                    return Ok(done);
                }
                Ok(Answered::Refused(refused)) => verdicts.refused(nodes, node, refused),
                Err(fault) => {
                    nodes.failed(node, &fault);
                    verdicts.transient(node, fault.0);
                }
            }
            if let Some(refused) = verdicts.final_for_all() {
                return Err(refused.into());
            }
        }
        Err(WriterError::Unavailable(verdicts.text(nodes)))
    }

    /// A writer names its cluster in every request: learns it from `node`, if it is not known yet.
    pub(crate) async fn know_cluster(&self, node: usize, within: Duration) -> Result<(), Fault> {
        if self.inner.cluster.get().is_some() {
            return Ok(());
        }
        let found = convert::identity(&self.identify_at(node, within).await?)?;
        let cluster = found
            .cluster
            .ok_or_else(|| Fault("it is not bootstrapped".to_owned()))?;
        self.inner.pin(cluster).map_err(|refused| Fault(refused.message))
    }
}
