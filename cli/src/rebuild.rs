//! `redoubt rebuild`: makes an empty server equal to the journal's tail.
//!
//! The work is the replay's; what is decided here is what a Ctrl-C does: a server that was told to follow a master that
//! goes away with this process must be told otherwise.

use crate::args::Journal;
use crate::failure::Failure;
use crate::{client, output, redis};
use redoubt_env::Env;
use redoubt_replay::{Progress, RebuildError, rebuild};
use redoubt_resp::info::{Role, parse_replication};
use redoubt_types::BootTime;
use std::time::Duration;

/// How often the progress is said.
const SAY_EVERY: Duration = Duration::from_secs(1);
/// How long the server may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// Rebuilds the journal into the server at `into`.
///
/// # Errors
/// When the server is not one that may be rebuilt into, or it was not done; the sentence says how the server was left.
pub(crate) async fn run(env: &Env, journal: Journal, into: String) -> Result<(), Failure> {
    let client = client(env, journal);
    let was_master = role(env, &into).await == Some(Role::Master);
    let mut said_at: Option<BootTime> = None;
    let clock = env.clone();
    let progress = |at: Progress| {
        let now = clock.now();
        if said_at.is_none_or(|then| now.since(then) >= SAY_EVERY) {
            said_at = Some(now);
            output::note(&format!("  {} of {} bytes", at.fed, at.goal));
        }
    };
    tokio::select! {
        biased;
        done = rebuild(env.clone(), client, &into, progress) => match done {
            Ok(report) => {
                output::line(&format!(
                    "{into} equals the journal up to offset {} (replid {}): {} keys",
                    report.tail, report.replid, report.keys
                ));
                Ok(())
            }
            Err(e @ RebuildError::Journal(_)) => Err(Failure::unavailable(e.to_string())),
            Err(e) => Err(Failure::failed(e.to_string())),
        },
        _ = tokio::signal::ctrl_c() => Err(Failure::killed(let_go(env, &into, was_master).await)),
    }
}

async fn role(env: &Env, server: &str) -> Option<Role> {
    let info = redis::ask(env, server, &["INFO", "replication"], ANSWER_WAIT)
        .await
        .ok()?;
    Some(parse_replication(info.as_bytes()?).ok()?.role)
}

/// Leaves the server as a master if it was one, and says how it was left.
async fn let_go(env: &Env, into: &str, was_master: bool) -> String {
    // A server that was somebody's replica before was refused, and must stay what it was.
    if !was_master || role(env, into).await == Some(Role::Master) {
        return format!("interrupted; {into} may hold a part of the journal, and is NOT equal to it");
    }
    let left = match redis::ask(env, into, &["REPLICAOF", "NO", "ONE"], ANSWER_WAIT).await {
        Ok(_) => "it was told REPLICAOF NO ONE".to_owned(),
        Err(e) => format!("tell it REPLICAOF NO ONE ({e})"),
    };
    format!("interrupted; {into} is NOT equal to the journal; {left}")
}
