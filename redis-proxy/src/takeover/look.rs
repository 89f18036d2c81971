//! One look at the server, and what follows from it alone.
//!
//! Decides whether a server may be promoted, resumed, or demoted, and what it is told when it may not. Pure:
//! an INFO answer, the journal's word, and a verdict.

use super::fitness::{Fitness, Settings};
use redoubt_client::Session as SessionRecord;
use redoubt_env::planted;
use redoubt_resp::info::{ReplicationInfo, Role, ServerInfo};
use redoubt_types::limits::OVERLAP_BYTES_MAX;
use redoubt_types::{Lineage, Offset, ReplId, RunId};
use std::fmt;

/// The oldest major version that is served (H23): below it effects carry relative TTLs, so that a late replay
/// lengthens every one. Valkey counted on from 7.2.
const MAJOR_MIN: u32 = 7;

/// What a server said about itself, in one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Sections `server`, `persistence` and `stats`.
    pub server: ServerInfo,
    /// Section `replication`.
    pub replication: ReplicationInfo,
    /// What decides beside them.
    pub settings: Settings,
}

/// What the journal says of its last writer: the part that decides what a master may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// The newest session record.
    pub session: Option<SessionRecord>,
    /// The replids so far.
    pub lineage: Lineage,
    /// The journal's tail.
    pub tail: Offset,
}

/// Which process is to be promoted, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// The process.
    pub run_id: RunId,
    /// The replid it must have been fed under: the lineage's last.
    pub replid: ReplId,
    /// The offset it must have been fed to, exactly: the journal's final tail.
    pub at: Offset,
}

/// Why a replica may not be promoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotYet {
    /// It is on its way; look again.
    Feeding(String),
    /// It is not what it was when this began: begin again.
    Changed(String),
}

impl fmt::Display for NotYet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotYet::Feeding(why) | NotYet::Changed(why) => f.write_str(why),
        }
    }
}

impl Look {
    /// The server's name and version.
    pub fn name(&self) -> String {
        Fitness::of(self).name()
    }

    /// Whether it says that it is a master.
    pub fn is_master(&self) -> bool {
        self.replication.role == Role::Master
    }

    /// Where a replica's master is said to be, `host:port`.
    pub fn master_address(&self) -> Option<String> {
        let r = &self.replication;
        Some(format!("{}:{}", r.master_host.as_ref()?, r.master_port?))
    }

    /// Why this server can't be served at all, whatever it holds.
    pub fn unsupported(&self) -> Option<String> {
        (self.server.version.0 < MAJOR_MIN && !planted::on("h23_any_version")).then(|| {
            format!(
                "the server is {}: before 7.0 a server replicates relative TTLs, which last longer at every \
                 replay, so nothing older than 7.0 is served; upgrade it",
                self.name()
            )
        })
    }

    /// Whether this *master* is the one that the journal's last session was about, with nothing in between:
    /// capture may then go on from the journal's tail.
    ///
    /// The run_id alone would do if nobody else ever touched a server; the replid alone binds the process
    /// already. Both are asked.
    pub fn resumable(&self, past: &Past) -> bool {
        let Some(record) = &past.session else { return false };
        let last = past.lineage.last().replid;
        let r = &self.replication;
        let directly = r.replid == last;
        // Promoted, and the lineage record was never made: what it wrote since is behind the tail.
        let promoted_at_tail = r.replid2 == Some(last) && r.second_offset == Some(past.tail);
        let named = directly || (promoted_at_tail && !planted::on("resume_only_what_is_named"));
        record.run_id == self.server.run_id && named && !planted::on("resume_nothing")
    }

    /// Whether the server's data is of the journal's history, with or without a suffix of its own: it can be
    /// fed again without losing anything that was ever acknowledged.
    pub fn is_known(&self, past: &Past) -> bool {
        let known = |id: &ReplId| past.lineage.end_of(id, past.tail).is_some();
        if planted::on("foreign_is_fed") {
            return true;
        }
        let before = self.replication.replid2.as_ref();
        known(&self.replication.replid) || (before.is_some_and(known) && !planted::on("stale_is_foreign"))
    }

    /// How many bytes before `at` the server can show again, to be compared with the journal's (H16).
    pub fn overlap(&self, at: Offset) -> u64 {
        let behind = self.replication.offset.since(at).unwrap_or(0);
        self.replication
            .backlog_histlen
            .saturating_sub(behind)
            .min(OVERLAP_BYTES_MAX)
            .min(at.get())
    }

    /// Whether this server may be told REPLICAOF NO ONE (H16).
    ///
    /// # Errors
    /// Why not, and whether waiting can help.
    pub fn promotable(&self, want: &Promotion) -> Result<(), NotYet> {
        let r = &self.replication;
        if self.server.run_id != want.run_id {
            return Err(NotYet::Changed(format!(
                "its run_id is {}, not {}",
                self.server.run_id, want.run_id
            )));
        }
        if self.is_master() {
            return Err(NotYet::Changed("somebody else made it a master".to_owned()));
        }
        // A full sync whose loading fails leaves an empty server that still says `master_repl_offset` N: only
        // a link that is up says that the data is there.
        let linked =
            r.link_up && !r.sync_in_progress && !self.server.loading && r.slave_repl_offset == Some(r.offset);
        if !linked && !planted::on("h16_promote_without_link") {
            return Err(NotYet::Feeding("its link to the replay is not up".to_owned()));
        }
        if r.replid != want.replid {
            return Err(NotYet::Feeding(format!(
                "it is not fed under {} yet",
                want.replid
            )));
        }
        if r.offset > want.at {
            return Err(NotYet::Changed(format!(
                "it stands at {}, past the tail {}",
                r.offset, want.at
            )));
        }
        if r.offset < want.at {
            return Err(NotYet::Feeding(format!(
                "it is not fed to the tail {} yet",
                want.at
            )));
        }
        Ok(())
    }

    /// Whether this is what `want` looks like once promoted.
    ///
    /// # Errors
    /// What it is instead.
    pub fn was_promoted(&self, want: &Promotion) -> Result<(), String> {
        let r = &self.replication;
        let process = self.server.run_id == want.run_id;
        if process && self.is_master() && r.replid2 == Some(want.replid) && r.second_offset == Some(want.at) {
            return Ok(());
        }
        Err(format!(
            "after REPLICAOF NO ONE at {} under {} the server is {self}",
            want.at, want.replid
        ))
    }
}

impl fmt::Display for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let r = &self.replication;
        let role = if self.is_master() { "master" } else { "replica" };
        write!(
            f,
            "{} {} (replid {}, offset {}",
            self.name(),
            role,
            r.replid,
            r.offset
        )?;
        if let (Some(id), Some(end)) = (&r.replid2, r.second_offset) {
            write!(f, ", before {end} also {id}")?;
        }
        if let (false, Some(address)) = (self.is_master(), self.master_address()) {
            write!(
                f,
                ", of {address}, link {}",
                if r.link_up { "up" } else { "down" }
            )?;
        }
        f.write_str(")")
    }
}
