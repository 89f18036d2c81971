//! Serving the journal to readers, from any node.
//!
//! A reader gets admitted records only, in order, of whole groups only, as they lie on disk, each checked
//! against its checksum as it is read; and each change of lineage at its offset. What is damaged here is refused,
//! and the reader goes to another node. This module knows no socket: it yields events.

use crate::append::{AppendEntry, Command, IndexEntry, Seek};
use crate::raft::{Node, ProposeError};
use crate::segment::{ReadError, RecordKind};
use redoubt_types::limits::TAIL_MARK_EVERY;
use redoubt_types::{BootTime, Chain, Lineage, LineageStep, Offset};
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of records read at a time.
const READ_BYTES: u64 = 1024 * 1024;
/// Index entries looked at at a time.
const READ_ENTRIES: usize = 256;

/// What a reader is told.
#[derive(Debug)]
pub enum TailEvent {
    /// An admitted entry.
    Entry(IndexEntry, AppendEntry),
    /// A new replid, behind all entries before its offset.
    Lineage(LineageStep),
    /// All up to this tail was told.
    Mark(Offset, Chain),
    /// The confirmed tail was reached, and the reader does not follow.
    End,
}

/// Why a tail can't begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// No quorum confirmed that the offset exists.
    #[error(transparent)]
    NotReady(#[from] ProposeError),
    /// The offset lies beyond the confirmed tail.
    #[error("offset {from} lies beyond the tail {tail}, which a quorum confirmed")]
    BeyondEnd {
        /// The offset asked for.
        from: Offset,
        /// The confirmed tail.
        tail: Offset,
    },
    /// The offset lies before the first editlog.
    #[error("offset {from} lies before the first editlog, which begins at {beginning}")]
    BeforeBeginning {
        /// The offset asked for, or come to.
        from: Offset,
        /// Where the log begins here.
        beginning: Offset,
    },
    /// A record can't be read here.
    #[error("this node's copy can't be read at offset {at}: {source}")]
    Damaged {
        /// Offset of the record.
        at: Offset,
        /// What is wrong with it.
        source: ReadError,
    },
    /// A record is not what the index says.
    #[error("this node's copy is not what its index says at offset {at}: {what}")]
    Confused {
        /// Offset of the record.
        at: Offset,
        /// What was found.
        what: String,
    },
}

impl TailError {
    /// Whether it says that something on this node's disk is damaged.
    pub fn is_damage(&self) -> bool {
        match self {
            TailError::Damaged { source, .. } => matches!(source, ReadError::Damaged { .. }),
            TailError::Confused { .. } => true,
            TailError::NotReady(_) | TailError::BeyondEnd { .. } | TailError::BeforeBeginning { .. } => false,
        }
    }
}

/// One reader's place.
pub struct Cursor {
    node: Arc<Node>,
    /// What is to be read next.
    seek: Seek,
    at: Offset,
    replids: usize,
    /// For a reader that does not follow: where it ends.
    until: Option<Offset>,
    ready: VecDeque<(IndexEntry, AppendEntry)>,
    /// The tail of the last mark, and when the next is due.
    marked: Option<(Offset, BootTime)>,
}

impl Cursor {
    /// A reader that begins with the entry that holds the byte behind `from`. Returns it with the
    /// lineage and the tail as they are now.
    ///
    /// # Errors
    /// When `from` is beyond the tail. A node that has not caught up after a restart may only say so once a
    /// quorum has confirmed it (H8).
    pub async fn open(
        node: Arc<Node>,
        from: Offset,
        follow: bool,
    ) -> Result<(Self, Lineage, Offset), TailError> {
        let mut tail = node.state().admission.position().tail;
        if from > tail || !follow {
            node.confirm().await?;
            tail = node.state().admission.position().tail;
        }
        if from > tail {
            return Err(TailError::BeyondEnd { from, tail });
        }
        let beginning = node.state().beginning();
        if from < beginning {
            return Err(TailError::BeforeBeginning { from, beginning });
        }
        let lineage = node.state().admission.lineage().cloned();
        let lineage = lineage.ok_or(ProposeError::NotBootstrapped)?;
        let cursor = Cursor {
            node,
            seek: Seek::Offset(from),
            at: from,
            replids: lineage.len(),
            until: if follow { None } else { Some(tail) },
            ready: VecDeque::new(),
            marked: None,
        };
        Ok((cursor, lineage, tail))
    }

