//! Opens a data directory: locks it, formats it when it is empty, and recovers what is in it.

use super::beginning::{self, Beginning};
use super::core::{Core, Io};
use super::end::{END, EndFile, Witness};
use super::error::{OpenError, from_failure};
use super::file;
use super::format::{Follows, Position, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::found::{self, Found};
use super::held::Hold;
use super::index::LogIndex;
use super::layout::Layout;
use super::merged;
use super::metadata::Metadata;
use super::model::{Identity, Options, Recovered};
use super::patch::Patches;
use super::persisted::{
    IDENTITY_MAGIC, VOTE_MAGIC, decode_identity, decode_vote, encode_identity, encode_vote,
};
use super::recover::Cursor;
use super::scan::{Scan, rotten};
use super::scrub::Known;
use super::slots::Slots;
use super::space::Space;
use super::state::Shared;
use super::writer::{Active, Reached, Writer, first_bytes};
use redoubt_env::Env;
use redoubt_env::files::{DirLock, Files, Mode};
use redoubt_types::NodeId;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub(crate) const IDENTITY: &str = "identity";
pub(crate) const VOTE: &str = "vote";
/// Entries of a data directory that this module does not look at.
const FOREIGN_OK: [&str; 4] = ["LOCK", "metadata", "lost+found", crate::base::BASES];
pub(crate) const SEGMENT_BYTES_MAX: u32 = 1024 * 1024 * 1024;

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
    let hold = Hold::new(lock_dir(files, dir)?);
    let names = files.list(dir).map_err(OpenError::io("list", dir))?;
    if !names.iter().any(|n| n == IDENTITY) {
        format(env, dir, name, &options, &names)?;
    }
    let (identity_slots, identity) = load_identity(files, dir, name)?;
    let (vote_slots, vote) = load_vote(files, dir)?;
    let space =
        Space::open(env.files(), dir, &options).map_err(OpenError::io("take over the spares in", dir))?;
    let log = Log::recover(env, dir, &options, identity.node, &*metadata, &space)?;
    let space = Arc::new(space);

    let ids = log.index.ids.clone();
    let committed_end = log.index.committed_end.min(ids.end);
    let recovered = Recovered {
        identity,
        vote,
        last: ids.last(),
        committed: committed_end.checked_sub(1).and_then(|i| ids.get(i)),
        truncated_bytes: log.torn_bytes,
        beginning: log.beginning.map(|b| b.state),
    };
    let known = Known { patches: log.patches };
    let durable = Position {
        segment: log.active.header.segment,
        offset: log.active.end.offset,
    };
    let shared = Shared {
        ids,
        places: log.index.places,
        generations: log.generations,
        layout: log.layout,
        durable,
        first_segment: log.first_segment,
        ..Shared::default()
    };
    let reached = Reached {
        next_index: shared.ids.end,
        committed_end,
    };
    let writer = Writer::new(
        env,
        dir,
        options,
        metadata.clone(),
        space.clone(),
        log.active,
        reached,
    )?;
    let io = Io {
        writer,
        vote: vote_slots,
        identity: identity_slots,
        metadata,
        hold,
    };
    Ok((
        Core::new(
            io,
            Arc::new(Mutex::new(shared)),
            known,
            space,
            env.files().clone(),
            options,
            dir.to_owned(),
        ),
        recovered,
    ))
}

