//! The listener: replicas in, one task each.
//!
//! Promises that no connection can end another one or the program, and that their number is bounded.

use super::link;
use super::registry::Registry;
use crate::config::{ACCEPT_PAUSE, CONNECTIONS_MAX, Config, REPORT_EVERY};
use crate::error::Error;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redoubt_client::{Client, ClientConfig};
use redoubt_env::net::{Conn, Listener};
use redoubt_env::{Env, Task};
use redoubt_types::Offset;
use redoubt_types::limits::RPC_DEADLINE;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What all links of a replay share.
pub(crate) struct Shared {
    /// The machine.
    pub(crate) env: Env,
    /// The journal.
    pub(crate) client: Client,
    /// The journal's nodes: which of them answers is the client's choice.
    pub(crate) endpoints: Vec<String>,
    /// Links are fed up to here and no further; `None` in a replay that goes on for ever.
    pub(crate) limit: Option<Offset>,
    /// Whether an address is given a base before it may continue, whatever it says that it holds.
    pub(crate) base_first: bool,
    registry: Mutex<Registry>,
}

impl Shared {
    fn for_replay(env: Env, client: Client, endpoints: Vec<String>) -> Self {
        Shared {
            env,
            client,
            endpoints,
            limit: None,
            base_first: false,
            registry: Mutex::default(),
        }
    }

    /// For a server that is fed up to `limit` and known to hold nothing. It may have been a replica of this
    /// journal before it was emptied, and would then ask to continue from what it does not hold any more.
    pub(crate) fn for_rebuild(env: Env, client: Client, limit: Offset) -> Self {
        let limit = Some(limit);
        Shared {
            env,
            client,
            endpoints: Vec::new(),
            limit,
            base_first: true,
            registry: Mutex::default(),
        }
    }

    /// The replicas. Never held across an await.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        // The registry is for people's eyes: after a panic it may lack a line, and is still worth showing.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A replay that listens and is ready to serve.
pub struct Replay {
    shared: Arc<Shared>,
    listener: Box<dyn Listener>,
    name: String,
}

impl Replay {
    /// Takes the address to listen on. No I/O with the journal yet.
    ///
    /// # Errors
    /// [`Error`] when the address can't be had or no endpoint is configured.
    pub async fn bind(config: Config, env: Env) -> Result<Self, Error> {
        let Config {
            listen,
            endpoints,
            journal,
            cluster,
            name,
        } = config;
        if endpoints.is_empty() {
            return Err(Error::NoEndpoints);
        }
        let listener = listen_on(&env, &listen).await?;
        let client = ClientConfig {
            endpoints: endpoints.clone(),
            journal,
            cluster,
        };
        let client = Client::new(env.clone(), client);
        tracing::info!(
            listen = listener.local_addr(),
            ?endpoints,
            name,
            "serving the journal as a master"
        );
        Ok(Replay {
            shared: Arc::new(Shared::for_replay(env, client, endpoints)),
            listener,
            name,
        })
    }

    /// The address that replicas connect to, `ip:port`.
    pub fn local_addr(&self) -> String {
        self.listener.local_addr()
    }

    /// Serves replicas. Never ends by itself: dropping the future is the way to stop it, at any moment.
    pub async fn serve(self) {
        let _reporting = self.shared.env.spawn(report(self.shared.clone(), self.name));
        accept(self.shared, self.listener).await;
    }
}

/// Listens on `address`.
pub(crate) async fn listen_on(env: &Env, address: &str) -> Result<Box<dyn Listener>, Error> {
    let listening = env.net().listen(address).await;
    listening.map_err(|source| Error::Listen {
        address: address.to_owned(),
        source,
    })
}

/// Accepts replicas for ever.
pub(crate) async fn accept(shared: Arc<Shared>, mut listener: Box<dyn Listener>) {
    let mut links: FuturesUnordered<Task<()>> = FuturesUnordered::new();
    for id in 1.. {
        let accepted = loop {
            tokio::select! {
                biased;
                Some(_) = links.next() => {}
                accepted = listener.accept() => break accepted,
            }
        };
        match accepted {
            Ok((_, peer)) if links.len() >= CONNECTIONS_MAX => {
                tracing::warn!(peer, "closed: {CONNECTIONS_MAX} connections are open already");
            }
            Ok((conn, peer)) => links.push(start(&shared, id, conn, peer)),
            Err(e) => {
                tracing::warn!("can't accept a connection: {e}");
                shared.env.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn start(shared: &Arc<Shared>, id: u64, conn: Box<dyn Conn>, peer: String) -> Task<()> {
    shared.env.spawn(link::serve(shared.clone(), id, conn, peer))
}

/// Tells the journal's nodes how far the replicas are, every second. Best effort: it is for people.
async fn report(shared: Arc<Shared>, name: String) {
    loop {
        shared.env.sleep(REPORT_EVERY).await;
        let replicas = shared.registry().reports();
        let _late = shared
            .env
            .timeout(RPC_DEADLINE, shared.client.report_replicas(&name, &replicas))
            .await;
    }
}
