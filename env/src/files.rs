//! The file seam. All calls block: only a storage thread makes them.

use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// An open file. All positions and lengths are bytes.
#[expect(
    clippy::len_without_is_empty,
    reason = "a file's length is asked of the system and may fail"
)]
pub trait File: Send + Sync {
    /// Reads at `pos` into `buf`, as much as there is; returns the bytes read, fewer than asked for only at
    /// the end of the file.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize>;

    /// Writes all of `bufs`, one behind the other, at `pos`. Not durable before [`File::sync_data`] returns.
    ///
    /// # Errors
    /// What the operating system says; any prefix may have been written then.
    fn write_at(&self, bufs: &[IoSlice<'_>], pos: u64) -> io::Result<()>;

    /// Makes every earlier write durable (`fdatasync`).
    ///
    /// # Errors
    /// After an error nothing is known of any unsynced write, and a second call proves nothing: the caller
    /// MUST stop writing to this file for good.
    fn sync_data(&self) -> io::Result<()>;

    /// The file's length.
    ///
    /// # Errors
    /// What the operating system says.
    fn len(&self) -> io::Result<u64>;

    /// Cuts the file or extends it by a hole.
    ///
    /// # Errors
    /// What the operating system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Has the file system set space aside for the first `len` bytes, so that writing them can't fail for want of it. The
    /// file's length stays as it is. Does nothing where a file system can't do that.
    ///
    /// # Errors
    /// `StorageFull`, or what else the operating system says.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// These bytes, which are durable, will hardly be read soon: the operating system need not keep them in memory. A hint.
    fn forget(&self, pos: u64, len: u64);
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    Write,
    /// For reading and writing; it must not exist.
    CreateNew,
}

/// A held directory lock; dropping it lets go.
pub trait DirLock: Send + Sync {}

/// A file system.
pub trait Files: Send + Sync {
    /// Opens `path`.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, or what the operating system says.
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>>;

    /// Names of the entries of `dir`, sorted.
    ///
    /// # Errors
    /// `NotFound`, or what the operating system says.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes `dir` and its parents, if they are missing. They are durable when this returns, also those that an
    /// interrupted call or somebody else made just before.
    ///
    /// # Errors
    /// What the operating system says.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Puts `from` in the place of `to`, atomically; durable after [`Files::sync_dir`].
    ///
    /// # Errors
    /// What the operating system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; durable after [`Files::sync_dir`].
    ///
    /// # Errors
    /// What the operating system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in `dir` durable.
    ///
    /// # Errors
    /// What the operating system says.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;

    /// Locks `dir` against other processes.
    ///
    /// # Errors
    /// `WouldBlock` when another process holds it.
    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>>;
}

/// Reads all of a small file.
///
/// # Errors
/// When it has more than `bytes_max`, or what the operating system says.
pub fn read_small(files: &dyn Files, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let file = files.open(path, Mode::Read)?;
    let mut bytes = vec![0; bytes_max + 1];
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], len as u64)? {
            0 => break,
            n => len += n,
        }
    }
    if len > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Whether `error` says that the disk can't give back what it was given (`EIO`).
pub fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// The machine's file system.
pub struct RealFiles;

/// How much longer a sync takes on a disk that a test makes slow.
const SLOW_DISK_TURN: std::time::Duration = std::time::Duration::from_millis(700);

struct RealFile(fs::File);
struct RealLock(#[expect(dead_code, reason = "held open: closing it releases the lock")] fs::File);

impl DirLock for RealLock {}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], pos + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bufs: &[IoSlice<'_>], mut pos: u64) -> io::Result<()> {
        // One pwritev per call in the common case; a short write goes on buffer by buffer.
        let mut written = match rustix::io::pwritev(&self.0, bufs, pos) {
            Ok(n) => n,
            Err(rustix::io::Errno::INTR) => 0,
            Err(e) => return Err(e.into()),
        };
        for buf in bufs {
            if written >= buf.len() {
                written -= buf.len();
            } else {
                self.0.write_all_at(&buf[written..], pos + written as u64)?;
                written = 0;
            }
            pos += buf.len() as u64;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        if crate::planted::on("no_fdatasync") {
            return Ok(());
        }
        if crate::planted::held("slow_disk") {
            std::thread::sleep(SLOW_DISK_TURN);
        }
        self.0.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        if crate::planted::held("full_disk") {
            return Err(rustix::io::Errno::NOSPC.into());
        }
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len) {
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    fn forget(&self, pos: u64, len: u64) {
        // Nothing depends on it.
        let _ = rustix::fs::fadvise(
            &self.0,
            pos,
            std::num::NonZeroU64::new(len),
            rustix::fs::Advice::DontNeed,
        );
    }
}

impl Files for RealFiles {
    fn open(&self, path: &Path, mode: Mode) -> io::Result<Arc<dyn File>> {
        let file = match mode {
            Mode::Read => fs::File::open(path)?,
            Mode::Write => fs::OpenOptions::new().read(true).write(true).open(path)?,
            Mode::CreateNew => fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)?,
        };
        Ok(Arc::new(RealFile(file)))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        for parent in dir.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            match self.sync_dir(parent) {
                // One that we may not read we did not make; and some file systems have nothing to sync.
                Err(e)
                    if !matches!(
                        e.kind(),
                        io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput
                    ) =>
                {
                    return Err(e);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<Box<dyn DirLock>> {
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("LOCK"))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_made_with_its_parents_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        RealFiles.create_dir(&deep).unwrap();
        RealFiles.create_dir(&deep).unwrap();
        assert_eq!(RealFiles.list(&dir.path().join("a/b")).unwrap(), ["c"]);
        RealFiles.open(&dir.path().join("file"), Mode::CreateNew).unwrap();
        assert!(RealFiles.create_dir(&dir.path().join("file/d")).is_err());
    }
}
