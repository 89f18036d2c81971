//! Where clients connect: in the clear, over TLS, behind a load balancer.

use super::proxied::read_header;
use crate::config::Config;
use redoubt_env::Env;
use redoubt_env::net::tls::TlsServer;
use redoubt_env::net::{Listener, Listeners, Prepare, Prepared};
use std::io;

/// Listens wherever `config` says, over TLS with what `tls` shows. Returns what accepts clients that are ready for their first
/// command.
///
/// # Errors
/// Where that is not possible, and why.
pub async fn listen(
    config: &Config,
    tls: Option<&TlsServer>,
    env: &Env,
) -> Result<Box<dyn Listener>, (String, io::Error)> {
    let plain = config.listens_plainly().then_some((&config.listen, None));
    let secure = config
        .tls_listen
        .as_ref()
        .zip(tls)
        .map(|(at, tls)| (at, Some(tls)));
    let mut all: Vec<Box<dyn Listener>> = Vec::new();
    for (at, tls) in plain.into_iter().chain(secure) {
        let listener = env.net().listen(at).await.map_err(|e| (at.clone(), e))?;
        tracing::info!(address = listener.local_addr(), tls = tls.is_some(), "listening");
        all.push(match prepare(config.proxy_protocol, tls.cloned()) {
            Some(prepare) => Box::new(Prepared::new(env.clone(), listener, prepare)),
            None => listener,
        });
    }
    Ok(Box::new(Listeners::new(all)))
}

/// What happens on a connection before its first command. The header of a load balancer comes before what that passes on.
fn prepare(header: bool, tls: Option<TlsServer>) -> Option<Prepare> {
    if !header && tls.is_none() {
        return None;
    }
    Some(Box::new(move |mut conn, mut peer| {
        let tls = tls.clone();
        Box::pin(async move {
            if header && let Some(client) = read_header(&mut conn).await? {
                peer = client.to_string();
            }
            let conn = match tls {
                Some(tls) => tls.accept(conn).await?,
                None => conn,
            };
            Ok((conn, peer))
        })
    }))
}
