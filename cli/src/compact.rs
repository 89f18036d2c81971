//! `redoubt compact`: a new base now.

use crate::failure::Failure;
use crate::output;
use redoubt_client::{Client, FoldStatus, Reason, WriterError};
use redoubt_env::Env;
use redoubt_types::BaseName;
use std::time::Duration;

/// How long the leader may take to be found.
const ASK_WAIT: Duration = Duration::from_secs(10);
/// How often it is asked how the fold goes.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Asks for a fold, and waits until the journal has another base, for `timeout` at most.
///
/// # Errors
/// When there is nothing to fold, nobody folds in time, or the fold fails: then the base and all editlogs are as they were.
pub(crate) async fn run(env: &Env, client: &Client, timeout: Duration) -> Result<(), Failure> {
    let unavailable = |e: &dyn std::fmt::Display| Failure::unavailable(format!("nothing is folded: {e}"));
    let before = client.describe(ASK_WAIT).await.map_err(|e| unavailable(&e))?;
    let old = before.base.as_ref().map(|b| b.name);
    client.compact(ASK_WAIT).await.map_err(|e| match e {
        WriterError::Refused {
            reason: Reason::BadBase,
            message,
            ..
        } => Failure::failed(message),
        e => unavailable(&e),
    })?;
    if timeout.is_zero() {
        output::line("a fold is asked for");
        return Ok(());
    }
    let until = env.now().plus(timeout);
    let mut told = String::new();
    let mut has_begun = false;
    while !until.since(env.now()).is_zero() {
        env.sleep(LOOK_EVERY).await;
        if done(client, old).await {
            return Ok(());
        }
        let Some(fold) = fold_status(client).await else {
            continue;
        };
        has_begun |= fold.state == "folding";
        if fold.state == "failed" && has_begun {
            let text = format!(
                "the fold by {} failed, all is as it was: {}",
                fold.replay, fold.message
            );
            return Err(Failure::failed(text));
        }
        let text = match fold.state.as_str() {
            "folding" => format!("  {}: {}", fold.replay, fold.message),
            _ => "  no replay has begun yet".to_owned(),
        };
        if text != told {
            output::note(&text);
            told = text;
        }
    }
    let why = match has_begun {
        true => "it goes on",
        false => "no replay has begun: is one running, with --fold on?",
    };
    Err(Failure::unavailable(format!(
        "there is no new base after {timeout:?}; {why}"
    )))
}

/// Says what the new base is, if there is one.
async fn done(client: &Client, old: Option<BaseName>) -> bool {
    let Ok(journal) = client.describe(ASK_WAIT).await else {
        return false;
    };
    match journal.base {
        Some(base) if Some(base.name) != old => {
            output::line(&format!(
                "the journal's base stands at offset {}: {} keys, {} bytes of RDB by {}",
                base.at(),
                base.keys,
                base.bytes,
                base.server
            ));
            true
        }
        _ => false,
    }
}

async fn fold_status(client: &Client) -> Option<FoldStatus> {
    let all = client.status().await;
    all.into_iter().find_map(|(_, status)| status.ok()?.fold)
}
