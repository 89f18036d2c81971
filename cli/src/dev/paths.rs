//! Where everything lies under DIR.

use super::layout::{Kind, Part};
use std::path::{Path, PathBuf};

/// The directory of a cluster on one machine, absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Paths {
    dir: PathBuf,
}

impl Paths {
    /// Everything lies under `dir`.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Paths { dir }
    }

    /// DIR itself.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What runs, for tools.
    pub(crate) fn cluster(&self) -> PathBuf {
        self.dir.join(super::cluster::FILE)
    }

    /// Ports and number of journal nodes that the cluster was made with.
    pub(crate) fn layout(&self) -> PathBuf {
        self.dir.join("layout.json")
    }

    /// Held by the supervisor; its content is the supervisor's pid.
    pub(crate) fn lock(&self) -> PathBuf {
        self.dir.join("LOCK")
    }

    /// The folder of a component.
    pub(crate) fn component(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The data directory of a journal node. A node formats an empty one only, so nothing of ours may lie in it.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.component(name).join("data")
    }

    /// Its log.
    pub(crate) fn log(&self, part: &Part) -> PathBuf {
        let file = if part.kind.is_server() {
            "redis.log".to_owned()
        } else {
            format!("{}.log", part.name)
        };
        self.component(&part.name).join(file)
    }

    /// The process that was started last for the component called `name`.
    pub(crate) fn pid(&self, name: &str) -> PathBuf {
        self.component(name).join("pid")
    }
}

/// Whether a folder of DIR can be a component's, going by its name.
pub(crate) fn kind_of(name: &str) -> Option<Kind> {
    let (word, number) = name.rsplit_once('-')?;
    number.parse::<u16>().ok()?;
    word.parse().ok()
}
