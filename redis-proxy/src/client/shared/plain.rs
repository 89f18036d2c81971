//! Which commands may share a connection with those of other clients.
//!
//! Decides by the server's own table of commands (`COMMAND`, asked when a session begins) and a command's head. *Plain* is
//! a command that neither needs nor leaves state on its connection, never blocks it, and has exactly one answer. What is
//! not known to be plain is not. Must not know a connection.

use crate::client::protocol::is_plain_name;
use crate::commands::{ByName, Command};
use redoubt_resp::reply::Value;
use redoubt_resp::request::RequestHead;

/// Plain although their flags don't show it: they touch data, or nothing at all.
const ALSO: &[&str] = &[
    "echo",
    "eval",
    "eval_ro",
    "evalsha",
    "evalsha_ro",
    "fcall",
    "fcall_ro",
    "ping",
    "publish",
    "spublish",
    "time",
];
/// Flags of which a plain command has one.
const TOUCHES: &[&str] = &["readonly", "write"];
/// Flags of which a plain command has none.
const UNFIT: &[&str] = &["admin", "blocking", "module", "noscript", "pubsub"];

/// What a command asks of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Nothing.
    Plain,
    /// To be remembered with the client's name, library or version.
    Names,
    /// The end.
    Quits,
    /// More: it needs one of its own.
    Needs,
}

/// The server's commands.
#[derive(Clone, Debug, Default)]
pub struct Plain {
    /// A command that has subcommands is here only with them.
    commands: ByName<Fit>,
}

impl Plain {
    /// From the answer to `COMMAND`. What can't be read of it is not plain.
    pub fn of(answer: &Value) -> Self {
        let fit = |command: &Command<'_>| (!command.has_subcommands()).then(|| fit_of(command));
        Plain {
            commands: ByName::of(answer, fit),
        }
    }

    /// Whether nothing is known to be plain.
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// Whether the server has this subcommand, given in lower case as `command|subcommand`.
    pub fn knows(&self, name: &str) -> bool {
        self.commands.has(name)
    }

    /// What this command asks of its connection.
    pub fn fit(&self, head: &RequestHead) -> Fit {
        let subcommand = (head.arg_count > 1).then(|| head.arg(1));
        let fit = self.commands.get(head.name(), subcommand).unwrap_or(Fit::Needs);
        match fit {
            Fit::Names if !names_well(head) => Fit::Needs,
            // The connection is in database 0, and stays there.
            Fit::Needs if head.is(0, "select") && head.arg_count == 2 && head.is(1, "0") => Fit::Plain,
            Fit::Quits if head.arg_count != 1 => Fit::Needs,
            fit => fit,
        }
    }
}

fn fit_of(command: &Command<'_>) -> Fit {
    match &*command.name {
        "client|setname" | "client|setinfo" => Fit::Names,
        "quit" => Fit::Quits,
        // Newer servers block the connection until the keys are gone.
        "flushall" | "flushdb" | "sflush" => Fit::Needs,
        name if ALSO.contains(&name) => Fit::Plain,
        _ if command.has_any(TOUCHES) && !command.has_any(UNFIT) => Fit::Plain,
        _ => Fit::Needs,
    }
}

/// Whether a `CLIENT SETNAME` or `SETINFO` is one that every server takes: what one would refuse, it is to refuse itself.
fn names_well(head: &RequestHead) -> bool {
    let value = match () {
        () if head.is(1, "setname") && head.arg_count == 3 => head.arg(2),
        () if head.is(1, "setinfo")
            && head.arg_count == 4
            && (head.is(2, "lib-name") || head.is(2, "lib-ver")) =>
        {
            head.arg(3)
        }
        () => return false,
    };
    !head.is_partial() && is_plain_name(value)
}

#[cfg(test)]
mod tests;
