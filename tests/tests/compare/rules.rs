//! How alike two servers' replies to one command have to be, and which commands can't be compared at all.
//!
//! Everything is compared byte for byte, unless it is named here.

use super::frame::Frame;
use super::special;

/// How alike two replies must be that are not the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alike {
    /// Not at all: they must be the same.
    Same,
    /// The same elements, in any order: hash tables of two servers have different seeds.
    AnyOrder,
    /// Of the same type, with as many elements.
    Shape,
    /// Of the same type.
    Type,
    /// Times that differ by how long a request takes to come through.
    Clock,
    /// As [`Alike::Same`], but for what follows these names.
    Except(&'static [&'static str]),
    /// A step of a scan: where it ended in one step on both servers, the same elements.
    Scan,
    /// XPENDING's list, whose third column is how long ago.
    Pending,
    /// Of the same type; where a subscriber may not do it, the error names what it became.
    Answered,
    /// A payload of DUMP: in the order of a hash table.
    Payload,
}

const XINFO: &[&str] = &["idle", "inactive", "seen-time", "active-time", "pending", "pel"];

/// The rule of a command, and why it has one.
pub(crate) fn of(command: &str) -> (Alike, &'static str) {
    const ORDER: &str = "in any order: two servers' hash tables have different seeds";
    const RANDOM: &str = "type and number only: random by definition";
    const OWN: &str = "type only: it tells of the server's own process, connections or measurements";
    const TIME: &str = "but for the time that a request takes to come through";
    match command {
        "smembers"
        | "sinter"
        | "sunion"
        | "sdiff"
        | "hgetall"
        | "hkeys"
        | "hvals"
        | "keys"
        | "command|list"
        | "command|docs"
        | "command|info"
        | "command"
        | "pubsub|channels"
        | "pubsub|shardchannels"
        | "function|list"
        | "config|get"
        | "acl|cat" => (Alike::AnyOrder, ORDER),
        "sscan" | "hscan" | "zscan" | "scan" => {
            (Alike::Scan, "a whole scan in any order, a part of one by type")
        }
        "srandmember" | "hrandfield" | "zrandmember" | "spop" => (Alike::Shape, RANDOM),
        "randomkey" | "acl|genpass" => (Alike::Type, RANDOM),
        // With BY and LIMIT, which elements are shown depends on the order of a set.
        "sort" | "sort_ro" => (
            Alike::Shape,
            "type and number only: elements of equal weight come in any order",
        ),
        "ttl" | "pttl" | "expiretime" | "pexpiretime" | "object|idletime" => (Alike::Clock, TIME),
        "xinfo|stream" | "xinfo|consumers" => (Alike::Except(XINFO), TIME),
        "xpending" => (Alike::Pending, TIME),
        "dump" => (
            Alike::Payload,
            "length only where the bytes differ: a hash table's elements come in any order",
        ),
        "function|dump" => (
            Alike::Payload,
            "length only where the bytes differ: libraries come in any order",
        ),
        "hello" => (Alike::Except(&["id"]), "but for the connection's id"),
        "client|id" | "client|getredir" => (Alike::Type, OWN),
        // Its own bookkeeping: behind a script's SET in a transaction it was 1 on one server and 2 on the other.
        "object|refcount" => (Alike::Type, OWN),
        "client|trackinginfo" => (Alike::Except(&["redirect"]), "but for the connection's id"),
        "info"
        | "role"
        | "time"
        | "lastsave"
        | "lolwut"
        | "client|info"
        | "client|list"
        | "memory|usage"
        | "memory|stats"
        | "memory|doctor"
        | "memory|malloc-stats"
        | "slowlog|get"
        | "slowlog|len"
        | "latency|histogram"
        | "latency|doctor"
        | "latency|graph"
        | "acl|log"
        | "debug" => (Alike::Type, OWN),
        // The proxy answers for the journal, which the plain server does not have.
        "wait" | "waitaof" => (Alike::Answered, "type only: the journal counts as a replica"),
        _ => (Alike::Same, ""),
    }
}

/// Why a command is not sent at all.
pub(crate) fn left_out(command: &str) -> Option<&'static str> {
    Some(match command {
        "monitor" => "its lines carry times",
        "client|pause" | "client|unpause" => {
            "in a transaction it is refused; redis-proxy/tests/path compares it"
        }
        "bgsave" | "bgrewriteaof" => "whether another one is still under way is a matter of time",
        "pfselftest" => "it keeps the server busy for a second and says OK",
        "acl|save" => "it is an error without an ACL file, and a file of the server's own with one",
        "script|debug" => "its sessions are forks of the server, one for each connection",
        _ => return None,
    })
}

