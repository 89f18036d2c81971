//! A hunt for dirty reads: writers and readers at full speed while nodes, master and proxy are killed and stopped; nobody
//! may ever see what the final journal does not hold, nor what is older than what anybody knew before.
//!
//! In the order of a value's path: what a register is (`shapes`), how it is read (`reads`), what may be seen of it (`board`),
//! who writes, reads (`clients`) and listens (`listeners`, `wire`), what happens meanwhile (`chaos`), and what the journal
//! holds in the end (`journal`). All choices are a function of the seed (`dice`); when they fall is not.
#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "part of a test binary; what fails here fails a test"
)]

mod board;
mod chaos;
mod clients;
mod journal;
mod listeners;
mod reads;
mod shapes;
mod wire;

use board::Board;
use chaos::Chaos;
use clients::Client;
use redoubt_tests::Dice;
use redoubt_tests::{DevCluster, Options, eventually};
use shapes::Shape;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Databases of the servers: registers that flush and swap have some of their own, and leave them behind.
const DATABASES: u64 = 4096;
/// An outage, a failover and a few thousand operations, on two shared cores.
const AGAIN: Duration = Duration::from_secs(90);
/// Reads between two misfortunes: also what must be answered for the hunt to go on.
const READS_BETWEEN: u64 = 8_000;
/// What those have registers of who never rest.
const BUSY: [&[Shape]; 6] = [
    &[Shape::Text, Shape::Text],
    &[Shape::Hash, Shape::Sorted],
    &[Shape::List, Shape::Set],
    &[Shape::Stream, Shape::Count],
    &[Shape::Many, Shape::Deadline],
    &[Shape::Flush, Shape::Swap, Shape::Away],
];
/// And those who write now and then: keys that nobody else has written for a while.
const CALM: [&[Shape]; 4] = [
    &[Shape::Text, Shape::Hash, Shape::List, Shape::Set, Shape::Sorted],
    &[Shape::Stream, Shape::Count, Shape::Many, Shape::Deadline],
    &[Shape::Flush, Shape::Swap, Shape::Away],
    &[Shape::Note, Shape::Many],
];

/// How long a hunt lasts.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where its choices come from.
    pub seed: u64,
    /// Reads at least.
    pub reads: u64,
    /// Misfortunes at least.
    pub blows: u64,
    /// Whether clients share connections to the server.
    pub shared: bool,
    /// Whether some write what may touch any key, as a FLUSHDB: no read leaves before a commit then.
    pub unclear: bool,
}

/// Hunts, and tells what it has seen.
///
/// # Panics
/// With the first that was seen and must not be.
pub async fn hunt(plan: Plan) {
    println!("{plan:?}");
    let mut args = vec![("proxy", format!("--shared-upstream={}", plan.shared))];
    for kind in ["master", "replica"] {
        for arg in [
            "--databases",
            &DATABASES.to_string(),
            "--notify-keyspace-events",
            "Kg$x",
        ] {
            args.push((kind, arg.to_owned()));
        }
    }
    let mut cluster = DevCluster::start(Options {
        args,
        restart: "300ms",
        ..Options::default()
    })
    .await;
    let board = Arc::new(Board::new());
    let clients = start(&board, cluster.port("proxy-1"), plan);
    let mut chaos = Chaos::new(Dice::new(plan.seed, 0));
    let begun = Instant::now();
    progress(&board, &clients, READS_BETWEEN).await;
    while chaos.count() < plan.blows || board.reads.load(Ordering::SeqCst) < plan.reads {
        let blow = chaos.next();
        let at = Instant::now();
        chaos.strike(blow, &cluster).await;
        progress(&board, &clients, READS_BETWEEN).await;
        if plan.reads > 1_000_000 {
            let reads = board.reads.load(Ordering::SeqCst);
            eprintln!(
                "{:.0?}: {reads} reads; {blow:?}, for {:.1?}",
                begun.elapsed(),
                at.elapsed()
            );
        }
    }
    board.end();
    for client in clients {
        let ended = tokio::time::timeout(AGAIN * 2, client).await;
        ended.expect("a client ends").expect("no panic");
    }
    let took = begun.elapsed();
    assert_eq!(board.failure(), None);
    let held = journal::holds_all(&cluster.journal(), &board).await;
    let of = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::SeqCst);
    println!(
        "{} reads in {took:.0?} ({:.0} a second), which showed {} versions; {} messages and notifications; {} versions \
         acknowledged, {held} in the journal; {} connections closed; {:?}",
        of(&board.reads),
        of(&board.reads) as f64 / took.as_secs_f64(),
        of(&board.shown),
        of(&board.heard),
        of(&board.writes),
        of(&board.closed),
        chaos.done(),
    );
    assert!(of(&board.heard) > 0, "nobody was told of anything");
    cluster.down().await;
}

fn start(board: &Arc<Board>, port: u16, plan: Plan) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    let mut party = 0;
    let mut client = |name: String| {
        party += 1;
        Client {
            board: Arc::clone(board),
            port,
            dice: Dice::new(plan.seed, party),
            name,
        }
    };
    let wanted = |shapes: &[Shape]| -> Vec<Shape> {
        let unclear = |shape: &Shape| matches!(shape, Shape::Flush | Shape::Swap);
        shapes
            .iter()
            .filter(|s| plan.unclear || !unclear(s))
            .copied()
            .collect()
    };
    for shapes in BUSY {
        let writer = client(format!("busy writer of {shapes:?}"));
        tasks.push(tokio::spawn(writer.write(wanted(shapes), 0)));
    }
    for shapes in CALM {
        let writer = client(format!("calm writer of {shapes:?}"));
        tasks.push(tokio::spawn(writer.write(wanted(shapes), 30)));
    }
    for n in 0..10u64 {
        // A few that ask for one thing at a time, most that never let the proxy rest.
        let at_once = if n < 3 { 1 } else { 120 };
        let reader = client(format!("reader {n}"));
        tasks.push(tokio::spawn(reader.read(at_once, n % 3 == 0)));
    }
    for n in 0..6 {
        let reader = client(format!("reader at once {n}"));
        tasks.push(tokio::spawn(reader.read_at_once(n < 2, false)));
        let plain = client(format!("plain reader at once {n}"));
        tasks.push(tokio::spawn(plain.read_at_once(n < 2, true)));
    }
    for resp3 in [false, true] {
        let listener = client(format!("listener, RESP3 {resp3}"));
        tasks.push(tokio::spawn(listener.listen(resp3)));
    }
    tasks.push(tokio::spawn(client("waiter".to_owned()).wait()));
    tasks
}

/// Waits until reads and writes have gone on.
async fn progress(board: &Board, clients: &[JoinHandle<()>], more: u64) {
    let now = || [&board.reads, &board.writes].map(|count| count.load(Ordering::SeqCst));
    let from = now();
    eventually("service", AGAIN, || {
        if let Some(why) = board.failure() {
            panic!("{why}");
        }
        assert!(
            !clients.iter().any(JoinHandle::is_finished),
            "a client has panicked"
        );
        let [reads, writes] = now();
        let on = reads >= from[0] + more && writes >= from[1] + 300;
        std::future::ready(if on {
            Ok(())
        } else {
            Err(format!("{reads} reads and {writes} writes after {from:?}"))
        })
    })
    .await;
}
