//! Segment files by name: made, listed and read, and nothing about what is in their records.

use super::error::{Failure, OpenError};
use super::format::{FORMAT_VERSION, HeaderError, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::merged;
use super::patch::PATCH_BIT;
use super::space::Spare;
use redoubt_env::files::{File, Files, Mode, is_unreadable};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const PREFIX: &str = "editlog-";
const PATCH_PREFIX: &str = "patch-";
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
const ZERO_SLICES_MAX: u64 = 64;
/// What is read at once where a disk can't read all: no smaller part of it is ever lost alone.
const PAGE_BYTES: usize = 4096;

/// Where segment `number` lies; a patch, if the number has [`PATCH_BIT`].
pub(crate) fn path_of(dir: &Path, number: u32) -> PathBuf {
    match number & PATCH_BIT {
        0 => dir.join(format!("{PREFIX}{number:010}")),
        _ => dir.join(format!("{PATCH_PREFIX}{:010}", number & !PATCH_BIT)),
    }
}

/// The number of the segment in the file `name`.
pub(crate) fn number_of(name: &str) -> Option<u32> {
    number_behind(PREFIX, name)
}

/// The number of the patch in the file `name`, its [`PATCH_BIT`] set.
pub(crate) fn patch_of(name: &str) -> Option<u32> {
    number_behind(PATCH_PREFIX, name).map(|n| n | PATCH_BIT)
}

fn number_behind(prefix: &str, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(prefix)?;
    (digits.len() == 10).then_some(())?;
    digits.parse().ok().filter(|n| n & PATCH_BIT == 0)
}

/// Bytes of the log's files in `dir`.
pub(crate) fn bytes_in(files: &dyn Files, dir: &Path) -> io::Result<u64> {
    let names = files.list(dir)?;
    let is_ours =
        |n: &&String| number_of(n).or_else(|| patch_of(n)).is_some() || merged::range_of(n).is_some();
    let bytes = names.iter().filter(is_ours).map(|name| {
        match files.open(&dir.join(name), Mode::Read) {
            // Merged since, and counted there the next time.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
            opened => opened?.len(),
        }
    });
    bytes.sum()
}

/// Removes a file, if it is there. Durable once the directory is synced.
pub(crate) fn remove(files: &dyn Files, path: &Path) -> Result<(), Failure> {
    match files.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Failure::new("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Writes zeros from `from` up to `to`.
pub(crate) fn write_zeros(file: &dyn File, mut from: u64, to: u64) -> io::Result<()> {
    let slices = [IoSlice::new(&ZEROS); ZERO_SLICES_MAX as usize];
    let block = ZEROS.len() as u64;
    while from < to {
        let whole = ((to - from) / block).min(ZERO_SLICES_MAX);
        if whole == 0 {
            file.write_at(&[IoSlice::new(&ZEROS[..(to - from) as usize])], from)?;
            return Ok(());
        }
        file.write_at(&slices[..whole as usize], from)?;
        from += whole * block;
    }
    Ok(())
}

/// What a failed sync is called in a [`Failure`].
pub(crate) const SYNC: &str = "sync";

/// Makes what was written to `file` durable. Never tried again: after a failure the kernel may count pages as clean that
/// never reached the disk, and a second call would say `Ok` to that.
pub(crate) fn sync(file: &dyn File, path: &Path) -> Result<(), Failure> {
    match file.sync_data() {
        Err(_) if redoubt_env::planted::on("fsync_retried") => file.sync_data(),
        synced => synced,
    }
    .map_err(Failure::new(SYNC, path))
}

/// Makes the file `number`, a segment or a patch, as of [`publish_as`].
pub(crate) fn publish(
    files: &dyn Files,
    dir: &Path,
    number: u32,
    spare: Option<&Path>,
    fill: impl FnOnce(&dyn File) -> Result<(), Failure>,
) -> Result<Arc<dyn File>, Failure> {
    publish_as(files, dir, &path_of(dir, number), spare, fill)
}

/// Makes the file `path` in `dir` with what `fill` writes into it: content and name are durable before this returns, so it is
/// there whole or not at all. Replaces a file of the same name. Uses up `spare`, if there is one.
pub(crate) fn publish_as(
    files: &dyn Files,
    dir: &Path,
    path: &Path,
    spare: Option<&Path>,
    fill: impl FnOnce(&dyn File) -> Result<(), Failure>,
) -> Result<Arc<dyn File>, Failure> {
    let fresh = path.with_extension("new");
    let fail = |verb| Failure::new(verb, path);
    remove(files, &fresh)?;
    let mode = match spare {
        Some(spare) => {
            files.rename(spare, &fresh).map_err(fail("take a spare for"))?;
            Mode::Write
        }
        None => Mode::CreateNew,
    };
    let file = files.open(&fresh, mode).map_err(fail("create"))?;
    fill(&*file)?;
    sync(&*file, path)?;
    files.rename(&fresh, path).map_err(fail("rename"))?;
    files.sync_dir(dir).map_err(Failure::new(SYNC, dir))?;
    Ok(file)
}

/// A segment that was made.
pub(crate) struct Created {
    pub(crate) file: Arc<dyn File>,
    pub(crate) header_crc: u32,
    /// Length of the file.
    pub(crate) bytes: u32,
}

/// Makes a segment of `bytes` at least, its header and then zeros, from `spare` if there is one. A header that can't be read
/// is never a crash's doing.
pub(crate) fn create(
    files: &dyn Files,
    dir: &Path,
    header: &SegmentHeader,
    bytes: u32,
    spare: Option<Spare>,
) -> Result<Created, Failure> {
    let path = path_of(dir, header.segment);
    let fail = |verb| Failure::new(verb, &path);
    let (block, header_crc) = header.encode();
    let filled = spare.as_ref().map_or(0, |s| s.filled.min(u32::MAX.into()) as u32);
    let from = filled.max(SEGMENT_HEADER_BYTES);
    let file = publish(
        files,
        dir,
        header.segment,
        spare.as_ref().map(|s| &*s.path),
        |file| {
            file.write_at(&[IoSlice::new(&block)], 0)
                .map_err(fail("write the header of"))?;
            write_zeros(file, from.into(), bytes.into()).map_err(fail("fill"))
        },
    )?;
    Ok(Created {
        file,
        header_crc,
        bytes: from.max(bytes),
    })
}

/// Reads a segment's header block; returns it with its checksum.
pub(crate) fn read_header(
    file: &dyn File,
    path: &Path,
    number: u32,
) -> Result<(SegmentHeader, u32), OpenError> {
    let mut block = vec![0; SEGMENT_HEADER_BYTES as usize];
    let read = file.read_at(&mut block, 0).map_err(OpenError::io("read", path))?;
    let path = path.to_owned();
    match SegmentHeader::decode(&block[..read]) {
        Ok((header, crc)) if header.segment == number => Ok((header, crc)),
        Ok((header, _)) => {
            let what = format!("its header is that of segment {}", header.segment);
            Err(OpenError::Contradiction { path, what })
        }
        Err(HeaderError::Version(found)) => Err(OpenError::Version {
            path,
            found,
            supported: FORMAT_VERSION,
        }),
        // A file gets its name only once its header is durable.
        Err(HeaderError::Damaged) => Err(OpenError::Rot {
            path,
            segment: number,
            position: 0,
            index: 0,
        }),
    }
}

/// Reads a whole file, with zeros for what the disk can't read: to whoever checks records that is damage like any other,
/// and repaired like it. Not for a file whose end is still open, where zeros would look as if nothing had been written.
pub(crate) fn read_what_can_be(file: &dyn File, path: &Path) -> Result<Vec<u8>, OpenError> {
    match read_all(file, path) {
        Err(OpenError::Io { source, .. }) if is_unreadable(&source) => {}
        read => return read,
    }
    let len = file.len().map_err(OpenError::io("measure", path))?;
    let mut bytes = vec![0; len as usize];
    fill_by_pages(file, path, &mut bytes, 0).map_err(OpenError::io("read", path))?;
    Ok(bytes)
}

/// Reads at `pos` into `buf`, with zeros for what the disk can't read, and behind the end of the file.
pub(crate) fn fill_with_what_can_be_read(
    file: &dyn File,
    path: &Path,
    buf: &mut [u8],
    pos: u64,
) -> io::Result<()> {
    match file.read_at(buf, pos) {
        Err(e) if is_unreadable(&e) => fill_by_pages(file, path, buf, pos),
        read => {
            buf[read?..].fill(0);
            Ok(())
        }
    }
}

fn fill_by_pages(file: &dyn File, path: &Path, buf: &mut [u8], pos: u64) -> io::Result<()> {
    for (page, at) in buf.chunks_mut(PAGE_BYTES).zip((pos..).step_by(PAGE_BYTES)) {
        let read = match file.read_at(page, at) {
            Err(e) if is_unreadable(&e) => {
                tracing::error!(path = %path.display(), at, "the disk can't read a page of a file");
                0
            }
            read => read?,
        };
        page[read..].fill(0);
    }
    Ok(())
}

/// Reads a whole file.
pub(crate) fn read_all(file: &dyn File, path: &Path) -> Result<Vec<u8>, OpenError> {
    let len = file.len().map_err(OpenError::io("measure", path))?;
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0).map_err(OpenError::io("read", path))?;
    bytes.truncate(read);
    Ok(bytes)
}
