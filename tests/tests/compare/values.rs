//! What stands for the arguments: a small world of keys, members and names, so that commands meet data.

use super::grammar::{Argument, Command, Kind};

/// Everything that is random, each a function of the seed.
pub(crate) struct Dice(pub u64);

impl Dice {
    /// Below `n`.
    pub(crate) fn roll(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) % n as u64) as usize
    }

    /// In so many of a hundred cases.
    pub(crate) fn percent(&mut self, n: usize) -> bool {
        self.roll(100) < n
    }

    pub(crate) fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.roll(of.len())]
    }
}

/// What the servers told at the beginning, for later arguments.
#[derive(Default)]
pub(crate) struct Learned {
    /// Payloads of DUMP.
    pub(crate) payloads: Vec<Vec<u8>>,
    /// Of FUNCTION DUMP.
    pub(crate) libraries: Vec<Vec<u8>>,
    /// Digests of scripts.
    pub(crate) digests: Vec<Vec<u8>>,
}

/// Scripts: reads and writes, nested replies, every kind of error, and one that the proxy refuses.
pub(crate) const SCRIPTS: &[&str] = &[
    "return 1",
    "return ARGV",
    "return {KEYS[1], ARGV[1], {1, 2, {3, 'x'}}, false}",
    "return redis.call('SET', KEYS[1], ARGV[1] or 'v')",
    "return redis.call('INCR', KEYS[1])",
    "redis.call('RPUSH', KEYS[1], unpack(ARGV)); return redis.call('LRANGE', KEYS[1], 0, -1)",
    "redis.call('HSET', KEYS[1], 'f0', 'script'); return redis.call('HGET', KEYS[1], 'f0')",
    "redis.call('SET', KEYS[1], 'half'); return redis.call('LPUSH', KEYS[1], 'x')",
    "return redis.pcall('LPUSH', KEYS[1], 'x')",
    "return redis.error_reply('MY own error')",
    "return redis.status_reply('FINE')",
    "error('a script that fails')",
    "return {err = 'a table', ok = 'x'}",
    "redis.setresp(3); return redis.call('HGET', KEYS[1], 'f0')",
    "redis.setresp(3); return {double = 3.25}",
    "return cjson.encode({1, 2, ARGV[1]})",
    "return redis.sha1hex(ARGV[1] or '')",
    "for i = 1, 20 do redis.call('ZINCRBY', KEYS[1], i, 'm' .. i) end return redis.call('ZCARD', KEYS[1])",
    "return redis.call('PUBLISH', 'ch:0', ARGV[1] or 'from a script')",
    "return redis.call('NOSUCHCOMMAND')",
    "return #redis.call('KEYS', '*')",
    "return nosuchvariable",
    "return 3.99",
    "return redis.call('BLPOP', KEYS[1], 0)",
    "#!lua flags=no-writes\nreturn redis.call('SET', KEYS[1], 'x')",
    "#!lua flags=no-writes\nreturn redis.call('GET', KEYS[1])",
    "redis.set_repl(redis.REPL_NONE); return redis.call('SET', KEYS[1], 'x')",
    "syntax error here",
];

/// Libraries of functions.
pub(crate) const LIBRARIES: &[&str] = &[
    "#!lua name=one\nredis.register_function('put', function(keys, args) return redis.call('SET', keys[1], args[1] or 'v') end)",
    "#!lua name=two\nredis.register_function{function_name='get', callback=function(keys, args) return redis.call('GET', keys[1]) end, flags={'no-writes'}}\nredis.register_function('echo', function(keys, args) return args end)",
    "#!lua name=three\nredis.register_function('fail', function(keys, args) redis.call('SET', keys[1], 'half'); return redis.call('INCR', keys[1]) end)",
    "#!lua name=four\nredis.register_function('hidden', function(keys, args) redis.set_repl(redis.REPL_NONE) return 1 end)",
    "#!lua name=broken\nthis is no lua",
    "no shebang",
    "#!lua name=one\nredis.register_function('put', function(keys, args) return redis.call('APPEND', keys[1], args[1] or 'v') end)\nredis.register_function('both', function(keys, args) return {redis.call('TYPE', keys[1]), args} end)",
];

