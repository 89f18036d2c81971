//! The overlap: the server's last bytes before the tail, compared with the journal's own (H16).
//!
//! Replid and offset say that the server holds the journal's history; the overlap shows it, as far back as
//! the server's backlog goes.

use super::link::Link;
use bytes::{Bytes, BytesMut};
use redoubt_client::{Client, TailEvent};
use redoubt_env::Env;
use redoubt_types::Offset;
use std::time::Duration;

/// How long reading the overlap from both sides may take.
const OVERLAP_DEADLINE: Duration = Duration::from_secs(10);

/// Why the overlap did not prove anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverlapError {
    /// One of the two could not be read: try again.
    #[error("the overlap could not be read: {0}")]
    NotRead(String),
    /// The server's bytes are not the journal's.
    #[error("byte {at} is {server:#04x} in the server's stream and {journal:#04x} in the journal")]
    Differs {
        /// Index of the first byte that differs, counted from the stream's beginning.
        at: u64,
        /// What the server sent.
        server: u8,
        /// What the journal holds.
        journal: u8,
    },
}

/// Takes the stream's bytes from `from` to `to` off `link` and compares them with the journal's.
///
/// # Errors
/// See [`OverlapError`].
pub async fn compare(
    env: &Env,
    client: &Client,
    link: &mut Link,
    from: Offset,
    to: Offset,
) -> Result<(), OverlapError> {
    let wanted = to.since(from).unwrap_or(0) as usize;
    if wanted == 0 {
        return Ok(());
    }
    let comparing = async {
        let mut server = BytesMut::with_capacity(wanted);
        while server.len() < wanted {
            match link.read(&mut server).await {
                Ok(0) => return Err(OverlapError::NotRead("the server cut the link".to_owned())),
                Ok(_) => {}
                Err(e) => return Err(OverlapError::NotRead(e.to_string())),
            }
        }
        let journal = journal_bytes(client, from, wanted).await?;
        let beyond = server.split_off(wanted);
        match first_difference(&server, &journal) {
            Some(i) => Err(OverlapError::Differs {
                at: from.get() + i as u64,
                server: server[i],
                journal: journal[i],
            }),
            None => {
                link.put_back(beyond);
                Ok(())
            }
        }
    };
    env.timeout(OVERLAP_DEADLINE, comparing)
        .await
        .map_err(|e| OverlapError::NotRead(e.to_string()))?
}

/// The journal's `len` bytes from `from` on.
async fn journal_bytes(client: &Client, from: Offset, len: usize) -> Result<Bytes, OverlapError> {
    let mut tail = client.tail(from, false);
    let mut bytes = BytesMut::with_capacity(len);
    while bytes.len() < len {
        match tail.next().await {
            Ok(TailEvent::Entry(entry)) => bytes.extend_from_slice(&entry.bytes),
            Ok(TailEvent::End) => break,
            Ok(TailEvent::Lineage(_) | TailEvent::Mark { .. }) => {}
            Err(e) => return Err(OverlapError::NotRead(e.to_string())),
        }
    }
    if bytes.len() < len {
        let end = from.advance(bytes.len() as u64);
        return Err(OverlapError::NotRead(format!(
            "the journal's tail ended at {end}"
        )));
    }
    bytes.truncate(len);
    Ok(bytes.freeze())
}

fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    a.iter().zip(b).position(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_that_differs_is_named() {
        assert_eq!(first_difference(b"abc", b"abc"), None);
        assert_eq!(first_difference(b"abc", b"abd"), Some(2));
    }
}
