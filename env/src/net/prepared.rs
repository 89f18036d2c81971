//! Connections that are handed out once something has been done on them first: a handshake.
//!
//! Promises that one which is slow at that keeps nobody waiting, and is given up after a while.

use super::{BoxFuture, Conn, Listener};
use crate::Env;
use futures_util::stream::{FuturesUnordered, StreamExt};
use redoubt_types::limits::{HANDSHAKE_DEADLINE, HANDSHAKES_MAX};
use std::io;

/// A connection, and the peer's address.
type Peer = (Box<dyn Conn>, String);

/// What is to be done on a connection before anybody uses it: takes it and the peer's address, and returns them, or others
/// in their place.
pub type Prepare = Box<dyn Fn(Box<dyn Conn>, String) -> BoxFuture<'static, io::Result<Peer>> + Send>;

/// A listener whose connections are prepared.
pub struct Prepared {
    env: Env,
    inner: Box<dyn Listener>,
    prepare: Prepare,
    under_way: FuturesUnordered<BoxFuture<'static, Option<Peer>>>,
}

impl Prepared {
    /// Those of `inner`, each prepared.
    pub fn new(env: Env, inner: Box<dyn Listener>, prepare: Prepare) -> Self {
        Prepared {
            env,
            inner,
            prepare,
            under_way: FuturesUnordered::new(),
        }
    }

    fn begin(&self, conn: Box<dyn Conn>, peer: String) {
        let (env, name) = (self.env.clone(), peer.clone());
        let preparing = (self.prepare)(conn, peer);
        self.under_way.push(Box::pin(async move {
            let prepared = env.timeout(HANDSHAKE_DEADLINE, preparing).await;
            match prepared.map_err(io::Error::other).flatten() {
                Ok(peer) => Some(peer),
                Err(error) => {
                    tracing::debug!(peer = name, %error, "a connection was closed before its first byte");
                    None
                }
            }
        }));
    }
}

impl Listener for Prepared {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Peer>> {
        Box::pin(async move {
            loop {
                let has_room = self.under_way.len() < HANDSHAKES_MAX;
                tokio::select! {
                    biased;
                    Some(prepared) = self.under_way.next() => {
                        if let Some(peer) = prepared {
                            return Ok(peer);
                        }
                    }
                    accepted = self.inner.accept(), if has_room => {
                        let (conn, peer) = accepted?;
                        self.begin(conn, peer);
                    }
                }
            }
        })
    }

    fn local_addr(&self) -> String {
        self.inner.local_addr()
    }
}
