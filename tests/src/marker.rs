//! A step of a program that a test holds for as long as it likes: a planted pause.

use std::path::PathBuf;

/// A file whose existence holds every program that has the pause `name=PATH` planted.
pub struct Marker {
    _dir: tempfile::TempDir,
    path: PathBuf,
    planted: &'static str,
}

impl Marker {
    /// A pause called `name` that is not held yet.
    pub fn new(name: &str) -> Marker {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join(name);
        let planted = format!("{name}={}", path.display());
        Marker {
            _dir: dir,
            path,
            // A few bytes per test process, for the sake of constant options.
            planted: planted.leak(),
        }
    }

    /// What is to be planted: for [`crate::Options::bugs`].
    pub fn planted(&self) -> &'static str {
        self.planted
    }

    /// Whoever comes to the step waits there from now on.
    pub fn hold(&self) {
        std::fs::write(&self.path, "").expect("a marker file");
    }

    /// Lets everybody go on.
    pub fn let_go(&self) {
        std::fs::remove_file(&self.path).expect("the marker file is there");
    }
}
