//! Takeover: the one way to become master, from a server that is there to clients that are served.
//!
//! [`core`] decides what is done next; [`Cell`] drives it: one action at a time, each answered by an event,
//! with the epoch's lease kept beside them all. Promises that clients are shown a session only while the core
//! says so, and that the lease of an epoch that leads nowhere is not kept. Knows nothing of clients.

pub mod core;
pub mod fitness;
pub mod look;
mod perform;
mod server;
mod words;

pub use words::{Action, Attach, Event, Moment, Serving};

use self::core::Takeover;
use crate::append::Append;
use crate::append::keeper::LeaseKeeper;
use crate::append::lease::LeaseTerms;
use crate::capture::buffer::{Bounds, DoubleBuffer};
use crate::capture::link::Link;
use crate::capture::{Capture, CaptureTerms};
use crate::config::Config;
use crate::hold::Hold;
use crate::session::{EndReason, Session};
use crate::upstream::{DEFAULT_USER, Upstream, fence};
use perform::Performer;
use redoubt_client::{AppendStart, Client, Grant};
use redoubt_env::Env;
use redoubt_types::limits::{ENTRY_PAYLOAD_BYTES_MAX, RPC_DEADLINE};
use redoubt_types::{Epoch, HolderId};
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::watch;

/// One cell: a server, its proxy, and the journal.
pub struct Cell {
    env: Env,
    config: Config,
    client: Client,
    upstream: Upstream,
    /// Random per process, so that a lease binds one process (H14).
    holder: HolderId,
    /// The port that clients connect to.
    port: u16,
    serving: watch::Sender<Option<Arc<Session>>>,
    performer: Performer,
    /// The lease of the epoch that is on its way to serving.
    keeper: Option<LeaseKeeper>,
    /// The last epoch that was granted.
    epoch: Option<Epoch>,
    /// What was last waited for, so that it is logged once.
    waiting: String,
}

impl Cell {
    /// A cell whose server is `upstream`, that shows its session through `serving`; clients connect to `port`.
    pub fn new(
        env: Env,
        config: Config,
        client: Client,
        upstream: Upstream,
        port: u16,
        serving: watch::Sender<Option<Arc<Session>>>,
    ) -> Self {
        let holder = loop {
            if let Some(holder) = HolderId::new(env.random_nonzero()) {
                break holder;
            }
        };
        let performer = Performer::new(
            env.clone(),
            &config,
            upstream.clone(),
            client.clone(),
            holder,
            port,
        );
        let waiting = String::new();
        Cell {
            env,
            config,
            client,
            upstream,
            holder,
            port,
            serving,
            performer,
            keeper: None,
            epoch: None,
            waiting,
        }
    }

