//! A disk that fails is final for the process: it writes nothing more, ends, and says of what; what it had acknowledged is
//! there when it is started again.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, sockets and processes, and fail by panicking"
)]

mod cluster;

use cluster::power::SimNode;
use cluster::writer::{Written, acquire, bootstrap, journal, load, within};
use redoubt_env::sim_files::{Call, Fault, SimFiles};
use redoubt_journal::raft::NodeError;
use redoubt_journal::segment::Options;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What the writer knows is what the journal holds, but for an end that was not acknowledged.
async fn compare(addresses: &[String], written: &Written) {
    let (_, grant) = within("a writer's return", acquire(addresses, 2)).await.unwrap();
    let tail = grant.position.unwrap().tail as usize;
    let served = within("a tail", journal(addresses)).await.unwrap();
    assert!(
        written.acked > 0 && tail >= written.acked,
        "{tail} of {}",
        written.acked
    );
    assert!(served == written.sent[..tail], "other bytes than were sent");
}

#[tokio::test]
async fn a_failed_write_or_sync_ends_the_node() {
    for (call, fault, verb) in [
        (Call::Sync, Fault::Io, "sync"),
        (Call::Write, Fault::Io, "write"),
        (Call::Write, Fault::NoSpace, "write"),
    ] {
        let files = SimFiles::new(1);
        let mut node = SimNode::new("n1", files.clone());
        // One segment is enough: so no spare is made under way, and the call that fails is the log's.
        node.storage.segment_bytes = Options::default().segment_bytes;
        node.boot();
        let addresses = [node.address.clone()];
        within("bootstrap", bootstrap(&addresses)).await.unwrap();
        let (leader, grant) = within("a writer", acquire(&addresses, 1)).await.unwrap();
        let mut written = Written::default();
        let breaks = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            files.fail_nth(call, 1, fault);
            std::future::pending().await
        };
        within(
            "an end of the answers",
            load(&leader, grant.epoch, &mut written, breaks),
        )
        .await
        .unwrap();
        let error = within("the node's end", node.ended()).await.unwrap();
        assert!(matches!(error, NodeError::Storage(_)), "{error:?}");
        let begins = format!("storage failed, nothing is written any more: could not {verb} /data/editlog-");
        assert!(error.to_string().starts_with(&begins), "{error}");
        files.power_cut(7);
        node.boot();
        compare(&addresses, &written).await;
        node.power_cut(8);
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn catches_an_fsync_that_is_tried_again() {
    redoubt_env::planted::assert_catches("a_failed_write_or_sync_ends_the_node", "fsync_retried");
}

/// A real process whose files can't become longer than `blocks` of 512 bytes.
fn process(dir: &Path, address: &str, blocks: &str) -> Child {
    // Ignored, the signal of too long a file leaves the error to the process.
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    Command::new("sh")
        .args(["-c", &script, "sh", env!("CARGO_BIN_EXE_redoubt-journal")])
        .args(["--name", "n1", "--listen", address, "--dir"])
        .arg(dir)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_process_whose_disk_takes_no_more_says_so_and_ends_with_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let addresses = [cluster::free_address()];
    // A little more than a fresh segment.
    let child = process(dir.path(), &addresses[0], "2100");
    within("bootstrap", bootstrap(&addresses)).await.unwrap();
    let (leader, grant) = within("a writer", acquire(&addresses, 1)).await.unwrap();
    let mut written = Written::default();
    within(
        "an end of the answers",
        load(&leader, grant.epoch, &mut written, std::future::pending()),
    )
    .await
    .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    assert!(
        last.contains("storage failed, nothing is written any more: could not"),
        "{said}"
    );

    let mut child = process(dir.path(), &addresses[0], "unlimited");
    compare(&addresses, &written).await;
    child.kill().unwrap();
    child.wait().unwrap();
}
