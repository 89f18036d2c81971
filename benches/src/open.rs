//! How long a node takes to open what it holds, and how much memory and how many files it holds open, by the journal's size.

use crate::nodes::{Nodes, drive, entry};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;
use redoubt_client::{Client, TailEvent};
use redoubt_tests::{free_base, memory};
use redoubt_types::Offset;
use std::time::{Duration, Instant};

/// Size of the largest journal, GiB.
const GIB: u64 = 10;
/// Entries of the journal of small ones.
const SMALL: u64 = 5_000_000;
const SMALL_BYTES: usize = 128;
const LARGE_BYTES: usize = 64 << 10;
const DEPTH: usize = 64;

/// Runs it, and prints the table.
pub(crate) async fn run(gib: Option<u64>) {
    let gib = gib.unwrap_or(GIB);
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "journal",
        "opened after s",
        "memory MiB",
        "open files",
        "read to its end at MB/s",
        "memory then MiB",
        "most MiB",
    ]);
    let large = (1 << 30) / LARGE_BYTES as u64;
    for (name, bytes, counts) in [
        ("entries of 64 KiB", LARGE_BYTES, vec![large, (gib - 1) * large]),
        (
            "entries of 128 B",
            SMALL_BYTES,
            vec![SMALL / 5, SMALL - SMALL / 5],
        ),
    ] {
        let mut nodes = Nodes::start(1, free_base()).await;
        let mut total = 0;
        for count in counts {
            let mut writer = nodes.writer().await;
            let ran = drive(&mut writer, &entry(bytes), DEPTH, |sent, _| sent >= count).await;
            total += count;
            eprintln!(
                "{count} {name} more, {:.0} a second",
                ran.entries as f64 / ran.seconds
            );
            drop(writer);
            nodes.stop().await;
            nodes.chill();
            let began = Instant::now();
            nodes.boot();
            let client = nodes.client();
            let want = total * entry(bytes).len() as u64;
            let opened = opened(&client, &nodes.endpoints()[0], want, began).await;
            let pid = nodes.processes()[0].1;
            let fresh = mib(memory(pid, "VmRSS"));
            let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
            let reading = Instant::now();
            read_all(&client, want).await;
            let rate = want as f64 / reading.elapsed().as_secs_f64() / 1e6;
            table.add_row([
                format!("{total} {name}, {:.2} GB", want as f64 / 1e9),
                format!("{opened:.2}"),
                format!("{fresh:.0}"),
                files.to_string(),
                format!("{rate:.0}"),
                format!("{:.0}", mib(memory(pid, "VmRSS"))),
                format!("{:.0}", mib(memory(pid, "VmHWM"))),
            ]);
            eprintln!("{table}");
        }
        nodes.stop().await;
    }
    println!("{table}");
}

/// Seconds from `began` until the node answers with its whole journal.
async fn opened(client: &Client, endpoint: &str, tail: u64, began: Instant) -> f64 {
    loop {
        if let Ok(found) = client.describe_node(endpoint, false).await
            && found.position.tail.get() >= tail
        {
            return began.elapsed().as_secs_f64();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Reads the journal from its beginning, as a follower far behind does.
async fn read_all(client: &Client, tail: u64) {
    let mut tailer = client.tail(Offset::ZERO, false);
    let mut at = 0;
    while at < tail {
        match tailer.next().await {
            Ok(TailEvent::Entry(entry)) => at = entry.start.get() + entry.bytes.len() as u64,
            Ok(TailEvent::Lineage(_) | TailEvent::Mark { .. }) => {}
            other => panic!("the tail ended at {at} of {tail}: {other:?}"),
        }
    }
}

/// For people.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
