//! Which commands of clients are not passed on, because they would break the promise.
//!
//! Decides by a command's *head* alone: its name and first arguments. Promises nothing about what a script or
//! a module does inside the server. Must not know a connection: which ones are clients' is asked of
//! [`super::peers`]. Whatever has to be decided by an argument that can't be seen is refused.
//!
//! What is refused, and why: `docs/semantics.md`.

use super::peers::Peers;
use super::wait::{self, Wait};
use crate::pause::{self, Asked};
use crate::upstream::DEFAULT_USER;
use redoubt_env::planted;
use redoubt_resp::request::RequestHead;
use redoubt_types::limits::REQUEST_HEAD_ARG_BYTES_MAX;
use std::collections::BTreeSet;

/// What is to be done with a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it on.
    Forward,
    /// Pass it on; from now on the server reports every command of every client on this connection.
    ForwardMonitor,
    /// Pass it on unless its bytes name `set_repl`: a script that is longer than what a head shows.
    ForwardUnlessSetRepl(RefusalCode),
    /// Answer it in the server's stead.
    Answer(Wait),
    /// The proxy does it, if the server would let the client; refused where its answer can't be seen.
    Pause(Asked, RefusalCode),
    /// Refuse it.
    Refuse(RefusalCode),
}

/// Which rule refused a command: what the answer is made from, however much later it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefusalCode(u8);

impl RefusalCode {
    /// The code as a number, below 100.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The code `n`, if there is such a rule.
    pub fn new(n: u8) -> Option<Self> {
        (usize::from(n) < RULES.len()).then_some(RefusalCode(n))
    }

    /// The error that the client gets, with neither `-` nor CR LF.
    pub fn text(self) -> String {
        let rule = &RULES[usize::from(self.0)];
        format!("ERR {} is refused by Redoubt: {}", rule.label, rule.why)
    }
}

/// What of a command a rule refuses.
enum Check {
    /// All of it.
    Always,
    /// These subcommands.
    Subcommands(&'static [&'static str]),
    /// All subcommands but these.
    SubcommandsExcept(&'static [&'static str]),
    /// `CONFIG SET` of what Redoubt relies on.
    ConfigSet,
    /// `CLIENT KILL` of what may be anything but clients' connections.
    ClientKill,
    /// `CLIENT UNBLOCK` of what may be anything but a client's connection: 7.0 answers the command that waited twice, and
    /// on a connection that clients share each would get another's answers from then on.
    ClientUnblock,
    /// `ACL` that changes users on whose connections the proxy relies.
    Acl,
    /// `CLIENT PAUSE` in a form that not all servers read alike; the others are the proxy's to do.
    ClientPause,
    /// `HGETEX` that takes a field's time to live away: its effect is an `HPERSIST`.
    HgetexPersist,
    /// `XADD` that is to recognise its duplicates.
    XaddIdempotent,
    /// A script that names `set_repl`: the argument with this index, behind these subcommands if any.
    Script { subcommand: Option<&'static str> },
}

struct Rule {
    command: &'static str,
    check: Check,
    label: &'static str,
    why: &'static str,
}

const fn rule(command: &'static str, check: Check, label: &'static str, why: &'static str) -> Rule {
    Rule {
        command,
        check,
        label,
        why,
    }
}

const ROLE: &str = "which server is master is decided by the journal's epochs";
const LINK: &str = "replicas are fed from the journal by redoubt-replay";
const STOP: &str = "stop the server's cell through its supervisor";
const SET_REPL: &str = "redis.set_repl keeps effects out of the replication stream, so they could be lost";
/// H23: effects that mean something else when they are replayed later, on some versions.
const LATE: &str = "replayed later, as after a failover, its effect would not be the same";

/// `DEBUG` subcommands that change no data and no way of replicating it.
const DEBUG_ALLOWED: &[&str] = &[
    "digest",
    "digest-value",
    "help",
    "htstats",
    "htstats-key",
    "listpack",
    "object",
    "quicklist-packed-threshold",
    "set-active-expire",
    "sleep",
    "stringmatch-len",
];

