//! Which keys effects have touched that the journal may not have committed yet.
//!
//! Decides whether a read can have seen anything that could still be lost. Promises to call nothing clean that an effect up
//! to [`Touched::indexed`] may have touched; what is unclear counts as touching everything (H21). Must not know a reply, a
//! client or a connection.
//!
//! Every argument of an effect counts as a key, in whatever database: that needs no knowledge of where a command has its
//! keys, and there are more of them than of keys only (H21: `MOVE` and `COPY` name databases that no key specification
//! tells). For each *slot* that keys fall into it is kept where the last such effect ended; two keys in one slot are taken
//! for one. So nothing is ever removed, memory is constant, and the answer errs to one side only.
//!
//! The end of the *group* counts, not of the command within it: half a transaction may be on the disks of a majority and
//! never join the journal (H3).

use super::keyed::{Effect, Keyed};
use redoubt_env::planted;
use redoubt_resp::request::RequestHead;
use redoubt_resp::stream::commands;
use redoubt_types::Offset;
use redoubt_types::limits::{REQUEST_HEAD_ARG_BYTES_MAX, REQUEST_HEAD_ARGS_MAX, TOUCHED_SLOTS};

/// The arguments of a read: its keys are among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadKeys {
    slots: [u32; REQUEST_HEAD_ARGS_MAX],
    len: u8,
}

impl ReadKeys {
    /// Of a command that is known to touch no key but those that it names. `None` if not all of it is shown.
    pub fn of(head: &RequestHead) -> Option<Self> {
        if head.args.len() < head.arg_count {
            return None;
        }
        let mut keys = ReadKeys {
            slots: [0; REQUEST_HEAD_ARGS_MAX],
            len: 0,
        };
        for arg in head.args.iter().skip(1) {
            *keys.slots.get_mut(usize::from(keys.len))? = slot_of(arg);
            keys.len += 1;
        }
        Some(keys)
    }

    fn slots(&self) -> impl Iterator<Item = u32> {
        self.slots.into_iter().take(usize::from(self.len))
    }
}

/// The index. See the module.
#[derive(Debug)]
pub struct Touched {
    /// Where the last group ended that touched a key of this slot.
    ends: Box<[Offset]>,
    /// Where the last group ended that may have touched any key.
    everything: Offset,
    indexed: Offset,
}

impl Touched {
    /// Nothing is touched by what follows `start`, a group boundary before which everything is committed.
    pub fn new(start: Offset) -> Self {
        Touched {
            ends: vec![Offset::ZERO; TOUCHED_SLOTS].into(),
            everything: Offset::ZERO,
            indexed: start,
        }
    }

    /// The next group of the stream ends at `end`; `None` when its bytes can't be looked at any more.
    pub fn group(&mut self, bytes: Option<&[u8]>, end: Offset, keyed: Option<&Keyed>) {
        let known = match (bytes, keyed) {
            (Some(bytes), Some(keyed)) => self.touch_named(bytes, end, keyed),
            _ => false,
        };
        if !known {
            self.everything = end;
        }
        self.indexed = end;
    }

    /// Whether that was all that the group can touch.
    fn touch_named(&mut self, group: &[u8], end: Offset, keyed: &Keyed) -> bool {
        for command in commands(group) {
            let Ok(command) = command else {
                return false;
            };
            match keyed.effect(&command.args) {
                Effect::Named => {
                    for arg in &command.args[1..] {
                        self.ends[slot_of(arg) as usize] = end;
                    }
                }
                Effect::Nothing => {}
                Effect::Unclear => return false,
            }
        }
        true
    }

    /// End of what is indexed: what a fence point beyond it covers may have touched anything.
    pub fn indexed(&self) -> Offset {
        self.indexed
    }

    /// Whether everything that has touched these keys, as far as is indexed, ended at or before `committed`.
    pub fn are_clean(&self, keys: &ReadKeys, committed: Offset) -> bool {
        let touched = |slot: u32| self.ends[slot as usize] > committed;
        let by_name = keys.slots().any(touched) && !planted::on("h21_keys_are_not_asked");
        let unclear = self.everything > committed && !planted::on("h21_unclear_touches_nothing");
        !(by_name || unclear)
    }
}

/// The slot of a key, by its first bytes: as many as are shown of a command's argument.
fn slot_of(key: &[u8]) -> u32 {
    let shown = &key[..key.len().min(REQUEST_HEAD_ARG_BYTES_MAX)];
    crc32fast::hash(shown) % TOUCHED_SLOTS as u32
}

#[cfg(test)]
mod tests;
