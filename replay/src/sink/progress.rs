//! How far the target is, told in the log and to the journal every few seconds. For people only.

use super::position::Place;
use redoubt_client::{Client, ReplicaReport};
use redoubt_env::Env;
use redoubt_types::limits::RPC_DEADLINE;
use redoubt_types::{Offset, WallTime};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// What was applied so far.
#[derive(Clone, Copy, Debug, Default)]
struct Applied {
    /// The target's position; `None` before it is known.
    offset: Option<Offset>,
    /// When what was applied last was captured.
    captured: WallTime,
    commands: u64,
}

/// Shared with the task that tells it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Mutex<Applied>>);

impl Progress {
    fn lock(&self) -> MutexGuard<'_, Applied> {
        // Numbers for people: after a panic they are still worth showing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target was found at `place`.
    pub(super) fn begins(&self, place: &Place) {
        self.lock().offset = Some(place.offset);
    }

    /// It stands at `place` by now, after `commands` more.
    pub(super) fn applied(&self, place: &Place, captured: WallTime, commands: usize) {
        let mut applied = self.lock();
        applied.offset = Some(place.offset);
        applied.captured = captured;
        applied.commands += commands as u64;
    }
}

/// Tells it for ever.
pub(super) async fn tell(env: Env, client: Client, progress: Progress, name: String, target: String) {
    let mut told = Applied::default();
    loop {
        env.sleep(TELL_EVERY).await;
        let applied = *progress.lock();
        let Some(offset) = applied.offset else { continue };
        let Ok(journal) = client.describe(RPC_DEADLINE).await else {
            continue;
        };
        let tail = journal.position.tail;
        let bytes_behind = tail.since(offset).unwrap_or(0);
        // Until something was applied nobody knows from when it is.
        let known = bytes_behind > 0 && applied.captured != WallTime::default();
        let seconds_behind = known.then(|| env.wall().ms().saturating_sub(applied.captured.ms()) / 1000);
        if told.offset != applied.offset || bytes_behind > 0 {
            let per_second = (applied.commands - told.commands) / TELL_EVERY.as_secs();
            tracing::info!(
                %offset,
                %tail,
                bytes_behind,
                seconds_behind = seconds_behind.unwrap_or(0),
                commands_per_second = per_second,
                "applied"
            );
        }
        told = applied;
        let report = ReplicaReport {
            address: target.clone(),
            acked: offset,
            sent: offset,
            replid: journal.lineage.last().replid,
            state: "online".to_owned(),
            full_syncs: 0,
        };
        let _late = env
            .timeout(RPC_DEADLINE, client.report_replicas(&name, &[report]))
            .await;
    }
}
