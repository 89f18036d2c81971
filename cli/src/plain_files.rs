//! Whole small files, over the file seam: the CLI's own state, and what the kernel tells in /proc.
//!
//! The calls block, as all of [`Files`] does; the CLI has no storage thread, since nothing here is on a path where a
//! few microseconds matter.

use redoubt_env::files::{Files, Mode};
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

/// Bytes of one file that are read at most: what is read here is a few KB, and a stranger's file must not fill memory.
const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Everything in `path`, whose length need not be known beforehand (files in /proc say 0).
///
/// # Errors
/// `NotFound`, what the operating system says, or `InvalidData` when there are more than 16 MiB.
pub(crate) fn read(files: &dyn Files, path: &Path) -> io::Result<Vec<u8>> {
    let file = files.open(path, Mode::Read)?;
    let mut content = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    loop {
        match file.read_at(&mut chunk, content.len() as u64)? {
            0 => return Ok(content),
            n if content.len() + n > FILE_BYTES_MAX => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the file is too large",
                ));
            }
            n => content.extend_from_slice(&chunk[..n]),
        }
    }
}

/// The last `bytes` of `path` at most.
///
/// # Errors
/// What the operating system says.
pub(crate) fn read_end(files: &dyn Files, path: &Path, bytes: usize) -> io::Result<Vec<u8>> {
    let file = files.open(path, Mode::Read)?;
    let mut content = vec![0; bytes];
    let read = file.read_at(&mut content, file.len()?.saturating_sub(bytes as u64))?;
    content.truncate(read);
    Ok(content)
}

/// Puts a file with `content` in the place of `path`, atomically: a reader sees the old content or the new one. It
/// is not made durable: what is written here means nothing after the machine was restarted.
///
/// # Errors
/// What the operating system says.
pub(crate) fn replace(files: &dyn Files, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    remove(files, &new)?;
    let file = files.open(&new, Mode::CreateNew)?;
    file.write_at(&[IoSlice::new(content)], 0)?;
    files.rename(&new, path)
}

/// Removes `path`, which need not exist.
///
/// # Errors
/// What the operating system says.
pub(crate) fn remove(files: &dyn Files, path: &Path) -> io::Result<()> {
    match files.remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
