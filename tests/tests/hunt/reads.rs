//! The ways to read a register, and what an answer shows. Pure.

use super::board::Slot;
use super::shapes::{Claim, FAR, Shape};
use super::wire::{Answer, put};
use bytes::BytesMut;
use redoubt_tests::Dice;
use std::sync::Arc;

/// How leaves of an answer are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// One value.
    Value,
    /// All values are equal; there are so many of them.
    Equal(usize),
    /// Fields and their equal values.
    Pairs,
    /// The newest first, each one more than the next.
    Descending,
    /// A member, or none.
    Member,
    /// A member and its score, or nothing.
    Scored,
    /// Entries, the newest last, each one more than the one before.
    Entries,
    /// The newest entry.
    LastEntry,
    /// How many there are.
    Len,
    /// Whether there is one.
    Exists,
    /// The name of its type.
    Type,
    /// When it ends.
    EndsAt,
    /// How long it lives.
    LivesFor,
    /// Names of keys, or none.
    Names,
    /// A value that a list of patterns leads to; nothing at all when there is no list yet.
    Sorted,
}

/// A part of an answer.
#[derive(Debug)]
struct Part {
    slot: Arc<Slot>,
    how: How,
    /// How many leaves it has; `None` when they are all that are left.
    leaves: Option<usize>,
    /// The floor before it was asked.
    low: u64,
}

/// A read that was sent.
#[derive(Debug)]
pub struct Ask {
    /// Answers to what came with it, before the one that shows something.
    pub before: usize,
    /// And behind it.
    pub behind: usize,
    parts: Vec<Part>,
    text: String,
}

/// What an answer shows of one register, and the floor before it was asked.
pub struct Shown {
    pub slot: Arc<Slot>,
    pub claim: Claim,
    pub low: u64,
}

const GET: &str = "return redis.call('GET', KEYS[1])";
const ALL: &str = "return redis.call('HGETALL', KEYS[1])";
const MANY: &str =
    "return {redis.call('GET', KEYS[1]), redis.call('HGET', KEYS[3], 'f'), redis.call('GET', KEYS[2])}";

/// Sends reads, and keeps what they ask.
pub struct Asking<'a> {
    /// Where commands go.
    pub out: &'a mut BytesMut,
    /// What was asked, in order.
    pub asks: &'a mut Vec<Ask>,
}

