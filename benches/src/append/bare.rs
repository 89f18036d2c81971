//! A deliberately bare quorum append: a leader writes what came, hands it to two followers that do the same, syncs, and
//! answers what two of the three have on disk. No terms, no elections, no checksums, no recovery; its files are
//! filled beforehand, so that no sync changes metadata. What is fast here is what the disk and the kernel allow.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// Length of a node's file; it is written again from the front.
const FILE_BYTES: u64 = 128 * 1024 * 1024;
/// Bytes at which a batch is closed.
const BATCH_BYTES: usize = 1024 * 1024;

/// Runs one node until its caller closes the connection.
pub(crate) fn node(port: u16, path: &Path, followers: &[u16]) -> io::Result<()> {
    let mut disk = Disk::create(path)?;
    let followers = followers
        .iter()
        .map(|p| connect(*p))
        .collect::<io::Result<Vec<_>>>()?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let (caller, _) = listener.accept()?;
    caller.set_nodelay(true)?;
    if followers.is_empty() {
        follow(&mut disk, caller)
    } else {
        lead(&mut disk, caller, followers)
    }
}

fn connect(port: u16) -> io::Result<TcpStream> {
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) => return Err(e),
        }
    }
}

struct Disk {
    file: File,
    at: u64,
}

impl Disk {
    fn create(path: &Path) -> io::Result<Disk> {
        let mut file = File::create(path)?;
        let zeros = vec![0; BATCH_BYTES];
        for _ in 0..FILE_BYTES / BATCH_BYTES as u64 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        Ok(Disk { file, at: 0 })
    }

    fn append(&mut self, batch: &[u8]) -> io::Result<()> {
        if self.at + batch.len() as u64 > FILE_BYTES {
            self.at = 0;
        }
        self.file.write_all_at(batch, self.at)?;
        self.at += batch.len() as u64;
        self.file.sync_data()
    }
}

/// One frame; `None` at the end of the stream.
fn read_frame(stream: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut len = [0; 4];
    match stream.read_exact(&mut len) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut frame = vec![0; u32::from_le_bytes(len) as usize];
    stream.read_exact(&mut frame)?;
    Ok(Some(frame))
}

fn follow(disk: &mut Disk, leader: TcpStream) -> io::Result<()> {
    let mut answers = leader.try_clone()?;
    let mut batches = io::BufReader::new(leader);
    while let Some(batch) = read_frame(&mut batches)? {
        disk.append(&batch)?;
        answers.write_all(&[1])?;
    }
    Ok(())
}

/// What the leader's threads share.
#[derive(Default)]
struct Shared {
    entries: VecDeque<Vec<u8>>,
    ended: bool,
    /// Batches that each node has on its disk, the leader first.
    on_disk: [usize; 3],
    /// Entries up to the end of each batch.
    counts: Vec<u64>,
}

#[derive(Default)]
struct Board {
    shared: Mutex<Shared>,
    changed: Condvar,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Shared)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait<T>(&self, mut ready: impl FnMut(&mut Shared) -> Option<T>) -> T {
        let mut shared = self.lock();
        loop {
            if let Some(found) = ready(&mut shared) {
                return found;
            }
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lead(disk: &mut Disk, caller: TcpStream, followers: Vec<TcpStream>) -> io::Result<()> {
    let board = Arc::new(Board::default());
    let mut batches = Vec::new();
    for (i, stream) in followers.into_iter().enumerate() {
        let (to_send, sending) = mpsc::channel::<Arc<Vec<u8>>>();
        batches.push(to_send);
        let mut answers = stream.try_clone()?;
        let mut stream = stream;
        std::thread::spawn(move || {
            for batch in sending {
                let len = (batch.len() as u32).to_le_bytes();
                stream
                    .write_all(&len)
                    .and_then(|()| stream.write_all(&batch))
                    .expect("a follower reads");
            }
        });
        let board = board.clone();
        std::thread::spawn(move || {
            let mut answered = [0; 64];
            while let Ok(n @ 1..) = answers.read(&mut answered) {
                board.change(|s| s.on_disk[i + 1] += n);
            }
        });
    }
    let (mut entries, reading) = (io::BufReader::new(caller.try_clone()?), board.clone());
    std::thread::spawn(move || {
        while let Ok(Some(entry)) = read_frame(&mut entries) {
            reading.change(|s| s.entries.push_back(entry));
        }
        reading.change(|s| s.ended = true);
    });
    let (mut caller, answering) = (caller, board.clone());
    std::thread::spawn(move || {
        let mut told = 0;
        loop {
            let committed = answering.wait(|s| {
                let mut on_disk = s.on_disk;
                on_disk.sort_unstable();
                let entries = on_disk[1].checked_sub(1).map(|last| s.counts[last])?;
                (entries > told).then_some(entries)
            });
            if caller.write_all(&committed.to_le_bytes()).is_err() {
                return;
            }
            told = committed;
        }
    });
    let mut count = 0;
    loop {
        let batch = board.wait(|s| {
            let mut batch = Vec::new();
            while batch.len() < BATCH_BYTES {
                let Some(entry) = s.entries.pop_front() else { break };
                batch.extend_from_slice(&entry);
                count += 1;
            }
            if !batch.is_empty() {
                s.counts.push(count);
                return Some(Some(Arc::new(batch)));
            }
            s.ended.then_some(None)
        });
        let Some(batch) = batch else { return Ok(()) };
        for follower in &batches {
            follower.send(batch.clone()).expect("a follower's thread runs");
        }
        disk.append(&batch)?;
        board.change(|s| s.on_disk[0] += 1);
    }
}
