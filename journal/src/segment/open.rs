//! Opens a data directory: locks it, formats it when it is empty, and recovers what is in it.

use super::core::{Core, Io};
use super::error::{Failure, OpenError};
use super::file;
use super::format::Kind;
use super::format::{
    Follows, Position, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentHeader,
};
use super::index::LogIndex;
use super::metadata::Metadata;
use super::model::{Identity, Options, Recovered};
use super::persisted::{
    IDENTITY_MAGIC, VOTE_MAGIC, decode_identity, decode_vote, encode_identity, encode_vote,
};
use super::recover::{self, Cursor, End, Image, Verdict};
use super::slots::Slots;
use super::state::Shared;
use super::summary::{self, Summary};
use super::writer::{Active, Writer, first_bytes};
use redoubt_env::Env;
use redoubt_env::files::{DirLock, File, Files, Mode};
use redoubt_types::NodeId;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const IDENTITY: &str = "identity";
const VOTE: &str = "vote";
/// Entries of a data directory that this module does not look at.
const FOREIGN_OK: [&str; 3] = ["LOCK", "metadata", "lost+found"];
const SEGMENT_BYTES_MAX: u32 = 1024 * 1024 * 1024;

pub(crate) fn open(
    env: &Env,
    dir: &Path,
    name: &str,
    mut options: Options,
    metadata: Arc<dyn Metadata>,
) -> Result<(Core, Recovered), OpenError> {
    options.segment_bytes = options
        .segment_bytes
        .clamp(2 * SEGMENT_HEADER_BYTES, SEGMENT_BYTES_MAX);
    let files = &**env.files();
    let lock = lock_dir(files, dir)?;
    let names = files.list(dir).map_err(OpenError::io("list", dir))?;
    if !names.iter().any(|n| n == IDENTITY) {
        format(env, dir, name, &options, &names)?;
    }
    let (identity_slots, identity) = load_identity(files, dir, name)?;
    let (vote_slots, vote) = load_vote(files, dir)?;
    let log = Log::recover(env, dir, &options, identity.node, &*metadata)?;

    let ids = log.index.ids.clone();
    let committed_end = log.index.committed_end.min(ids.end);
    let recovered = Recovered {
        identity,
        vote,
        last: ids.last(),
        committed: committed_end.checked_sub(1).and_then(|i| ids.get(i)),
        truncated_bytes: log.torn_bytes,
    };
    let shared = Shared {
        ids,
        places: log.index.places,
        generations: log.generations,
        ..Shared::default()
    };
    let next_index = shared.ids.end;
    let writer = Writer::new(
        env,
        dir,
        options,
        metadata.clone(),
        log.active,
        next_index,
        committed_end,
    );
    let io = Io {
        writer,
        vote: vote_slots,
        identity: identity_slots,
        metadata,
        _lock: lock,
    };
    Ok((
        Core::new(io, Arc::new(Mutex::new(shared)), options, dir.to_owned()),
        recovered,
    ))
}

fn lock_dir(files: &dyn Files, dir: &Path) -> Result<Box<dyn DirLock>, OpenError> {
    files.create_dir(dir).map_err(OpenError::io("create", dir))?;
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        files.sync_dir(parent).map_err(OpenError::io("sync", parent))?;
    }
    files.lock_dir(dir).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { dir: dir.to_owned() },
        _ => OpenError::io("lock", dir)(e),
    })
}

/// Makes an empty directory a node's. The identity comes last: with it the directory is formatted, without it
/// nobody has acted for it yet, and what a crashed formatting left is replaced.
fn format(env: &Env, dir: &Path, name: &str, options: &Options, names: &[String]) -> Result<(), OpenError> {
    let files = &**env.files();
    refuse_orphans(files, dir, names)?;
    for entry in names {
        let ours = entry == VOTE || entry.ends_with(".new") || FOREIGN_OK.contains(&entry.as_str());
        if !ours && file::number_of(entry) != Some(1) {
            return Err(OpenError::NotOurs {
                dir: dir.to_owned(),
                entry: entry.clone(),
            });
        }
    }
    let node = mint(env, dir, name)?;
    let identity = Identity {
        node,
        name: name.to_owned(),
        cluster: None,
    };
    Slots::create(files, &dir.join(VOTE), VOTE_MAGIC, &encode_vote(None))?;
    let header = SegmentHeader {
        segment: 1,
        generation: env.random_nonzero(),
        node: node.get(),
        follows: Follows::Nothing,
        previous_end: Position {
            segment: 0,
            offset: 0,
        },
        previous_link: 0,
        durable: Position {
            segment: 0,
            offset: 0,
        },
        next_index: 0,
    };
    file::create(files, dir, &header, first_bytes(options)).map_err(from_failure)?;
    Slots::create(
        files,
        &dir.join(IDENTITY),
        IDENTITY_MAGIC,
        &encode_identity(&identity),
    )?;
    files.sync_dir(dir).map_err(OpenError::io("sync", dir))
}

