//! Merging: many small editlogs become few larger ones, behind the back of all who use them.
//!
//! Every restart that cuts a torn end, and every change of the segments' size, leaves small files behind, each with space set
//! aside for a large one. Promises that at each moment, whatever fails, every segment lies somewhere as a whole: the originals
//! go only once the merged file is durable, was read back from the disk and checked record by record, and has its name.

use super::beginning;
use super::core::Core;
use super::error::Failure;
use super::file;
use super::format::SEGMENT_HEADER_BYTES;
use super::layout::{self, Lies};
use super::merged::{self, MEMBERS_MAX, Member, Merged};
use super::model::{Execution, Options};
use super::reader::Stop;
use super::scrub::{Left, Rot, Scrub};
use super::space::Room;
use super::state::lock;
use redoubt_env::files::{File, Mode};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

/// Bytes copied at once.
const COPY_BYTES: usize = 256 * 1024;
/// Bytes written between two syncs: the log's own syncs wait for what the disk is given here.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// A file with sealed segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    first: u32,
    last: u32,
    bytes: u64,
}

/// Which of `pieces`, adjacent and in order, are to become one file: the first and the last segment.
///
/// As a file grows by merges it waits for neighbours of about its size: the largest of those that are merged has at most two
/// thirds of all their bytes. So a byte is copied again only when its file becomes half as large again (as in a log-structured
/// merge tree with size tiers).
pub(crate) fn plan(pieces: &[Piece], options: &Options) -> Option<(u32, u32)> {
    let most = options.merge_bytes;
    (0..pieces.len()).find_map(|from| {
        let first = pieces[from].first;
        let (mut bytes, mut largest, mut found) = (0, 0, None);
        for (piece, count) in pieces[from..].iter().zip(1..) {
            let members = u64::from(piece.last) + 1 - u64::from(first);
            bytes += piece.bytes;
            largest = largest.max(piece.bytes);
            if largest > most / 2 || bytes > most || members > MEMBERS_MAX as u64 {
                break;
            }
            let enough = count >= options.merge_at_files || bytes >= most / 2;
            if count >= 2 && enough && 3 * largest <= 2 * bytes {
                found = Some((first, piece.last));
            }
        }
        found
    })
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merging {
    /// There is nothing to merge.
    Nothing,
    /// So many files became one.
    Done {
        /// Files that are gone.
        files: usize,
        /// Length of the new one, bytes.
        bytes: u64,
    },
    /// All is as it was, and why.
    NotNow(String),
}

/// Why none was made.
pub(crate) enum Stopped {
    /// What was to be copied is damaged.
    Rot(Rot),
    /// A failed write or sync, which is final.
    Failure(Failure),
    /// Whatever else keeps it from being made now.
    NotNow(String),
}

impl From<Failure> for Stopped {
    /// That there is no space is no damage: nothing was begun that something else rests on. A sync that fails is.
    fn from(failure: Failure) -> Self {
        match failure.is_for_want_of_room() {
            true => Stopped::NotNow("the disk has no room for it".to_owned()),
            false => Stopped::Failure(failure),
        }
    }
}

impl Stopped {
    fn ended() -> Self {
        Stopped::NotNow("the storage was closed".to_owned())
    }
}

/// The merging of a log's editlogs.
pub(crate) struct Merge<'a> {
    pub(crate) core: &'a Core,
    /// Knows the files, and checks them.
    pub(crate) scrub: Scrub,
    /// Hears of the bytes as they are read or written, and says whether to go on.
    pub(crate) pace: &'a mut dyn FnMut(u64) -> bool,
}

