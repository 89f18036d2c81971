//! A cluster under load that is given what nobody should give it.

use crate::{DevCluster, Options, Server, Tokens, Watched, connect, wait_equal};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

/// A cluster under load that is watched, and must not notice what a test does to it.
pub struct Abused {
    /// The cluster.
    pub cluster: DevCluster,
    /// Its load.
    pub tokens: Tokens,
    /// Bytes that a process of Redoubt's own may take beyond what it took at the beginning.
    pub grown_max: u64,
    watched: Watched,
}

impl Abused {
    /// Starts a cluster and its load.
    pub async fn start(grown_max: u64) -> Abused {
        Self::of(DevCluster::start(Options::default()).await, grown_max).await
    }

    /// Starts the load of a cluster.
    pub async fn of(cluster: DevCluster, grown_max: u64) -> Abused {
        let tokens = Tokens::start(cluster.port("proxy-1"), 4, "abused");
        tokens.progress(300, SOON * 3).await;
        let watched = Watched::new(&cluster);
        Abused {
            cluster,
            tokens,
            grown_max,
            watched,
        }
    }

    /// The load went on all the time, nothing is lost, nobody was started again, memory is bounded; and none of
    /// `keys` is there.
    ///
    /// # Panics
    /// When not.
    pub async fn unhurt(mut self, keys: &[&str]) {
        self.tokens.progress(300, SOON).await;
        let outcome = self.tokens.stop().await;
        assert_eq!(outcome.broken, 0, "a lawful client's connection was closed");
        println!("{}", self.watched.assert_unhurt(&self.cluster, self.grown_max));
        let mut proxy = connect(self.cluster.port("proxy-1")).await;
        outcome.assert_kept_by(&mut proxy).await;
        for key in keys {
            let there: bool = redis::cmd("EXISTS")
                .arg(key)
                .query_async(&mut proxy)
                .await
                .expect("EXISTS");
            assert!(!there, "{key} is there");
        }
        let mut master = connect(self.cluster.port("master-1")).await;
        wait_equal(&mut master, &mut connect(self.cluster.port("replica-1")).await).await;
        let fresh = Server::start(&[]).await;
        self.cluster.rebuild_into(&fresh).await;
        let mut fresh = fresh.connect().await;
        outcome.assert_kept_by(&mut fresh).await;
        wait_equal(&mut master, &mut fresh).await;
        self.cluster.down().await;
    }
}
