//! One way to become master, as a pure state machine.
//!
//! Decides the order of the steps from "a server is there" to "it serves", and what happens when one of them
//! fails: acquire the next epoch, have the replica fed to exactly the final tail, record the session,
//! REPLICAOF NO ONE, capture with overlap, record the lineage, serve; or resume a live master; or demote it;
//! or refuse what is not ours. Exactly one action is out at a time, and every event is the answer to it, but
//! for [`Event::Fenced`], which may come at any time while an epoch is held. Knows no socket, no journal and
//! no clock. Its rules are those of DESIGN.md's model.
//!
//! No two steps may be swapped:
//! - the session record before REPLICAOF NO ONE: else a proxy that dies between the two leaves a master that
//!   the journal can't tell from one that wrote under an older epoch;
//! - the lineage record before serving and before the first append: else a takeover finds bytes under a
//!   replid that nobody knows, or clients wrote to a server whose history has no name;
//! - the check (H16) after the grant: before it the tail is not final.

mod phase;

use super::fitness::Fitness;
use super::look::{Look, NotYet, Past, Promotion};
use super::words::{Action, Event, Moment, Serving};
use crate::session::EndReason;
use phase::{Path, Phase, Progress};
use redoubt_client::{Grant, Session as SessionRecord};
use redoubt_env::planted;
use redoubt_types::{Epoch, LineageStep, ReplId, RunId};
use std::time::Duration;

/// How often a server that is being fed, or is not there, is looked at. A takeover waits half of it.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long to wait before a server or a journal that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// How often a server that can't be used is looked at: somebody has to do something first.
const REFUSED_EVERY: Duration = Duration::from_secs(3);
/// How long a replica may make no progress before the epoch is given back (H18), so that another cell can
/// take it. Longer than a replica's own reconnect.
const FEED_STALL_MAX: Duration = Duration::from_secs(20);
/// First pause after a failure that followed another one; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A session that lasted this long was a success: the next attempt begins at once.
const SESSION_GOOD: Duration = Duration::from_secs(10);
/// How long serving is put off for another cell's wall clock at most (H10): a clock that is years ahead must
/// not stop everything.
const WALL_WAIT_MAX: Duration = Duration::from_secs(30);

/// The state machine. One per process.
#[derive(Debug)]
pub struct Takeover {
    /// `host:port` of the cell's replay.
    replay: String,
    phase: Phase,
    /// The last epoch that was granted to this process.
    last_epoch: Option<Epoch>,
    /// Another process may have served since this one did (H10).
    foreign_past: bool,
    /// The process whose backlog is set.
    prepared: Option<RunId>,
    /// A live master that can't be resumed: capture was refused once, and would be again.
    unresumable: Option<RunId>,
    /// A process that can't become the journal's, whatever it is fed: its bytes were others, or it passed over some, or could
    /// (H17). With how that was told, since behind enough fed bytes nobody would see it any more.
    poisoned: Option<(RunId, String)>,
    /// Attempts in a row that came to nothing.
    failures: u32,
}

impl Takeover {
    /// A cell whose server is to be the replica of `replay` whenever it may not serve.
    pub fn new(replay: String) -> Self {
        Takeover {
            replay,
            phase: Phase::Idle,
            last_epoch: None,
            foreign_past: true,
            prepared: None,
            unresumable: None,
            poisoned: None,
            failures: 0,
        }
    }

