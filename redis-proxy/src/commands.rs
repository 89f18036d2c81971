//! What a server says of its commands: the answer to `COMMAND`, and tables that are made from it.
//!
//! Decides nothing but where in the answer a command's properties stand, and how one is found by a name that comes in any
//! case, with or without a subcommand. Must not know what the properties are asked for.

use redoubt_resp::reply::Value;
use std::collections::BTreeMap;

/// Bytes of a name, its subcommand included, that are looked up at most. Every server's own are shorter.
const NAME_BYTES_MAX: usize = 64;

/// A command, or a subcommand, as a server describes it.
#[derive(Clone, Debug)]
pub(crate) struct Command<'a> {
    /// In lower case, a subcommand behind `|`.
    pub(crate) name: String,
    flags: &'a [Value],
    fields: &'a [Value],
}

/// All commands of an answer, each one's subcommands behind it. What can't be read is left out.
pub(crate) fn commands(answer: &Value) -> impl Iterator<Item = Command<'_>> {
    let commands = answer.as_array().unwrap_or_default();
    commands
        .iter()
        .flat_map(|command| std::iter::once(command).chain(subcommands_of(command)))
        .filter_map(Command::of)
}

fn subcommands_of(command: &Value) -> &[Value] {
    let field = command.as_array().and_then(|fields| fields.get(9));
    field.and_then(Value::as_array).unwrap_or_default()
}

impl<'a> Command<'a> {
    fn of(command: &'a Value) -> Option<Self> {
        let fields = command.as_array()?;
        Some(Command {
            name: fields.first()?.as_str()?.to_ascii_lowercase(),
            flags: fields.get(2)?.as_array()?,
            fields,
        })
    }

    /// Whether it has one of these flags.
    pub(crate) fn has_any(&self, flags: &[&str]) -> bool {
        let mut own = self.flags.iter().filter_map(Value::as_str);
        own.any(|flag| flags.contains(&flag))
    }

    /// Whether it has subcommands: it is none by itself then.
    pub(crate) fn has_subcommands(&self) -> bool {
        let field = self.fields.get(9).and_then(Value::as_array);
        field.is_some_and(|subcommands| !subcommands.is_empty())
    }

    /// Whether its first key has a fixed place among its arguments.
    pub(crate) fn names_keys(&self) -> bool {
        matches!(self.fields.get(3), Some(Value::Int(first)) if *first > 0)
    }

    /// Its key specifications.
    pub(crate) fn key_specifications(&self) -> &'a [Value] {
        self.fields.get(8).and_then(Value::as_array).unwrap_or_default()
    }
}

/// Something about commands, by their names.
#[derive(Clone, Debug)]
pub(crate) struct ByName<T> {
    entries: BTreeMap<Box<[u8]>, T>,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        let entries = BTreeMap::new();
        ByName { entries }
    }
}

impl<T: Copy> ByName<T> {
    /// What `about` tells of each command of the answer that it tells something of.
    pub(crate) fn of(answer: &Value, about: impl Fn(&Command<'_>) -> Option<T>) -> Self {
        let named = |command: Command<'_>| Some((about(&command)?, command.name));
        let entries = commands(answer).filter_map(named);
        ByName {
            entries: entries.map(|(of, name)| (name.into_bytes().into(), of)).collect(),
        }
    }

    /// What is known of the command `name`, or else of its subcommand, as clients write them.
    pub(crate) fn get(&self, name: &[u8], subcommand: Option<&[u8]>) -> Option<T> {
        let mut to = [0; NAME_BYTES_MAX];
        let whole = to.get_mut(..name.len())?;
        whole.copy_from_slice(name);
        whole.make_ascii_lowercase();
        if let Some(of) = self.entries.get(&*whole) {
            return Some(*of);
        }
        let subcommand = subcommand?;
        let whole = to.get_mut(..name.len() + 1 + subcommand.len())?;
        whole[name.len()] = b'|';
        whole[name.len() + 1..].copy_from_slice(subcommand);
        whole.make_ascii_lowercase();
        self.entries.get(&*whole).copied()
    }

    /// Whether nothing is known of any.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether something is known of what is called so, in lower case, a subcommand behind `|`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name.as_bytes())
    }
}