const ELEMENTS: &[&str] = &[
    "a",
    "b",
    "c",
    "d",
    "e",
    "m1",
    "m2",
    "m3",
    "10",
    "7",
    "-3",
    "0",
    "3.5",
    "1e3",
    "",
    "hello",
    "w1",
    "w2",
    "a value with spaces",
    "quote\"d",
    "line\r\nbreak",
    "\u{1}\u{2}nul\0",
    "inf",
    "nan",
    "0x10",
    "Palermo",
    "Catania",
    "a value that is longer than what a small hash or list holds in one piece, by some twenty bytes or so",
];

/// A key of the kind that a command's group is about, mostly.
pub(crate) fn key(dice: &mut Dice, group: &str) -> Vec<u8> {
    const KINDS: &[&str] = &["s", "l", "h", "e", "z", "x", "g", "b", "p", "n"];
    let own = match group {
        "string" => "s",
        "list" => "l",
        "hash" => "h",
        "set" => "e",
        "sorted-set" => "z",
        "stream" => "x",
        "geo" => "g",
        "bitmap" => "b",
        "hyperloglog" => "p",
        _ => dice.one(KINDS),
    };
    match dice.roll(100) {
        0..3 => b"missing".to_vec(),
        3..12 => format!("{}:{}", dice.one(KINDS), dice.roll(3)).into_bytes(),
        _ => format!("{own}:{}", dice.roll(3)).into_bytes(),
    }
}

fn integer(dice: &mut Dice, name: &str) -> Vec<u8> {
    match name {
        // Large ones would ask for as much memory, or for replies without end.
        "count" | "len" | "rank" | "num-matches" | "limit" => (dice.roll(16) as i64 - 4).to_string(),
        "seconds" | "ttl" => soon_or_never(dice),
        "milliseconds" | "ms" => soon_or_never(dice),
        "offset" | "bit" => dice
            .one(&["0", "1", "5", "7", "8", "100", "900", "-1", "x"])
            .into(),
        "db" | "destination-db" => dice.one(&["0", "0", "0", "1", "2", "15", "16", "-1"]).into(),
        "protover" => dice.one(&["2", "3", "3", "4"]).into(),
        "cursor" => dice.one(&["0", "0", "0", "0", "1", "99", "x"]).into(),
        "entries_added" | "entries_read" => dice.roll(50).to_string(),
        "min-idle-time" => dice.one(&["0", "0", "99999999999"]).into(),
        "frequency" => dice.one(&["0", "5", "255", "256"]).into(),
        _ => match dice.roll(40) {
            0 => i64::MAX.to_string(),
            1 => i64::MIN.to_string(),
            2 => "99999999999999999999".to_owned(),
            3 => "1.5".to_owned(),
            4 => "x".to_owned(),
            _ => (dice.roll(24) as i64 - 8).to_string(),
        },
    }
    .into_bytes()
}

/// A time to live that ends at once or never within a test, and is never drawn twice.
fn soon_or_never(dice: &mut Dice) -> String {
    match dice.roll(12) {
        0 => "-1".to_owned(),
        1 => "0".to_owned(),
        2 => i64::MAX.to_string(),
        _ => (100_000_000 + dice.roll(2_000_000_000)).to_string(),
    }
}

fn double(dice: &mut Dice, name: &str) -> Vec<u8> {
    match name {
        "longitude" | "latitude" => {
            dice.one(&["13.361389", "15.087269", "38.115556", "37.502669", "0", "200"])
        }
        "radius" | "width" | "height" => dice.one(&["1", "200", "100000", "-1", "1e7"]),
        _ => dice.one(&[
            "1", "2", "2.5", "-1", "0", "inf", "-inf", "3.14159", "1e17", "nan", "x", "(1", "10",
        ]),
    }
    .into()
}

fn stream_id(dice: &mut Dice, name: &str) -> Vec<u8> {
    match (name, dice.roll(10)) {
        ("start" | "end", 0..3) => dice.one(&["-", "+", "(3-1"]).into(),
        (_, 0) => dice.one(&["0", "$", ">", "-", "x", "0-0", "5"]).into(),
        (_, 1) => b"0".to_vec(),
        (_, 2) => b">".to_vec(),
        _ => format!("{}-{}", 1 + dice.roll(60), dice.roll(3)).into_bytes(),
    }
}