/// The first rule that holds decides. Fewer than 100: a code has two digits.
static RULES: &[Rule] = &[
    rule("replicaof", Check::Always, "REPLICAOF", ROLE),
    rule("slaveof", Check::Always, "SLAVEOF", ROLE),
    rule("failover", Check::Always, "FAILOVER", ROLE),
    rule("psync", Check::Always, "PSYNC", LINK),
    rule("sync", Check::Always, "SYNC", LINK),
    rule("replconf", Check::Always, "REPLCONF", LINK),
    rule("shutdown", Check::Always, "SHUTDOWN", STOP),
    rule(
        "config",
        Check::Subcommands(&["rewrite"]),
        "CONFIG REWRITE",
        "the server's role and replication settings are not to outlive its process",
    ),
    rule(
        "config",
        Check::ConfigSet,
        "CONFIG SET of this parameter",
        "Redoubt relies on its value, set it where the server is started",
    ),
    rule(
        "debug",
        Check::SubcommandsExcept(DEBUG_ALLOWED),
        "DEBUG with this subcommand",
        "it can change data or replication past the journal",
    ),
    rule(
        "client",
        Check::ClientPause,
        "CLIENT PAUSE in a transaction, or with more than a timeout and a mode",
        "the server would pause the proxy's own connections too",
    ),
    rule(
        "client",
        Check::ClientUnblock,
        "CLIENT UNBLOCK of what may not be a client",
        "it could unsettle the proxy's own connections, name a client by its id",
    ),
    rule(
        "client",
        Check::ClientKill,
        "CLIENT KILL of what may not be a client",
        "it could end the proxy's own connections, name a client by its ID or ADDR",
    ),
    rule(
        "module",
        Check::Subcommands(&["load", "loadex", "unload"]),
        "MODULE LOAD",
        "every server of the cluster must have the same modules, load them where the servers are started",
    ),
    rule(
        "acl",
        Check::Acl,
        "ACL of all users, or of one whose connections the proxy uses",
        "it could lock the proxy's own connections out, set this where the server is started",
    ),
    rule(
        "migrate",
        Check::Always,
        "MIGRATE",
        "it would show another server what could still be lost",
    ),
    rule("hpersist", Check::Always, "HPERSIST", LATE),
    rule("hgetex", Check::HgetexPersist, "HGETEX with PERSIST", LATE),
    rule("xadd", Check::XaddIdempotent, "XADD with IDMP or IDMPAUTO", LATE),
    rule(
        "eval",
        Check::Script { subcommand: None },
        "EVAL of this script",
        SET_REPL,
    ),
    rule(
        "script",
        Check::Script {
            subcommand: Some("load"),
        },
        "SCRIPT LOAD of this script",
        SET_REPL,
    ),
    rule(
        "function",
        Check::Script {
            subcommand: Some("load"),
        },
        "FUNCTION LOAD of this library",
        SET_REPL,
    ),
];

/// Judges a command by its head.
pub fn inspect(head: &RequestHead, peers: &Peers) -> Verdict {
    let name = head.name();
    for (code, rule) in RULES.iter().enumerate() {
        // Most names differ in length already: this runs for every command.
        if name.len() == rule.command.len() && name.eq_ignore_ascii_case(rule.command.as_bytes()) {
            let code = RefusalCode(code as u8);
            if planted::on("h11_nothing_is_refused") {
                continue;
            }
            match judge(&rule.check, head, peers) {
                Judged::Passes => {}
                Judged::Refused => return Verdict::Refuse(code),
                Judged::DependsOnBytes => return Verdict::ForwardUnlessSetRepl(code),
                Judged::Pauses(asked) => return Verdict::Pause(asked, code),
            }
        }
    }
    if let Some(wait) = wait::judge(head)
        && !planted::on("h12_wait_is_the_servers")
    {
        Verdict::Answer(wait)
    } else if head.is(0, "monitor") {
        Verdict::ForwardMonitor
    } else {
        Verdict::Forward
    }
}

/// Whether an `XADD` has IDMP or IDMPAUTO among its options, which end where the entry's id stands.
fn recognises_duplicates(head: &RequestHead) -> bool {
    let mut at = 2;
    while at < head.args.len() {
        let is = |words: &[&str]| words.iter().any(|word| head.is(at, word));
        if is(&["idmp", "idmpauto"]) {
            return true;
        }
        at += match () {
            () if is(&["nomkstream", "keepref", "delref", "acked", "=", "~"]) => 1,
            // With a value, which may be preceded by `=` or `~`.
            () if is(&["maxlen", "minid", "limit"]) => {
                let exactness = head.is(at + 1, "=") || head.is(at + 1, "~");
                2 + usize::from(exactness)
            }
            () => return false,
        };
    }
    false
}

/// Whether a command's bytes name `set_repl`.
pub fn names_set_repl(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"set_repl";
    bytes.windows(NAME.len()).any(|w| w == NAME)
}

enum Judged {
    Passes,
    Refused,
    DependsOnBytes,
    Pauses(Asked),
}

impl From<bool> for Judged {
    fn from(refused: bool) -> Self {
        if refused { Judged::Refused } else { Judged::Passes }
    }
}

