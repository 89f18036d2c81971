//! The systems that are compared.

use super::twemproxy::Twemproxy;
use crate::load::{Target, fill};
use redoubt_tests::{DevCluster, Options, Server, eventually, info_field};
use std::time::Duration;

/// Keys of a value's size: what all systems hold together stays below 2 GB.
const fn keys(bytes: usize) -> u64 {
    if bytes <= 1024 { 100_000 } else { 10_000 }
}

/// How long replicas may take to follow.
const FOLLOW_MAX: Duration = Duration::from_secs(30);
/// A server that answers a write when it is on its disk. Its log is not rewritten in between: that would cost it time.
const ALWAYS: [&str; 6] = [
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--auto-aof-rewrite-percentage",
    "0",
];

/// What is compared, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A server without persistence.
    Stock,
    /// A server with `appendfsync always`.
    Always,
    /// A server with two replicas, all with `appendfsync always`, and a WAIT for one of them behind each write.
    Wait,
    /// twemproxy in front of a server without persistence.
    Twemproxy,
    /// Redoubt; each client has a connection to the server.
    Dedicated,
    /// Redoubt; clients share a connection to the server.
    Shared,
}

impl Kind {
    /// For people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Stock => "stock",
            Kind::Always => "stock, always",
            Kind::Wait => "stock, always, WAIT 1",
            Kind::Twemproxy => "twemproxy",
            Kind::Dedicated => "redoubt, dedicated",
            Kind::Shared => "redoubt, shared",
        }
    }

    /// Whether it answers reads as a stock server does: these are not measured twice.
    pub(crate) fn reads_as_stock(self) -> bool {
        matches!(self, Kind::Always | Kind::Wait)
    }
}

/// What has to be kept for a system to run.
enum Runs {
    Servers(Vec<Server>),
    Behind(Server, Twemproxy),
    Cluster(DevCluster),
}

/// A system that runs.
pub(crate) struct System {
    pub(crate) kind: Kind,
    port: u16,
    /// Its processes, by name.
    processes: Vec<(String, u32)>,
    runs: Runs,
    /// Size of the values that its keys have.
    filled: Option<usize>,
}

impl System {
    /// Starts one.
    pub(crate) async fn start(kind: Kind) -> System {
        let named = |servers: &[Server]| {
            let name = |i| match i {
                0 => "server".to_owned(),
                i => format!("replica-{i}"),
            };
            let all = servers.iter().enumerate();
            all.map(|(i, server)| (name(i), server.pid())).collect()
        };
        let (port, processes, runs) = match kind {
            Kind::Stock | Kind::Always => {
                let args: &[&str] = if kind == Kind::Always { &ALWAYS } else { &[] };
                let servers = vec![Server::start(args).await];
                (servers[0].port, named(&servers), Runs::Servers(servers))
            }
            Kind::Wait => {
                let servers = replicated().await;
                (servers[0].port, named(&servers), Runs::Servers(servers))
            }
            Kind::Twemproxy => {
                let server = Server::start(&[]).await;
                let proxy = Twemproxy::start(server.port).await;
                let processes = vec![("server".into(), server.pid()), ("proxy".into(), proxy.pid())];
                (proxy.port, processes, Runs::Behind(server, proxy))
            }
            Kind::Dedicated | Kind::Shared => {
                let cluster = DevCluster::start(Options {
                    replicas: 0,
                    args: vec![("proxy", format!("--shared-upstream={}", kind == Kind::Shared))],
                    ..Options::default()
                })
                .await;
                let components = cluster.components().expect("the cluster is healthy");
                let processes = components.into_iter().filter_map(|c| Some((c.name, c.pid?)));
                (
                    cluster.port("proxy-1"),
                    processes.collect(),
                    Runs::Cluster(cluster),
                )
            }
        };
        System {
            kind,
            port,
            processes,
            runs,
            filled: None,
        }
    }

    /// What a load with values of `bytes` bytes is put on. Every key has such a value.
    pub(crate) async fn target(&mut self, bytes: usize) -> Target {
        let target = Target {
            port: self.port,
            waits: self.kind == Kind::Wait,
            keys: keys(bytes),
        };
        if self.filled != Some(bytes) {
            fill(target, bytes).await;
            self.filled = Some(bytes);
        }
        target
    }

    /// Its processes, and this one, which loads it.
    pub(crate) fn processes(&self) -> Vec<(String, u32)> {
        let own = ("load".to_owned(), std::process::id());
        self.processes.iter().cloned().chain([own]).collect()
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        match self.runs {
            Runs::Servers(servers) => drop(servers),
            Runs::Behind(server, proxy) => drop((proxy, server)),
            Runs::Cluster(mut cluster) => cluster.down().await,
        }
    }
}

/// A server with two replicas that follow it.
async fn replicated() -> Vec<Server> {
    let mut servers = vec![Server::start(&ALWAYS).await];
    let port = servers[0].port.to_string();
    for _ in 0..2 {
        let args = [&ALWAYS[..], &["--replicaof", "127.0.0.1", &port]].concat();
        servers.push(Server::start(&args).await);
    }
    let conn = servers[0].connect().await;
    let following = || {
        let mut conn = conn.clone();
        async move {
            let count = info_field(&mut conn, "replication", "connected_slaves").await;
            let mut online = 0;
            for i in 0..count.parse().unwrap_or(0) {
                let told = info_field(&mut conn, "replication", &format!("slave{i}")).await;
                online += u32::from(told.contains("state=online"));
            }
            if online == 2 {
                Ok(())
            } else {
                Err(format!("{online} do"))
            }
        }
    };
    eventually("two replicas follow", FOLLOW_MAX, following).await;
    servers
}
