//! Measures the storage alone on this machine's disk: appends per second and how long each takes to be
//! durable, by payload and by how many are unanswered at once. The lines of depth 0 are a bare write and
//! fdatasync in a loop, into a file that was filled with zeros before: what the disk gives at depth 1. The last lines
//! are of logs with small segments, each of which rolls many times: what that costs.
//!
//! `cargo run --release -p redoubt-journal --example segment_throughput -- DIR [SECONDS]`

use bytes::Bytes;
use redoubt_env::Env;
use redoubt_env::files::Mode;
use redoubt_journal::segment::{LogId, LogRecord, MapMetadata, Options, RecordKind, Storage};
use redoubt_types::BootTime;
use std::error::Error;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

const SIZES: [usize; 3] = [128, 4 * 1024, 64 * 1024];
const MIB: u32 = 1024 * 1024;
const DEPTHS: [usize; 3] = [1, 16, 256];

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: segment_throughput DIR [SECONDS]")?);
    let seconds: u64 = args.next().unwrap_or_else(|| "3".to_owned()).parse()?;
    println!(
        "{:>8} {:>6} {:>12} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "bytes", "depth", "appends/s", "MB/s", "p50 µs", "p99 µs", "p99.9 µs", "most µs"
    );
    for size in SIZES {
        bare(
            &dir.join(format!("bare-{size}")),
            size,
            Duration::from_secs(seconds),
        )?;
        for depth in DEPTHS {
            let at = dir.join(format!("{size}-{depth}"));
            run(&at, Options::default(), size, depth, Duration::from_secs(seconds))?;
        }
    }
    for segment_bytes in [64 * MIB, 4 * MIB, MIB] {
        println!("segments of {} MiB:", segment_bytes / MIB);
        let options = Options {
            segment_bytes,
            ..Options::default()
        };
        let at = dir.join(format!("rolls-{segment_bytes}"));
        run(&at, options, 4096, 1, Duration::from_secs(3 * seconds))?;
    }
    Ok(())
}

fn print(size: usize, depth: usize, mut micros: Vec<u128>, length: Duration) {
    micros.sort_unstable();
    let per_second = micros.len() as f64 / length.as_secs_f64();
    let at = |part: f64| micros[((micros.len() - 1) as f64 * part) as usize];
    println!(
        "{size:>8} {depth:>6} {per_second:>12.0} {:>10.1} {:>10} {:>10} {:>10} {:>10}",
        per_second * size as f64 / 1e6,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0),
    );
}

fn bare(dir: &Path, size: usize, length: Duration) -> Result<(), Box<dyn Error>> {
    const FILE_BYTES: usize = 64 * 1024 * 1024;
    let env = Env::real();
    env.files().create_dir(dir)?;
    let file = env.files().open(&dir.join("bare"), Mode::CreateNew)?;
    file.write_at(&[IoSlice::new(&vec![0; FILE_BYTES])], 0)?;
    file.sync_data()?;
    let payload = vec![0x5a; size];
    let mut micros = Vec::new();
    let start = env.now();
    let mut now = start;
    while now.since(start) < length {
        let at = micros.len() * size % FILE_BYTES;
        file.write_at(&[IoSlice::new(&payload)], at as u64)?;
        file.sync_data()?;
        let done = env.now();
        micros.push(done.since(now).as_micros());
        now = done;
    }
    print(size, 0, micros, now.since(start));
    Ok(())
}

fn run(
    dir: &Path,
    options: Options,
    size: usize,
    depth: usize,
    length: Duration,
) -> Result<(), Box<dyn Error>> {
    let env = Env::real();
    let metadata = Arc::new(MapMetadata::default());
    let (storage, recovered) = Storage::open(&env, dir, "bench", options, metadata)?;
    let payload = Bytes::from(vec![0x5a; size]);
    let (answered, answers) = mpsc::channel::<(BootTime, std::io::Result<()>)>();
    let mut index = recovered.last.map_or(0, |id| id.index + 1);
    let mut submit = || {
        let id = LogId {
            term: 1,
            leader: 1,
            index,
        };
        index += 1;
        let record = LogRecord {
            id,
            kind: RecordKind::Normal,
            payload: payload.clone(),
        };
        let (sent, answered) = (env.now(), answered.clone());
        let done = move |result| {
            // Answers that come after the end are not counted.
            let _ = answered.send((sent, result));
        };
        storage.append(vec![record], Box::new(done));
    };
    let start = env.now();
    (0..depth).for_each(|_| submit());
    let mut micros = Vec::new();
    let mut now = start;
    while now.since(start) < length {
        let (sent, result) = answers.recv()?;
        result?;
        submit();
        now = env.now();
        micros.push(now.since(sent).as_micros());
    }
    print(size, depth, micros, now.since(start));
    let (closed, wait) = mpsc::channel();
    storage.close(Box::new(move |result| {
        // Whoever waits is the next line.
        let _ = closed.send(result);
    }));
    wait.recv()??;
    Ok(())
}
