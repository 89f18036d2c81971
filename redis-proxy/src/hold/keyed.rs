//! Which commands touch no key but those that they name.
//!
//! Decides by the server's own table of commands (`COMMAND`). What is not known to name all its keys is unclear (H21): a
//! module's commands, scripts, whatever works on a whole database, a read whose keys its key specifications do not tell.
//! Must not know a connection.

use crate::commands::{ByName, Command};
use redoubt_resp::reply::Value;
use redoubt_resp::request::RequestHead;

/// What a command of the replication stream can touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// No key but those among its arguments.
    Named,
    /// No key.
    Nothing,
    /// Any key.
    Unclear,
}

/// Commands of the stream that touch no key. Most of them are in it only.
const NOTHING: &[&str] = &[
    "exec", "multi", "ping", "publish", "replconf", "select", "spublish",
];
/// Reads whose answer may tell more than their keys' values: of `PFCOUNT` also the server's cache, which it writes
/// without an effect of its own.
const NOT_ONLY_THEIR_KEYS: &[&str] = &["pfcount"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Reads,
    Writes,
}

/// The server's commands that name all their keys.
#[derive(Clone, Debug, Default)]
pub struct Keyed {
    commands: ByName<Kind>,
}

impl Keyed {
    /// From the answer to `COMMAND`. What can't be read of it is unclear.
    pub fn of(answer: &Value) -> Self {
        Keyed {
            commands: ByName::of(answer, kind_of),
        }
    }

    /// What this command of the stream can touch.
    pub fn effect(&self, args: &[&[u8]]) -> Effect {
        let [name, rest @ ..] = args else {
            return Effect::Unclear;
        };
        if NOTHING.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes())) {
            return Effect::Nothing;
        }
        match self.commands.get(name, rest.first().copied()) {
            Some(Kind::Writes) => Effect::Named,
            _ => Effect::Unclear,
        }
    }

    /// Whether a client's command reads the keys that it names, and shows nothing else.
    pub fn reads_only_named(&self, head: &RequestHead) -> bool {
        let subcommand = (head.arg_count > 1).then(|| head.arg(1));
        self.commands.get(head.name(), subcommand) == Some(Kind::Reads)
    }
}

/// What a command does with the keys that it names; `None` if it may touch others, or names none.
fn kind_of(command: &Command<'_>) -> Option<Kind> {
    /// Its keys can't be told from its arguments by position, so there may be some beside them.
    const MORE_THAN_NAMED: &[&str] = &["movablekeys", "module", "blocking", "may_replicate"];
    let specifications = command.key_specifications();
    let unclear = command.has_any(&["module"]) || specifications.iter().any(says_less_than_all);
    if !command.names_keys() || unclear {
        None
    } else if command.has_any(&["write"]) {
        // All of their arguments count, wherever the keys are.
        Some(Kind::Writes)
    } else {
        let reads = command.has_any(&["readonly"])
            && !command.has_any(MORE_THAN_NAMED)
            && !NOT_ONLY_THEIR_KEYS.contains(&&*command.name);
        reads.then_some(Kind::Reads)
    }
}

/// Whether a key specification tells of something that is no key, or not of all keys.
fn says_less_than_all(spec: &Value) -> bool {
    let fields = spec.as_array().unwrap_or_default();
    let at = fields.iter().position(|f| f.as_str() == Some("flags"));
    let flags = at.and_then(|at| fields.get(at + 1)).and_then(Value::as_array);
    flags
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_str)
        .any(|flag| {
            let flag = flag.to_ascii_lowercase();
            flag == "not_key" || flag == "incomplete"
        })
}

#[cfg(test)]
pub(crate) mod tests;
