//! What `dev up` says: lines and a table for people, or a line of JSON each for programs.
//!
//! What was asked for goes to stdout (health, and what happens after it), everything on the way there to stderr.

use super::cluster::Cluster;
use super::core::News;
use super::health::Health;
use super::layout::{Kind, Part, endpoints};
use super::paths::Paths;
use crate::duration;
use crate::output::{self, Output};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde::Serialize;
use std::time::Duration;

/// A line of JSON for an event.
#[derive(Serialize)]
struct EventLine<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    again_in_ms: Option<u64>,
    message: &'a str,
}

/// Says things in one of the two ways.
pub(crate) struct Voice {
    output: Output,
    parts: Vec<Part>,
}

impl Voice {
    /// Speaks about `parts`.
    pub(crate) fn new(output: Output, parts: &[Part]) -> Self {
        Voice {
            output,
            parts: parts.to_vec(),
        }
    }

    /// On the way: to stderr, whatever the output is.
    pub(crate) fn note(&self, text: &str) {
        output::note(text);
    }

    /// Everything is healthy.
    pub(crate) fn healthy(&self, cluster: &Cluster, health: &[Health], paths: &Paths, took: Duration) {
        match self.output {
            Output::Json => output::line(&cluster.to_json()),
            Output::Table => {
                output::line(&self.table(cluster, health));
                output::line(&self.hints(paths, took));
            }
        }
    }

    fn table(&self, cluster: &Cluster, health: &[Health]) -> String {
        let mut table = Table::new();
        table
            .load_preset(NOTHING)
            .set_header(["COMPONENT", "ADDRESS", "PID", "HEALTH"]);
        for (component, health) in cluster.components.iter().zip(health) {
            let pid = component.pid.map_or_else(|| "-".to_owned(), |p| p.to_string());
            let health = match health {
                Ok(what) => format!("healthy: {what}"),
                Err(why) => format!("NOT healthy: {why}"),
            };
            table.add_row([&component.name, &component.address, &pid, &health]);
        }
        output::table(&table)
    }

    fn hints(&self, paths: &Paths, took: Duration) -> String {
        let port = |kind| self.parts.iter().find(|p| p.kind == kind).map(|p| p.port);
        let me = shell_word(&std::env::args().next().unwrap_or_else(|| "redoubt".to_owned()));
        let nodes = endpoints(&self.parts).join(",");
        let dir = shell_word(&paths.dir().to_string_lossy());
        let mut lines = vec![format!(
            "\nReady after {}. Clients connect to the proxy. Try:",
            duration::shown(took)
        )];
        if let Some(port) = port(Kind::Proxy) {
            lines.push(format!("  redis-cli -p {port} set greeting hello"));
        }
        if let Some(port) = port(Kind::Replica) {
            lines.push(format!(
                "  redis-cli -p {port} get greeting        # on a replica"
            ));
        }
        lines.push(format!("  {me} status --endpoints {nodes}"));
        lines.push(format!("  {me} tail --endpoints {nodes}"));
        lines.push(format!(
            "  {me} dev stop journal-1 --dir {dir}        # and dev start"
        ));
        lines.push(format!(
            "Ctrl-C stops everything in order; the data stays in {dir}."
        ));
        lines.join("\n")
    }

    /// Something happened.
    pub(crate) fn news(&self, news: &News) {
        let (event, part, pid, again_in) = match news {
            News::Started { part, pid } => ("started", Some(*part), Some(*pid), None),
            News::Died {
                part, pid, again_in, ..
            } => ("died", Some(*part), Some(*pid), *again_in),
            News::Ended { part, pid } => ("ended", Some(*part), Some(*pid), None),
            News::Killed { part, pid, .. } => ("killed", Some(*part), Some(*pid), None),
            News::NotStarted { part, again_in, .. } => ("not_started", Some(*part), None, *again_in),
            News::ReplicasBehind { .. } => ("replicas_behind", None, None, None),
        };
        let name = part.map(|p| self.parts[p].name.as_str());
        let message = sentence(news, name.unwrap_or_default());
        self.event(EventLine {
            event,
            name,
            pid,
            again_in_ms: again_in.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            message: &message,
        });
    }

    /// Everything is being stopped, or has been.
    pub(crate) fn stopping(&self, event: &'static str, message: &str) {
        self.event(EventLine {
            event,
            name: None,
            pid: None,
            again_in_ms: None,
            message,
        });
    }

    fn event(&self, event: EventLine<'_>) {
        match self.output {
            Output::Json => output::line(&serde_json::to_string(&event).unwrap_or_default()),
            Output::Table => output::line(event.message),
        }
    }
}

/// `word` as a shell takes it for one word.
fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn again(again_in: Option<Duration>) -> String {
    again_in.map_or_else(
        || "it stays down".to_owned(),
        |d| format!("it is started again in {}", duration::shown(d)),
    )
}

fn sentence(news: &News, name: &str) -> String {
    match news {
        News::Started { pid, .. } => format!("{name} was started as pid {pid}"),
        News::Died {
            pid, how, again_in, ..
        } => format!("{name} (pid {pid}) died: {how}; {}", again(*again_in)),
        News::Ended { pid, .. } => format!("{name} (pid {pid}) has ended"),
        News::Killed { pid, after, .. } => {
            format!(
                "{name} (pid {pid}) did not end within {}; killing it",
                duration::shown(*after)
            )
        }
        News::NotStarted { why, again_in, .. } => {
            format!("{name} can't be started: {why}; {}", again(*again_in))
        }
        News::ReplicasBehind { after } => format!(
            "the replicas did not reach the journal's tail within {}; they will go on from where they are",
            duration::shown(*after)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_typed_can_be_pasted() {
        assert_eq!(shell_word("/tmp/.redoubt-1"), "/tmp/.redoubt-1");
        assert_eq!(shell_word("/tmp/my data"), "'/tmp/my data'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
    }

    #[test]
    fn deaths_say_what_follows() {
        let died = |again_in| News::Died {
            part: 0,
            pid: 7,
            how: "it was ended by signal 9".into(),
            again_in,
        };
        assert_eq!(
            sentence(&died(Some(Duration::from_secs(1))), "master-1"),
            "master-1 (pid 7) died: it was ended by signal 9; it is started again in 1 s"
        );
        assert!(sentence(&died(None), "master-1").ends_with("it stays down"));
    }
}