    /// Walks the way to become master, serves, and begins again when a session ends, until `stop` is ready.
    /// Then the session ends in order: what was captured is committed, and the lease is given back, so that
    /// the next one who wants it need not wait.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let (stopping, stopped) = watch::channel(false);
        let told = async {
            stop.await;
            stopping.send_replace(true);
            pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = told => {}
            () = self.walk(stopped) => {}
        }
        if let Some(epoch) = self.epoch {
            match self.client.release(epoch, self.holder, RPC_DEADLINE).await {
                Ok(()) => tracing::info!(%epoch, "the lease was given back"),
                Err(error) => tracing::info!(%epoch, %error, "the lease was not given back; it will lapse"),
            }
        }
    }

    async fn walk(&mut self, mut stopped: watch::Receiver<bool>) {
        let mut core = Takeover::new(self.config.replay.clone());
        let mut event = Event::Started;
        while !*stopped.borrow() {
            let action = core.step(
                event,
                Moment {
                    now: self.env.now(),
                    wall: self.env.wall(),
                },
            );
            self.tell(&action);
            if !core.holds_epoch() {
                // Renewing it would keep others waiting for a cell that has begun anew.
                self.keeper = None;
            }
            let mut stops = stopped.clone();
            event = match action {
                Action::Serve(serving) => {
                    let stop = async move {
                        // An error means that the sender is gone, and the program with it.
                        let _ = stops.wait_for(|stops| *stops).await;
                    };
                    self.serve(*serving, stop).await
                }
                action => tokio::select! {
                    biased;
                    _ = stopped.wait_for(|stops| *stops) => return,
                    why = fenced(self.keeper.as_ref()) => Event::Fenced(why),
                    event = self.performer.perform(action) => event,
                },
            };
            if let Event::Granted(grant) = &event {
                self.keep(grant);
            }
        }
    }

    fn keep(&mut self, grant: &Grant) {
        let terms = LeaseTerms {
            duration: self.config.lease(),
            margin: self.config.lease_margin(),
            renew_every: self.config.lease_renew_every(),
        };
        let client = self.client.clone();
        self.epoch = Some(grant.epoch);
        self.keeper = Some(LeaseKeeper::start(
            &self.env,
            client,
            grant.epoch,
            self.holder,
            terms,
            grant.sent_at,
        ));
    }

    /// Serves one session, from its beginning to its end.
    async fn serve(&mut self, serving: Serving, stop: impl Future<Output = ()>) -> Event {
        let began = self.env.now();
        let reason = match (self.keeper.take(), self.performer.take_link()) {
            (Some(keeper), Some(link)) => self.session(serving, keeper, link, stop).await,
            // Only a bug leads here, and beginning again costs one epoch.
            _ => EndReason::ServerChanged("there is no lease or no link to serve with".to_owned()),
        };
        Event::Ended {
            reason,
            served: self.env.now().since(began),
        }
    }

    async fn session(
        &mut self,
        serving: Serving,
        keeper: LeaseKeeper,
        link: Link,
        stop: impl Future<Output = ()>,
    ) -> EndReason {
        let Serving {
            grant,
            run_id,
            replid,
        } = serving;
        let position = grant.position;
        let hold = Hold::new(position.tail, keeper.until(), self.env.clone());
        let upstream = self.upstream.clone();
        let uncommitted_max = self.config.uncommitted_bytes_max;
        let session = Session::new(grant.epoch, replid, run_id, upstream, hold, uncommitted_max);
        let session = Arc::new(session);
        if self.config.shared_upstream {
            // What it may do, all who share a connection may.
            session.peers.guard(DEFAULT_USER);
        }
        keeper.bind(&session);
        let start = AppendStart {
            epoch: grant.epoch,
            replid,
            start: position.tail,
            chain: position.tail_chain,
        };
        let append = Append::new(self.client.appender(start), Arc::clone(&session), keeper);
        let bounds = Bounds {
            entry_max: ENTRY_PAYLOAD_BYTES_MAX,
            uncommitted_max,
        };
        let terms = CaptureTerms {
            listening_port: self.port,
            unreachable_max: self.config.release_deadline(),
        };
        let buffer = DoubleBuffer::new(position.tail, position.db, bounds);
        let capture = Capture::new(self.env.clone(), Arc::clone(&session), terms, link, buffer);
        let _fence = self.env.spawn(fence::run(
            Arc::clone(&session),
            self.env.clone(),
            self.config.release_deadline(),
        ));
        self.serving.send_replace(Some(Arc::clone(&session)));
        tracing::info!(epoch = %grant.epoch, %replid, %run_id, tail = %position.tail, "serving");
        let reason = capture.run(append, pin!(stop)).await;
        self.serving.send_replace(None);
        tracing::info!(epoch = %grant.epoch, %reason, "the session ended");
        reason
    }

    /// Logs what is done next; what is merely waited for, once.
    fn tell(&mut self, action: &Action) {
        match action {
            Action::Look | Action::Describe => {}
            Action::Wait { why, .. } if *why == self.waiting => {}
            Action::Wait {
                why, refused: true, ..
            } => {
                tracing::error!("refused: {why}");
                self.waiting = why.clone();
            }
            Action::Wait { why, .. } => {
                tracing::info!("waiting: {why}");
                self.waiting = why.clone();
            }
            action => {
                tracing::info!("next: {action}");
                self.waiting.clear();
            }
        }
    }
}

/// Waits until the epoch that is held, if any, is fenced.
async fn fenced(keeper: Option<&LeaseKeeper>) -> String {
    match keeper {
        Some(keeper) => keeper.fenced().await,
        None => pending().await,
    }
}
