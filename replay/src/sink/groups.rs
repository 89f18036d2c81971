//! The groups of what a tail delivers.
//!
//! Decides where each group ends, and proves that the bytes continue the very history that the target's position names: the
//! chain behind every entry must be that of the position, extended. Promises the same groups however the entries are cut. Pure.

use super::position::Place;
use bytes::{Bytes, BytesMut};
use redoubt_resp::stream::{GroupEnd, StreamError, StreamScanner};
use redoubt_types::{Chain, Db, Offset, WallTime};
use std::collections::VecDeque;

/// Bytes of one group at most: what a stock server takes of one client's unfinished request by default
/// (`client-query-buffer-limit`). It is held in memory.
pub(super) const GROUP_BYTES_MAX: usize = 1 << 30;

/// Why bytes can't be taken for the journal's at the position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupsError {
    /// The journal holds another history than the one that was applied.
    #[error(
        "the target's position is of another history: the chain before {at} is {journal} in the journal, and {known} here"
    )]
    OtherHistory {
        /// Where.
        at: Offset,
        /// The journal's.
        journal: Chain,
        /// The position's, extended.
        known: Chain,
    },
    /// Bytes are missing or come twice.
    #[error("bytes at {start} do not continue {at}")]
    Gap {
        /// Where they begin.
        start: Offset,
        /// Where they should.
        at: Offset,
    },
    /// The bytes are no replication stream.
    #[error("the stream behind {at} can't be read: {error}")]
    Stream {
        /// The last boundary.
        at: Offset,
        /// What is wrong.
        error: StreamError,
    },
    /// A group is larger than what can be applied at once.
    #[error("the group at {0} has more than {GROUP_BYTES_MAX} bytes")]
    TooLarge(Offset),
}

/// One command, or one MULTI … EXEC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) bytes: Bytes,
    /// The database that is selected before it.
    pub(super) db: Db,
    /// Behind it.
    pub(super) end: Place,
    /// When the master's proxy captured it.
    pub(super) captured: WallTime,
}

/// See the module's head.
#[derive(Debug)]
pub(super) struct Groups {
    scanner: StreamScanner,
    /// The end of the last whole group.
    end: Place,
    /// Of a group whose rest is to come.
    unfinished: BytesMut,
    /// Behind `unfinished`.
    chain: Chain,
    ready: VecDeque<Group>,
}

impl Groups {
    /// From `place` on.
    pub(super) fn new(place: Place) -> Self {
        Groups {
            scanner: StreamScanner::with_db(place.db),
            unfinished: BytesMut::new(),
            chain: place.chain,
            end: place,
            ready: VecDeque::new(),
        }
    }

    /// Takes the bytes of one entry, behind which the chain is `chain_end`.
    ///
    /// # Errors
    /// [`GroupsError`], which is final. What is ready by then is good, unless the history is another.
    pub(super) fn push(
        &mut self,
        start: Offset,
        bytes: &Bytes,
        chain_end: Chain,
        captured: WallTime,
    ) -> Result<(), GroupsError> {
        let at = self.end.offset.advance(self.unfinished.len() as u64);
        if start != at {
            return Err(GroupsError::Gap { start, at });
        }
        let known = self.chain.extend(bytes);
        if known != chain_end {
            let at = start.advance(bytes.len() as u64);
            return Err(GroupsError::OtherHistory {
                at,
                journal: chain_end,
                known,
            });
        }
        let mut ends: Vec<GroupEnd> = Vec::new();
        let scanned = self.scanner.scan(bytes, |end| ends.push(end));
        let mut from = 0;
        for GroupEnd { end, db } in ends {
            let group = if self.unfinished.is_empty() {
                bytes.slice(from..end)
            } else {
                let mut whole = std::mem::take(&mut self.unfinished);
                whole.extend_from_slice(&bytes[from..end]);
                whole.freeze()
            };
            let behind = Place {
                offset: self.end.offset.advance(group.len() as u64),
                chain: self.chain.extend(&bytes[from..end]),
                db,
            };
            let before = std::mem::replace(&mut self.end, behind);
            self.chain = self.end.chain;
            self.ready.push_back(Group {
                bytes: group,
                db: before.db,
                end: self.end.clone(),
                captured,
            });
            from = end;
        }
        self.chain = known;
        self.unfinished.extend_from_slice(&bytes[from..]);
        scanned.map_err(|error| GroupsError::Stream {
            at: self.end.offset,
            error,
        })?;
        if self.unfinished.len() > GROUP_BYTES_MAX {
            return Err(GroupsError::TooLarge(self.end.offset));
        }
        Ok(())
    }

