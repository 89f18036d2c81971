//! What the journal serves, looked at byte by byte.

use bytes::BytesMut;
use redoubt_client::{AppendStart, Client, Session, TailEvent, WriterError};
use redoubt_resp::stream::{StreamScanner, encode_command};
use redoubt_types::{HolderId, LineageStep, Offset, ReplId, RunId, WallTime};
use std::time::Duration;

/// How long one operation on the journal may take.
const DEADLINE: Duration = Duration::from_secs(10);

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

/// Takes the epoch over as another cell does as soon as it can be had, and sets `key` under a replid of its own.
///
/// # Panics
/// When that fails otherwise than by the lease of the writer before.
pub async fn take_over_and_write(journal: &Client, key: &[u8], value: &[u8]) {
    let holder = HolderId::new(77).expect("not zero");
    let acquired = || journal.acquire(holder, "other cell", Duration::from_secs(2), DEADLINE);
    let grant = crate::eventually("the lease of another", Duration::from_secs(30), || async {
        match acquired().await {
            Ok(grant) => Ok(grant),
            Err(e @ WriterError::LeaseHeld { .. }) => Err(e.to_string()),
            Err(e) => panic!("the epoch can't be had: {e}"),
        }
    })
    .await;
    let at = grant.position.tail;
    let session = Session {
        epoch: grant.epoch,
        run_id: RunId::from_random([8; 20]),
        at,
        server: "redis 7.0.15".into(),
    };
    let recorded = journal.record_session(&session, DEADLINE).await;
    recorded.expect("a session record");
    let step = LineageStep {
        replid: ReplId::from_random([9; 20]),
        from: at,
        epoch: Some(grant.epoch),
    };
    let recorded = journal.record_lineage(&step, DEADLINE).await;
    recorded.expect("a lineage record");
    let mut bytes = BytesMut::new();
    encode_command(&[b"SELECT", b"0"], &mut bytes);
    encode_command(&[b"SET", key, value], &mut bytes);
    let mut appender = journal.appender(AppendStart {
        epoch: grant.epoch,
        replid: step.replid,
        start: at,
        chain: grant.position.tail_chain,
    });
    appender.push(bytes.freeze(), WallTime::from_ms(1));
    let appended = appender.next().await.expect("the lawful writer writes");
    assert_eq!(appended.end, appender.end());
}
