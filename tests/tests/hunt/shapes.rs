//! What registers are made of: which commands make a version, and what a version looks like. Pure.
//!
//! Each version is one command, script or transaction on the register's keys, and leaves one group in the journal; so the
//! journal's n-th group of a register *is* its version n, and bears the number wherever the command has a place for it.

use super::board::Slot;
use super::wire::put;
use bytes::BytesMut;

/// Later than any run, in milliseconds since 1970: times to live count from here.
pub const FAR: u64 = 4_000_000_000_000;
/// Versions after which every shape looks as it did, at most.
pub const PERIOD_MAX: u64 = 48;
/// How long a key lives that is to end by time.
const LIFE_MS: &str = "25";

/// A kind of register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A string that is set, renamed, copied, deleted and expires.
    Text,
    /// Two fields that are always equal.
    Hash,
    /// The newest number first, those since it was last empty behind it.
    List,
    /// One member, or none.
    Set,
    /// One member's score.
    Sorted,
    /// The last three entries, by number.
    Stream,
    /// A counter.
    Count,
    /// A time to live.
    Deadline,
    /// Three keys that are written at once; each write is published.
    Many,
    /// A key in a database of its own that is flushed.
    Flush,
    /// A key in a database that is swapped with another.
    Swap,
    /// A key that comes from another database.
    Away,
    /// A key per version that expires; whoever listens is notified.
    Note,
}

/// What a read shows of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// This very version.
    Is(u64),
    /// There is no key.
    Absent,
    /// There is one.
    Present,
    /// It has so many elements.
    Len(u64),
}

impl Shape {
    /// How many databases a register has for itself.
    pub fn databases(self) -> u64 {
        match self {
            Shape::Flush => 1,
            Shape::Swap => 2,
            _ => 0,
        }
    }

    /// Whether version `n` ends by time, in the next version that nobody writes.
    pub fn expires(self, n: u64) -> bool {
        self == Shape::Text && n % 48 == 6
    }

    /// Whether version `n` is that there is no key.
    pub fn is_absent(self, n: u64) -> bool {
        if n == 0 {
            return true;
        }
        match self {
            Shape::Text => matches!(n % 12, 0 | 3 | 5 | 7 | 10),
            Shape::Hash => n.is_multiple_of(6),
            Shape::List => n.is_multiple_of(8),
            Shape::Set => matches!(n % 6, 0 | 2 | 4),
            Shape::Sorted => n.is_multiple_of(7),
            Shape::Stream => n.is_multiple_of(9),
            Shape::Many => n.is_multiple_of(10),
            Shape::Flush | Shape::Away => n.is_multiple_of(2),
            Shape::Count | Shape::Deadline | Shape::Swap | Shape::Note => false,
        }
    }

    fn elements(self, n: u64) -> u64 {
        match self {
            Shape::List => n % 8,
            Shape::Stream => (n % 9).min(3),
            Shape::Hash => 2 * u64::from(!self.is_absent(n)),
            _ => u64::from(!self.is_absent(n)),
        }
    }

    /// Whether version `n` looks like this.
    pub fn fits(self, claim: Claim, n: u64) -> bool {
        match claim {
            Claim::Is(v) => v == n && !self.is_absent(n),
            Claim::Absent => self.is_absent(n),
            Claim::Present => !self.is_absent(n),
            Claim::Len(len) => self.elements(n) == len,
        }
    }

    /// What bears the number in the journal's group of version `n`, if something does.
    pub fn token(self, n: u64) -> Option<String> {
        match self {
            Shape::Count => None,
            _ if self.is_absent(n) => None,
            Shape::Deadline => Some((FAR + n).to_string()),
            _ => Some(n.to_string()),
        }
    }
}

/// Collects commands, and how many answers they have.
struct Commands<'a> {
    out: &'a mut BytesMut,
    answers: usize,
}

impl Commands<'_> {
    fn put(&mut self, args: &[&str]) {
        put(args, self.out);
        self.answers += 1;
    }
}