impl Merge<'_> {
    /// Merges one run of editlogs, if there is one to merge.
    pub(crate) fn run(&mut self) -> Result<Merging, Stopped> {
        let Some(range) = plan(&self.pieces(), &self.core.options) else {
            return Ok(Merging::Nothing);
        };
        self.unhindered()?;
        let (merged, sources) = self.read(range)?;
        let path = merged::path_of(&self.scrub.dir, merged.range());
        let fresh = path.with_extension("new");
        let made = self.make(&merged, &sources, &path, &fresh);
        if matches!(made, Err(Stopped::NotNow(_) | Stopped::Rot(_))) {
            // It holds nothing that does not lie elsewhere. After a failure nothing is changed any more; the next opening does.
            let files = &self.scrub.files;
            self.core
                .held
                .change(|| file::remove(&**files, &fresh))
                .transpose()?;
        }
        made?;
        Ok(Merging::Done {
            files: sources
                .iter()
                .map(|lies| &lies.path)
                .collect::<BTreeSet<_>>()
                .len(),
            bytes: merged.file_bytes(),
        })
    }

    fn unhindered(&self) -> Result<(), Stopped> {
        hindrance(self.core).map_or(Ok(()), |why| Err(Stopped::NotNow(why)))
    }

    /// Tells of so many bytes; an error if it is not to go on.
    fn goes_on(&mut self, bytes: u64) -> Result<(), Stopped> {
        self.unhindered()?;
        match (self.pace)(bytes) {
            true => Ok(()),
            false => Err(Stopped::ended()),
        }
    }

    /// The files with sealed segments, in the order of the log.
    fn pieces(&self) -> Vec<Piece> {
        let shared = lock(&self.scrub.shared);
        let mut pieces: Vec<(Piece, Option<&Lies>)> = Vec::new();
        for (&number, &end) in shared.layout.ends.range(..shared.durable.segment) {
            let (home, bytes) = (shared.layout.merged.get(&number), u64::from(end));
            match pieces.last_mut() {
                Some((piece, Some(lies))) if home.is_some_and(|home| home.path == lies.path) => {
                    piece.last = number;
                    piece.bytes += bytes;
                }
                _ => pieces.push((
                    Piece {
                        first: number,
                        last: number,
                        bytes,
                    },
                    home,
                )),
            }
        }
        pieces.into_iter().map(|(piece, _)| piece).collect()
    }

    /// What is to be merged, and where it lies now.
    fn read(&self, (first, last): (u32, u32)) -> Result<(Merged, Vec<Lies>), Stopped> {
        let (mut members, mut sources) = (Vec::new(), Vec::new());
        for number in first..=last {
            let rot = || self.stopped(Left::Rot(0), number);
            let (header, header_crc) = self
                .scrub
                .header_of(number)
                .map_err(|left| self.stopped(left, number))?
                .ok_or_else(rot)?;
            let end = lock(&self.scrub.shared).layout.ends.get(&number).copied();
            let bytes = end.filter(|end| *end >= SEGMENT_HEADER_BYTES).ok_or_else(rot)?;
            members.push(Member {
                header,
                header_crc,
                bytes,
            });
            sources.push(self.scrub.lies(number));
        }
        let merged = Merged::new(members).ok_or_else(|| self.stopped(Left::Rot(0), first))?;
        Ok((merged, sources))
    }

    fn stopped(&self, left: Left, number: u32) -> Stopped {
        match left {
            Left::Rot(offset) => Stopped::Rot(Rot::at(&self.scrub.lies(number), number, offset)),
            Left::Io(e) => Stopped::NotNow(format!("segment {number} can't be read: {e}")),
            Left::Enough => Stopped::ended(),
        }
    }

    /// Makes the merged file under the name `fresh`, checks it, gives it its name, and removes what it replaces.
    fn make(&mut self, merged: &Merged, sources: &[Lies], path: &Path, fresh: &Path) -> Result<(), Stopped> {
        let (files, dir) = (self.scrub.files.clone(), self.scrub.dir.clone());
        // Nothing rests on it yet.
        let refused = |e: io::Error| Stopped::NotNow(format!("{} can't be made: {e}", path.display()));
        // Under the lock, as all that changes the directory: it may be another's by now.
        let create = || {
            file::remove(&*files, fresh)?;
            files.open(fresh, Mode::CreateNew).map_err(refused)
        };
        let new = self.core.held.change(create).ok_or_else(Stopped::ended)??;
        new.allocate(merged.file_bytes()).map_err(refused)?;
        new.write_at(&[IoSlice::new(&merged.encode())], 0)
            .map_err(Failure::new("write", path))?;
        let mut unsynced = 0;
        for (member, lies) in merged.lie(&dir) {
            self.copy(member, &lies, &*new, path, &mut unsynced)?;
        }
        sync(&*new, path)?;
        // What is read next comes from the disk.
        new.forget(0, merged.file_bytes());
        for (member, lies) in merged.lie(&dir) {
            if !redoubt_env::planted::on("merge_not_checked") {
                self.check(member, layout::part_of(&new, lies.part), path)?;
            }
        }
        self.unhindered()?;
        self.core
            .held
            .change(|| {
                if merged.range().0 < lock(&self.scrub.shared).first_segment {
                    return Err(Stopped::NotNow(
                        "what was to be merged was trimmed meanwhile".to_owned(),
                    ));
                }
                Ok(self.publish(merged, sources, path, fresh)?)
            })
            .ok_or_else(Stopped::ended)?
    }

    /// Copies one segment. What of it can't be read stays behind, as zeros: whether patches stand for that is seen later.
    fn copy(
        &mut self,
        member: &Member,
        to: &Lies,
        new: &dyn File,
        path: &Path,
        unsynced: &mut u64,
    ) -> Result<(), Stopped> {
        let number = member.header.segment;
        let source = self.scrub.open(number).map_err(|e| self.unread(e, number))?;
        let from = self.scrub.lies(number).path;
        let mut buf = vec![0; COPY_BYTES];
        for at in (0..member.bytes).step_by(COPY_BYTES) {
            let part = &mut buf[..(member.bytes - at).min(COPY_BYTES as u32) as usize];
            file::fill_with_what_can_be_read(&*source, &from, part, at.into())
                .map_err(|e| self.unread(e, number))?;
            new.write_at(&[IoSlice::new(part)], to.byte(at))
                .map_err(Failure::new("write", path))?;
            *unsynced += part.len() as u64;
            if *unsynced >= SYNC_BYTES {
                sync(new, path)?;
                *unsynced = 0;
            }
            self.goes_on(2 * part.len() as u64)?;
        }
        Ok(())
    }

    fn unread(&self, e: io::Error, number: u32) -> Stopped {
        let left = match Stop::from(e) {
            Stop::Damaged => Left::Rot(0),
            Stop::Io(e) => Left::Io(e),
        };
        self.stopped(left, number)
    }

    /// Checks the copy of a segment as any segment is checked, with the patches that belong to it.
    fn check(&mut self, member: &Member, copy: Arc<dyn File>, path: &Path) -> Result<(), Stopped> {
        let number = member.header.segment;
        let generation = |number| lock(&self.scrub.shared).generations.get(&number).copied();
        let next = generation(number + 1).map(|generation| (number + 1, generation));
        let generation = generation(number).unwrap_or(member.header.generation);
        let Merge { core, scrub, pace } = self;
        let checked = scrub.file(copy, number, generation, next, None, &mut |bytes| {
            hindrance(core).is_none() && pace(bytes)
        });
        self.unhindered()?;
        match checked {
            Ok(()) => Ok(()),
            Err(Left::Rot(_)) => {
                // Because it was copied so?
                let source = self.scrub.open(number).map_err(|e| self.unread(e, number))?;
                self.scrub
                    .file(source, number, generation, next, None, self.pace)
                    .map_err(|left| self.stopped(left, number))?;
                let path = path.display();
                Err(Stopped::NotNow(format!("{path} is not what was written to it")))
            }
            Err(left) => Err(self.stopped(left, number)),
        }
    }

    /// The order matters: the file beside is there before any original goes, so that a table that is lost then is told by the
    /// other; and readers are told before the originals go, so that whoever finds one gone finds the other by asking again.
    fn publish(&self, merged: &Merged, sources: &[Lies], path: &Path, fresh: &Path) -> Result<(), Failure> {
        let Scrub {
            shared, dir, files, ..
        } = &self.scrub;
        let sync = || files.sync_dir(dir).map_err(Failure::new(file::SYNC, dir));
        let named = files
            .rename(fresh, path)
            .map_err(Failure::new("rename", path))
            .and_then(|()| sync())
            .and_then(|()| merged.write_beside(&**files, dir));
        if let Err(failure) = named {
            // A disk that is full gets its room back; unless there was a file of this name that segments lie in.
            if failure.is_for_want_of_room() && sources.iter().all(|lies| *lies.path != *path) {
                merged::remove(&**files, dir, merged.range())?;
                file::remove(
                    &**files,
                    &merged::beside(dir, merged.range()).with_extension("new"),
                )?;
            }
            return Err(failure);
        }
        lock(shared).layout.adopt(dir, merged);
        let replaced = merged
            .numbers()
            .zip(sources)
            .map(|(number, lies)| (&lies.path, number));
        let mut used = None;
        for (old, number) in BTreeMap::from_iter(replaced) {
            match self.dispose_of(old, number, used.is_none()) {
                // A file system that copies on write needs room even for that. The next opening removes it.
                Err(failure) if failure.is_for_want_of_room() => {
                    tracing::warn!(%failure, "an editlog that was merged is left");
                }
                disposed => used = used.or(disposed?),
            }
        }
        if !redoubt_env::planted::on("reused_before_its_name_is_gone") {
            sync()?;
        }
        // Only now: until then a power cut may bring the old name back, and under that name what it holds.
        if let Some(number) = used {
            self.core.space.reuse(number);
        }
        Ok(())
    }

    /// Removes the files of segments before `first`, oldest first, and what told of earlier beginnings. Returns how many, or `None` when it
    /// was told not to go on.
    pub(crate) fn remove_before(&mut self, first: u32) -> Result<Option<usize>, Failure> {
        let (files, dir) = (self.scrub.files.clone(), self.scrub.dir.clone());
        let names = files.list(&dir).map_err(Failure::new("list", &dir))?;
        let number_in = |name: &str| {
            let merged = || merged::range_of(name).filter(|(_, last)| *last < first);
            let alone = file::number_of(name).filter(|number| *number < first);
            alone.or_else(|| merged().map(|(number, _)| number))
        };
        let mut old: Vec<_> = names
            .iter()
            .filter_map(|n| Some((number_in(n)?, dir.join(n))))
            .collect();
        old.sort();
        let mut used = None;
        for (number, path) in &old {
            if !(self.pace)(0) {
                return Ok(None);
            }
            let may_be_used = used.is_none();
            let disposed = self
                .core
                .held
                .change(|| self.dispose_of(path, *number, may_be_used));
            match disposed {
                None => return Ok(None),
                Some(disposed) => used = used.or(disposed?),
            }
        }
        let ended = self.core.held.change(|| {
            beginning::remove_earlier(&*files, &dir, first)?;
            files.sync_dir(&dir).map_err(Failure::new(file::SYNC, &dir))
        });
        match ended {
            None => return Ok(None),
            Some(ended) => ended?,
        }
        // As of `publish`.
        if let Some(number) = used {
            self.core.space.reuse(number);
        }
        Ok(Some(old.len()))
    }

    /// Removes a file that segment `number` lay in, and perhaps others; or, if it `may_be_used`, puts it where it is used again:
    /// then returns the number for that.
    fn dispose_of(&self, old: &Path, number: u32, may_be_used: bool) -> Result<Option<u32>, Failure> {
        let Scrub {
            shared, dir, files, ..
        } = &self.scrub;
        if let Some(range) = merged::range_at(old) {
            // It may still hold others, or be the very file that was made again.
            let is_in_use = lock(shared).layout.merged.values().any(|lies| *lies.path == *old);
            let removed = if is_in_use {
                Ok(())
            } else {
                merged::remove(&**files, dir, range)
            };
            return removed.map(|()| None);
        }
        let is_open = lock(shared).layout.is_open(number) && !redoubt_env::planted::on("reused_while_open");
        let place = (may_be_used && !is_open).then(|| self.core.space.place_for_used());
        let Some((used, place)) = place.flatten() else {
            return file::remove(&**files, old).map(|()| None);
        };
        let moved = files.rename(old, &place);
        moved.map_err(Failure::new("rename", old)).map(|()| Some(used))
    }
}

