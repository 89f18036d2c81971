//! What the final journal holds of each register: its groups are counted, and each must bear the number that it has by that.

use super::board::{Board, Slot};
use super::shapes::Shape;
use redoubt_client::{Client, TailEvent};
use redoubt_resp::stream::{Command, commands};
use redoubt_types::Offset;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Far more than a machine takes for what a run writes.
const IN_TIME: Duration = Duration::from_secs(600);

/// What was read of the journal so far.
struct Reading {
    slots: Vec<Arc<Slot>>,
    /// The register that a database belongs to.
    of_db: BTreeMap<u64, usize>,
    versions: Vec<u64>,
    /// The last that was written to a register's spare key, which the next command takes from there.
    spare: Vec<Vec<Vec<u8>>>,
    /// Keys that have ended by time.
    ended: BTreeSet<(usize, u64)>,
    db: u64,
    /// The group that is being read: its registers, and all words of the commands on each.
    group: BTreeMap<usize, Vec<Vec<u8>>>,
    in_multi: bool,
}

/// Reads the whole journal, and holds against it what everybody has seen. Returns how many groups of registers it holds.
///
/// # Panics
/// With what somebody saw or was acknowledged that is not there, or is not what it was.
pub async fn holds_all(journal: &Client, board: &Board) -> u64 {
    let slots = board.all();
    let of_db = slots
        .iter()
        .flat_map(|slot| (0..slot.shape.databases()).map(move |n| (slot.dbs[0] + n, slot.id)))
        .collect();
    let mut reading = Reading {
        of_db,
        versions: vec![0; slots.len()],
        spare: vec![Vec::new(); slots.len()],
        slots,
        ended: BTreeSet::new(),
        db: 0,
        group: BTreeMap::new(),
        in_multi: false,
    };
    let mut tail = journal.tail(Offset::ZERO, false);
    let all = async {
        let mut rest = Vec::new();
        loop {
            match tail.next().await.expect("the journal can be read") {
                TailEvent::Entry(entry) => {
                    rest.extend_from_slice(&entry.bytes);
                    let mut whole = commands(&rest);
                    for command in &mut whole {
                        reading.command(&command.expect("the journal holds a stream"));
                    }
                    let left = whole.rest().len();
                    rest.drain(..rest.len() - left);
                }
                TailEvent::End => break,
                TailEvent::Lineage(_) | TailEvent::Mark { .. } => {}
            }
        }
        assert!(
            rest.is_empty() && !reading.in_multi,
            "the journal ends within a group"
        );
    };
    tokio::time::timeout(IN_TIME, all)
        .await
        .expect("the journal is read in time");
    for slot in &reading.slots {
        let (held, floor, acked) = (reading.versions[slot.id], slot.floor(), slot.acked());
        let what = format!("register {}, {:?}", slot.id, slot.shape);
        assert!(
            acked <= held,
            "{what}: version {acked} was acknowledged, the journal holds {held}"
        );
        assert!(
            floor <= held,
            "{what}: version {floor} was seen, the journal holds {held}"
        );
        let issued = slot.issued();
        assert!(
            held <= issued,
            "{what}: the journal holds {held}, and {issued} is the last that was sent"
        );
    }
    let ended = board.ended.lock().unwrap();
    let lost: Vec<_> = ended.difference(&reading.ended).collect();
    assert!(
        lost.is_empty(),
        "somebody was told of the end of keys, of which the journal does not know: {lost:?}"
    );
    reading.versions.iter().sum()
}

impl Reading {
    fn command(&mut self, command: &Command<'_>) {
        if command.is("SELECT") {
            self.db = number(command.args[1]).expect("a database");
        } else if command.is("MULTI") {
            self.in_multi = true;
        } else if command.is("EXEC") {
            self.in_multi = false;
            self.group_ends();
        } else {
            self.takes(command);
            if !self.in_multi {
                self.group_ends();
            }
        }
    }

    fn takes(&mut self, command: &Command<'_>) {
        let words = || command.args.iter().map(|arg| arg.to_vec());
        if command.is("FLUSHDB") || command.is("SWAPDB") {
            let db = if command.is("SWAPDB") {
                number(command.args[1]).expect("a database")
            } else {
                self.db
            };
            let id = self.of_db[&db];
            self.group.entry(id).or_default().extend(words());
            return;
        }
        let mut touched = BTreeSet::new();
        for arg in &command.args {
            let Some((id, part)) = named(arg) else {
                continue;
            };
            let shape = self.slots[id].shape;
            match part {
                "k" if shape == Shape::Swap => self.spare[id] = words().collect(),
                "k" if shape == Shape::Away && self.db == 1 && command.is("SET") => {
                    self.spare[id] = words().collect();
                }
                "k" | "a" | "b" | "h" => {
                    touched.insert(id);
                }
                "t" => self.spare[id].extend(words()),
                // What is written before the first version, and channels.
                "s" | "news" => {}
                part if shape == Shape::Note && !command.is("SET") => {
                    let n = part.strip_prefix('n').and_then(|n| n.parse().ok());
                    self.ended.insert((id, n.expect("a version")));
                }
                _ if shape == Shape::Note => {
                    touched.insert(id);
                }
                other => panic!("register {id} has no part {other:?}"),
            }
        }
        for id in touched {
            self.group.entry(id).or_default().extend(words());
        }
    }

    fn group_ends(&mut self) {
        for (id, words) in std::mem::take(&mut self.group) {
            self.versions[id] += 1;
            let (n, shape) = (self.versions[id], self.slots[id].shape);
            let spare = std::mem::take(&mut self.spare[id]);
            let has = |word: &str| words.iter().chain(&spare).any(|w| w == word.as_bytes());
            let deletes = ["DEL", "UNLINK", "HDEL", "SREM", "SPOP", "ZREM", "FLUSHDB"]
                .iter()
                .any(|name| has(name));
            let right = match shape.token(n) {
                Some(token) => has(&token),
                None => shape == Shape::Count || deletes,
            };
            let text: Vec<String> = words.iter().map(|w| w.escape_ascii().to_string()).collect();
            assert!(
                right,
                "register {id}, {shape:?}: the journal's group {n} of it is {text:?}"
            );
        }
    }
}

fn number(arg: &[u8]) -> Option<u64> {
    std::str::from_utf8(arg).ok()?.parse().ok()
}

fn named(arg: &[u8]) -> Option<(usize, &str)> {
    let name = std::str::from_utf8(arg).ok()?;
    let (id, part) = name.strip_prefix("hunt:")?.split_once(':')?;
    Some((id.parse().ok()?, part))
}
