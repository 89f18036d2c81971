//! The clients of a session, as its server sees them: whom a client may end.
//!
//! Promises that nothing but connections that serve a client is ever in it: the proxy's own, for capture and
//! fences, are not; nor an address that other connections have too, as all over a socket in the file system do. Nor is what those connections' user may do to be changed. One per session, since ids mean something in one process only.

use crate::upstream::DEFAULT_USER;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// How many ids of connections that are gone are known at most.
const GONE_MAX: usize = 16 * 1024;

/// Ids and addresses of all connections that serve a client; cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Ids, and addresses where they are a connection's own.
    members: BTreeMap<u64, Option<String>>,
    /// Ids of those that were here; a server gives none twice.
    gone: BTreeSet<u64>,
    guarded: BTreeSet<Vec<u8>>,
}

/// One client's place among them, until it is dropped. That MUST be before its connection to the server is closed, or
/// another connection may have its address while it is still here.
#[derive(Debug)]
pub struct Member {
    peers: Peers,
    id: u64,
}

impl Peers {
    /// Nobody yet, in front of a server to which the proxy speaks as `own_user`.
    pub fn new(own_user: &str) -> Self {
        let peers = Peers {
            shared: Arc::default(),
        };
        peers.guard(own_user);
        peers
    }

    /// `user` is one on whose connections the proxy relies, too.
    pub fn guard(&self, user: &str) {
        self.lock().guarded.insert(user.as_bytes().to_vec());
    }

    /// Whether the proxy relies on connections of the user `name`: it may neither be changed nor have its connections ended.
    pub fn guards(&self, name: &[u8]) -> bool {
        self.lock().guarded.contains(name)
    }

    /// Takes in the connection with this id and address.
    pub fn join(&self, id: u64, addr: String) -> Member {
        let own = addr.parse().is_ok_and(|addr: SocketAddr| addr.port() != 0);
        self.lock().members.insert(id, own.then_some(addr));
        Member {
            peers: self.clone(),
            id,
        }
    }

    /// Whether `arg` is the id of a client's connection, or was: then the server has nobody of that id, and says so.
    pub fn has_id(&self, arg: &[u8]) -> bool {
        let id = std::str::from_utf8(arg).ok().and_then(|text| text.parse().ok());
        id.is_some_and(|id| {
            let shared = self.lock();
            shared.members.contains_key(&id) || shared.gone.contains(&id)
        })
    }

    /// Whether `arg` is the address of a client's connection.
    pub fn has_addr(&self, arg: &[u8]) -> bool {
        self.lock()
            .members
            .values()
            .flatten()
            .any(|addr| addr.as_bytes() == arg)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Peers {
    fn default() -> Self {
        Peers::new(DEFAULT_USER)
    }
}

impl Member {
    /// All of them.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut shared = self.peers.lock();
        shared.members.remove(&self.id);
        shared.gone.insert(self.id);
        if shared.gone.len() > GONE_MAX {
            // The oldest: ids grow.
            shared.gone.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_its_clients_and_an_address_does_not() {
        let peers = Peers::default();
        drop(peers.join(7, "127.0.0.1:5000".to_owned()));
        assert!(peers.has_id(b"7") && !peers.has_id(b"8") && !peers.has_addr(b"127.0.0.1:5000"));
        for id in 0..=GONE_MAX as u64 {
            drop(peers.join(100 + id, String::new()));
        }
        assert!(!peers.has_id(b"7") && !peers.has_id(b"100") && peers.has_id(b"101"));
    }

    #[test]
    fn an_address_that_is_not_a_connections_own_names_nobody() {
        let peers = Peers::default();
        let _members = [
            peers.join(1, "127.0.0.1:5000".to_owned()),
            peers.join(2, "[::1]:5000".to_owned()),
            peers.join(3, "/run/redis.sock:0".to_owned()),
            peers.join(4, "redis.sock:0".to_owned()),
        ];
        assert!(peers.has_addr(b"127.0.0.1:5000") && peers.has_addr(b"[::1]:5000"));
        assert!(!peers.has_addr(b"/run/redis.sock:0") && !peers.has_addr(b"redis.sock:0"));
        assert!((1..=4).all(|id: u64| peers.has_id(id.to_string().as_bytes())));
    }
}
