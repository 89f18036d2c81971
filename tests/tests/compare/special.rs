//! Arguments of commands whose grammar does not tell what they mean.

use super::generate::{CONNECTIONS, Generator};
use super::values::{self, Dice};

/// Stands for the id that a server gave to connection `n`: it is not the same on both.
pub(crate) fn id_of(n: usize) -> Vec<u8> {
    format!("\u{1}id-of-{n}\u{1}").into_bytes()
}

/// The connection whose id an argument stands for.
pub(crate) fn is_id(arg: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(arg).ok()?;
    text.strip_prefix("\u{1}id-of-")?
        .strip_suffix('\u{1}')?
        .parse()
        .ok()
}

/// All arguments of the commands that are not written by their grammar.
pub(crate) fn arguments(generator: &mut Generator, command: &str) -> Option<Vec<Vec<u8>>> {
    let dice = &mut generator.dice;
    let words = match command {
        "config|set" => dice.one(&[
            "list-max-listpack-size 3",
            "list-max-listpack-size -2",
            "hash-max-listpack-entries 2",
            "hash-max-listpack-entries 128",
            "zset-max-listpack-entries 2 set-max-intset-entries 2",
            "zset-max-listpack-entries 128 set-max-intset-entries 512",
            "notify-keyspace-events KEA",
            "notify-keyspace-events",
            "maxmemory 1gb",
            "maxmemory x",
            "nosuchparameter 1",
            "repl-backlog-size 1mb",
            "min-replicas-to-write 1",
            "client-output-buffer-limit x",
            "maxmemory 1gb REPL-timeout 1",
            "requirepass secret",
        ]),
        "config|get" => dice.one(&[
            "maxmemory",
            "*-entries",
            "databases",
            "notify-keyspace-events",
            "x",
            "",
        ]),
        "client|kill" => dice.one(&[
            "TYPE replica",
            "TYPE normal",
            "TYPE nosuch",
            "ADDR 127.0.0.1:1",
            "127.0.0.1:1",
            "ID 1",
            "",
        ]),
        "client|list" => dice.one(&["", "TYPE normal", "ID 1 2 3", "TYPE nosuch"]),
        "hello" => dice.one(&[
            "",
            "2",
            "2",
            "3",
            "3",
            "3 SETNAME name",
            "4",
            "x",
            "3 AUTH default any",
            "3 AUTH nobody x",
        ]),
        "auth" => dice.one(&["x", "default x", "nobody x", ""]),
        "select" => dice.one(&["0", "0", "0", "0", "0", "1", "2", "15", "16", "-1", "x", ""]),
        "command|getkeys" | "command|getkeysandflags" => dice.one(&[
            "SET a b",
            "MSET a b c d",
            "EVAL x 2 a b c",
            "XREAD STREAMS a b 0 0",
            "GET",
            "PING",
            "NOSUCH a",
            "ZUNIONSTORE a 2 b c",
            "SORT a BY b STORE c",
        ]),
        "migrate" => "127.0.0.1 1 s:0 0 10",
        "acl|setuser" => dice.one(&[
            "alice on nopass ~* +@all",
            "alice >pw -@all",
            "alice x",
            "default on",
            "",
        ]),
        "acl|deluser" => dice.one(&["alice", "alice nobody", "alice default", ""]),
        "acl|dryrun" => dice.one(&["default get a", "nobody get a", "default nosuch", "default get"]),
        "module|load" | "module|loadex" => "/nosuch.so",
        "module|unload" => "nosuch",
        "shutdown" => dice.one(&["", "NOSAVE", "SAVE", "ABORT"]),
        // None that keeps waiting: the plain server has no replica.
        "wait" => dice.one(&["0 0", "0 10", "-1 0", "x 1", "0 x", "0 -1", "1"]),
        "replicaof" | "slaveof" => dice.one(&["NO ONE", "127.0.0.1 1"]),
        "client|tracking" => return Some(tracking(dice)),
        "client|unblock" => {
            let mut args = vec![id_of(dice.roll(CONNECTIONS))];
            args.extend(split(dice.one(&["", "TIMEOUT", "ERROR", "x"])));
            return Some(args);
        }
        "debug" | "pfdebug" => {
            let word = if command == "debug" {
                dice.one(&[
                    "OBJECT",
                    "DIGEST",
                    "DIGEST-VALUE",
                    "SLEEP 0",
                    "STRINGMATCH-LEN 9 *",
                    "POPULATE 1",
                    "RELOAD",
                    "HELP",
                    "",
                ])
            } else {
                dice.one(&["ENCODING", "GETREG", "DECODE", "TODENSE", "x"])
            };
            let mut args = split(word);
            if ["OBJECT", "DIGEST-VALUE"].contains(&word) || command == "pfdebug" {
                args.push(values::key(
                    dice,
                    if command == "debug" {
                        "generic"
                    } else {
                        "hyperloglog"
                    },
                ));
            }
            return Some(args);
        }
        _ => return None,
    };
    Some(split(words))
}

