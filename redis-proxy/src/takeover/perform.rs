//! Does what the takeover's core says, one action at a time, and tells how it went.

use super::look::Past;
use super::server::Server;
use super::words::{Action, Attach, Event};
use crate::capture::link::{AttachError, Link, Target};
use crate::capture::overlap::{self, OverlapError};
use crate::config::Config;
use crate::upstream::Upstream;
use redoubt_client::{Client, WriterError};
use redoubt_env::{Env, planted};
use redoubt_types::{HolderId, Offset};
use std::time::Duration;

/// How long one operation on the journal is tried. Longer than an election, so that losing a leader in the
/// middle of a takeover does not begin it anew.
const JOURNAL_DEADLINE: Duration = Duration::from_secs(10);
/// How often a step that a test holds looks whether it may go on.
const HELD_PAUSE: Duration = Duration::from_millis(100);

/// Hands for the core: the server, the journal, and the capture link on its way to a session.
pub(super) struct Performer {
    env: Env,
    client: Client,
    holder: HolderId,
    name: String,
    lease: Duration,
    upstream: Upstream,
    listening_port: u16,
    server: Server,
    link: Option<Link>,
}

impl Performer {
    pub(super) fn new(
        env: Env,
        config: &Config,
        upstream: Upstream,
        client: Client,
        holder: HolderId,
        listening_port: u16,
    ) -> Self {
        Performer {
            client,
            holder,
            name: config.name.clone(),
            lease: config.lease(),
            listening_port,
            server: Server::new(env.clone(), upstream.clone(), &config.replay),
            upstream,
            link: None,
            env,
        }
    }

    /// The link that capture was attached with.
    pub(super) fn take_link(&mut self) -> Option<Link> {
        self.link.take()
    }

    /// Does `action`, which is anything but [`Action::Serve`]. Dropped midway, the action may or may not have
    /// taken effect, as after a failure.
    pub(super) async fn perform(&mut self, action: Action) -> Event {
        match action {
            Action::Look => match self.server.look().await {
                Ok(look) => Event::Looked(Box::new(look)),
                Err(e) => Event::Failed(e.to_string()),
            },
            Action::Describe => match self.client.describe(JOURNAL_DEADLINE).await {
                Ok(d) => Event::Described(Box::new(Past {
                    session: d.writer.session,
                    lineage: d.lineage,
                    tail: d.position.tail,
                })),
                Err(e) => Event::Failed(e.to_string()),
            },
            Action::Prepare(run_id) => done(self.server.prepare(run_id).await),
            Action::Acquire => {
                let acquired = self
                    .client
                    .acquire(self.holder, &self.name, self.lease, JOURNAL_DEADLINE)
                    .await;
                match acquired {
                    Ok(grant) => Event::Granted(Box::new(grant)),
                    Err(e) => journal_failed(e),
                }
            }
            Action::RecordSession(session) => {
                recorded(self.client.record_session(&session, JOURNAL_DEADLINE).await)
            }
            Action::Promote(want) => match self.server.promote(&want).await {
                Ok(Ok(look)) => Event::Promoted(Box::new(look)),
                Ok(Err(why)) => Event::NotPromoted(why),
                Err(e) => Event::Failed(e.to_string()),
            },
            Action::Capture(attach) => self.capture(attach).await,
            Action::RecordLineage(step) => {
                // For a test that kills the proxy between REPLICAOF NO ONE and the lineage record.
                while planted::held("pause_before_lineage") {
                    tracing::warn!("held before the lineage record");
                    self.env.sleep(HELD_PAUSE).await;
                }
                recorded(self.client.record_lineage(&step, JOURNAL_DEADLINE).await)
            }
            Action::Demote(run_id) => done(self.server.demote(run_id).await),
            Action::Release(epoch) => {
                recorded(self.client.release(epoch, self.holder, JOURNAL_DEADLINE).await)
            }
            Action::Wait { pause, .. } => {
                self.env.sleep(pause).await;
                Event::Done
            }
            Action::Serve(_) => Event::Failed("serving is not done here".to_owned()),
        }
    }

    /// Attaches as the master's replica, and compares the overlap before a byte of it is used.
    async fn capture(&mut self, attach: Attach) -> Event {
        let from = Offset::new(attach.at.get().saturating_sub(attach.overlap));
        let target = Target {
            upstream: self.upstream.clone(),
            run_id: attach.run_id,
            under: attach.under,
            from,
            listening_port: self.listening_port,
        };
        let (mut link, replid) = match Link::attach(&self.env, &target).await {
            Ok(attached) => attached,
            Err(AttachError::NotContinued(why)) => return Event::CaptureRefused(why),
            Err(e) => return Event::Failed(e.to_string()),
        };
        match overlap::compare(&self.env, &self.client, &mut link, from, attach.at).await {
            Ok(()) => {
                tracing::info!(%replid, at = %attach.at, overlap = attach.overlap, "captured");
                self.link = Some(link);
                Event::Captured(replid)
            }
            Err(e @ OverlapError::Differs { .. }) => Event::CaptureDiffers(e.to_string()),
            Err(e @ OverlapError::NotRead(_)) => Event::Failed(e.to_string()),
        }
    }
}

fn done(result: Result<(), impl ToString>) -> Event {
    match result {
        Ok(()) => Event::Done,
        Err(e) => Event::Failed(e.to_string()),
    }
}

fn recorded(result: Result<(), WriterError>) -> Event {
    result.map_or_else(journal_failed, |()| Event::Done)
}

fn journal_failed(error: WriterError) -> Event {
    match error {
        WriterError::Fenced(why) => Event::Fenced(why),
        WriterError::LeaseHeld { retry_after, message } => Event::LeaseHeld(retry_after, message),
        WriterError::LeaseRenewed => Event::LeaseHeld(Duration::ZERO, error.to_string()),
        WriterError::Refused { .. } => Event::Refused(error.to_string()),
        WriterError::Unavailable(_) => Event::Failed(error.to_string()),
    }
}
