//! Makes a target stand alone: its times to live become true.
//!
//! Only once nothing follows any more (H20, see the `expiry` module), so the position says first that it is being let go; a
//! replay that still runs is stopped by that at its next write, and none begins again. Every time that is deferred is then set to
//! what it means, key by key and field by field; what is over by then ends at once, as on a replica that is promoted. Whatever
//! interrupts this, it is begun again: a time that was made true is not taken for a deferred one.

use super::batch::{Batch, Outcome};
use super::endpoint::Endpoint;
use super::expiry::restored;
use super::position::{Position, Stage, Unfollowable};
use super::target::{Target, TargetError};
use super::{SinkError, refused};
use redoubt_env::Env;
use redoubt_env::net::Net;
use redoubt_resp::reply::Value;
use redoubt_types::{Db, Offset};
use std::sync::Arc;

/// Keys, or fields of one hash, that are looked at at a time.
const AT_ONCE: &[u8] = b"500";

/// A target that stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetGo {
    /// Everything before this offset was applied to it.
    pub at: Offset,
    /// Keys whose time was made true.
    pub keys: u64,
    /// Fields of hashes likewise.
    pub fields: u64,
}

/// Lets the target at `endpoint` go, whose position is kept under `key`. The journal is not asked: it may be gone.
///
/// # Errors
/// [`SinkError`]; it can be begun again then.
pub async fn let_go(
    env: &Env,
    net: Arc<dyn Net>,
    endpoint: &Endpoint,
    key: &str,
) -> Result<LetGo, SinkError> {
    let failed = |e: TargetError| refused(endpoint, &e);
    let unfit = |why| SinkError::Unfit {
        target: endpoint.address().to_owned(),
        why,
    };
    let mut target = Target::open(env, &net, endpoint).await.map_err(failed)?;
    let stored = target.watch(key).await.map_err(failed)?;
    let stored = stored.ok_or_else(|| unfit(Unfollowable::NoPosition))?;
    let mut position =
        Position::parse(&stored).ok_or_else(|| unfit(Unfollowable::NotAPosition(key.to_owned())))?;
    let mut done = LetGo {
        at: position.place.offset,
        keys: 0,
        fields: 0,
    };
    match position.stage {
        Stage::LetGo => return Ok(done),
        Stage::Broken => return Err(unfit(Unfollowable::Broken(done.at))),
        Stage::Following | Stage::LettingGo => {}
    }
    position.writer = env.random_nonzero();
    position.stage = Stage::LettingGo;
    target.multi().await.map_err(failed)?;
    write(&mut target, endpoint, key, &position).await?;
    // The next transaction has begun there; what is asked now is not to be in one.
    let mut target = Target::open(env, &net, endpoint).await.map_err(failed)?;
    let dbs = target.state().await.map_err(failed)?.keys;
    for (db, _) in dbs {
        database(&mut target, db, &mut done).await.map_err(failed)?;
    }
    let mut target = Target::open(env, &net, endpoint).await.map_err(failed)?;
    target.watch(key).await.map_err(failed)?;
    target.multi().await.map_err(failed)?;
    position.stage = Stage::LetGo;
    write(&mut target, endpoint, key, &position).await?;
    Ok(done)
}

/// Writes a position and nothing else, behind WATCH and MULTI.
pub(super) async fn write(
    target: &mut Target,
    endpoint: &Endpoint,
    key: &str,
    position: &Position,
) -> Result<(), SinkError> {
    let mut batch = Batch::new(position.place.clone());
    let value = position.to_string();
    batch.finish(key, &value);
    match target.apply(&batch, key, &value).await {
        Ok(Outcome::Applied) => Ok(()),
        Ok(Outcome::Failed(failure)) => Err(SinkError::Failed(failure)),
        Ok(Outcome::Later(why)) => Err(refused(endpoint, &TargetError::Later(why))),
        Ok(Outcome::Moved) => Err(SinkError::Unfit {
            target: endpoint.address().to_owned(),
            why: Unfollowable::Taken(position.place.offset),
        }),
        Err(e) => Err(refused(endpoint, &e)),
    }
}

/// The next cursor and the elements of an answer to SCAN or HSCAN.
fn scanned(answer: &Value) -> Option<(Vec<u8>, Vec<&[u8]>)> {
    let [cursor, items] = answer.as_array()? else {
        return None;
    };
    let items = items.as_array()?.iter().filter_map(Value::as_bytes);
    Some((cursor.as_bytes()?.to_vec(), items.collect()))
}

fn odd(command: &str) -> TargetError {
    TargetError::Refused {
        command: command.to_owned(),
        error: "what can't be read".to_owned(),
    }
}

async fn database(target: &mut Target, db: Db, done: &mut LetGo) -> Result<(), TargetError> {
    target.call(&[b"SELECT", db.to_string().as_bytes()]).await?;
    let mut cursor = b"0".to_vec();
    loop {
        let answer = target.call(&[b"SCAN", &cursor, b"COUNT", AT_ONCE]).await?;
        let (next, keys) = scanned(&answer).ok_or_else(|| odd("SCAN"))?;
        let ask: Vec<Vec<&[u8]>> = keys
            .iter()
            .flat_map(|key| {
                [
                    vec![b"PEXPIRETIME".as_slice(), *key],
                    vec![b"TYPE".as_slice(), *key],
                ]
            })
            .collect();
        let answers = target.ask(&ask).await?;
        for (key, told) in keys.iter().zip(answers.chunks_exact(2)) {
            if told[1].as_str() == Some("hash") {
                fields(target, key, done).await?;
            }
            let time = told[0].as_int().ok_or_else(|| odd("PEXPIRETIME"))?;
            if let Some(time) = restored(time) {
                target
                    .call(&[b"PEXPIREAT", key, time.to_string().as_bytes()])
                    .await?;
                done.keys += 1;
            }
        }
        cursor = next;
        if cursor == b"0" {
            return Ok(());
        }
    }
}

/// The fields of one hash.
async fn fields(target: &mut Target, key: &[u8], done: &mut LetGo) -> Result<(), TargetError> {
    let mut cursor = b"0".to_vec();
    loop {
        let answer = target.call(&[b"HSCAN", key, &cursor, b"COUNT", AT_ONCE]).await?;
        let (next, pairs) = scanned(&answer).ok_or_else(|| odd("HSCAN"))?;
        let names: Vec<&[u8]> = pairs.chunks_exact(2).map(|pair| pair[0]).collect();
        if !names.is_empty() {
            let count = names.len().to_string();
            let mut ask: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
            ask.extend(&names);
            let answers = target.ask(&[ask]).await?;
            // A server that does not know the command has no such times; nor has a hash that ended meanwhile.
            let Some(times) = answers.first().and_then(Value::as_array) else {
                return Ok(());
            };
            for (name, time) in names.iter().zip(times) {
                if let Some(time) = time.as_int().and_then(restored) {
                    let time = time.to_string();
                    target
                        .call(&[b"HPEXPIREAT", key, time.as_bytes(), b"FIELDS", b"1", name])
                        .await?;
                    done.fields += 1;
                }
            }
        }
        cursor = next;
        if cursor == b"0" {
            return Ok(());
        }
    }
}