const SET: &str = "return redis.call('SET', KEYS[1], ARGV[1])";
const HSET: &str = "return redis.call('HSET', KEYS[1], 'a', ARGV[1], 'b', ARGV[1])";
const LPUSH: &str = "return redis.call('LPUSH', KEYS[1], ARGV[1])";
const XADD: &str = "return redis.call('XADD', KEYS[1], 'MAXLEN', '=', '3', ARGV[1] .. '-1', 'f', ARGV[1])";
const INCR: &str = "return redis.call('INCR', KEYS[1])";
const MANY: &str = "redis.call('SET', KEYS[1], ARGV[1]) redis.call('HSET', KEYS[3], 'f', ARGV[1]) \
                    return redis.call('SET', KEYS[2], ARGV[1])";

impl Slot {
    /// What is sent once, before the first version. Returns how many answers there are to it.
    pub fn prepare(&self, out: &mut BytesMut) -> usize {
        put(&["RPUSH", &self.key("s"), &self.id.to_string()], out);
        1
    }

    /// What makes version `n` of the one before. Returns how many answers there are to it.
    pub fn write(&self, n: u64, out: &mut BytesMut) -> usize {
        let (k, t, v) = (&*self.key("k"), &*self.key("t"), &*n.to_string());
        let mut c = Commands { out, answers: 0 };
        match self.shape {
            Shape::Text => self.write_text(n, &mut c),
            Shape::Hash => match n % 6 {
                0 => c.put(&["HDEL", k, "a", "b"]),
                3 => {
                    c.put(&["MULTI"]);
                    c.put(&["HSET", k, "a", v]);
                    c.put(&["HSET", k, "b", v]);
                    c.put(&["EXEC"]);
                }
                4 => c.put(&["EVAL", HSET, "1", k, v]),
                5 => c.put(&["HMSET", k, "a", v, "b", v]),
                _ => c.put(&["HSET", k, "a", v, "b", v]),
            },
            Shape::List => match n % 8 {
                0 => c.put(&["DEL", k]),
                2 => c.put(&["LPUSHX", k, v]),
                4 => {
                    c.put(&["RPUSH", t, v]);
                    c.put(&["LMOVE", t, k, "LEFT", "LEFT"]);
                }
                6 => c.put(&["EVAL", LPUSH, "1", k, v]),
                _ => c.put(&["LPUSH", k, v]),
            },
            Shape::Set => match n % 6 {
                0 => c.put(&["SPOP", k, "1"]),
                2 => c.put(&["SPOP", k]),
                4 => c.put(&["SREM", k, &(n - 1).to_string()]),
                5 => {
                    c.put(&["SADD", t, v]);
                    c.put(&["SMOVE", t, k, v]);
                }
                _ => c.put(&["SADD", k, v]),
            },
            Shape::Sorted => match n % 7 {
                0 => c.put(&["ZREM", k, "m"]),
                3 => c.put(&["ZADD", k, "GT", v, "m"]),
                4 => {
                    c.put(&["ZADD", t, v, "m"]);
                    c.put(&["ZRANGESTORE", k, t, "0", "-1"]);
                }
                5 => {
                    c.put(&["ZADD", t, v, "m"]);
                    c.put(&["ZUNIONSTORE", k, "1", t]);
                }
                _ => c.put(&["ZADD", k, v, "m"]),
            },
            Shape::Stream => match n % 9 {
                0 => c.put(&["DEL", k]),
                5 => c.put(&["EVAL", XADD, "1", k, v]),
                _ => c.put(&["XADD", k, "MAXLEN", "=", "3", &format!("{n}-1"), "f", v]),
            },
            Shape::Count => match n % 15 {
                0 | 3 | 6 | 9 | 12 => c.put(&["INCRBY", k, "1"]),
                5 | 10 => c.put(&["EVAL", INCR, "1", k]),
                _ => c.put(&["INCR", k]),
            },
            Shape::Deadline => {
                let at = &*(FAR + n).to_string();
                match n % 4 {
                    _ if n == 1 => c.put(&["SET", k, "x", "PXAT", at]),
                    0 => c.put(&["GETEX", k, "PXAT", at]),
                    _ => c.put(&["PEXPIREAT", k, at]),
                }
            }
            Shape::Many => self.write_many(n, &mut c),
            Shape::Flush | Shape::Swap | Shape::Away => self.write_elsewhere(n, &mut c),
            Shape::Note => c.put(&["SET", &self.key(&format!("n{n}")), v, "PX", LIFE_MS]),
        }
        c.answers
    }

