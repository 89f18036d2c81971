//! What happens to a cluster that is hunted on: each misfortune is a function of the seed.

use redoubt_tests::DevCluster;
use redoubt_tests::Dice;
use rustix::process::Signal;
use std::collections::BTreeMap;

/// One misfortune.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    /// The quorum stands still, the master goes on, and then all that may know of what it did dies.
    Disaster,
    /// The same, but the proxy lives.
    MasterAhead,
    /// A journal node dies, or two.
    NodesKilled,
    /// A journal node stands still, or two.
    NodesPaused,
    /// The master dies.
    MasterKilled,
    /// The proxy dies.
    ProxyKilled,
    /// The proxy stands still, perhaps for longer than its lease.
    ProxyPaused,
    /// The master stands still.
    MasterPaused,
}

/// The first is one that shows at once whether anything was seen too early.
const BEGINNING: [Blow; 2] = [Blow::Disaster, Blow::NodesPaused];
const LATER: [Blow; 12] = [
    Blow::Disaster,
    Blow::MasterAhead,
    Blow::NodesKilled,
    Blow::NodesKilled,
    Blow::NodesPaused,
    Blow::NodesPaused,
    Blow::NodesPaused,
    Blow::MasterKilled,
    Blow::MasterKilled,
    Blow::ProxyKilled,
    Blow::ProxyPaused,
    Blow::MasterPaused,
];

/// What has happened so far.
pub struct Chaos {
    dice: Dice,
    done: BTreeMap<Blow, u64>,
    count: u64,
}

impl Chaos {
    /// Nothing yet.
    pub fn new(dice: Dice) -> Chaos {
        Chaos {
            dice,
            done: BTreeMap::new(),
            count: 0,
        }
    }

    /// How many blows there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of each.
    pub fn done(&self) -> &BTreeMap<Blow, u64> {
        &self.done
    }

    /// Which is next.
    pub fn next(&mut self) -> Blow {
        let begins = BEGINNING.get(self.count as usize).copied();
        let blow = begins.unwrap_or_else(|| self.dice.pick(&LATER));
        self.count += 1;
        *self.done.entry(blow).or_default() += 1;
        blow
    }

    /// Strikes, and heals what was stopped; what was killed is started again by the supervisor.
    pub async fn strike(&mut self, blow: Blow, cluster: &DevCluster) {
        match blow {
            Blow::Disaster | Blow::MasterAhead => {
                let (leader, other) = self.leader_and_another(cluster).await;
                for node in [&leader, &other] {
                    cluster.signal(node, Signal::STOP);
                }
                self.dice.pause(200, 1500).await;
                if blow == Blow::Disaster {
                    let all = ["master-1", "proxy-1", &*leader, &*other];
                    cluster.kill_all(&all).await;
                } else {
                    let killed = cluster.kill("master-1");
                    for node in [&leader, &other] {
                        cluster.signal(node, Signal::CONT);
                    }
                    cluster.restarted("master-1", killed).await;
                }
            }
            Blow::NodesKilled => {
                let nodes = self.nodes();
                let nodes: Vec<&str> = nodes.iter().map(|node| &**node).collect();
                cluster.kill_all(&nodes).await;
            }
            Blow::NodesPaused => {
                let nodes = self.nodes();
                self.stopped(cluster, &nodes, 2500).await;
            }
            Blow::MasterKilled => cluster.kill_all(&["master-1"]).await,
            Blow::ProxyKilled => cluster.kill_all(&["proxy-1"]).await,
            Blow::ProxyPaused => self.stopped(cluster, &["proxy-1".to_owned()], 4000).await,
            Blow::MasterPaused => self.stopped(cluster, &["master-1".to_owned()], 2000).await,
        }
    }

    async fn stopped(&mut self, cluster: &DevCluster, names: &[String], ms_max: u64) {
        for name in names {
            cluster.signal(name, Signal::STOP);
        }
        self.dice.pause(200, ms_max).await;
        for name in names {
            cluster.signal(name, Signal::CONT);
        }
    }

    /// A node, or two.
    fn nodes(&mut self) -> Vec<String> {
        let first = self.dice.roll(3);
        (0..=self.dice.roll(2))
            .map(|n| format!("journal-{}", 1 + (first + n) % 3))
            .collect()
    }

    async fn leader_and_another(&mut self, cluster: &DevCluster) -> (String, String) {
        let leader = cluster.leader().await;
        let nodes = ["journal-1", "journal-2", "journal-3"];
        let others: Vec<&str> = nodes.into_iter().filter(|name| *name != leader).collect();
        let other = self.dice.pick(&others).to_owned();
        (leader, other)
    }
}