    /// Takes the answer to the action that is out, and says what to do next.
    pub fn step(&mut self, event: Event, t: Moment) -> Action {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        match (phase, event) {
            (_, Event::Fenced(why)) => self.wait(RETRY_MIN, format!("fenced: {why}")),
            (Phase::Serving(run_id), Event::Ended { reason, served }) => self.ended(run_id, reason, served),
            (Phase::Releasing(why, refused), _) => self.park(why, refused),
            (Phase::Looking, Event::Looked(look)) => self.looked(look),
            (Phase::Describing(look), Event::Described(past)) => self.described(look, *past),
            (Phase::Demoting, Event::Done) => {
                // It is fed anew: what was known of it is over.
                self.unresumable = None;
                self.prepared = None;
                self.look()
            }
            (Phase::Acquiring(seen), Event::Granted(grant)) => self.granted(*grant, seen),
            (Phase::Acquiring(_), Event::LeaseHeld(after, why)) => self.wait(
                after.clamp(LOOK_EVERY, REFUSED_EVERY),
                format!("another writer has the lease: {why}"),
            ),
            (Phase::Beginning(path), Event::Looked(look)) => self.begun(path, look, t),
            (Phase::Preparing(path, look), Event::Done) => {
                self.prepared = Some(look.server.run_id);
                self.fed(
                    path,
                    look.server.run_id,
                    Progress {
                        at: None,
                        since: t.now,
                    },
                    look,
                    t,
                )
            }
            (Phase::Feeding(path, run_id, progress), Event::Done) => {
                self.phase = Phase::Feeding(path, run_id, progress);
                Action::Look
            }
            (Phase::Feeding(path, run_id, progress), Event::Looked(look)) => {
                self.fed(path, run_id, progress, look, t)
            }
            (Phase::Feeding(path, run_id, progress), Event::Failed(why)) => {
                self.keep_feeding(path, run_id, progress, why, t)
            }
            (Phase::RecordingSession(path, look), Event::Done) => self.session_recorded(path, look),
            (Phase::Promoting(path, want), Event::Promoted(look)) => self.promoted(path, want, look),
            (Phase::Promoting(..), Event::NotPromoted(why)) => self.again(why),
            (Phase::Capturing(path, look, resumes), Event::Captured(replid)) => {
                self.captured(path, look, resumes, replid)
            }
            (Phase::Capturing(_, look, _), Event::CaptureRefused(why)) => {
                self.unresumable = Some(look.server.run_id);
                self.again(why)
            }
            (Phase::Capturing(path, look, _), Event::CaptureDiffers(why)) => {
                self.differs(path.grant.epoch, look.server.run_id, &why)
            }
            (Phase::RecordingLineage(path, run_id, replid), Event::Done) => {
                self.named(path, run_id, replid, t)
            }
            (Phase::AwaitingWall(path, run_id, replid), _) => self.serve(path, run_id, replid),
            // Whether a record was made is not known: the journal takes the same one twice.
            (Phase::RecordingSession(path, look), Event::Failed(_)) => self.record_session(path, look),
            (Phase::RecordingLineage(path, run_id, replid), Event::Failed(_)) => {
                self.record_lineage(path, run_id, replid)
            }
            (Phase::Looking | Phase::Describing(_) | Phase::Acquiring(_), Event::Failed(why)) => {
                self.wait(ASK_AGAIN, why)
            }
            (_, Event::Failed(why) | Event::Refused(why)) => self.again(why),
            (_, _) => self.look(),
        }
    }

    /// Whether an epoch is held that is on its way to serving, or serves: its lease is to be kept.
    pub fn holds_epoch(&self) -> bool {
        self.phase.holds_epoch()
    }

    fn look(&mut self) -> Action {
        self.phase = Phase::Looking;
        Action::Look
    }

    fn wait(&mut self, pause: Duration, why: String) -> Action {
        self.phase = Phase::Idle;
        Action::Wait {
            pause,
            why,
            refused: false,
        }
    }

    /// Somebody has to do something; nothing is changed on the server meanwhile.
    fn refuse(&mut self, why: String) -> Action {
        self.phase = Phase::Idle;
        Action::Wait {
            pause: REFUSED_EVERY,
            why,
            refused: true,
        }
    }

    fn park(&mut self, why: String, refused: bool) -> Action {
        if refused {
            self.refuse(why)
        } else {
            self.again(why)
        }
    }

    /// Begins again: at once after a first failure, later and later after more of them.
    fn again(&mut self, why: String) -> Action {
        let pause = match self.failures {
            0 => Duration::ZERO,
            n => RETRY_MIN.saturating_mul(1 << (n - 1).min(16)).min(RETRY_MAX),
        };
        self.failures = self.failures.saturating_add(1);
        self.wait(pause, why)
    }

    /// Gives the epoch back before anything else: a cell that can't use it must not keep others waiting.
    fn release(&mut self, epoch: Epoch, why: String, refused: bool) -> Action {
        self.phase = Phase::Releasing(why, refused);
        Action::Release(epoch)
    }

    fn looked(&mut self, look: Box<Look>) -> Action {
        if let Some(why) = look.unsupported() {
            return self.refuse(why);
        }
        if let Some((run_id, why)) = &self.poisoned
            && *run_id == look.server.run_id
            && !planted::on("poison_is_forgotten")
        {
            return self.refuse(why.clone());
        }
        if look.is_master() || look.master_address().as_deref() != Some(self.replay.as_str()) {
            self.phase = Phase::Describing(look);
            return Action::Describe;
        }
        if !look.replication.link_up {
            // Whoever holds the epoch while its server has no data to serve keeps every other cell waiting.
            return self.wait(
                LOOK_EVERY,
                format!("the server waits for its replay {}", self.replay),
            );
        }
        self.acquire(None)
    }

