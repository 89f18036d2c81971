//! Commands of many kinds, and which effect each reply depends on.

use super::wire::put;
use bytes::BytesMut;

/// An effect: one of these commands, with this token in its arguments. Versions differ in what they call some effects.
#[derive(Clone, Debug)]
pub struct Effect {
    /// Names that it may have.
    pub names: &'static [&'static str],
    /// What it holds, and no other effect of one of the names.
    pub token: String,
}

/// Which of a command's answers tell of its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Any that is no error.
    Done,
    /// An error: of a script that fails after its write.
    Error,
    /// Nothing found: a key has expired.
    Nil,
}

/// One command, and what its answer tells.
#[derive(Debug)]
pub struct Expected {
    /// The effect, if there is one.
    pub effect: Option<(When, Effect)>,
    /// For messages.
    pub command: String,
}

/// Commands on their way.
#[derive(Default)]
pub struct Batch {
    /// As they are sent.
    pub bytes: BytesMut,
    /// One per answer.
    pub answers: Vec<Expected>,
}

/// What deletes a key that has expired, or that somebody took the last element of.
pub const GONE: &[&str] = &["DEL", "UNLINK"];

const KINDS: u64 = 16;
const TWO_WRITES: &str = "redis.call('SET', KEYS[1], 1) redis.call('RPUSH', KEYS[2], ARGV[1]) return 1";
const FAILS_HALFWAY: &str = "redis.call('SET', KEYS[1], 1) return redis.error_reply('HALFWAY')";

impl Batch {
    /// A command whose answer tells of nothing.
    fn plain(&mut self, args: &[&str]) {
        put(args, &mut self.bytes);
        self.answers.push(Expected {
            effect: None,
            command: args.join(" "),
        });
    }

    fn with(&mut self, args: &[&str], when: When, names: &'static [&'static str], token: &str) {
        put(args, &mut self.bytes);
        let effect = Effect {
            names,
            token: token.to_owned(),
        };
        self.answers.push(Expected {
            effect: Some((when, effect)),
            command: args.join(" "),
        });
    }

    fn does(&mut self, args: &[&str], names: &'static [&'static str], token: &str) {
        self.with(args, When::Done, names, token);
    }

    /// Adds the commands of the `n`th kind, with `token` in whatever they write. `old` is a token of long ago, by which a key
    /// with a time to live was written, if it was.
    pub fn add(&mut self, n: u64, token: &str, old: Option<&str>) {
        let key = |kind: &str| format!("{kind}:{token}");
        let (a, b) = (key("a"), key("b"));
        let (a, b) = (a.as_str(), b.as_str());
        match n % KINDS {
            0 => self.does(&["SET", a, "v"], &["SET"], token),
            1 => {
                self.does(&["SET", &key("ttl"), "v", "PX", "1"], &["SET"], token);
                if let Some(old) = old {
                    self.with(&["GET", &format!("ttl:{old}")], When::Nil, GONE, old);
                }
            }
            2 => self.does(&["EVAL", TWO_WRITES, "2", a, b, "v"], &["RPUSH"], token),
            3 => self.with(&["EVAL", FAILS_HALFWAY, "1", a], When::Error, &["SET"], token),
            4 => {
                self.plain(&["MULTI"]);
                for command in [
                    &["SET", a, "1"][..],
                    &["HSET", b, "f", "v"],
                    &["PUBLISH", "news", token],
                ] {
                    self.plain(command);
                }
                self.does(&["EXEC"], &["HSET"], token);
            }
            // Somebody waits for it: see `waits`.
            5 => self.does(&["RPUSH", &key("queue"), "v"], &["RPUSH"], token),
            6 => {
                self.does(&["XADD", a, "*", "f", "v"], &["XADD"], token);
                self.does(&["XGROUP", "CREATE", a, "g", "0"], &["XGROUP"], token);
                self.does(
                    &["XREADGROUP", "GROUP", "g", "c", "STREAMS", a, ">"],
                    &["XCLAIM"],
                    token,
                );
            }
            7 => {
                self.does(&["SADD", a, "one", "two"], &["SADD"], token);
                self.does(&["SPOP", a], &["SREM", "SPOP"], token);
            }
            8 => {
                self.does(&["ZADD", a, "1", "one", "2", "two"], &["ZADD"], token);
                self.does(&["ZPOPMIN", a], &["ZPOPMIN", "ZREM"], token);
            }
            9 => {
                self.does(&["INCRBYFLOAT", a, "1.5"], &["SET"], token);
                self.does(&["GETDEL", a], &["DEL", "UNLINK", "GETDEL"], token);
            }
            10 => {
                self.does(&["RPUSH", a, "one"], &["RPUSH"], token);
                self.does(&["LMOVE", a, b, "LEFT", "RIGHT"], &["LMOVE"], token);
            }
            11 => {
                self.does(&["HINCRBYFLOAT", a, "f", "1.5"], &["HSET", "HSETEX"], token);
                self.does(&["EXPIRE", a, "1000"], &["PEXPIREAT"], token);
                self.does(&["PERSIST", a], &["PERSIST"], token);
            }
            12 => {
                self.does(&["SETBIT", a, "7", "1"], &["SETBIT"], token);
                self.does(&["COPY", a, b], &["COPY"], token);
                self.does(&["RENAME", b, &key("c")], &["RENAME"], token);
            }
            13 => self.does(&["FCALL", "put", "1", a], &["SET"], token),
            14 => {
                self.does(&["PFADD", a, "one"], &["PFADD"], token);
                self.does(
                    &["GEOADD", b, "13.3", "52.5", "berlin"],
                    &["GEOADD", "ZADD"],
                    token,
                );
            }
            _ => self.does(&["PUBLISH", "news", token], &["PUBLISH"], token),
        }
    }

    /// A command that waits for what the 5th kind of `token` pushes; its effect.
    pub fn waits(token: &str) -> (BytesMut, Effect) {
        let mut bytes = BytesMut::new();
        put(&["BLPOP", &format!("queue:{token}"), "0"], &mut bytes);
        let names = &["LPOP", "BLPOP"];
        (
            bytes,
            Effect {
                names,
                token: token.to_owned(),
            },
        )
    }

    /// Whether the `n`th kind pushes what somebody waits for.
    pub fn is_awaited(n: u64) -> bool {
        n % KINDS == 5
    }

    /// Whether the `n`th kind writes a key that has expired soon after.
    pub fn expires(n: u64) -> bool {
        n % KINDS == 1
    }
}