fn split(words: &str) -> Vec<Vec<u8>> {
    words.split_whitespace().map(|w| w.as_bytes().to_vec()).collect()
}

/// Not BCAST: what it tells comes once per round of the server's loop, and so depends on how requests arrive.
fn tracking(dice: &mut Dice) -> Vec<Vec<u8>> {
    let mut args = split(dice.one(&["ON", "ON", "OFF", "x"]));
    if dice.percent(40) {
        args.push(b"REDIRECT".to_vec());
        args.push(if dice.percent(80) {
            id_of(dice.roll(CONNECTIONS))
        } else {
            b"999999".to_vec()
        });
    }
    args.extend(split(dice.one(&[
        "",
        "",
        "OPTIN",
        "OPTOUT",
        "NOLOOP",
        "OPTIN OPTOUT",
        "PREFIX s:",
    ])));
    args
}

/// Gives a command that may block this timeout, in seconds.
pub(crate) fn set_timeout(args: &mut [Vec<u8>], seconds: &str) {
    let name = String::from_utf8_lossy(&args[0]).to_ascii_lowercase();
    if args.len() < 3 {
        return;
    }
    let at = match name.as_str() {
        "blmpop" | "bzmpop" => 1,
        "xread" | "xreadgroup" => {
            let Some(block) = args.iter().position(|a| a.eq_ignore_ascii_case(b"block")) else {
                return;
            };
            if let Some(ms) = args.get_mut(block + 1) {
                *ms = if seconds == "0" {
                    b"0".to_vec()
                } else {
                    b"20".to_vec()
                };
            }
            return;
        }
        _ => args.len() - 1,
    };
    args[at] = seconds.as_bytes().to_vec();
}

/// Gives an XADD an id that both servers agree on: never the clock's, and mostly one that the stream takes.
pub(crate) fn settle_entry(dice: &mut Dice, n: u64, args: &mut [Vec<u8>]) {
    let mut at = 2;
    while let Some(arg) = args.get(at) {
        let word = String::from_utf8_lossy(arg).to_ascii_lowercase();
        at += match word.as_str() {
            "nomkstream" | "=" | "~" => 1,
            "maxlen" | "minid" | "limit" => {
                let exactness = args.get(at + 1).is_some_and(|a| a == b"=" || a == b"~");
                2 + usize::from(exactness)
            }
            _ => break,
        };
    }
    if let Some(id) = args.get_mut(at)
        && (id == b"*" || dice.percent(60))
    {
        *id = format!("{}-{}", 60 + n, dice.one(&["0", "1", "*"])).into_bytes();
    }
}

/// Takes out what would leave other data on one server than on the other.
pub(crate) fn settle(dice: &mut Dice, command: &str, args: &mut Vec<Vec<u8>>) {
    // Between members of different scores, what lies between two members depends on a skip list's random levels: these
    // have keys of their own, in which all scores are the same.
    let by_lex = args.iter().any(|a| a.eq_ignore_ascii_case(b"bylex"));
    if command.contains("lex") || by_lex {
        let key = 1 + usize::from(command == "zrangestore");
        args[key] = format!("y:{}", dice.roll(3)).into_bytes();
    }
    // Elements of equal weight are stored in any order.
    let at = |word: &[u8], args: &[Vec<u8>]| args.iter().position(|a| a.eq_ignore_ascii_case(word));
    if command == "sort"
        && at(b"by", args).is_some()
        && let Some(store) = at(b"store", args)
    {
        args.truncate(store);
    }
}
