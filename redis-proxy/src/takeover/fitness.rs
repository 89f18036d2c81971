//! Whether a server does with the journal's commands what the server did that wrote them (H17).
//!
//! A stock replica passes over commands of its master that fail on it, and its offset goes on: an older version does not know
//! what a newer one sends, SELECT fails beyond the last database, and a module's commands need the module. So each session
//! record says what its server was, and a server that could pass over something is not promoted. Pure: words and verdicts.

use super::look::{Look, Past};
use redoubt_env::planted;
use redoubt_resp::info::Flavor;
use std::fmt;

/// Length of what a session record says of a server at most, bytes: what a node accepts.
const TEXT_BYTES_MAX: usize = 256;

/// What a server understands, as a session record says it: `redis 7.4.1, 16 databases, module bf 20802`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitness {
    flavor: Flavor,
    version: (u32, u32, u32),
    /// `None` in records of before this was recorded.
    databases: Option<u64>,
    /// Names and versions, by name.
    modules: Vec<(String, u64)>,
}

/// What decides beside INFO whether a replica's data is what its master's is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `databases`.
    pub databases: u64,
    /// `replica-read-only`: nobody but the master wrote.
    pub read_only: bool,
    /// `replica-ignore-maxmemory`: nothing was evicted but by the master.
    pub ignores_maxmemory: bool,
    /// Modules, with their versions.
    pub modules: Vec<(String, u64)>,
}

fn word(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::Redis => "redis",
        Flavor::Valkey => "valkey",
        Flavor::Other => "other",
    }
}

impl Fitness {
    /// What a server that was looked at understands.
    pub fn of(look: &Look) -> Self {
        let mut modules = look.settings.modules.clone();
        modules.sort();
        Fitness {
            flavor: look.server.flavor,
            version: look.server.version,
            databases: Some(look.settings.databases),
            modules,
        }
    }

    /// What a record says; `None` when it is not of this form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(", ");
        let (kind, version) = parts.next()?.split_once(' ')?;
        let flavors = [Flavor::Redis, Flavor::Valkey, Flavor::Other];
        let mut numbers = version.split('.').map(|n| n.parse().ok());
        let mut found = Fitness {
            flavor: flavors.into_iter().find(|f| word(*f) == kind)?,
            version: (numbers.next()??, numbers.next()??, numbers.next()??),
            databases: None,
            modules: Vec::new(),
        };
        for part in parts {
            if let Some(count) = part.strip_suffix(" databases") {
                found.databases = Some(count.parse().ok()?);
            } else {
                let (name, version) = part.strip_prefix("module ")?.rsplit_once(' ')?;
                found.modules.push((name.to_owned(), version.parse().ok()?));
            }
        }
        Some(found)
    }

    /// The server's name and version.
    pub fn name(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("{} {major}.{minor}.{patch}", word(self.flavor))
    }

    /// Why this server could pass over something that `last` wrote.
    fn passes_over(&self, last: &Fitness) -> Option<String> {
        let older = if self.flavor == last.flavor {
            self.version < last.version
        } else {
            // Valkey went its own way from Redis 7.2 on. Until then each reads the other.
            let common = last.flavor != Flavor::Other && (last.version.0, last.version.1) <= (7, 2);
            let reads_it = match self.flavor {
                Flavor::Redis => self.version >= (7, 2, 0),
                Flavor::Valkey => true,
                Flavor::Other => false,
            };
            !(common && reads_it)
        };
        if older {
            return Some(format!(
                "the server is {}, and the journal was last written by {}: what it does not understand of that it would \
                 pass over without a word; use {} or newer",
                self.name(),
                last.name(),
                last.name()
            ));
        }
        if let (Some(own), Some(want)) = (self.databases, last.databases)
            && own != want
        {
            return Some(format!(
                "the server has {own} databases, and the journal was last written by one with {want}: start it with \
                 `--databases {want}`"
            ));
        }
        let has =
            |(name, version): &(String, u64)| self.modules.iter().any(|(n, v)| n == name && v >= version);
        // What is built into one flavor is no module of the other.
        let missing = last
            .modules
            .iter()
            .find(|m| self.flavor == last.flavor && !has(m))?;
        Some(format!(
            "the server does not have the module {} {} (or newer) that the journal was last written with: load it, and \
             start the server empty",
            missing.0, missing.1
        ))
    }
}

impl fmt::Display for Fitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name();
        if let Some(databases) = self.databases {
            text += &format!(", {databases} databases");
        }
        for (name, version) in &self.modules {
            let part = format!(", module {name} {version}");
            if text.len() + part.len() <= TEXT_BYTES_MAX && !name.contains(", ") {
                text += &part;
            }
        }
        f.write_str(&text)
    }
}

