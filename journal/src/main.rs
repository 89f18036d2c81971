//! `redoubt-journal`: one node of the journal.

use clap::Parser;
use redoubt_env::Env;
use redoubt_journal::base::{FoldAfter, Retention};
use redoubt_journal::raft::{CheckpointEvery, MetadataStore, NodeConfig};
use redoubt_journal::segment::Options;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// One node of a quorum journal for Redis. It waits to be bootstrapped together with its peers:
/// `redoubt bootstrap --endpoints A,B,C`.
#[derive(Parser)]
#[command(name = "redoubt-journal", version)]
struct Args {
    /// The node's name: a label for people, kept with its data.
    #[arg(long)]
    name: String,
    /// Where clients and peers reach it, HOST:PORT.
    #[arg(long, default_value = "127.0.0.1:7101")]
    listen: String,
    /// Its data directory; made and formatted when it is missing or empty.
    #[arg(long)]
    dir: PathBuf,
    /// Size of one editlog file, bytes.
    #[arg(long)]
    segment_bytes: Option<u32>,
    /// Memory for the newest records, bytes.
    #[arg(long)]
    cache_bytes: Option<u64>,
    /// Disk space kept in hand beyond the segment to come, for elections and leases on a full disk, bytes.
    #[arg(long)]
    reserve_bytes: Option<u64>,
    /// Seconds from one time that all files are read again, to see whether they still can be, to the next.
    #[arg(long)]
    scrub_every: Option<u64>,
    /// How fast that is done at most, bytes per second.
    #[arg(long)]
    scrub_bytes_per_second: Option<u64>,
    /// Adjacent editlog files are merged into one of so many bytes at most; one that has more than half stays as it is. 0: never.
    #[arg(long)]
    merge_bytes: Option<u64>,
    /// So many are merged, or fewer that have half of --merge-bytes together.
    #[arg(long)]
    merge_at_files: Option<usize>,
    /// Seconds from one look for files to merge to the next.
    #[arg(long)]
    merge_every: Option<u64>,
    /// How fast they are read and written at most, bytes per second.
    #[arg(long)]
    merge_bytes_per_second: Option<u64>,
    /// Log entries between two checkpoints: what a start replays at most, and a few times what the index has in memory.
    #[arg(long)]
    checkpoint_every_entries: Option<u64>,
    /// Bytes of the log between two checkpoints; what is reached first counts.
    #[arg(long)]
    checkpoint_every_bytes: Option<u64>,
    /// A new base is made once so many bytes of the stream lie behind the last one.
    #[arg(long)]
    fold_at_bytes: Option<u64>,
    /// Or so many editlogs, whichever comes first.
    #[arg(long)]
    fold_at_editlogs: Option<u64>,
    /// Seconds for which every moment of the past can be restored: older bases, and the editlogs behind them, are kept so long.
    #[arg(long)]
    retain_seconds: Option<u64>,
    /// But for no more than so many bytes, bases and editlogs together; the newest base and what is behind it stay in any case.
    #[arg(long)]
    retain_bytes: Option<u64>,
}

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            tracing::error!("can't start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Sets an option that was given.
fn set<T>(option: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *option = given;
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            biased; // either ends it
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
    };
    let seconds = |s: u64| Duration::from_secs(s.max(1));
    let mut storage = Options::default();
    set(&mut storage.segment_bytes, args.segment_bytes);
    set(&mut storage.cache_bytes, args.cache_bytes);
    set(&mut storage.reserve_bytes, args.reserve_bytes);
    set(&mut storage.scrub_every, args.scrub_every.map(seconds));
    set(&mut storage.scrub_bytes_per_second, args.scrub_bytes_per_second);
    set(&mut storage.merge_bytes, args.merge_bytes);
    set(&mut storage.merge_at_files, args.merge_at_files);
    set(&mut storage.merge_every, args.merge_every.map(seconds));
    set(&mut storage.merge_bytes_per_second, args.merge_bytes_per_second);
    let every = CheckpointEvery::default();
    let mut fold_after = FoldAfter::default();
    set(&mut fold_after.bytes, args.fold_at_bytes);
    set(&mut fold_after.editlogs, args.fold_at_editlogs);
    let mut retention = Retention::default();
    set(&mut retention.age, args.retain_seconds.map(Duration::from_secs));
    set(&mut retention.bytes, args.retain_bytes);
    let config = NodeConfig {
        name: args.name,
        address: args.listen,
        dir: args.dir,
        storage,
        metadata: MetadataStore::Sled,
        checkpoint_every: CheckpointEvery {
            entries: args.checkpoint_every_entries.unwrap_or(every.entries).max(1),
            bytes: args.checkpoint_every_bytes.unwrap_or(every.bytes).max(1),
        },
        fold_after,
        retention,
    };
    Ok(redoubt_journal::server::run(Env::real(), config, stop).await?)
}
