//! Which step of the way is out, and what is carried from step to step.

use crate::takeover::look::{Look, Past, Promotion};
use crate::takeover::words::Attach;
use redoubt_client::Grant;
use redoubt_types::{BootTime, Offset, ReplId, RunId};

/// An epoch that is held, on its way to serving.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) grant: Grant,
    /// What resuming is decided by: the grant's own answer.
    pub(super) past: Past,
}

impl Path {
    pub(super) fn promotion(&self, run_id: RunId) -> Promotion {
        Promotion {
            run_id,
            replid: self.past.lineage.last().replid,
            at: self.past.tail,
        }
    }

    pub(super) fn attach(&self, look: &Look) -> Attach {
        Attach {
            run_id: look.server.run_id,
            under: self.past.lineage.last().replid,
            at: self.past.tail,
            overlap: look.overlap(self.past.tail),
        }
    }
}

/// How far the server had been fed when it was last seen to move, and when that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) at: Option<(bool, Offset, ReplId)>,
    pub(super) since: BootTime,
}

/// Which step is out.
#[derive(Clone, Debug)]
pub(super) enum Phase {
    Idle,
    Looking,
    Describing(Box<Look>),
    Demoting,
    Acquiring(Option<Past>),
    Beginning(Path),
    Preparing(Path, Box<Look>),
    Feeding(Path, RunId, Progress),
    RecordingSession(Path, Box<Look>),
    Promoting(Path, Promotion),
    /// With what the server is, and whether it is a live master that is resumed.
    Capturing(Path, Box<Look>, bool),
    RecordingLineage(Path, RunId, ReplId),
    AwaitingWall(Path, RunId, ReplId),
    Serving(RunId),
    Releasing(String, bool),
}

impl Phase {
    /// Whether an epoch is held that is on its way to serving, or serves.
    pub(super) fn holds_epoch(&self) -> bool {
        let without = matches!(
            self,
            Phase::Idle | Phase::Looking | Phase::Describing(_) | Phase::Demoting | Phase::Acquiring(_)
        );
        !without && !matches!(self, Phase::Releasing(..))
    }
}