    fn acquire(&mut self, seen: Option<Past>) -> Action {
        self.phase = Phase::Acquiring(seen);
        Action::Acquire
    }

    /// The server is not a replica of our replay: may it be resumed, must it be demoted, or is it foreign?
    fn described(&mut self, look: Box<Look>, past: Past) -> Action {
        if look.is_master() && look.resumable(&past) && self.unresumable != Some(look.server.run_id) {
            return self.acquire(Some(past));
        }
        self.demote(&look, &past)
    }

    /// Makes the server a replica of our replay, if its data is of the journal's history.
    fn demote(&mut self, look: &Look, past: &Past) -> Action {
        if let (true, Some(why)) = (look.is_known(past), look.not_to_be_fed(past)) {
            return self.refuse(why);
        }
        if look.is_known(past) {
            self.phase = Phase::Demoting;
            return Action::Demote(look.server.run_id);
        }
        self.refuse(foreign(look, &self.replay))
    }

    fn granted(&mut self, grant: Grant, seen: Option<Past>) -> Action {
        let own = Past {
            session: grant.session.clone(),
            lineage: grant.lineage.clone(),
            tail: grant.position.tail,
        };
        // What was described before the grant may be of an epoch that another cell has followed since.
        let past = if planted::on("resume_stale_record") {
            seen.unwrap_or(own)
        } else {
            own
        };
        // An epoch of its own that came to nothing does not make the one before it its own.
        self.foreign_past |= self.last_epoch.map(Epoch::next) != Some(grant.epoch);
        self.last_epoch = Some(grant.epoch);
        self.phase = Phase::Beginning(Path { grant, past });
        Action::Look
    }

    fn begun(&mut self, path: Path, look: Box<Look>, t: Moment) -> Action {
        if !look.is_master() {
            let run_id = look.server.run_id;
            if self.prepared == Some(run_id) || planted::on("h13_no_backlog") {
                return self.fed(
                    path,
                    run_id,
                    Progress {
                        at: None,
                        since: t.now,
                    },
                    look,
                    t,
                );
            }
            self.phase = Phase::Preparing(path, look);
            return Action::Prepare(run_id);
        }
        if look.resumable(&path.past) && self.unresumable != Some(look.server.run_id) {
            // The record names the same process as the one before: to whoever asks, not to the protocol.
            return self.record_session(path, look);
        }
        if look.is_known(&path.past) {
            return self.demote(&look, &path.past);
        }
        let why = foreign(&look, &self.replay);
        self.release(path.grant.epoch, why, true)
    }

    /// The replica was looked at: is it what the journal holds, to the byte (H16)?
    fn fed(&mut self, path: Path, run_id: RunId, progress: Progress, look: Box<Look>, t: Moment) -> Action {
        match look.promotable(&path.promotion(run_id)) {
            Ok(()) => match look.not_to_be_promoted(&path.past) {
                Some(why) => {
                    self.poisoned = Some((run_id, why.clone()));
                    self.release(path.grant.epoch, why, true)
                }
                None if planted::on("record_after_noone") => self.promote(path, run_id),
                None => self.record_session(path, look),
            },
            Err(NotYet::Changed(why)) => self.again(why),
            Err(NotYet::Feeding(why)) => {
                let at = (
                    look.replication.link_up,
                    look.replication.offset,
                    look.replication.replid,
                );
                let moved = progress.at != Some(at);
                let progress = if moved {
                    Progress {
                        at: Some(at),
                        since: t.now,
                    }
                } else {
                    progress
                };
                self.keep_feeding(path, run_id, progress, why, t)
            }
        }
    }

    fn keep_feeding(
        &mut self,
        path: Path,
        run_id: RunId,
        progress: Progress,
        why: String,
        t: Moment,
    ) -> Action {
        if t.now.since(progress.since) > FEED_STALL_MAX {
            let why = format!("the server was not fed to the tail: {why}");
            return self.release(path.grant.epoch, why, false);
        }
        self.phase = Phase::Feeding(path, run_id, progress);
        Action::Wait {
            pause: LOOK_EVERY,
            why,
            refused: false,
        }
    }

    fn record_session(&mut self, path: Path, look: Box<Look>) -> Action {
        let record = SessionRecord {
            epoch: path.grant.epoch,
            run_id: look.server.run_id,
            at: path.past.tail,
            server: Fitness::of(&look).to_string(),
        };
        self.phase = Phase::RecordingSession(path, look);
        Action::RecordSession(record)
    }

