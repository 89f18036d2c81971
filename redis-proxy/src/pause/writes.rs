//! Which commands write, or may: what `CLIENT PAUSE … WRITE` keeps back.

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
        let commands = answer.as_array().unwrap_or_default();
        let subcommands = commands.iter().filter_map(|c| c.as_array()?.get(9)?.as_array());
        for command in commands.iter().chain(subcommands.flatten()) {
            names.extend(written(command));
        }
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

/// The name of a command that writes.
fn written(command: &Value) -> Option<Box<[u8]>> {
    let fields = command.as_array()?;
    let flags = fields.get(2)?.as_array()?;
    let writes = flags.iter().any(|flag| flag.as_str() == Some("write"));
    let name = fields.first()?.as_str()?.to_ascii_lowercase();
    writes.then(|| name.into_bytes().into())
}