impl Asking<'_> {
    fn ask(&mut self, slot: &Arc<Slot>, how: How, args: &[&str]) {
        let part = Part {
            slot: Arc::clone(slot),
            how,
            leaves: None,
            low: slot.floor(),
        };
        let (mut before, mut behind) = (0, 0);
        let db = (slot.shape.databases() > 0).then(|| slot.dbs[0].to_string());
        if let Some(db) = &db {
            put(&["SELECT", db], self.out);
            before = 1;
        }
        put(args, self.out);
        if db.is_some() {
            put(&["SELECT", "0"], self.out);
            behind = 1;
        }
        self.asks.push(Ask {
            before,
            behind,
            parts: vec![part],
            text: args.join(" "),
        });
    }

    /// Several commands in a transaction that show one register, or several.
    fn transaction(&mut self, commands: &[&[&str]], parts: Vec<Part>) {
        put(&["MULTI"], self.out);
        for args in commands {
            put(args, self.out);
        }
        put(&["EXEC"], self.out);
        let texts: Vec<String> = commands.iter().map(|args| args.join(" ")).collect();
        self.asks.push(Ask {
            before: 1 + commands.len(),
            behind: 0,
            parts,
            text: format!("MULTI {} EXEC", texts.join(" ")),
        });
    }

    /// Reads some registers at once: of those that have one value.
    pub fn together(&mut self, slots: &[Arc<Slot>], in_transaction: bool) {
        let keys: Vec<String> = slots.iter().map(|slot| slot.key("k")).collect();
        let part = |slot: &Arc<Slot>| Part {
            slot: Arc::clone(slot),
            how: How::Value,
            leaves: Some(1),
            low: slot.floor(),
        };
        let parts = slots.iter().map(part).collect();
        if in_transaction {
            let gets: Vec<[&str; 2]> = keys.iter().map(|key| ["GET", &**key]).collect();
            let gets: Vec<&[&str]> = gets.iter().map(|get| &get[..]).collect();
            return self.transaction(&gets, parts);
        }
        let mut args = vec!["MGET"];
        args.extend(keys.iter().map(|key| &**key));
        put(&args, self.out);
        self.asks.push(Ask {
            before: 0,
            behind: 0,
            parts,
            text: args.join(" "),
        });
    }

    /// Reads one register in one of the ways that there are.
    pub fn read(&mut self, slot: &Arc<Slot>, dice: &mut Dice) {
        let k = &*slot.key("k");
        match (slot.shape, dice.roll(8)) {
            (Shape::Many, way) => self.many(slot, way),
            // What is there for a moment only: it was there, if it is.
            (Shape::Note, _) => {}
            (_, 0) => self.ask(slot, How::Exists, &["EXISTS", k]),
            (_, 1) if dice.roll(4) == 0 => self.ask(slot, How::Type, &["TYPE", k]),
            (Shape::Deadline, 1 | 2) => self.ask(slot, How::LivesFor, &["PTTL", k]),
            (Shape::Deadline, 3) => {
                self.ask(
                    slot,
                    How::EndsAt,
                    &["EVAL_RO", "return redis.call('PEXPIRETIME', KEYS[1])", "1", k],
                );
            }
            (Shape::Deadline, _) => self.ask(slot, How::EndsAt, &["PEXPIRETIME", k]),
            (Shape::Flush, 1) => self.ask(slot, How::Exists, &["DBSIZE"]),
            (Shape::Flush, 2) => self.ask(slot, How::Names, &["KEYS", "*"]),
            (Shape::Flush, 3) => self.ask(slot, How::Member, &["RANDOMKEY"]),
            (Shape::Hash, 1) => self.ask(slot, How::Value, &["HGET", k, "a"]),
            (Shape::Hash, 2) => self.ask(slot, How::Equal(2), &["HMGET", k, "a", "b"]),
            (Shape::Hash, 3) => self.ask(slot, How::Equal(0), &["HVALS", k]),
            (Shape::Hash, 4) => self.ask(slot, How::Len, &["HLEN", k]),
            (Shape::Hash, 5) => self.ask(slot, How::Pairs, &["EVAL_RO", ALL, "1", k]),
            (Shape::Hash, _) => self.ask(slot, How::Pairs, &["HGETALL", k]),
            (Shape::List, 1 | 2) => self.ask(slot, How::Value, &["LINDEX", k, "0"]),
            (Shape::List, 3) => self.ask(slot, How::Len, &["LLEN", k]),
            (Shape::List, _) => self.ask(slot, How::Descending, &["LRANGE", k, "0", "-1"]),
            (Shape::Set, 1) => self.ask(slot, How::Value, &["SRANDMEMBER", k]),
            (Shape::Set, 2) => self.ask(slot, How::Len, &["SCARD", k]),
            (Shape::Set, _) => self.ask(slot, How::Member, &["SMEMBERS", k]),
            (Shape::Sorted, 1 | 2) => self.ask(slot, How::Value, &["ZSCORE", k, "m"]),
            (Shape::Sorted, 3) => self.ask(
                slot,
                How::Scored,
                &["ZRANGEBYSCORE", k, "-inf", "+inf", "WITHSCORES"],
            ),
            (Shape::Sorted, _) => self.ask(slot, How::Scored, &["ZRANGE", k, "0", "-1", "WITHSCORES"]),
            (Shape::Stream, 1 | 2) => {
                self.ask(slot, How::LastEntry, &["XREVRANGE", k, "+", "-", "COUNT", "1"]);
            }
            (Shape::Stream, 3) => self.ask(slot, How::Len, &["XLEN", k]),
            (Shape::Stream, _) => self.ask(slot, How::Entries, &["XRANGE", k, "-", "+"]),
            (_, 1 | 2) => self.ask(slot, How::Value, &["EVAL_RO", GET, "1", k]),
            (Shape::Swap, _) => self.ask(slot, How::Value, &["GET", k]),
            (_, 3) => self.ask(
                slot,
                How::Sorted,
                &["SORT_RO", &slot.key("s"), "BY", "nosort", "GET", "hunt:*:k"],
            ),
            (_, 4) => self.ask(slot, How::Member, &["GETRANGE", k, "0", "-1"]),
            _ => self.ask(slot, How::Value, &["GET", k]),
        }
    }

    /// Reads one register by a command that names its key, and needs nothing of its connection; if there is one.
    pub fn plainly(&mut self, slot: &Arc<Slot>) {
        let k = &*slot.key("k");
        match slot.shape {
            Shape::Text | Shape::Count | Shape::Away => self.ask(slot, How::Value, &["GET", k]),
            Shape::Hash => self.ask(slot, How::Equal(2), &["HMGET", k, "a", "b"]),
            Shape::List => self.ask(slot, How::Value, &["LINDEX", k, "0"]),
            Shape::Set => self.ask(slot, How::Value, &["SRANDMEMBER", k]),
            Shape::Sorted => self.ask(slot, How::Value, &["ZSCORE", k, "m"]),
            Shape::Stream => {
                self.ask(slot, How::LastEntry, &["XREVRANGE", k, "+", "-", "COUNT", "1"]);
            }
            Shape::Deadline => self.ask(slot, How::EndsAt, &["PEXPIRETIME", k]),
            Shape::Many => self.ask(slot, How::Value, &["HGET", &slot.key("h"), "f"]),
            Shape::Flush | Shape::Swap | Shape::Note => {}
        }
    }

    fn many(&mut self, slot: &Arc<Slot>, way: u64) {
        let (a, b, h) = (&*slot.key("a"), &*slot.key("b"), &*slot.key("h"));
        match way {
            0 => self.ask(slot, How::Value, &["GET", b]),
            1 => self.ask(slot, How::Value, &["HGET", h, "f"]),
            2 => self.ask(slot, How::Equal(2), &["MGET", b, a]),
            // A script's answer ends at its first nil.
            3 => self.ask(slot, How::Equal(3), &["EVAL_RO", MANY, "3", a, b, h]),
            _ => {
                let part = Part {
                    slot: Arc::clone(slot),
                    how: How::Equal(3),
                    leaves: None,
                    low: slot.floor(),
                };
                self.transaction(&[&["GET", b], &["HGET", h, "f"], &["GET", a]], vec![part]);
            }
        }
    }
}