    fn session_recorded(&mut self, path: Path, look: Box<Look>) -> Action {
        if planted::on("record_after_noone") {
            return self.capture(path, look, false);
        }
        if look.is_master() {
            return self.capture(path, look, true);
        }
        self.promote(path, look.server.run_id)
    }

    fn promote(&mut self, path: Path, run_id: RunId) -> Action {
        let want = path.promotion(run_id);
        self.phase = Phase::Promoting(path, want);
        Action::Promote(want)
    }

    fn promoted(&mut self, path: Path, want: Promotion, look: Box<Look>) -> Action {
        match look.was_promoted(&want) {
            Ok(()) if planted::on("record_after_noone") => self.record_session(path, look),
            Ok(()) => self.capture(path, look, false),
            Err(why) => self.again(why),
        }
    }

    fn capture(&mut self, path: Path, look: Box<Look>, resumes: bool) -> Action {
        let attach = path.attach(&look);
        self.phase = Phase::Capturing(path, look, resumes);
        Action::Capture(attach)
    }

    /// The server's last bytes are not the journal's. It is not touched any more until it is started anew.
    fn differs(&mut self, epoch: Epoch, run_id: RunId, why: &str) -> Action {
        let why = format!(
            "the server's last bytes are not the journal's, so its data can't be trusted: {why}; stop it, move its \
             files away and start it empty, as a replica of {}",
            self.replay
        );
        self.poisoned = Some((run_id, why.clone()));
        self.release(epoch, why, true)
    }

    fn captured(&mut self, path: Path, look: Box<Look>, resumes: bool, replid: ReplId) -> Action {
        let (run_id, expected) = (look.server.run_id, look.replication.replid);
        if replid != expected {
            return self.again(format!(
                "capture goes on under {replid}, but the server said {expected}"
            ));
        }
        if replid == path.past.lineage.last().replid {
            debug_assert!(resumes, "a promotion makes a new replid");
            return self.serve(path, run_id, replid);
        }
        if planted::on("serve_before_lineage") {
            return self.serve(path, run_id, replid);
        }
        self.record_lineage(path, run_id, replid)
    }

    fn record_lineage(&mut self, path: Path, run_id: RunId, replid: ReplId) -> Action {
        let step = LineageStep {
            replid,
            from: path.past.tail,
            epoch: Some(path.grant.epoch),
        };
        self.phase = Phase::RecordingLineage(path, run_id, replid);
        Action::RecordLineage(step)
    }

    /// The replid is in the lineage. Keys expire by the master's clock: a new cell whose clock is behind would
    /// show what the last one has already shown as gone (H10).
    fn named(&mut self, path: Path, run_id: RunId, replid: ReplId, t: Moment) -> Action {
        let lease_ms = u64::try_from(path.grant.previous_lease.as_millis()).unwrap_or(u64::MAX);
        let passed_at = path.grant.previous_wall.ms().saturating_add(lease_ms);
        let missing = Duration::from_millis(passed_at.saturating_sub(t.wall.ms()));
        if !self.foreign_past || missing.is_zero() {
            return self.serve(path, run_id, replid);
        }
        let pause = missing.min(WALL_WAIT_MAX);
        let why =
            format!("the last writer's wall clock was {missing:?} ahead of this one's, its lease included");
        self.phase = Phase::AwaitingWall(path, run_id, replid);
        Action::Wait {
            pause,
            why,
            refused: false,
        }
    }

    fn serve(&mut self, path: Path, run_id: RunId, replid: ReplId) -> Action {
        self.phase = Phase::Serving(run_id);
        self.foreign_past = false;
        Action::Serve(Box::new(Serving {
            grant: path.grant,
            run_id,
            replid,
        }))
    }

    fn ended(&mut self, run_id: RunId, reason: EndReason, served: Duration) -> Action {
        if served >= SESSION_GOOD {
            self.failures = 0;
        }
        if matches!(reason, EndReason::CaptureLost(_) | EndReason::BadStream(_)) {
            // Its stream can't be had from the tail on, or not be journalled: it has to be fed again.
            self.unresumable = Some(run_id);
        }
        match reason {
            EndReason::Fenced(why) => self.wait(RETRY_MIN, format!("fenced: {why}")),
            reason => self.again(format!("the session ended: {reason}")),
        }
    }
}

fn foreign(look: &Look, replay: &str) -> String {
    format!(
        "the server is {look}; the journal knows neither replid, so its data is not the journal's and would be \
         lost if it were fed. It was left as it is. To use it here without its data, start it empty with \
         `--replicaof {}`; to keep its data, point this proxy at another server",
        replay.replace(':', " ")
    )
}

#[cfg(test)]
mod tests;