/// A new incarnation: whatever stood in this directory before, this node has promised nothing (H6).
fn mint(env: &Env, dir: &Path, name: &str) -> Result<NodeId, OpenError> {
    let random = if redoubt_env::planted::on("h06_identity_by_name") {
        u64::from(crc32fast::hash(name.as_bytes()))
    } else {
        env.random_nonzero()
    };
    NodeId::new(random).ok_or_else(|| OpenError::Contradiction {
        path: dir.to_owned(),
        what: "a random identity was 0".to_owned(),
    })
}

/// Without an identity, a vote or a record can only mean that the identity was lost.
fn refuse_orphans(files: &dyn Files, dir: &Path, names: &[String]) -> Result<(), OpenError> {
    let missing = || OpenError::Missing {
        path: dir.join(IDENTITY),
    };
    if names.iter().any(|n| n == VOTE) && load_vote(files, dir)?.1.is_some() {
        return Err(missing());
    }
    for number in names.iter().filter_map(|n| file::number_of(n)) {
        let path = file::path_of(dir, number);
        let file = files
            .open(&path, Mode::Read)
            .map_err(OpenError::io("open", &path))?;
        let bytes = file::read_all(&*file, &path)?;
        if bytes.iter().skip(SEGMENT_HEADER_BYTES as usize).any(|b| *b != 0) {
            return Err(missing());
        }
    }
    Ok(())
}

fn load_identity(files: &dyn Files, dir: &Path, name: &str) -> Result<(Slots, Identity), OpenError> {
    let path = dir.join(IDENTITY);
    let (slots, payload) = Slots::load(files, &path, IDENTITY_MAGIC)?;
    let identity = decode_identity(&payload).ok_or_else(|| garbled(&path))?;
    if identity.name != name {
        return Err(OpenError::Foreign {
            path,
            found: identity.name,
            wanted: name.to_owned(),
        });
    }
    Ok((slots, identity))
}

fn load_vote(files: &dyn Files, dir: &Path) -> Result<(Slots, Option<super::model::Vote>), OpenError> {
    let path = dir.join(VOTE);
    let (slots, payload) = Slots::load(files, &path, VOTE_MAGIC).map_err(|e| match e {
        OpenError::Io { source, path, .. } if source.kind() == io::ErrorKind::NotFound => {
            OpenError::Missing { path }
        }
        other => other,
    })?;
    let vote = decode_vote(&payload).ok_or_else(|| garbled(&path))?;
    Ok((slots, vote))
}

fn garbled(path: &Path) -> OpenError {
    OpenError::Contradiction {
        path: path.to_owned(),
        what: "its content does not parse".to_owned(),
    }
}

fn from_failure(f: Failure) -> OpenError {
    OpenError::Io {
        verb: f.verb,
        path: f.path.clone(),
        source: f.into(),
    }
}

/// A segment file that was found.
struct Found {
    header: SegmentHeader,
    crc: u32,
    path: PathBuf,
    file: Arc<dyn File>,
}

impl Found {
    fn image<'a>(&'a self, bytes: &'a [u8]) -> Image<'a> {
        Image {
            header: &self.header,
            header_crc: self.crc,
            bytes,
        }
    }
}

/// The log as recovered, ready to be written on.
struct Log {
    index: LogIndex,
    generations: BTreeMap<u32, u64>,
    active: Active,
    torn_bytes: u64,
}

impl Log {
    fn recover(
        env: &Env,
        dir: &Path,
        options: &Options,
        node: NodeId,
        metadata: &dyn Metadata,
    ) -> Result<Log, OpenError> {
        let files = &**env.files();
        let segments = find(files, dir, node)?;
        // What is read here may never have reached the disk: a process that was killed between a write and its
        // sync leaves it in the page cache. From here on it counts as durable, so it has to be. That can be
        // the last segment, and the seal of the one before; every earlier seal was synced before a record was
        // written behind it.
        for s in segments.iter().rev().take(2) {
            s.file.sync_data().map_err(OpenError::io("sync", &s.path))?;
        }
        let mut index = LogIndex::default();
        for i in 0..segments.len() {
            let found = &segments[i];
            let next = segments.get(i + 1);
            if let Some(next) = next
                && let Some(summary) = trusted_summary(found, next, metadata)
                && index.absorb(&summary.log)
            {
                continue;
            }
            let bytes = file::read_all(&*found.file, &found.path)?;
            let next_bytes = match next {
                Some(next) if i + 2 == segments.len() => file::read_all(&*next.file, &next.path)?,
                _ => Vec::new(),
            };
            let next_image = next.map(|n| n.image(&next_bytes));
            let next_is_last = i + 2 == segments.len();
            let image = found.image(&bytes);
            let judged = recover::segment(&image, next_image.as_ref(), next_is_last, &index);
            let (log, end) = judged.map_err(|v| refusal(dir, v))?;
            if !index.absorb(&log) {
                return Err(OpenError::Contradiction {
                    path: found.path.clone(),
                    what: "its records do not follow those of the segment before".to_owned(),
                });
            }
            let End::Last { end, torn_bytes, cut } = end else {
                continue;
            };
            let active = if cut && !redoubt_env::planted::on("h07_torn_end_is_kept") {
                cut_here(env, dir, options, found, end, &index)?
            } else {
                let file_bytes = bytes.len() as u32;
                Active {
                    file: found.file.clone(),
                    header: found.header,
                    end,
                    file_bytes,
                    log,
                }
            };
            // A segment behind this one was made for a seal that was never written; it is replaced.
            let mut generations: BTreeMap<_, _> = segments[..=i]
                .iter()
                .map(|s| (s.header.segment, s.header.generation))
                .collect();
            generations.insert(active.header.segment, active.header.generation);
            return Ok(Log {
                index,
                generations,
                active,
                torn_bytes,
            });
        }
        Err(OpenError::Missing {
            path: file::path_of(dir, segments.len() as u32 + 1),
        })
    }
}

