//! Which commands write, or may: what `CLIENT PAUSE … WRITE` keeps back.

use crate::commands::commands;
use redoubt_resp::reply::Value;
use redoubt_resp::request::RequestHead;
use std::collections::BTreeSet;

/// They do not write by their flags, but what they do may be replicated: servers keep them back too, by a flag that `COMMAND`
/// does not tell.
const ALSO: [&str; 6] = ["eval", "evalsha", "fcall", "pfcount", "publish", "spublish"];

/// The server's commands that may write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// In lower case, a subcommand behind `|`.
    names: BTreeSet<Box<[u8]>>,
}

impl Writes {
    /// From the answer to `COMMAND`.
    pub fn of(answer: &Value) -> Self {
        let mut names: BTreeSet<Box<[u8]>> = ALSO.iter().map(|name| name.as_bytes().into()).collect();
        let writing = commands(answer).filter(|command| command.has_any(&["write"]));
        names.extend(writing.map(|command| command.name.into_bytes().into()));
        Writes { names }
    }

    /// Whether this command may write. EXEC is not: that depends on what was queued.
    pub fn may_write(&self, head: &RequestHead) -> bool {
        let mut name = head.name().to_ascii_lowercase();
        if self.names.contains(name.as_slice()) {
            return true;
        }
        name.push(b'|');
        name.extend(head.arg(1).to_ascii_lowercase());
        self.names.contains(name.as_slice())
    }
}
