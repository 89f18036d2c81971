//! The clients of a session, as its server sees them: whom a client may end.
//!
//! Promises that nothing but connections that serve a client is ever in it: the proxy's own, for capture and
//! fences, are not. One per session, since ids mean something in one process only.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ids and addresses of all connections that serve a client; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    members: Arc<Mutex<BTreeMap<u64, String>>>,
}

/// One client's place among them, until it is dropped. That MUST be before its connection to the server is closed, or
/// another connection may have its address while it is still here.
#[derive(Debug)]
pub struct Member {
    peers: Peers,
    id: u64,
}

impl Peers {
    /// Takes in the connection with this id and address.
    pub fn join(&self, id: u64, addr: String) -> Member {
        self.lock().insert(id, addr);
        Member {
            peers: self.clone(),
            id,
        }
    }

    /// Whether `arg` is the id of a client's connection.
    pub fn has_id(&self, arg: &[u8]) -> bool {
        let id = std::str::from_utf8(arg).ok().and_then(|text| text.parse().ok());
        id.is_some_and(|id| self.lock().contains_key(&id))
    }

    /// Whether `arg` is the address of a client's connection.
    pub fn has_addr(&self, arg: &[u8]) -> bool {
        self.lock().values().any(|addr| addr.as_bytes() == arg)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, String>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.peers.lock().remove(&self.id);
    }
}
