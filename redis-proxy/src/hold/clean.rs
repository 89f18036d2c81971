//! Clean reads: what only shows keys that no uncommitted effect has touched need not wait for a commit.
//!
//! The shell around [`Touched`]: a lock, and a mark of how far the stream is indexed, to be waited for. Capture feeds it,
//! whoever keeps replies asks it.
//!
//! **Why such a read may leave at once.** It was executed before its fence, so every effect that it can have seen ended at or
//! before the fence point. Once the stream is captured up to there, all of those are indexed. If none of them that may
//! have touched its keys ended beyond what is committed, everything that it shows is durable, whatever becomes of the
//! rest. It is of the present by the same rule as any reply (H14). And a later read of the key, by anybody, is served by a
//! server that has at least what is committed: each key by itself is linearizable, and with that all of them are. What a
//! client wrote before is not passed: its replies leave in order.
//!
//! Each condition has a test that dies without it: `h21_…` in `client/shared` and `redis-proxy/tests`.

use super::keyed::Keyed;
use super::touched::{ReadKeys, Touched};
use redoubt_types::Offset;
use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::watch;

/// One session's index.
pub struct CleanReads {
    touched: Mutex<Touched>,
    /// Asked of the server when the session begins; until then everything is unclear.
    keyed: OnceLock<Keyed>,
    indexed: watch::Sender<Offset>,
}

impl CleanReads {
    /// For a session that begins when everything before `start` is committed.
    pub fn new(start: Offset) -> Self {
        CleanReads {
            touched: Mutex::new(Touched::new(start)),
            keyed: OnceLock::new(),
            indexed: watch::Sender::new(start),
        }
    }

    /// Takes what the server says of its commands. It does not change within a session, the first that comes stands.
    pub fn set_keyed(&self, keyed: Keyed) {
        let _ = self.keyed.set(keyed);
    }

    /// What the server says of its commands, once that is known.
    pub fn keyed(&self) -> Option<&Keyed> {
        self.keyed.get()
    }

    /// Indexes the groups that `feed` hands over, each with its end and its bytes, if they are there to be looked at.
    pub fn index<T>(&self, feed: impl FnOnce(&mut dyn FnMut(Option<&[u8]>, Offset)) -> T) -> T {
        let mut touched = self.lock();
        let fed = feed(&mut |bytes, end| touched.group(bytes, end, self.keyed.get()));
        let indexed = touched.indexed();
        drop(touched);
        self.indexed
            .send_if_modified(|told| std::mem::replace(told, indexed) != indexed);
        fed
    }

    /// How far the stream is indexed; the receiver tells of changes.
    pub fn indexed(&self) -> watch::Receiver<Offset> {
        self.indexed.subscribe()
    }

    /// Whether nothing beyond `committed` may have touched these keys, as far as is indexed.
    pub fn are_clean(&self, keys: &ReadKeys, committed: Offset) -> bool {
        self.lock().are_clean(keys, committed)
    }

    fn lock(&self) -> MutexGuard<'_, Touched> {
        // Whatever a panicked holder left out is not indexed, and what is indexed is valid.
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CleanReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CleanReads")
            .field("indexed", &*self.indexed.borrow())
            .finish_non_exhaustive()
    }
}
