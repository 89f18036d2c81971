//! The RESP endpoint in front of the master: captures its effects, appends them to the journal, and holds
//! every reply until the journal has committed what it depends on.
//!
//! Modules in the order in which a write passes them: a client's command goes to the server ([`client`],
//! [`upstream`]); its effects come back over the replication link ([`capture`]) and go to the journal
//! ([`append`]); its reply waits for that ([`hold`]). How a server comes to be served at all is decided in
//! [`takeover`], and what is served under is a [`session`]. What the server says of its commands is read in
//! `commands`. How much clients may pass on is the [`pressure`],
//! and a [`pause`] what they have forbidden each other.

pub mod client;
mod commands;
pub mod upstream;

pub mod capture;

pub mod append;

pub mod hold;

pub mod takeover;

pub mod session;

pub mod pressure;

pub mod pause;

pub mod config;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use client::Options;
use config::Config;
use redoubt_client::{Client, ClientConfig};
use redoubt_env::net::tls::{TlsNet, TlsServer};
use redoubt_env::{Env, planted};
use redoubt_types::limits::DRAIN_CLIENTS_MAX;
use std::future::Future;
use std::io;
use takeover::Cell;
use tokio::sync::{mpsc, watch};

/// Why the proxy can't run at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it was told makes no sense.
    #[error("{0}")]
    Config(String),
    /// Nobody could connect.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
}

/// Runs a proxy until `stop` is ready, and then ends it in order: nobody new is let in, clients get the answers to what they
/// have sent and are closed, what was captured is committed, and the lease is given back. Dropping the future is a crash.
/// At each of `hangups` the certificates are read again.
///
/// # Errors
/// See [`Error`]; everything that can go wrong later is waited for and tried again.
pub async fn run(
    config: Config,
    env: Env,
    stop: impl Future<Output = ()>,
    hangups: mpsc::Receiver<()>,
) -> Result<(), Error> {
    let (tls, upstream_net) = (
        config.tls(&env).map_err(Error::Config)?,
        config.upstream_net(&env).map_err(Error::Config)?,
    );
    let upstream = config
        .upstream(&env, upstream_net.clone())
        .map_err(Error::Config)?;
    let listener = client::front::listen(&config, tls.as_ref(), &env)
        .await
        .map_err(|(address, source)| Error::Listen { address, source })?;
    let _reading = env.spawn(read_again(hangups, tls, upstream_net));
    let address = listener.local_addr();
    tracing::info!(
        upstream = upstream.address(),
        user = upstream.own_user(),
        replay = config.replay,
        "in front of its server"
    );
    let port = address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap_or(0);
    let (serving, watched) = watch::channel(None);
    let journal = ClientConfig {
        endpoints: config.endpoints.clone(),
        journal: config.journal.clone(),
        cluster: None,
    };
    let journal = Client::new(env.clone(), journal);
    let options = Options::from(&config);
    let (drain, draining) = watch::channel(false);
    let mut clients = env.spawn(client::serve(listener, watched, options, env.clone(), draining));
    let drained = async {
        stop.await;
        if planted::on("stop_without_drain") {
            return;
        }
        drain.send_replace(true);
        // The cell goes on as ever meanwhile: what they wait for must be committed.
        if env.timeout(DRAIN_CLIENTS_MAX, &mut clients).await.is_err() {
            tracing::warn!("not all clients got their answers within {DRAIN_CLIENTS_MAX:?}; they are closed");
        }
    };
    Cell::new(env.clone(), config, journal, upstream, port, serving)
        .run(drained)
        .await;
    drop(clients);
    Ok(())
}

/// Reads certificates again whenever that is asked for.
async fn read_again(mut hangups: mpsc::Receiver<()>, tls: Option<TlsServer>, upstream: Option<TlsNet>) {
    while hangups.recv().await.is_some() {
        let read = tls.as_ref().map(TlsServer::read_again);
        let upstream_read = upstream.as_ref().map(TlsNet::read_again);
        for read in [read, upstream_read].into_iter().flatten() {
            match read {
                Ok(()) => tracing::info!("certificates were read again"),
                Err(error) => tracing::error!(%error, "what was read before is used on"),
            }
        }
    }
}