    /// The next event. While nothing is new, the last mark is told again every [`TAIL_MARK_EVERY`].
    ///
    /// # Errors
    /// When this node can't go on.
    pub async fn next(&mut self) -> Result<TailEvent, TailError> {
        let mut progress = self.node.progress();
        loop {
            progress.mark_unchanged();
            if let Some(step) = self.lineage_due() {
                return Ok(TailEvent::Lineage(step));
            }
            if let Some((index, entry)) = self.ready.pop_front() {
                self.at = entry.end();
                return Ok(TailEvent::Entry(index, entry));
            }
            if self.until.is_some_and(|until| self.at >= until) {
                return Ok(TailEvent::End);
            }
            if self.fill().await? {
                continue;
            }
            let (tail, chain) = {
                let state = self.node.state();
                (
                    state.admission.position().tail,
                    state.admission.position().tail_chain,
                )
            };
            let now = self.node.env().now();
            if self.at >= tail && self.marked.is_none_or(|(at, due)| at != tail || now >= due) {
                self.marked = Some((tail, now.plus(TAIL_MARK_EVERY)));
                return Ok(TailEvent::Mark(tail, chain));
            }
            // What changes need not be the tail, a renewal does it too: the next mark is due all the same.
            let wait = self.marked.map_or(TAIL_MARK_EVERY, |(_, due)| due.since(now));
            let env = self.node.env().clone();
            if env
                .timeout(wait, progress.changed())
                .await
                .is_ok_and(|alive| alive.is_err())
            {
                return Err(ProposeError::NotReady("the node ends".into()).into());
            }
        }
    }

    /// A lineage step that was not told yet and that all entries before have been told of.
    fn lineage_due(&mut self) -> Option<LineageStep> {
        let state = self.node.state();
        let step = *state.admission.lineage()?.steps().nth(self.replids)?;
        let next = self
            .ready
            .front()
            .map_or(self.at, |(index, _)| index.start.max(self.at));
        if next < step.from {
            return None;
        }
        self.replids += 1;
        Some(step)
    }

    /// Reads on. False when there is nothing beyond what was read.
    async fn fill(&mut self) -> Result<bool, TailError> {
        let read = self.read_on().await;
        // A reader may be so slow that the log is trimmed past it.
        let beginning = self.node.state().beginning();
        match read {
            Err(TailError::Damaged {
                source: ReadError::NotFound { .. },
                ..
            }) if self.at < beginning => Err(TailError::BeforeBeginning {
                from: self.at,
                beginning,
            }),
            read => read,
        }
    }

    async fn read_on(&mut self) -> Result<bool, TailError> {
        let wanted = self.node.index(self.seek, READ_ENTRIES).await;
        let wanted = wanted.map_err(|source| TailError::Damaged { at: self.at, source })?;
        let (Some(first), Some(last)) = (wanted.first(), wanted.last()) else {
            return Ok(false);
        };
        let records = self
            .node
            .records(first.log_index, last.log_index + 1, READ_BYTES)
            .await;
        let records = records.map_err(|source| TailError::Damaged {
            at: first.start,
            source,
        })?;
        let mut wanted = wanted.into_iter().peekable();
        for record in records {
            let Some(index) = wanted.next_if(|index| index.log_index == record.id.index) else {
                continue;
            };
            let confused = |what: String| TailError::Confused {
                at: index.start,
                what,
            };
            if record.kind != RecordKind::Normal {
                return Err(confused("a record of another kind".into()));
            }
            match Command::decode(&record.payload) {
                Ok(Command::Append(entry)) if entry.start == index.start => {
                    self.ready.push_back((index, entry))
                }
                Ok(other) => return Err(confused(format!("{other:?}"))),
                Err(e) => return Err(confused(e.to_string())),
            }
            self.seek = Seek::Log(record.id.index + 1);
        }
        Ok(!self.ready.is_empty())
    }
}