impl Look {
    /// Why this server must not be fed what the journal holds.
    pub fn not_to_be_fed(&self, past: &Past) -> Option<String> {
        let last = Fitness::parse(&past.session.as_ref()?.server)?;
        Fitness::of(self)
            .passes_over(&last)
            .filter(|_| !planted::on("h17_any_server"))
    }

    /// Why this replica must not be promoted, whatever it was fed. A server of ours boots as a replica, so whatever it counts
    /// since its start is of the journal's commands: one is too many, also if it was passed over long before this takeover.
    pub fn not_to_be_promoted(&self, past: &Past) -> Option<String> {
        if let Some(why) = self.not_to_be_fed(past) {
            return Some(why);
        }
        if !self.settings.read_only {
            return Some(
                "the server's replica-read-only is off, so others than its master may have written to it; start it empty \
                 with `--replica-read-only yes`"
                    .to_owned(),
            );
        }
        if !self.settings.ignores_maxmemory {
            return Some(
                "the server's replica-ignore-maxmemory is off, so it may have evicted what its master holds; start it \
                 empty with `--replica-ignore-maxmemory yes`"
                    .to_owned(),
            );
        }
        let skipped = self.server.unexpected_error_replies.filter(|n| *n > 0)?;
        Some(format!(
            "{skipped} commands of the journal failed on the server (unexpected_error_replies), so its data differs; \
             compare `databases` and modules with the last master's, then start it empty"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitness(text: &str) -> Fitness {
        Fitness::parse(text).unwrap()
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        for text in [
            "redis 7.0.15, 16 databases",
            "valkey 9.1.2, 4 databases, module lua 1",
            "redis 7.4.1, 16 databases, module bf 20802, module search 21005",
            // Of before more than the version was recorded.
            "redis 7.0.15",
        ] {
            assert_eq!(fitness(text).to_string(), text);
        }
        for odd in [
            "",
            "redis",
            "redis 7",
            "redis 7.0.x",
            "disque 1.0.0",
            "redis 7.0.15, 16 cows",
        ] {
            assert_eq!(Fitness::parse(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn what_would_be_too_long_for_a_record_is_left_out() {
        let mut long = fitness("redis 7.4.1, 16 databases");
        long.modules = (0..40).map(|n| (format!("module-{n}"), 1)).collect();
        let text = long.to_string();
        assert!(text.len() <= TEXT_BYTES_MAX, "{text}");
        assert!(Fitness::parse(&text).unwrap().modules.len() > 5);
    }

    #[test]
    fn h17_an_older_server_would_pass_over_what_a_newer_one_wrote() {
        let fits = |own: &str, last: &str| fitness(own).passes_over(&fitness(last)).is_none();
        // 8.0.6 sends HSETEX where 8.0.2 sent HSET.
        for (newer, older) in [
            ("redis 8.0.6", "redis 8.0.2"),
            ("redis 7.2.0", "redis 7.0.15"),
            ("valkey 9.1.2", "valkey 8.1.8"),
            ("valkey 7.2.5", "redis 7.0.15"),
            ("valkey 9.1.2", "redis 7.2.4"),
        ] {
            assert!(fits(newer, older), "{newer} after {older}");
            assert!(fits(newer, newer));
            assert!(!fits(older, newer), "{older} after {newer}");
        }
        assert!(fits("redis 7.2.4", "valkey 7.2.5"));
        for (a, b) in [
            ("redis 8.2.3", "valkey 8.1.8"),
            ("valkey 9.1.2", "redis 7.4.1"),
            ("other 7.3.6", "redis 7.0.15"),
        ] {
            assert!(!fits(a, b) && !fits(b, a), "{a} and {b}");
        }
    }

    #[test]
    fn h17_databases_and_modules_must_be_those_of_the_last_master() {
        let last = fitness("redis 7.4.1, 32 databases, module bf 20802");
        let told = |own: &str| fitness(own).passes_over(&last);
        assert_eq!(
            told("redis 7.4.1, 32 databases, module bf 20900, module search 1"),
            None
        );
        assert!(
            told("redis 7.4.1, 16 databases, module bf 20802")
                .unwrap()
                .contains("--databases 32")
        );
        assert!(told("redis 7.4.1, 32 databases").unwrap().contains("bf 20802"));
        assert!(
            told("redis 7.4.1, 32 databases, module bf 20801")
                .unwrap()
                .contains("bf 20802")
        );
    }
}