fn text(dice: &mut Dice, learned: &Learned, command: &Command, name: &str) -> Vec<u8> {
    let one_of = |dice: &mut Dice, all: &[Vec<u8>]| match all.len() {
        0 => b"none".to_vec(),
        n => all[dice.roll(n)].clone(),
    };
    let word = match name {
        "field" => dice.one(&["f0", "f1", "f2", "f3", "f4", "missing"]),
        "channel" | "shardchannel" => dice.one(&["ch:0", "ch:1", "ch:2"]),
        "group" | "groupname" => dice.one(&["g0", "g0", "g1", "nogroup"]),
        "consumer" | "consumername" => dice.one(&["c0", "c1", "c2"]),
        "min" | "max" if command.name.contains("lex") => dice.one(&["-", "+", "[a", "(b", "[m2", "(z", "x"]),
        "min" | "max" => dice.one(&["-inf", "+inf", "1", "(1", "3", "10", "x", "-", "+", "[b"]),
        "operation" => dice.one(&["AND", "or", "XOR", "NOT", "NAND"]),
        "encoding" => dice.one(&["i8", "u8", "u4", "i16", "u63", "i64", "u64", "x3"]),
        "type" => dice.one(&["string", "list", "set", "zset", "hash", "stream", "x"]),
        "threshold" => dice.one(&["0", "3", "10", "5-0", "20-1", "x"]),
        "min-idle-time" => dice.one(&["0", "0", "99999999999", "x"]),
        "username" => dice.one(&["default", "nobody"]),
        "password" => dice.one(&["secret", ""]),
        "clientname" | "connection-name" => dice.one(&["name", "other:name", "no name", ""]),
        "section" => dice.one(&["server", "replication", "all", "nosuch", "keyspace"]),
        "category" | "categoryname" => dice.one(&["read", "write", "list", "nosuch"]),
        "command" | "command-name" | "subcommand" => dice.one(&[
            "get",
            "set",
            "xadd",
            "config|get",
            "nosuch",
            "hset",
            "zunionstore",
            "eval",
        ]),
        "library-name" => dice.one(&["one", "two", "three", "four", "none"]),
        "library-name-pattern" => dice.one(&["*", "t*", "o?e", "x"]),
        "function" => dice.one(&["put", "get", "echo", "fail", "both", "none"]),
        "event" => dice.one(&["command", "fork", "x"]),
        "prefix" => dice.one(&["s:", "l:", ""]),
        "id" | "last-id" | "max_deleted_entry_id" => return stream_id(dice, name),
        "start" | "end" if command.group == "stream" => return stream_id(dice, name),
        "start" | "stop" if command.group == "sorted-set" => dice.one(&[
            "0", "1", "-1", "-2", "5", "(1", "-inf", "+inf", "[a", "(c", "-", "+", "x",
        ]),
        "script" => dice.one(SCRIPTS),
        "function-code" => dice.one(LIBRARIES),
        "sha1" if !learned.digests.is_empty() && dice.percent(90) => {
            return one_of(dice, &learned.digests);
        }
        "serialized-value" if command.name == "function|restore" => return one_of(dice, &learned.libraries),
        "serialized-value" if dice.percent(95) => return one_of(dice, &learned.payloads),
        _ => dice.one(ELEMENTS),
    };
    word.as_bytes().to_vec()
}

/// A value for one argument.
pub(crate) fn value(dice: &mut Dice, learned: &Learned, command: &Command, argument: &Argument) -> Vec<u8> {
    match argument.kind {
        Kind::Key => key(dice, &command.group),
        Kind::Integer => integer(dice, &argument.name),
        Kind::Double => double(dice, &argument.name),
        Kind::UnixTime => match dice.roll(6) {
            0 => b"1".to_vec(),
            1 => b"-5".to_vec(),
            _ if argument.name.contains("milli") => format!("4{:012}", dice.roll(1 << 31)).into_bytes(),
            _ => format!("4{:09}", dice.roll(1 << 29)).into_bytes(),
        },
        Kind::Pattern => {
            let all: &[&str] = match (command.group.as_str(), command.name.as_str()) {
                ("pubsub", _) => &["ch:*", "ch:[01]", "*"],
                (_, "sort" | "sort_ro") => &["#", "s:*", "h:*->f0", "nosort", "w_*"],
                _ => &["*", "s:*", "?:1", "[", "l:[0-1]", "f*", "m*"],
            };
            dice.one(all).into()
        }
        _ => text(dice, learned, command, &argument.name),
    }
}
