//! What replays last said of their replicas: for people, in memory only.

use redoubt_env::Env;
use redoubt_proto::v1;
use redoubt_types::BootTime;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Replays remembered at most; the one heard of longest ago goes first.
const REPLAYS_MAX: usize = 64;
/// Age at which a report says nothing any more.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);

/// The board.
#[derive(Default)]
pub(super) struct ReplicaBoard(Mutex<BTreeMap<String, (BootTime, Vec<v1::ReplicaReport>)>>);

impl ReplicaBoard {
    pub(super) fn put(&self, env: &Env, replay: String, replicas: Vec<v1::ReplicaReport>) {
        let mut board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        board.insert(replay, (env.now(), replicas));
        if board.len() > REPLAYS_MAX
            && let Some(oldest) = board
                .iter()
                .min_by_key(|(_, (at, _))| *at)
                .map(|(name, _)| name.clone())
        {
            board.remove(&oldest);
        }
    }

    pub(super) fn fresh(&self, env: &Env) -> Vec<v1::ReplicaStatus> {
        let board = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = env.now();
        let fresh = board
            .iter()
            .filter(|(_, (at, _))| now.since(*at) <= REPORT_AGE_MAX);
        fresh
            .flat_map(|(replay, (at, reports))| {
                let age_ms = now.since(*at).as_millis() as u64;
                let status = move |r: &v1::ReplicaReport| v1::ReplicaStatus {
                    replay: replay.clone(),
                    report: Some(r.clone()),
                    age_ms,
                };
                reports.iter().map(status)
            })
            .collect()
    }
}
