//! A full sync: the base, as a stock replica takes it.
//!
//! Promises that a base's last byte is sent only once all of it was as its checksum says (H16): what is cut or damaged never looks whole
//! to a replica, which throws it away and asks again. Holds a few chunks, whatever the base's size.

use super::link::LinkError;
use crate::config::{BASE_BEGIN_DEADLINE, BASE_CHUNK_DEADLINE, REPLICA_SILENCE_MAX};
use bytes::Bytes;
use redoubt_client::{BaseReader, Client, ClientError};
use redoubt_env::{Env, planted};
use redoubt_resp::psync::empty_rdb;
use redoubt_types::Base;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// RDB versions that only Valkey writes begin here: below it the two count alike up to 11.
const VALKEY_RDB_MIN: u32 = 80;
/// The newest version that Redis and Valkey have in common.
const COMMON_RDB_MAX: u32 = 11;
/// The first Valkey that reads versions of its own.
const VALKEY_RDB_SINCE: u32 = 9;

/// What is given to a replica ahead of the stream.
pub(super) struct FullSync {
    bytes: u64,
    /// The first chunk: the whole base, if there is no reader.
    first: Bytes,
    reader: Option<BaseReader>,
}

/// Whether a replica that announced `version` can load `base`. Of the servers that announce one all are Valkeys; of one that does not,
/// nothing is known.
///
/// # Errors
/// Why not, in a sentence that names both.
pub(super) fn readable(base: &Base, version: Option<&str>) -> Result<(), String> {
    let Some((version, major)) = version.and_then(|v| Some((v, v.split('.').next()?.parse::<u32>().ok()?)))
    else {
        return Ok(());
    };
    let theirs = base.rdb_version >= VALKEY_RDB_MIN;
    if planted::on("h24_any_base")
        || base.rdb_version <= COMMON_RDB_MAX
        || (theirs && major >= VALKEY_RDB_SINCE)
    {
        return Ok(());
    }
    Err(format!(
        "the journal's base was written by {} as RDB version {}, which this replica (valkey {version}) can't load",
        base.server, base.rdb_version
    ))
}

impl FullSync {
    /// Begins to read `base`, or the empty one if the journal has none yet.
    ///
    /// # Errors
    /// When no node gives its first bytes.
    pub(super) async fn begin(env: &Env, client: &Client, base: Option<Base>) -> Result<Self, ClientError> {
        let Some(base) = base else {
            let first = Bytes::from_static(empty_rdb());
            return Ok(FullSync {
                bytes: first.len() as u64,
                first,
                reader: None,
            });
        };
        let mut reader = client.read_base(&base, 0, BASE_CHUNK_DEADLINE);
        let first = env.timeout(BASE_BEGIN_DEADLINE, reader.next()).await;
        let first = first.map_err(|e| ClientError::Unavailable(format!("base {}: {e}", base.name)))??;
        let first = first.unwrap_or_default();
        Ok(FullSync {
            bytes: base.bytes,
            first,
            reader: Some(reader),
        })
    }

    /// Bytes of the base.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sends it, length first.
    ///
    /// # Errors
    /// [`LinkError`]; the replica has not had the last byte then, and the connection is to be closed.
    pub(super) async fn send(
        self,
        env: &Env,
        writer: &mut (impl AsyncWrite + Unpin),
    ) -> Result<(), LinkError> {
        let FullSync { bytes, first, reader } = self;
        write(env, writer, format!("${bytes}\r\n").as_bytes()).await?;
        let mut chunk = first;
        if let Some(mut reader) = reader {
            // The reader tells behind the last chunk whether they were right, all of them.
            while let Some(next) = reader.next().await.map_err(LinkError::Base)? {
                write(env, writer, &chunk).await?;
                chunk = next;
            }
        }
        write(env, writer, &chunk).await
    }
}

/// Writes, as long as the other end takes anything: a stock replica that reads nothing for that long is stuck.
async fn write(env: &Env, writer: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> Result<(), LinkError> {
    while !bytes.is_empty() {
        let written = env.timeout(REPLICA_SILENCE_MAX, writer.write(bytes)).await;
        match written.map_err(|_| LinkError::Silent)?? {
            0 => return Err(LinkError::Closed),
            n => bytes = bytes.get(n..).unwrap_or_default(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use redoubt_types::{BaseName, Chain, Db, Offset, ReplId, WallTime};

    #[test]
    fn h24_a_base_is_given_to_no_server_that_is_known_not_to_read_it() {
        let base = |rdb_version| Base {
            name: BaseName {
                at: Offset::new(9),
                checksum: 1,
            },
            replid: ReplId::from_random([7; 20]),
            chain: Chain::EMPTY,
            groups: 1,
            db: Db::new(0),
            captured: WallTime::from_ms(0),
            bytes: 18,
            rdb_version,
            server: "redis 7.4.1".to_owned(),
            keys: 1,
            digest: 0,
        };
        for (rdb, version, fits) in [
            (11, Some("8.0.1"), true),
            (12, Some("8.0.1"), false),
            (12, Some("9.1.2"), false),
            (80, Some("8.1.1"), false),
            (80, Some("9.0.0"), true),
            (12, None, true),
            (12, Some("no version"), true),
        ] {
            let found = readable(&base(rdb), version);
            assert_eq!(found.is_ok(), fits, "{rdb} {version:?}");
            if let Err(why) = found {
                assert!(
                    why.contains("redis 7.4.1") && why.contains(version.unwrap()),
                    "{why}"
                );
            }
        }
    }
}