    fn write_text(&self, n: u64, c: &mut Commands<'_>) {
        let (k, t, v) = (&*self.key("k"), &*self.key("t"), &*n.to_string());
        match n % 12 {
            0 => c.put(&["UNLINK", k]),
            2 => c.put(&["GETSET", k, v]),
            3 | 7 => c.put(&["DEL", k]),
            4 => {
                c.put(&["SET", t, v]);
                c.put(&["RENAME", t, k]);
            }
            5 => c.put(&["GETDEL", k]),
            6 if self.shape.expires(n) => c.put(&["SET", k, v, "PX", LIFE_MS]),
            8 => c.put(&["SET", k, v, "EX", "1000"]),
            9 => {
                c.put(&["SET", t, v]);
                c.put(&["COPY", t, k, "REPLACE"]);
            }
            10 => c.put(&["EXPIRE", k, "-1"]),
            11 => c.put(&["EVAL", SET, "1", k, v]),
            _ => c.put(&["SET", k, v]),
        }
    }

    fn write_many(&self, n: u64, c: &mut Commands<'_>) {
        let (a, b, h) = (&*self.key("a"), &*self.key("b"), &*self.key("h"));
        let v = &*n.to_string();
        if n.is_multiple_of(10) {
            c.put(&["DEL", a, b, h]);
        } else if n.is_multiple_of(3) {
            c.put(&["EVAL", MANY, "3", a, b, h, v]);
        } else {
            c.put(&["MULTI"]);
            if n % 4 == 1 {
                c.put(&["MSET", a, v, b, v]);
            } else {
                c.put(&["SET", a, v]);
                c.put(&["SET", b, v]);
            }
            c.put(&["PUBLISH", &self.key("news"), v]);
            c.put(&["HSET", h, "f", v]);
            c.put(&["EXEC"]);
        }
    }

    fn write_elsewhere(&self, n: u64, c: &mut Commands<'_>) {
        let (k, v) = (&*self.key("k"), &*n.to_string());
        let [a, b] = self.dbs.map(|db| db.to_string());
        let (a, b) = (&*a, &*b);
        match (self.shape, n % 4) {
            (Shape::Flush, 1 | 3) => {
                c.put(&["SELECT", a]);
                c.put(&["SET", k, v]);
            }
            (Shape::Flush, 2) => {
                c.put(&["SELECT", a]);
                c.put(&["FLUSHDB"]);
            }
            (Shape::Flush, _) => {
                c.put(&["SELECT", a]);
                c.put(&["FLUSHDB", "ASYNC"]);
            }
            (Shape::Swap, 0 | 2) => {
                c.put(&["SELECT", b]);
                c.put(&["MULTI"]);
                c.put(&["SET", k, v]);
                c.put(&["SWAPDB", a, b]);
                c.put(&["EXEC"]);
            }
            (Shape::Swap, _) => {
                c.put(&["SELECT", b]);
                c.put(&["SET", k, v]);
                c.put(&["SWAPDB", b, a]);
            }
            (_, 1) => {
                c.put(&["SELECT", "1"]);
                c.put(&["SET", k, v]);
                c.put(&["MOVE", k, "0"]);
            }
            (_, 3) => {
                c.put(&["SELECT", "1"]);
                c.put(&["SET", k, v]);
                c.put(&["COPY", k, k, "DB", "0", "REPLACE"]);
            }
            _ => {
                c.put(&["SELECT", "0"]);
                c.put(&["DEL", k]);
            }
        }
        c.put(&["SELECT", "0"]);
    }
}