pub(crate) fn lock_dir(files: &dyn Files, dir: &Path) -> Result<Box<dyn DirLock>, OpenError> {
    files.create_dir(dir).map_err(OpenError::io("create", dir))?;
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
        let ours =
            entry == VOTE || entry == END || entry.ends_with(".new") || FOREIGN_OK.contains(&entry.as_str());
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
        before: None,
    };
    file::create(files, dir, &header, first_bytes(options), None).map_err(from_failure)?;
    let durable = Position {
        segment: 1,
        offset: SEGMENT_HEADER_BYTES,
    };
    EndFile::create(files, dir, Witness { durable, header })?;
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
    if names
        .iter()
        .any(|n| merged::range_of(n).is_some() || beginning::is_one(n))
    {
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

/// Whose directory it is, and whether a copy of that is damaged; nothing is changed.
pub(crate) fn peek_identity(files: &dyn Files, dir: &Path) -> Result<(Identity, bool), OpenError> {
    let path = dir.join(IDENTITY);
    let (payload, damaged) = Slots::peek(files, &path, IDENTITY_MAGIC)?;
    let identity = decode_identity(&payload).ok_or_else(|| garbled(&path))?;
    Ok((identity, damaged))
}

/// Whether a copy of the vote is damaged; nothing is changed.
pub(crate) fn peek_vote(files: &dyn Files, dir: &Path) -> Result<bool, OpenError> {
    let path = dir.join(VOTE);
    let (payload, damaged) = Slots::peek(files, &path, VOTE_MAGIC)?;
    decode_vote(&payload).ok_or_else(|| garbled(&path))?;
    Ok(damaged)
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

/// The log as recovered, ready to be written on.
struct Log {
    first_segment: u32,
    beginning: Option<Beginning>,
    index: LogIndex,
    generations: BTreeMap<u32, u64>,
    layout: Layout,
    active: Active,
    torn_bytes: u64,
    patches: Patches,
}

impl Log {
    fn recover(
        env: &Env,
        dir: &Path,
        options: &Options,
        node: NodeId,
        metadata: &dyn Metadata,
        space: &Space,
    ) -> Result<Log, OpenError> {
        let scan = Scan::of(env, dir, node, metadata, &mut |_| {})?;
        if let Some(gap) = scan.gaps.first() {
            return Err(rotten(&scan.layout, dir, gap));
        }
        let files = &**env.files();
        for spoilt in &scan.spoilt_merged {
            spoilt.mend(files, dir)?;
        }
        for spoilt in &scan.spoilt {
            spoilt.mend(files, dir)?;
        }
        // Only now: what is left over is needed by nothing that was read.
        found::remove(files, dir, &scan.leftovers).map_err(from_failure)?;
        if let Some(beginning) = scan.beginning.as_ref().filter(|_| scan.beginning_is_spoilt) {
            beginning.publish(files, dir).map_err(from_failure)?;
        }
        let found = &scan.last;
        // A merged file is never written to: what followed there is lost, and nothing told of it.
        let cut = scan.cut || found.lies.part.is_some();
        let active = if cut && !redoubt_env::planted::on("h07_torn_end_is_kept") {
            cut_here(env, dir, options, found, scan.end, &scan.index, space)?
        } else {
            Active {
                file: found.file(files)?,
                header: found.header,
                header_crc: found.crc,
                end: scan.end,
                file_bytes: scan.file_bytes,
                log: scan.log,
                is_patched: scan.patches.any_in(found.header.segment),
            }
        };
        let mut generations = scan.generations;
        generations.insert(active.header.segment, active.header.generation);
        let mut layout = scan.layout;
        // One behind it was made for a seal that was never written.
        layout.ends.retain(|number, _| *number < active.header.segment);
        let first_segment = scan.beginning.as_ref().map_or(0, |b| b.segment);
        if active.header.follows != Follows::Nothing {
            let end = active.header.previous_end;
            layout.ends.insert(end.segment, end.offset);
        }
        layout.trim(first_segment);
        Ok(Log {
            first_segment,
            beginning: scan.beginning,
            index: scan.index,
            generations,
            layout,
            active,
            torn_bytes: scan.torn_bytes,
            patches: scan.patches,
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
    space: &Space,
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
        before: Some(torn.header.copy(torn.crc)),
    };
    let spare = space.take();
    let created =
        file::create(&**env.files(), dir, &header, first_bytes(options), spare).map_err(from_failure)?;
    Ok(Active {
        file: created.file,
        header,
        header_crc: created.header_crc,
        end: Cursor::start(created.header_crc),
        file_bytes: created.bytes,
        log: Default::default(),
        is_patched: false,
    })
}
