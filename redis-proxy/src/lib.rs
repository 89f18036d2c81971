//! The RESP endpoint in front of the master: captures its effects, appends them to the journal, and holds
//! every reply until the journal has committed what it depends on.
//!
//! Modules in the order in which a write passes them: a client's command goes to the server ([`client`],
//! [`upstream`]); its effects come back over the replication link ([`capture`]) and go to the journal
//! ([`append`]); its reply waits for that ([`hold`]). How a server comes to be served at all is decided in
//! [`takeover`], and what is served under is a [`session`]. How much clients may pass on is the [`pressure`],
//! and a [`pause`] what they have forbidden each other.

pub mod client;
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
use redoubt_env::Env;
use std::future::Future;
use std::io;
use takeover::Cell;
use tokio::sync::watch;

/// Why the proxy can't run at all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody could connect.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// What the operating system says.
        source: io::Error,
    },
}

/// Runs a proxy until `stop` is ready, and then ends it in order: what was captured is committed and the
/// lease given back. Dropping the future is a crash.
///
/// # Errors
/// See [`Error`]; everything that can go wrong later is waited for and tried again.
pub async fn run(config: Config, env: Env, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let listener = env
        .net()
        .listen(&config.listen)
        .await
        .map_err(|source| Error::Listen {
            address: config.listen.clone(),
            source,
        })?;
    let address = listener.local_addr();
    tracing::info!(
        address,
        upstream = config.upstream,
        replay = config.replay,
        "listening"
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
    let clients = env.spawn(client::serve(listener, watched, options, env.clone()));
    Cell::new(env, config, journal, port, serving).run(stop).await;
    drop(clients);
    Ok(())
}
