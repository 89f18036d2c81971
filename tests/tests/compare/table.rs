//! What was covered: the table at the end.

use super::generate::Sent;
use super::rules;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    replies: u64,
    errors: u64,
    refused: u64,
}

/// How often each command was compared.
#[derive(Default)]
pub(crate) struct Covered {
    by_name: BTreeMap<String, Count>,
}

impl Covered {
    pub(crate) fn count(&mut self, sent: &Sent, error: bool) {
        let count = self.by_name.entry(sent.name.clone()).or_default();
        count.replies += 1;
        count.errors += u64::from(error);
        count.refused += u64::from(sent.refused.is_some());
    }

    pub(crate) fn total(&self) -> u64 {
        self.by_name.values().map(|c| c.replies).sum()
    }

    /// The most frequent command, and how often it was compared.
    pub(crate) fn most(&self) -> (&str, u64) {
        let most = self.by_name.iter().max_by_key(|(_, c)| c.replies);
        most.map_or(("", 0), |(name, c)| (name, c.replies))
    }

    /// Of these, the ones that were not compared once.
    pub(crate) fn missing<'a>(&self, all: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
        all.filter(|name| !self.by_name.contains_key(*name))
            .map(String::as_str)
            .collect()
    }

    /// The table, and behind it what is not compared.
    pub(crate) fn print(&self, left_out: &[String]) {
        println!(
            "{:<24} {:>9} {:>9} {:>9}  compared",
            "command", "replies", "errors", "refused"
        );
        for (name, count) in self.by_name.iter().filter(|(name, _)| !name.is_empty()) {
            let how = match (count.refused == count.replies, rules::of(name).1) {
                (true, _) => "refused by the proxy",
                (false, "") => "byte for byte",
                (false, why) => why,
            };
            let Count {
                replies,
                errors,
                refused,
            } = count;
            println!("{name:<24} {replies:>9} {errors:>9} {refused:>9}  {how}");
        }
        let wrong = self.by_name.get("").map_or(0, |c| c.replies);
        println!(
            "{:<24} {wrong:>9} {wrong:>9} {:>9}  byte for byte",
            "(no command at all)", 0
        );
        for name in left_out {
            println!(
                "{name:<24} not sent: {}",
                rules::left_out(name).unwrap_or_default()
            );
        }
    }
}