    /// The tail stands at `tail`, with this chain before it.
    ///
    /// # Errors
    /// [`GroupsError::OtherHistory`].
    pub(super) fn mark(&self, tail: Offset, chain: Chain) -> Result<(), GroupsError> {
        if self.unfinished.is_empty() && tail == self.end.offset && chain != self.end.chain {
            return Err(GroupsError::OtherHistory {
                at: tail,
                journal: chain,
                known: self.end.chain,
            });
        }
        Ok(())
    }

    /// The next group.
    pub(super) fn next(&self) -> Option<&Group> {
        self.ready.front()
    }

    /// Has done with the next group.
    pub(super) fn pop(&mut self) {
        self.ready.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use redoubt_resp::stream::encode_command;

    fn stream(commands: &[&str]) -> Bytes {
        let mut out = BytesMut::new();
        for command in commands {
            let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
            encode_command(&args, &mut out);
        }
        out.freeze()
    }

    fn all(groups: &mut Groups) -> Vec<Group> {
        std::iter::from_fn(|| {
            let group = groups.next().cloned();
            groups.pop();
            group
        })
        .collect()
    }

    #[test]
    fn another_history_is_found_out_by_its_chain() {
        let bytes = stream(&["SELECT 0", "SET k v"]);
        let mut groups = Groups::new(Place {
            chain: Chain::from_u64(1),
            ..Place::beginning()
        });
        let pushed = groups.push(
            Offset::ZERO,
            &bytes,
            Chain::EMPTY.extend(&bytes),
            WallTime::default(),
        );
        assert!(matches!(pushed, Err(GroupsError::OtherHistory { .. })));
        assert_eq!(groups.next(), None);
        assert!(groups.mark(Offset::ZERO, Chain::EMPTY).is_err());
        let mut groups = Groups::new(Place::beginning());
        assert!(groups.mark(Offset::ZERO, Chain::EMPTY).is_ok());
        let pushed = groups.push(Offset::new(1), &bytes, Chain::EMPTY, WallTime::default());
        assert!(matches!(pushed, Err(GroupsError::Gap { .. })));
    }

    proptest! {
        #[test]
        fn groups_do_not_depend_on_the_cuts(cuts in prop::collection::vec(1usize..40, 0..30)) {
            let bytes = stream(&["SELECT 3", "SET k v", "MULTI", "SELECT 2", "INCR n", "EXEC", "PING", "DEL k"]);
            let mut whole = Groups::new(Place::beginning());
            whole.push(Offset::ZERO, &bytes, Chain::EMPTY.extend(&bytes), WallTime::default()).unwrap();
            let expected = all(&mut whole);
            prop_assert_eq!(expected.len(), 5);
            prop_assert_eq!(expected.iter().map(|g| g.db.get()).collect::<Vec<_>>(), vec![0, 3, 3, 2, 2]);
            let mut groups = Groups::new(Place::beginning());
            let (mut at, mut cuts) = (0, cuts.into_iter());
            while at < bytes.len() {
                let end = (at + cuts.next().unwrap_or(bytes.len())).min(bytes.len());
                let piece = bytes.slice(at..end);
                let chain = Chain::EMPTY.extend(&bytes[..end]);
                groups.push(Offset::new(at as u64), &piece, chain, WallTime::default()).unwrap();
                at = end;
            }
            let found = all(&mut groups);
            for group in &found {
                prop_assert_eq!(group.end.chain, Chain::EMPTY.extend(&bytes[..group.end.offset.get() as usize]));
            }
            prop_assert_eq!(found, expected);
        }
    }
}
