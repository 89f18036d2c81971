//! `DIR/cluster.json`: what runs, for tools.
//!
//! Its shape is a contract: tests and tools of other people read it. It exists only while the cluster is up: it is
//! first written when everything is healthy, and gone once the cluster is being stopped.

use super::layout::Kind;
use serde::{Deserialize, Serialize};

/// Name of the file in DIR.
pub(crate) const FILE: &str = "cluster.json";

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cluster {
    /// All components, running or not.
    pub(crate) components: Vec<Component>,
}

/// One component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Component {
    /// Its name, which stays when it is started again.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// The process, null while there is none.
    pub(crate) pid: Option<u32>,
    /// Where it listens, `ip:port`.
    pub(crate) address: String,
    /// Path of its log, absolute.
    pub(crate) log: String,
}

impl Cluster {
    /// The file's bytes: one line of JSON.
    pub(crate) fn to_json(&self) -> String {
        // A struct of strings and numbers always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_what_tools_rely_on() {
        let cluster = Cluster {
            components: vec![
                Component {
                    name: "journal-1".into(),
                    kind: Kind::Journal,
                    pid: Some(1),
                    address: "127.0.0.1:7101".into(),
                    log: "/d/journal-1/journal-1.log".into(),
                },
                Component {
                    name: "master-1".into(),
                    kind: Kind::Master,
                    pid: None,
                    address: "127.0.0.1:7201".into(),
                    log: "/d/master-1/redis.log".into(),
                },
            ],
        };
        assert_eq!(
            cluster.to_json(),
            concat!(
                r#"{"components":[{"name":"journal-1","kind":"journal","pid":1,"address":"127.0.0.1:7101","#,
                r#""log":"/d/journal-1/journal-1.log"},{"name":"master-1","kind":"master","pid":null,"#,
                r#""address":"127.0.0.1:7201","log":"/d/master-1/redis.log"}]}"#
            )
        );
    }
}
