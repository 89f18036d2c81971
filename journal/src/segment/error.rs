//! Errors of the storage: what went wrong, on which file, and what a person can do.

use std::io;
use std::path::{Path, PathBuf};

/// Why a data directory was not opened. All are terminal: none goes away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{dir} is in use by another process")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The operating system refused something.
    #[error("could not {verb} {path}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// A newer program wrote this.
    #[error(
        "{path} has format version {found}, this program reads version {supported}: start the newer program"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u32,
        /// What is read here.
        supported: u32,
    },
    /// A record that was durable is damaged: the disk has lost something that this node promised to keep.
    #[error(
        "{path} is damaged at byte {position} (log index {index}), where data was durable: this is no torn \
         write. Nothing was changed. Check the disk. What is missing is fetched from the other nodes; if they don't \
         have it, restore the file, or move the whole data directory away and let the node join again as a new one, \
         while a majority of the others is healthy"
    )]
    Rot {
        /// The file.
        path: PathBuf,
        /// The segment's number.
        segment: u32,
        /// Where in the file, bytes.
        position: u32,
        /// The index of the first record that can't be read.
        index: u64,
    },
    /// Neither copy of a two-slot file can be read.
    #[error(
        "both copies in {path} are damaged. Nothing was changed. Without it this node can't know what it has \
         promised: move the whole data directory away and let the node join again as a new one"
    )]
    Slots {
        /// The file.
        path: PathBuf,
    },
    /// A file that must be there isn't.
    #[error(
        "{path} is missing, but the files around it say that it was there. Nothing was changed. Restore it, or \
         move the whole data directory away and let the node join again as a new one"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The directory was formatted for another node.
    #[error("{path} belongs to {found}, not to {wanted}: is this the right data directory?")]
    Foreign {
        /// What was looked at.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Whose it should be.
        wanted: String,
    },
    /// There is something in the directory that is not ours.
    #[error("{dir} is neither empty nor a data directory of this program: it holds {entry}")]
    NotOurs {
        /// The directory.
        dir: PathBuf,
        /// The first entry that isn't ours.
        entry: String,
    },
    /// The files contradict each other although every checksum is right: a bug.
    #[error("{path} contradicts itself: {what}")]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// How.
        what: String,
    },
}

impl OpenError {
    pub(crate) fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError + use<> {
        let path = path.to_owned();
        move |source| OpenError::Io { verb, path, source }
    }
}

/// A failure to write while a directory is opened.
pub(crate) fn from_failure(f: Failure) -> OpenError {
    OpenError::Io {
        verb: f.verb,
        path: f.path.clone(),
        source: f.into(),
    }
}

/// Why records could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The record on disk fails its checksum: another node has it.
    #[error("record {index} is damaged on disk")]
    Damaged {
        /// The first record that can't be read.
        index: u64,
    },
    /// The log begins behind it.
    #[error("record {index} is not in the log")]
    NotFound {
        /// What was asked for.
        index: u64,
    },
    /// The operating system refused, or the storage was closed.
    #[error("could not read record {index}: {message}")]
    Io {
        /// What was asked for.
        index: u64,
        /// What it said.
        message: String,
    },
}

/// A write or sync failed. It is final for this process: nothing is known of what was not yet synced, and a
/// second fsync proves nothing, so every later operation fails too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not {verb} {path}: {message}; nothing can be written any more, the process must end")]
pub struct Failure {
    /// What was tried.
    pub verb: &'static str,
    /// On what.
    pub path: PathBuf,
    /// What the operating system said.
    pub message: String,
    /// Its kind, e.g. `StorageFull`.
    pub kind: io::ErrorKind,
}

impl Failure {
    /// Whether the disk is full, and nothing worse. A failed sync is worse, whatever it says.
    pub(crate) fn is_for_want_of_room(&self) -> bool {
        self.kind == io::ErrorKind::StorageFull && self.verb != super::file::SYNC
    }

    pub(crate) fn too_large(path: &Path) -> Failure {
        Failure {
            verb: "write",
            path: path.to_owned(),
            message: "it would be larger than 4 GiB".to_owned(),
            kind: io::ErrorKind::FileTooLarge,
        }
    }

    pub(crate) fn new(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure + use<> {
        let path = path.to_owned();
        move |e| Failure {
            verb,
            path,
            message: e.to_string(),
            kind: e.kind(),
        }
    }
}

impl From<Failure> for io::Error {
    fn from(f: Failure) -> io::Error {
        io::Error::new(f.kind, f)
    }
}