/// Makes a torn end's cut permanent: the log goes on in a new segment whose header says where in the old one
/// it continues. Not one torn byte is overwritten, and none can be taken for a record again, whatever the
/// marks of later records say.
fn cut_here(
    env: &Env,
    dir: &Path,
    options: &Options,
    torn: &Found,
    end: Cursor,
    index: &LogIndex,
) -> Result<Active, OpenError> {
    let number = torn.header.segment;
    let here = Position {
        segment: number,
        offset: end.offset,
    };
    let header = SegmentHeader {
        segment: number + 1,
        generation: env.random_nonzero(),
        node: torn.header.node,
        follows: Follows::Cut,
        previous_end: here,
        previous_link: end.link,
        durable: here,
        next_index: index.ids.end,
    };
    let file_bytes = first_bytes(options);
    let (file, crc) = file::create(&**env.files(), dir, &header, file_bytes).map_err(from_failure)?;
    Ok(Active {
        file,
        header,
        end: Cursor::start(crc),
        file_bytes,
        log: Default::default(),
    })
}

/// The segment files of `dir`, in order, each with a header that checks out.
fn find(files: &dyn Files, dir: &Path, node: NodeId) -> Result<Vec<Found>, OpenError> {
    let names = files.list(dir).map_err(OpenError::io("list", dir))?;
    let mut segments: Vec<Found> = Vec::new();
    for number in names.iter().filter_map(|n| file::number_of(n)) {
        let path = file::path_of(dir, number);
        let file = files
            .open(&path, Mode::Write)
            .map_err(OpenError::io("open", &path))?;
        let (header, crc) = file::read_header(&*file, dir, number)?;
        if header.node != node.get() {
            let found = format!("node {:016x}", header.node);
            return Err(OpenError::Foreign {
                path,
                found,
                wanted: format!("node {node}"),
            });
        }
        let wanted = segments.last().map_or(1, |s| s.header.segment + 1);
        if number != wanted {
            return Err(OpenError::Missing {
                path: file::path_of(dir, wanted),
            });
        }
        segments.push(Found {
            header,
            crc,
            path,
            file,
        });
    }
    Ok(segments)
}

/// The summary of a sealed segment, if it is that of the file found.
fn trusted_summary(found: &Found, next: &Found, metadata: &dyn Metadata) -> Option<Summary> {
    let value = metadata.get(&summary::key(found.header.segment)).ok()??;
    let summary = Summary::decode(&value, &found.header)?;
    let expected = Position {
        segment: found.header.segment,
        offset: summary.end.offset,
    };
    if next.header.follows != Follows::Seal
        || next.header.previous_end != expected
        || next.header.previous_link != summary.end.link
        || summary.sealed.next_generation != next.header.generation
    {
        return None;
    }
    let at = Position {
        offset: summary.end.offset.checked_sub(RECORD_HEADER_BYTES)?,
        ..expected
    };
    let mut seal = [0; RECORD_HEADER_BYTES as usize];
    found.file.read_at(&mut seal, at.offset.into()).ok()?;
    let (seal, crc) = RecordHeader::decode(&seal, found.header.generation, at)?;
    (seal.kind == Kind::Seal && crc == summary.end.link).then_some(summary)
}

fn refusal(dir: &Path, verdict: Verdict) -> OpenError {
    match verdict {
        Verdict::Rot {
            segment,
            offset,
            index,
        } => OpenError::Rot {
            path: file::path_of(dir, segment),
            segment,
            position: offset,
            index,
        },
        Verdict::Contradiction { segment, what } => OpenError::Contradiction {
            path: file::path_of(dir, segment),
            what,
        },
        Verdict::Missing { segment } => OpenError::Missing {
            path: file::path_of(dir, segment as u32),
        },
    }
}
