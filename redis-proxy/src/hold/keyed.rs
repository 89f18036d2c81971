//! Which commands touch no key but those that they name.
//!
//! Decides by the server's own table of commands (`COMMAND`). What is not known to name all its keys is unclear (H21): a
//! module's commands, scripts, whatever works on a whole database, a read whose keys its key specifications do not tell.
//! Must not know a connection.

use redoubt_resp::reply::Value;
use redoubt_resp::request::RequestHead;
use std::collections::BTreeMap;

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
    /// By name, in lower case, a subcommand behind `|`.
    commands: BTreeMap<Box<[u8]>, Kind>,
}

impl Keyed {
    /// From the answer to `COMMAND`. What can't be read of it is unclear.
    pub fn of(answer: &Value) -> Self {
        let mut commands = BTreeMap::new();
        for command in answer.as_array().unwrap_or_default() {
            let subcommands = command
                .as_array()
                .and_then(|c| c.get(9))
                .and_then(Value::as_array);
            commands.extend(kind_of(command));
            commands.extend(subcommands.unwrap_or_default().iter().filter_map(kind_of));
        }
        Keyed { commands }
    }

    /// What this command of the stream can touch.
    pub fn effect(&self, args: &[&[u8]]) -> Effect {
        let [name, rest @ ..] = args else {
            return Effect::Unclear;
        };
        if NOTHING.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes())) {
            return Effect::Nothing;
        }
        match self.lookup(name, rest.first().copied()) {
            Some(Kind::Writes) => Effect::Named,
            _ => Effect::Unclear,
        }
    }

    /// Whether a client's command reads the keys that it names, and shows nothing else.
    pub fn reads_only_named(&self, head: &RequestHead) -> bool {
        let subcommand = (head.arg_count > 1).then(|| head.arg(1));
        self.lookup(head.name(), subcommand) == Some(Kind::Reads)
    }

    fn lookup(&self, name: &[u8], subcommand: Option<&[u8]>) -> Option<Kind> {
        let mut to = [0; 64];
        let whole = to.get_mut(..name.len())?;
        whole.copy_from_slice(name);
        whole.make_ascii_lowercase();
        if let Some(kind) = self.commands.get(&*whole) {
            return Some(*kind);
        }
        let subcommand = subcommand?;
        let whole = to.get_mut(..name.len() + 1 + subcommand.len())?;
        whole[name.len()] = b'|';
        whole[name.len() + 1..].copy_from_slice(subcommand);
        whole.make_ascii_lowercase();
        self.commands.get(&*whole).copied()
    }
}

/// A command's name, and what it does with the keys that it names; `None` if it may touch others, or names none.
fn kind_of(command: &Value) -> Option<(Box<[u8]>, Kind)> {
    /// Its keys can't be told from its arguments by position, so there may be some beside them.
    const MORE_THAN_NAMED: &[&str] = &["movablekeys", "module", "blocking", "may_replicate"];
    let fields = command.as_array()?;
    let name = fields.first()?.as_str()?.to_ascii_lowercase();
    let flags = fields.get(2)?.as_array()?;
    let has = |flag: &str| flags.iter().filter_map(Value::as_str).any(|f| f == flag);
    let names_keys = matches!(fields.get(3)?, Value::Int(first) if *first > 0);
    let specs = fields.get(8).and_then(Value::as_array).unwrap_or_default();
    if !names_keys || has("module") || specs.iter().any(says_less_than_all) {
        return None;
    }
    let kind = if has("write") {
        // All of their arguments count, wherever the keys are.
        Kind::Writes
    } else if has("readonly")
        && !MORE_THAN_NAMED.iter().any(|flag| has(flag))
        && !NOT_ONLY_THEIR_KEYS.contains(&name.as_str())
    {
        Kind::Reads
    } else {
        return None;
    };
    Some((name.into_bytes().into(), kind))
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
