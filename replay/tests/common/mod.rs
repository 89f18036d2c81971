//! What the tests of this folder share.
#![allow(clippy::disallowed_methods, reason = "tests run on the real machine")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    reason = "each test binary uses its part"
)]

pub mod bases;
pub mod journal;
pub mod redis;

use journal::{FakeJournal, FakeNode};
use redis::Redis;
use redoubt_env::{Env, Task};
use redoubt_replay::{Config, Replay};

/// A replay running inside the test.
pub struct Running {
    pub address: String,
    pub port: String,
    _task: Task<()>,
}

/// Starts a replay over `nodes` on `listen`.
pub async fn replay(listen: &str, nodes: &[&FakeNode]) -> Running {
    let config = Config {
        listen: listen.to_owned(),
        endpoints: nodes.iter().map(|n| n.endpoint.clone()).collect(),
        journal: Default::default(),
        cluster: None,
        name: "replay-1".to_owned(),
    };
    let env = Env::real();
    let replay = Replay::bind(config, env.clone()).await.unwrap();
    let address = replay.local_addr();
    let port = address.rsplit(':').next().unwrap().to_owned();
    Running {
        address,
        port,
        _task: env.spawn(replay.serve()),
    }
}

impl Running {
    /// A stock server that is this replay's replica.
    pub async fn replica(&self) -> Redis {
        Redis::start(&["--replicaof", &format!("127.0.0.1 {}", self.port)]).await
    }
}

/// Full syncs that the replay counted for the server's address, as the journal was told.
pub fn told_full_syncs(journal: &FakeJournal, redis: &Redis) -> Option<u64> {
    let address = format!("127.0.0.1:{}", redis.port);
    journal
        .reports()
        .iter()
        .find(|r| r.address == address)
        .map(|r| r.full_syncs)
}