fn number(leaf: Option<&[u8]>) -> Result<u64, String> {
    let text = leaf.map(String::from_utf8_lossy).unwrap_or_default();
    text.parse().map_err(|_| format!("{text:?} is no version"))
}

/// The version of an entry's id.
pub fn of_entry(leaf: Option<&[u8]>) -> Result<u64, String> {
    let text = leaf.and_then(|leaf| leaf.strip_suffix(b"-1"));
    number(text)
}

impl Ask {
    /// What the answer shows of each register.
    ///
    /// # Errors
    /// When it shows what never was.
    pub fn shown(&self, answer: &Answer) -> Result<Vec<Shown>, String> {
        let (mut at, mut all) = (0, Vec::with_capacity(self.parts.len()));
        for part in &self.parts {
            let end = part.leaves.map_or(answer.len(), |leaves| at + leaves);
            if end > answer.len() {
                return Err("it is too short".to_owned());
            }
            if let Some(claim) = claim(part.how, answer, at, end)? {
                all.push(Shown {
                    slot: Arc::clone(&part.slot),
                    claim,
                    low: part.low,
                });
            }
            at = end;
        }
        if at < answer.len() {
            return Err("it is too long".to_owned());
        }
        Ok(all)
    }
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// What the leaves from `at` to `end` show.
fn claim(how: How, answer: &Answer, at: usize, end: usize) -> Result<Option<Claim>, String> {
    let len = end - at;
    let leaf = |n: usize| if n < len { answer.leaf(at + n) } else { None };
    let is = |leaf: Option<&[u8]>| number(leaf).map(Claim::Is);
    let torn = || Err("it shows parts of different versions".to_owned());
    let there = |yes: bool| if yes { Claim::Present } else { Claim::Absent };
    let found = match how {
        How::Equal(wanted) => {
            // Lua ends an answer at its first nil.
            if len != wanted && wanted > 0 && leaf(0).is_some() {
                return torn();
            }
            if (1..len).any(|n| leaf(n) != leaf(0)) {
                return torn();
            }
            match leaf(0) {
                Some(value) => is(Some(value))?,
                None => Claim::Absent,
            }
        }
        How::Value | How::Sorted | How::Member if len > 1 => return Err("it has several values".to_owned()),
        How::Sorted if len == 0 => return Ok(None),
        // GETRANGE of no key is empty, and SMEMBERS has nothing.
        How::Member if leaf(0).is_none_or(<[u8]>::is_empty) => Claim::Absent,
        // RANDOMKEY tells a name.
        How::Member if leaf(0).is_some_and(|name| name.starts_with(b"hunt:")) => Claim::Present,
        How::Value | How::Sorted | How::Member => match leaf(0) {
            Some(value) => is(Some(value))?,
            None => Claim::Absent,
        },
        How::Names => there(len > 0),
        How::Pairs if len == 0 => Claim::Absent,
        How::Pairs if len != 4 || leaf(1) != leaf(3) => return torn(),
        How::Pairs => is(leaf(1))?,
        How::Scored if len == 0 => Claim::Absent,
        How::Scored => is(leaf(1))?,
        How::Descending if len == 0 => Claim::Absent,
        How::Descending => {
            let newest = number(leaf(0))?;
            for n in 1..len {
                if number(leaf(n))? + n as u64 != newest {
                    return torn();
                }
            }
            // Down to the first since it was last empty.
            if newest % 8 != len as u64 {
                return torn();
            }
            Claim::Is(newest)
        }
        How::Entries | How::LastEntry if len == 0 => Claim::Absent,
        How::Entries | How::LastEntry => {
            let count = len / 3;
            let newest = of_entry(leaf(len - 3))?;
            for n in 0..count {
                let version = of_entry(leaf(3 * n))?;
                if version + (count - 1 - n) as u64 != newest || number(leaf(3 * n + 2))? != version {
                    return torn();
                }
            }
            if how == How::Entries && (newest % 9).min(3) != count as u64 {
                return torn();
            }
            Claim::Is(newest)
        }
        How::Len => Claim::Len(number(leaf(0))?),
        How::Exists => there(leaf(0) != Some(b"0")),
        How::Type => there(leaf(0) != Some(b"none")),
        How::EndsAt | How::LivesFor => match leaf(0) {
            Some(b"-2") => Claim::Absent,
            Some(_) if how == How::LivesFor => Claim::Present,
            leaf => {
                let at = number(leaf)?;
                Claim::Is(at.checked_sub(FAR).ok_or_else(|| format!("it ends at {at}"))?)
            }
        },
    };
    Ok(Some(found))
}
