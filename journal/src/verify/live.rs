//! Checks what a running node holds: every file is read again, and the journal up to an agreed offset once more as a reader
//! gets it, its chain being counted anew.

use crate::raft::Node;
use crate::tail::{Cursor, TailEvent};
use redoubt_types::{BootTime, Chain, Offset, payload_crc};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a node may be behind the offset that was agreed on.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(10);
/// How often it is said at least how far the check is.
const SAY_EVERY: Duration = Duration::from_millis(500);

/// What is told of a check, in this order: `Read` again and again, `Damage` and `Unchecked` as often as there is any, and at
/// the end `Chain`, unless the journal could not be read to the offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// So many bytes were read.
    Read {
        /// So far.
        bytes: u64,
        /// In all, as far as that is known.
        of: u64,
    },
    /// Something is damaged, in a sentence. The node repairs it by itself.
    Damage(String),
    /// Something could not be checked, in a sentence.
    Unchecked(String),
    /// The chain of the journal up to the offset, counted from what is on this node's disk.
    Chain(Chain),
}

/// Checks `node`, up to offset `until` of the journal; `found` is told of it until it is closed.
pub async fn live(node: Arc<Node>, until: Offset, found: mpsc::Sender<Found>) {
    let mut check = Live {
        said_at: node.env().now(),
        bytes: 0,
        of: node.log_bytes().unwrap_or_default() + until.get(),
        node,
        found,
    };
    if let Err(e) = check.files().await {
        check.say(Found::Unchecked(e)).await;
    }
    let counted = match check.chain(until).await {
        Ok(chain) => Found::Chain(chain),
        Err(found) => found,
    };
    let (bytes, of) = (check.bytes, check.of);
    check.say(Found::Read { bytes, of }).await;
    check.say(counted).await;
}

struct Live {
    node: Arc<Node>,
    found: mpsc::Sender<Found>,
    bytes: u64,
    of: u64,
    said_at: BootTime,
}

impl Live {
    /// Says it. Whoever is gone hears nothing, and the next step ends.
    async fn say(&self, found: Found) {
        let _ = self.found.send(found).await;
    }

    async fn read(&mut self, bytes: u64) {
        self.bytes += bytes;
        let now = self.node.env().now();
        if now.since(self.said_at) >= SAY_EVERY {
            self.said_at = now;
            let (bytes, of) = (self.bytes, self.of);
            self.say(Found::Read { bytes, of }).await;
        }
    }

    /// Reads every file, in a thread of its own.
    async fn files(&mut self) -> Result<(), String> {
        let (read, mut reads) = mpsc::channel(16);
        let (checked, done) = tokio::sync::oneshot::channel();
        let node = self.node.clone();
        let work = move || {
            let all = node.check(&mut |bytes| read.blocking_send(bytes).is_ok());
            // Nobody waits for it any more: then nobody is told.
            drop(checked.send(all));
        };
        let started = self.node.env().spawn_thread("verify", work);
        started.map_err(|e| format!("no thread can be started: {e}"))?;
        while let Some(bytes) = reads.recv().await {
            self.read(bytes).await;
            if self.found.is_closed() {
                return Ok(());
            }
        }
        let checked = done.await.map_err(|_| "the node has ended".to_owned())?;
        for rot in checked.rot {
            let path = rot.path.display();
            self.say(Found::Damage(format!("{path} is damaged at byte {}", rot.offset)))
                .await;
        }
        for name in checked.mended {
            let what =
                format!("one of the two copies in {name} was damaged, and was made again from the other");
            self.say(Found::Damage(what)).await;
        }
        for why in checked.unchecked {
            self.say(Found::Unchecked(why)).await;
        }
        Ok(())
    }

    /// Reads the journal up to `until` as a tail does, and counts its chain.
    async fn chain(&mut self, until: Offset) -> Result<Chain, Found> {
        let unchecked = |e: &dyn std::fmt::Display| Found::Unchecked(e.to_string());
        let damaged = |e: &dyn std::fmt::Display| Found::Damage(e.to_string());
        let mut progress = self.node.progress();
        let reached = async { progress.wait_for(|p| p.tail >= until).await.is_ok() };
        if !matches!(self.node.env().timeout(CATCH_UP_WITHIN, reached).await, Ok(true)) {
            let tail = self.node.progress().borrow().tail;
            return Err(Found::Unchecked(format!(
                "the node is at offset {tail} only, not at {until}"
            )));
        }
        // What is trimmed is a base's to vouch for.
        let (mut at, mut chain) = self.node.begins_at();
        let opened = Cursor::open(self.node.clone(), at, true).await;
        let (mut cursor, ..) = opened.map_err(|e| unchecked(&e))?;
        while at < until {
            let entry = match cursor.next().await {
                Ok(TailEvent::Entry(_, entry)) => entry,
                Ok(_) => continue,
                Err(e) if e.is_damage() => return Err(damaged(&e)),
                Err(e) => return Err(unchecked(&e)),
            };
            if (entry.start, entry.chain) != (at, chain) || payload_crc(&entry.payload) != entry.payload_crc {
                return Err(Found::Damage(format!(
                    "the journal does not go on at offset {at} as it should"
                )));
            }
            chain = entry.chain.extend(&entry.payload);
            at = entry.end();
            self.read(entry.payload.len() as u64).await;
            if self.found.is_closed() {
                return Err(Found::Unchecked("nobody waits for it any more".to_owned()));
            }
        }
        if at != until {
            return Err(Found::Damage(format!(
                "an entry ends at offset {at}, where one should at {until}"
            )));
        }
        Ok(chain)
    }
}
