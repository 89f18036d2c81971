//! Makes an empty server equal to the journal's tail and lets it go.
//!
//! Only through a replica link (H20): the server is told to replicate from a master that this module runs for
//! it alone, which serves the journal up to the quorum-confirmed tail of the start and then rests; once the
//! server stands there, it is told `REPLICAOF NO ONE`. Whatever goes wrong after the first REPLICAOF, it is
//! told so too, and the error says whether that worked.

mod target;
mod verdict;

pub use verdict::Unfit;

use crate::config::{REBUILD_CONFIRM_DEADLINE, REBUILD_POLL_EVERY, REBUILD_STALL_MAX};
use crate::error::Error;
use crate::master::{Shared, accept, listen_on};
use redoubt_client::{Client, ClientError};
use redoubt_env::Env;
use redoubt_env::net::Listener;
use redoubt_types::{Offset, ReplId};
use std::sync::Arc;
use target::{Target, TargetError};

/// How far a rebuild is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What the server holds.
    pub fed: Offset,
    /// Where it will be let go.
    pub goal: Offset,
}

/// A rebuild that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RebuildReport {
    /// The journal's tail that the server is equal to: confirmed by a quorum when the rebuild began.
    pub tail: Offset,
    /// The replid that it was fed under, and which ends at `tail` for it.
    pub replid: ReplId,
    /// Keys in all databases, counted after it was let go. Those whose time to live is over by now may be
    /// gone already.
    pub keys: u64,
}

/// Why a rebuild failed.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The server was left as it was: it is not one that may be rebuilt into.
    #[error("{target} was left as it was: {why}")]
    Unfit {
        /// The server's `host:port`.
        target: String,
        /// What speaks against it.
        why: Unfit,
    },
    /// The server was left as it was: it does not answer, or not as a redis-server does.
    #[error("{target} was left as it was: {why}")]
    Unreachable {
        /// The server's `host:port`.
        target: String,
        /// What happened.
        why: String,
    },
    /// The server was left as it was: the journal's tail could not be confirmed by a quorum.
    #[error("the journal's tail can't be confirmed: {0}")]
    Journal(#[from] ClientError),
    /// The server was left as it was: there is no address to serve it from.
    #[error(transparent)]
    Listen(#[from] Error),
    /// It failed midway. The server is not equal to the journal and MUST not be used as if it were.
    #[error("{target} is NOT equal to the journal: {why}; {left}")]
    Midway {
        /// The server's `host:port`.
        target: String,
        /// What happened.
        why: String,
        /// How the server was left.
        left: String,
    },
}

/// Rebuilds the journal into the server at `into` (`host:port`), and reports its progress a few times a
/// second. The server must be reachable without a password, 7.0 or later, a master without replicas, and hold
/// no keys in any database and no functions (H22). It must be able to reach this machine at the address that
/// this machine reaches it from.
///
/// Not cancel-safe: when the future is dropped midway, the server is left a replica of a master that is gone.
///
/// # Errors
/// [`RebuildError`]; all but `Midway` leave the server as it was.
pub async fn rebuild(
    env: Env,
    client: Client,
    into: &str,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<RebuildReport, RebuildError> {
    let unreachable = |e: TargetError| RebuildError::Unreachable {
        target: into.to_owned(),
        why: e.to_string(),
    };
    let mut target = Target::connect(&env, into).await.map_err(unreachable)?;
    look(&mut target, into).await?;
    // Before anything is done to the server: a journal without a quorum is no reason to touch it.
    let goal = client.describe(REBUILD_CONFIRM_DEADLINE).await?.position.tail;
    let this_side = target.this_side().await.map_err(unreachable)?;
    let listener = listen_on(&env, &format!("{}:0", bracketed(&this_side))).await?;
    let port = port_of(listener.as_ref());
    // Again: the quorum may have been waited for, and whoever used the server meanwhile would lose by it.
    look(&mut target, into).await?;

    let shared = Arc::new(Shared::for_rebuild(env.clone(), client, goal));
    let _serving = env.spawn(accept(shared.clone(), listener));
    let fed = async {
        target.replicate_from(&this_side, &port).await?;
        let replid = feed(&env, &shared, &mut target, goal, &mut progress).await?;
        target.let_go().await?;
        let state = target.state().await?;
        if !verdict::let_go(&state.replication, replid, goal) {
            let why = format!("it was let go at {goal} but then said {:?}", state.replication);
            return Err(TargetError::Unexpected(why));
        }
        Ok(RebuildReport {
            tail: goal,
            replid,
            keys: state.keys,
        })
    };
    match fed.await {
        Ok(report) => Ok(report),
        Err(why) => {
            let left = match Target::release(&env, into).await {
                Ok(()) => "it was told REPLICAOF NO ONE".to_owned(),
                Err(e) => format!("it may still be a replica of {this_side}:{port}, which is gone ({e})"),
            };
            Err(RebuildError::Midway {
                target: into.to_owned(),
                why: why.to_string(),
                left,
            })
        }
    }
}

/// Looks whether the server may be rebuilt into.
async fn look(target: &mut Target, into: &str) -> Result<(), RebuildError> {
    let state = target.state().await;
    let state = state.map_err(|e| RebuildError::Unreachable {
        target: into.to_owned(),
        why: e.to_string(),
    })?;
    verdict::fit(&state.server, &state.replication, state.keys, state.functions).map_err(|why| {
        RebuildError::Unfit {
            target: into.to_owned(),
            why,
        }
    })
}

/// Waits until the server holds everything before `goal`; returns the replid that it was fed under.
async fn feed(
    env: &Env,
    shared: &Shared,
    target: &mut Target,
    goal: Offset,
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<ReplId, TargetError> {
    let (mut fed, mut moved) = (Offset::ZERO, env.now());
    loop {
        env.sleep(REBUILD_POLL_EVERY).await;
        let replication = target.replication().await?;
        let served = shared.registry().only_link();
        if let Some((replid, sent)) = served
            && sent == goal
            && verdict::arrived(&replication, replid, goal)
        {
            progress(Progress { fed: goal, goal });
            return Ok(replid);
        }
        // The furthest so far: a link that comes and goes is no progress.
        let now = replication.slave_repl_offset.filter(|_| replication.link_up);
        if let Some(now) = now.filter(|now| *now > fed) {
            (fed, moved) = (now, env.now());
            progress(Progress { fed, goal });
        }
        if env.now().since(moved) > REBUILD_STALL_MAX {
            let link = if replication.link_up { "up" } else { "down" };
            let why = shared
                .registry()
                .trouble()
                .map_or(String::new(), |t| format!(": {t}"));
            let why =
                format!("it stood at {fed} of {goal} for {REBUILD_STALL_MAX:?}, its link is {link}{why}");
            return Err(TargetError::Unexpected(why));
        }
    }
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') {
        format!("[{ip}]")
    } else {
        ip.to_owned()
    }
}

fn port_of(listener: &dyn Listener) -> String {
    let address = listener.local_addr();
    address.rsplit(':').next().unwrap_or_default().to_owned()
}