/// Whether `a` and `b` are as alike as `alike` asks.
pub(crate) fn alike(a: &Frame, b: &Frame, alike: Alike) -> bool {
    if a == b {
        return true;
    }
    let unwanted = |f: &Frame| f.bytes().starts_with(b"ERR Can't execute '");
    if alike == Alike::Answered && unwanted(a) && unwanted(b) {
        return true;
    }
    if a.is_error() || b.is_error() || a.kind() != b.kind() {
        return false;
    }
    match alike {
        Alike::Same => false,
        Alike::AnyOrder => sorted(a) == sorted(b),
        Alike::Shape => a.items().len() == b.items().len(),
        Alike::Type | Alike::Answered => true,
        Alike::Clock => match (a.int(), b.int()) {
            // What is no time is small: -1, -2.
            (Some(a), Some(b)) => a >= 0 && b >= 0 && a.abs_diff(b) <= 120_000,
            _ => false,
        },
        Alike::Except(names) => except(a, b, names),
        Alike::Scan => {
            let done = |f: &Frame| f.items().first().is_some_and(|cursor| cursor.says("0"));
            !(done(a) && done(b)) || sorted(a) == sorted(b)
        }
        Alike::Pending => {
            let (a, b) = (a.items(), b.items());
            a.len() == b.len()
                && a.iter().zip(b).all(|(a, b)| {
                    let (x, y) = (a.items(), b.items());
                    a == b || (x.len() == 4 && y.len() == 4 && x[..2] == y[..2] && x[3] == y[3])
                })
        }
        Alike::Payload => a.bytes().len() == b.bytes().len(),
    }
}

/// The same but for the values behind `names`, whose shape must be the same.
fn except(a: &Frame, b: &Frame, names: &[&str]) -> bool {
    let (x, y) = (a.items(), b.items());
    if x.is_empty() || x.len() != y.len() {
        return a == b;
    }
    let named = |i: usize| i > 0 && names.iter().any(|name| x[i - 1].says(name));
    x.iter().zip(y).enumerate().all(|(i, (v, w))| {
        if named(i) {
            v.kind() == w.kind() && v.items().len() == w.items().len()
        } else {
            except(v, w, names)
        }
    })
}

/// With its elements in order, all the way down.
fn sorted(frame: &Frame) -> Frame {
    match frame {
        Frame::Leaf(..) => frame.clone(),
        Frame::All(kind, items) => {
            let mut items: Vec<Frame> = items.iter().map(sorted).collect();
            items.sort_unstable();
            Frame::All(*kind, items)
        }
    }
}

/// What the proxy refuses: how its answer names the command. By the whole command, as it is written.
pub(crate) fn refused(args: &[Vec<u8>]) -> Option<&'static str> {
    let is = |i: usize, word: &str| {
        args.get(i)
            .is_some_and(|a| a.eq_ignore_ascii_case(word.as_bytes()))
    };
    let among = |i: usize, words: &[&str]| words.iter().any(|word| is(i, word));
    const WHOLE: &[(&str, &str)] = &[
        ("replicaof", "REPLICAOF"),
        ("slaveof", "SLAVEOF"),
        ("failover", "FAILOVER"),
        ("psync", "PSYNC"),
        ("sync", "SYNC"),
        ("replconf", "REPLCONF"),
        ("shutdown", "SHUTDOWN"),
        ("migrate", "MIGRATE"),
    ];
    if let Some((_, label)) = WHOLE.iter().find(|(name, _)| is(0, name)) {
        return Some(label);
    }
    if is(0, "config") && is(1, "rewrite") {
        return Some("CONFIG REWRITE");
    }
    if is(0, "config") && is(1, "set") && args.iter().skip(2).step_by(2).any(|a| relied_on(a)) {
        return Some("CONFIG SET of this parameter");
    }
    if is(0, "debug") && args.len() > 1 && among(1, &["populate", "reload", "change-repl-id", "flushall"]) {
        return Some("DEBUG with this subcommand");
    }
    let of_clients = is(3, "pubsub") || args.get(3).is_some_and(|a| special::is_id(a).is_some());
    if is(0, "client") && is(1, "kill") && args.len() > 2 && !of_clients {
        return Some("CLIENT KILL of what may not be a client");
    }
    if is(0, "module") && among(1, &["load", "loadex", "unload"]) {
        return Some("MODULE LOAD");
    }
    // Of `deluser` with so many names some are not seen.
    let of_ours = args.iter().skip(2).any(|a| a == b"default") || args.len() > 8;
    let sets_ours = is(1, "setuser") && args.get(2).is_some_and(|a| a == b"default");
    if is(0, "acl") && (is(1, "load") || sets_ours || (is(1, "deluser") && of_ours)) {
        return Some("ACL of all users, or of one whose connections the proxy uses");
    }
    let names_set_repl = args.iter().any(|a| a.windows(8).any(|w| w == b"set_repl"));
    match () {
        () if !names_set_repl => None,
        () if is(0, "eval") => Some("EVAL of this script"),
        () if is(0, "script") && is(1, "load") => Some("SCRIPT LOAD of this script"),
        () if is(0, "function") && is(1, "load") => Some("FUNCTION LOAD of this library"),
        () => None,
    }
}

fn relied_on(parameter: &[u8]) -> bool {
    let parameter = parameter.to_ascii_lowercase();
    let begins = |p: &&str| parameter.starts_with(p.as_bytes());
    [
        "repl",
        "slave",
        "min-replicas",
        "min-slaves",
        "client-output-buffer-limit",
        "requirepass",
    ]
    .iter()
    .any(begins)
}