/// Why nothing may be merged now, if so.
fn hindrance(core: &Core) -> Option<String> {
    if let Some(failure) = &*core.failed.borrow() {
        return Some(failure.to_string());
    }
    if core.rot.borrow().is_some() {
        return Some("what rotted is to be repaired first".to_owned());
    }
    // Without threads nobody makes spares, and there is never plenty.
    let is_kept = core.options.execution == Execution::Threads;
    let is_low = is_kept && *core.space.room().borrow() != Room::Plenty;
    is_low.then(|| "the disk has no room for it".to_owned())
}

fn sync(new: &dyn File, path: &Path) -> Result<(), Failure> {
    match redoubt_env::planted::on("merge_not_synced") {
        true => Ok(()),
        false => file::sync(new, path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(merge_bytes: u64) -> Options {
        Options {
            merge_bytes,
            merge_at_files: 4,
            ..Options::default()
        }
    }

    fn pieces(bytes: &[u64]) -> Vec<Piece> {
        let piece = |(number, bytes): (u32, &u64)| Piece {
            first: number,
            last: number,
            bytes: *bytes,
        };
        (1..).zip(bytes).map(piece).collect()
    }

    #[test]
    fn many_small_neighbours_are_merged_or_few_that_are_large_together() {
        let plan = |bytes: &[u64]| plan(&pieces(bytes), &options(100));
        assert_eq!(plan(&[]), None);
        assert_eq!(plan(&[5, 5, 5]), None, "few and small");
        assert_eq!(plan(&[5, 5, 5, 5]), Some((1, 4)));
        assert_eq!(plan(&[30, 30]), Some((1, 2)), "large enough together");
        assert_eq!(plan(&[90, 5, 5, 5, 5, 90]), Some((2, 5)), "a large one stays");
        assert_eq!(plan(&[5, 5, 90, 5, 5]), None, "no neighbours");
        assert_eq!(plan(&[40, 40, 40, 40]), Some((1, 2)), "not more than fits");
        assert_eq!(plan(&[0; 3000]), Some((1, MEMBERS_MAX as u32)));
        assert_eq!(super::plan(&pieces(&[4096; 9]), &options(0)), None, "not at all");
    }

    #[test]
    fn a_file_that_grew_by_merges_waits_for_neighbours_of_its_size() {
        assert_eq!(plan(&pieces(&[20, 1, 1, 1]), &options(100)), None);
        assert_eq!(plan(&pieces(&[20, 1, 1, 1, 1]), &options(100)), Some((2, 5)));
        let many = [[1; 10].as_slice(), &[45]].concat();
        assert_eq!(
            plan(&pieces(&many), &options(100)),
            Some((1, 10)),
            "it keeps none from it"
        );
        assert_eq!(plan(&pieces(&[20, 4, 4, 2]), &options(100)), Some((1, 4)));
        let (mut files, mut copied) = (Vec::new(), 0);
        for number in 1..=4096 {
            files.push(Piece {
                first: number,
                last: number,
                bytes: 1,
            });
            while let Some((first, last)) = plan(&files, &options(10_000)) {
                let merged: Vec<_> = files
                    .iter()
                    .filter(|p| (first..=last).contains(&p.first))
                    .copied()
                    .collect();
                let at = files.iter().position(|p| p.first == first).unwrap();
                let bytes = merged.iter().map(|p| p.bytes).sum();
                files.splice(at..at + merged.len(), [Piece { first, last, bytes }]);
                copied += bytes;
            }
        }
        assert!(files.len() < 4 * 12, "{} files are left", files.len());
        assert!(copied < 4096 * 12, "{copied} were copied");
        println!("{} files, {copied} copied", files.len());
    }
}
