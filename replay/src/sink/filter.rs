//! What of the stream is left out.
//!
//! Decides by database and by command. Not by key: which of a command's arguments are keys is for a server to say. What is left
//! out belongs to the position (see [`Filter`]'s text): a target that was fed with another filter lacks what nobody has any more.
//! Pure.

use redoubt_types::Db;
use std::collections::BTreeSet;
use std::fmt;

/// What is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The only databases whose effects are applied; all when there is none.
    pub dbs: BTreeSet<Db>,
    /// Names of commands that are left out, in lower case.
    pub commands: BTreeSet<Vec<u8>>,
    /// Whether PUBLISH and SPUBLISH are applied.
    pub publish: bool,
}

impl Filter {
    /// Whether effects in `db` are applied.
    pub(super) fn has(&self, db: Db) -> bool {
        self.dbs.is_empty() || self.dbs.contains(&db)
    }

    /// Whether commands of this name are left out.
    pub(super) fn skips(&self, name: &[u8]) -> bool {
        let published = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
        if !self.publish && (published("PUBLISH") || published("SPUBLISH")) {
            return true;
        }
        !self.commands.is_empty() && self.commands.contains(&name.to_ascii_lowercase())
    }
}

/// What decides which data a target has, without spaces; messages are no data.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.dbs.is_empty() && self.commands.is_empty() {
            return f.write_str("none");
        }
        let dbs = self.dbs.iter().map(|db| format!("only-db:{db}"));
        let commands = self
            .commands
            .iter()
            .map(|name| format!("skip-command:{}", name.escape_ascii()));
        f.write_str(&dbs.chain(commands).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_tells_what_is_left_out() {
        assert_eq!(Filter::default().to_string(), "none");
        let filter = Filter {
            dbs: [Db::new(2), Db::new(0)].into(),
            commands: [b"flushall".to_vec()].into(),
            publish: true,
        };
        assert_eq!(filter.to_string(), "only-db:0,only-db:2,skip-command:flushall");
    }
}
