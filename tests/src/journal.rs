//! What the journal serves, looked at byte by byte.

use redoubt_client::{Client, TailEvent};
use redoubt_resp::stream::StreamScanner;
use redoubt_types::Offset;
use std::time::Duration;

/// Every byte that the journal serves from its beginning to its confirmed tail.
///
/// # Panics
/// When they are not whole groups, or can't be had within two minutes.
pub async fn served(journal: &Client) -> Vec<u8> {
    let mut tail = journal.tail(Offset::ZERO, false);
    let (mut all, mut scanner) = (Vec::new(), StreamScanner::default());
    let read = async {
        loop {
            match tail.next().await.expect("the journal can be read") {
                TailEvent::Entry(entry) => {
                    let framed = scanner.scan(&entry.bytes, |_| {});
                    framed.unwrap_or_else(|e| panic!("the journal serves no stream at {}: {e}", entry.start));
                    all.extend_from_slice(&entry.bytes);
                }
                TailEvent::End => return,
                TailEvent::Lineage(_) | TailEvent::Mark { .. } => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(120), read)
        .await
        .expect("the journal is read in time");
    assert!(
        scanner.at_boundary(),
        "the journal serves {} bytes that end within a group",
        all.len()
    );
    all
}

/// Whether `bytes` contain `wanted`.
pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|w| w == wanted)
}
