//! Which components a cluster on one machine has: their names, ports and the order in which they end.
//!
//! Pure. Ports, for `--port-base B` (7000 by default): the proxy has B, the journal nodes B+101 …, the master B+201,
//! the replicas B+211 …, the replay B+301.

use serde::{Deserialize, Serialize};

/// `--port-base` when nothing is said.
pub(crate) const PORT_BASE: u16 = 7000;
/// Journal nodes when nothing is said.
pub(crate) const JOURNALS: u16 = 3;
/// Journal nodes at most: more voters only cost.
const JOURNALS_MAX: u16 = 9;
/// Replicas at most: their ports must end before the replay's.
const REPLICAS_MAX: u16 = 80;
/// The largest distance of a port from the base.
const PORT_SPAN: u16 = 301;

/// What a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A node of the journal.
    Journal,
    /// The redis-server that is to be promoted.
    Master,
    /// A redis-server that stays a replica.
    Replica,
    /// What clients connect to.
    Proxy,
    /// What feeds all redis-servers.
    Replay,
}

impl Kind {
    /// All kinds in the order in which they end. Each may still need the ones behind it: the master hands its last
    /// bytes to the proxy, which appends them to the journal, which the replay feeds to the replicas.
    pub(crate) const ENDING: [Kind; 5] = [
        Kind::Master,
        Kind::Replica,
        Kind::Proxy,
        Kind::Replay,
        Kind::Journal,
    ];

    /// The word in names, in cluster.json and on the command line.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Kind::Journal => "journal",
            Kind::Master => "master",
            Kind::Replica => "replica",
            Kind::Proxy => "proxy",
            Kind::Replay => "replay",
        }
    }

    /// Whether it is a stock server.
    pub(crate) fn is_server(self) -> bool {
        matches!(self, Kind::Master | Kind::Replica)
    }
}

impl std::str::FromStr for Kind {
    type Err = String;
    fn from_str(word: &str) -> Result<Self, String> {
        let known = Kind::ENDING.into_iter().find(|k| k.word() == word);
        known.ok_or_else(|| {
            format!("{word:?} is no kind of component; there are journal, master, replica, proxy, replay")
        })
    }
}

/// One component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// `journal-1` …: also the name of its folder.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// Where it listens, on loopback.
    pub(crate) port: u16,
}

impl Part {
    /// `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// How large a cluster is and where its ports lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    port_base: u16,
    journals: u16,
    replicas: u16,
}

impl Layout {
    /// A layout whose ports exist and don't overlap.
    ///
    /// # Errors
    /// A sentence for the user.
    pub(crate) fn new(port_base: u16, journals: u16, replicas: u16) -> Result<Self, String> {
        if journals == 0 || journals > JOURNALS_MAX || journals.is_multiple_of(2) {
            return Err(format!(
                "--journals must be odd, 1 to {JOURNALS_MAX} (a quorum is a majority: 3 survive the loss of one), not {journals}"
            ));
        }
        if replicas > REPLICAS_MAX {
            return Err(format!(
                "--replicas must be {REPLICAS_MAX} at most, not {replicas}"
            ));
        }
        let last = u16::MAX - PORT_SPAN;
        if port_base == 0 || port_base > last {
            return Err(format!(
                "--port-base must be 1 to {last}: ports up to {PORT_SPAN} above it are used, not {port_base}"
            ));
        }
        Ok(Layout {
            port_base,
            journals,
            replicas,
        })
    }

    /// The first port.
    pub(crate) fn port_base(&self) -> u16 {
        self.port_base
    }

    /// How many journal nodes there are.
    pub(crate) fn journals(&self) -> u16 {
        self.journals
    }

    /// All components, in the order in which they are listed.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let row = |kind: Kind, count: u16, first: u16| {
            (0..count).map(move |i| Part {
                name: format!("{}-{}", kind.word(), i + 1),
                kind,
                port: first + i,
            })
        };
        let base = self.port_base;
        row(Kind::Journal, self.journals, base + 101)
            .chain(row(Kind::Master, 1, base + 201))
            .chain(row(Kind::Replica, self.replicas, base + 211))
            .chain(row(Kind::Proxy, 1, base))
            .chain(row(Kind::Replay, 1, base + PORT_SPAN))
            .collect()
    }
}

/// The component that the user means by `name`: its name, or its kind if there is only one of it.
///
/// # Errors
/// A sentence that lists the names there are.
pub(crate) fn find(parts: &[Part], name: &str) -> Result<usize, String> {
    if let Some(at) = parts.iter().position(|p| p.name == name) {
        return Ok(at);
    }
    let mut of_kind = parts.iter().enumerate().filter(|(_, p)| p.kind.word() == name);
    if let (Some((at, _)), None) = (of_kind.next(), of_kind.next()) {
        return Ok(at);
    }
    let names: Vec<_> = parts.iter().map(|p| p.name.as_str()).collect();
    Err(format!(
        "there is no component {name:?}; there are {}",
        names.join(", ")
    ))
}

/// Addresses of the journal nodes.
pub(crate) fn endpoints(parts: &[Part]) -> Vec<String> {
    parts
        .iter()
        .filter(|p| p.kind == Kind::Journal)
        .map(Part::address)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_lie_where_the_documentation_says() {
        let parts = Layout::new(7000, 3, 2).unwrap().parts();
        let shown: Vec<_> = parts.iter().map(|p| format!("{} {}", p.name, p.port)).collect();
        assert_eq!(
            shown,
            [
                "journal-1 7101",
                "journal-2 7102",
                "journal-3 7103",
                "master-1 7201",
                "replica-1 7211",
                "replica-2 7212",
                "proxy-1 7000",
                "replay-1 7301"
            ]
        );
        assert_eq!(
            endpoints(&parts),
            ["127.0.0.1:7101", "127.0.0.1:7102", "127.0.0.1:7103"]
        );
    }

    #[test]
    fn no_layout_that_is_accepted_has_a_port_twice() {
        let parts = Layout::new(u16::MAX - PORT_SPAN, JOURNALS_MAX, REPLICAS_MAX)
            .unwrap()
            .parts();
        let mut ports: Vec<_> = parts.iter().map(|p| p.port).collect();
        ports.sort_unstable();
        assert!(ports.windows(2).all(|w| w[0] < w[1]), "{ports:?}");
        assert!(Layout::new(u16::MAX - PORT_SPAN + 1, 3, 1).is_err());
        assert!(Layout::new(7000, 2, 1).is_err());
        assert!(Layout::new(7000, 0, 1).is_err());
        assert!(Layout::new(7000, 3, REPLICAS_MAX + 1).is_err());
    }

    #[test]
    fn a_kind_names_its_only_component() {
        let parts = Layout::new(7000, 3, 1).unwrap().parts();
        assert_eq!(find(&parts, "journal-2"), Ok(1));
        assert_eq!(find(&parts, "master"), Ok(3));
        assert!(find(&parts, "journal").unwrap_err().contains("journal-3"));
    }
}