fn judge(check: &Check, head: &RequestHead, peers: &Peers) -> Judged {
    let among = |words: &[&str]| words.iter().any(|word| head.is(1, word));
    // An argument that lies beyond what is inspected may be any word.
    let hidden = head.args.len() < 2 && head.is_partial();
    match check {
        Check::Always => Judged::Refused,
        Check::Subcommands(words) => (hidden || among(words)).into(),
        // Without a subcommand it is an error of the server's own.
        Check::SubcommandsExcept(words) => (hidden || (head.arg_count > 1 && !among(words))).into(),
        Check::ConfigSet => (head.is(1, "set") && sets_what_is_relied_on(head, peers)).into(),
        Check::ClientPause => match pause::judge(head) {
            Some(pause::Judged::Asks(asked)) => Judged::Pauses(asked),
            Some(pause::Judged::Odd) => Judged::Refused,
            Some(pause::Judged::Wrong) => Judged::Passes,
            None => hidden.into(),
        },
        Check::ClientUnblock => {
            (head.is(1, "unblock") && head.arg_count > 2 && !peers.has_id(head.arg(2))).into()
        }
        Check::ClientKill => (head.is(1, "kill") && !kills_only_clients(head, peers)).into(),
        Check::Acl => (hidden || changes_a_guarded_user(head, peers)).into(),
        // Options may stand before the fields only, and there is one at most.
        Check::HgetexPersist => (head.is(2, "persist") || (head.args.len() < 3 && head.is_partial())).into(),
        Check::XaddIdempotent => recognises_duplicates(head).into(),
        Check::Script { subcommand } => {
            if hidden {
                return Judged::DependsOnBytes;
            }
            match subcommand {
                Some(word) if !head.is(1, word) => Judged::Passes,
                // FUNCTION LOAD may have options before its code.
                Some(_) => judge_scripts(head, 2, head.arg_count),
                None => judge_scripts(head, 1, 2),
            }
        }
    }
}

/// Judges the arguments `from..to`, as far as the head shows them.
fn judge_scripts(head: &RequestHead, from: usize, to: usize) -> Judged {
    let shown = head.args.get(from..to.min(head.args.len())).unwrap_or_default();
    if shown.iter().any(|arg| names_set_repl(arg)) {
        return Judged::Refused;
    }
    let cut = head.is_partial() || shown.iter().any(|arg| arg.len() >= REQUEST_HEAD_ARG_BYTES_MAX);
    if cut {
        Judged::DependsOnBytes
    } else {
        Judged::Passes
    }
}

/// Whether a `CONFIG SET` touches a parameter that Redoubt relies on, or one that can't be seen.
fn sets_what_is_relied_on(head: &RequestHead, peers: &Peers) -> bool {
    /// Beginnings of names: replication's settings under their new and old names, among them.
    const PREFIXES: &[&str] = &[
        "repl",
        "slave",
        "min-replicas",
        "min-slaves",
        "client-output-buffer-limit",
    ];
    /// It changes the default user.
    const PASSWORD: &str = "requirepass";
    let names = head.args.iter().skip(2).step_by(2);
    let relied_on = names.into_iter().any(|name| {
        let begins = |with: &str| {
            name.get(..with.len())
                .is_some_and(|n| n.eq_ignore_ascii_case(with.as_bytes()))
        };
        PREFIXES.iter().any(|p| begins(p)) || (begins(PASSWORD) && peers.guards(DEFAULT_USER.as_bytes()))
    });
    relied_on || head.args.len() < head.arg_count
}

/// Whether an `ACL` changes all users, or one on whose connections the proxy relies. One whose name can't be seen may be that.
fn changes_a_guarded_user(head: &RequestHead, peers: &Peers) -> bool {
    let names = match () {
        () if head.is(1, "load") => return true,
        () if head.is(1, "setuser") => 2..head.arg_count.min(3),
        () if head.is(1, "deluser") => 2..head.arg_count,
        () => return false,
    };
    names
        .into_iter()
        .any(|n| head.args.get(n).is_none_or(|name| peers.guards(name)))
}

/// Whether a `CLIENT KILL` can only hit clients' connections. All filters must hold for what is killed, so one that
/// only clients meet is enough; but each must be known, and stand there once, since newer servers take lists.
fn kills_only_clients(head: &RequestHead, peers: &Peers) -> bool {
    const OTHERS: &[&str] = &["laddr", "skipme", "maxage"];
    if head.args.len() < head.arg_count {
        return false;
    }
    let filters = match head.args.get(2..) {
        // Without any it is the server's to complain.
        None | Some([]) => return true,
        Some([addr]) => return peers.has_addr(addr),
        Some(filters) => filters,
    };
    let (mut seen, mut clients_only) = (BTreeSet::new(), false);
    for filter in filters.chunks(2) {
        let [name, value] = filter else {
            return false;
        };
        let name = name.to_ascii_lowercase();
        clients_only |= match name.as_slice() {
            b"id" => peers.has_id(value),
            b"addr" => peers.has_addr(value),
            b"type" => value.eq_ignore_ascii_case(b"pubsub"),
            // One that a head does not show to its end is none that the proxy has.
            b"user" => !peers.guards(value),
            other if OTHERS.iter().any(|o| o.as_bytes() == other) => false,
            _ => return false,
        };
        if !seen.insert(name) {
            return false;
        }
    }
    clients_only
}

#[cfg(test)]
mod tests;
