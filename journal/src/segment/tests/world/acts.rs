//! What is done to a node's storage.

use super::super::repair::places;
use super::*;
use redoubt_types::{ClusterId, ReplId};

impl World {
    pub(super) fn act(&mut self, act: &Act) -> Check {
        match act {
            Act::Append { sizes, new_term } => {
                self.term += u64::from(*new_term);
                let first = self.log().last().map_or(0, |r| r.id.index + 1);
                let records: Vec<_> = (first..)
                    .zip(sizes)
                    .map(|(i, s)| record(self.term, i, payload(self.term, i, *s)))
                    .collect();
                self.steps.extend(records.iter().cloned().map(Step::Push));
                let done = self.pend(true);
                self.storage().append(records, done);
            }
            Act::Truncate { keep } => {
                let end = self.log().last().map_or(0, |r| r.id.index + 1);
                let first_removed = self.committed_end + (end - self.committed_end) * keep / 16;
                self.term += 1;
                self.steps.push(Step::Truncate(first_removed));
                let done = self.pend(true);
                self.storage().truncate_after(first_removed.checked_sub(1), done);
            }
            Act::Vote => {
                self.term += 1;
                let vote = Vote {
                    term: self.term,
                    node: 3,
                    committed: self.term.is_multiple_of(2),
                };
                self.vote.values.push(Some(vote));
                let done = self.pend(false);
                self.storage().save_vote(vote, done);
            }
            Act::Identity => self.join(),
            Act::Commit { upto } => self.commit(*upto),
            Act::Turn => {
                self.storage().turn();
                self.collect()?;
            }
            Act::Idle => self.settle()?,
            Act::Read => self.compare_reads()?,
            Act::Kill => {
                self.restart_disk(true)?;
                self.crash()?;
            }
            Act::PowerCut { seed } => {
                self.seed ^= seed;
                self.restart_disk(false)?;
                self.crash()?;
            }
            Act::PowerOffAfter { calls, kill } => {
                self.kill_when_off = *kill;
                self.node.files.power_off_after(*calls);
            }
            Act::Fail { nth, fault, kill } => self.fail(*nth, *fault, *kill),
            Act::Full { free } => {
                self.full = true;
                let used = self.node.files.used_space();
                self.node.files.set_capacity(Some(used + free));
            }
            Act::Close => {
                let done = self.pend(true);
                self.storage().close(done);
                while self.storage().turn() > 0 {}
                self.collect()?;
                if self.undisturbed() {
                    self.crash()?;
                }
            }
            Act::Rot { record, byte } => self.rot(*record, *byte)?,
            Act::Merge => self.merge()?,
            Act::Trim { upto, at_a_file } => self.trim(*upto, *at_a_file),
            Act::RemoveTrimmed => self.remove_trimmed()?,
            // Whatever fails, there is no spare then.
            Act::Provide => {
                drop(self.storage().provide());
                self.new_faults();
            }
        }
        Ok(())
    }

    fn join(&mut self) {
        let kept = self.identity.as_mut().unwrap();
        let number = kept.values.len() as u8;
        let mut identity = kept.values[kept.newest()].clone();
        identity.cluster = Some(ClusterMembershipSeed {
            cluster: ClusterId::new([number; 16]),
            replid: ReplId::from_random([number; 20]),
            members: Vec::new(),
        });
        kept.values.push(identity.clone());
        let done = self.pend(false);
        self.storage().save_identity(identity, done);
    }

    fn commit(&mut self, upto: u64) {
        let mut acked = self.base.clone();
        self.steps[..self.acked_steps]
            .iter()
            .for_each(|s| s.apply(&mut acked));
        // What a later, unanswered truncation removes is not committed.
        let log = self.log();
        let common = acked.iter().zip(&log).take_while(|(a, b)| a == b).count() as u64;
        let end = self.committed_end + common.saturating_sub(self.committed_end) * upto / 16;
        if let Some(last) = end.checked_sub(1).and_then(|i| log.get(i as usize)) {
            self.committed_end = end;
            self.storage().save_committed(last.id);
        }
    }

    fn trim(&mut self, upto: u64, at_a_file: bool) {
        let first = self.trims.values[self.trims.newest()];
        let mut next = first + self.committed_end.saturating_sub(first) * upto / 16;
        if at_a_file {
            let starts = self.storage().starts().into_iter();
            next = starts.filter(|start| *start <= next).max().unwrap_or(0);
        }
        if next <= first {
            return;
        }
        let last = self.log()[next as usize - 1].id;
        self.trims.values.push(next);
        let done = self.pend(false);
        self.storage()
            .begin_behind(last, next.to_le_bytes().to_vec(), done);
    }

    fn remove_trimmed(&mut self) -> Check {
        let before = self.node.paths("editlog").len();
        let removed = self.storage().remove_trimmed();
        let left = self.node.paths("editlog").len();
        self.removed += before - left;
        check!(
            left <= before,
            "{removed} were removed, and of {before} files {left} are left"
        );
        Ok(())
    }

    /// Has all that was submitted done, and the log marked.
    fn settle(&mut self) -> Check {
        while self.storage().turn() > 0 {}
        self.storage().idle();
        self.collect()?;
        if self.undisturbed() {
            self.committed_floor = self.committed_end;
        }
        Ok(())
    }

    fn merge(&mut self) -> Check {
        let files = |node: &Node| (node.paths("editlog").len(), node.paths("contents").len());
        let (before, tables) = files(&self.node);
        match self.storage().merge(&mut |_| true) {
            Merging::Nothing => {}
            Merging::Done { files: merged, .. } => {
                let (left, tables_left) = files(&self.node);
                // A full disk may keep the originals.
                let is_removal = |call: &Call| matches!(call, Call::Remove | Call::Rename);
                let (removals, faults): (Vec<_>, Vec<_>) =
                    self.new_faults().into_iter().partition(is_removal);
                self.taken_well(&faults)?;
                check!(
                    left < before + 2 - merged || self.full || !removals.is_empty(),
                    "{merged} of {before} files became {left}"
                );
                self.merges += 1;
                self.merged_again += usize::from(tables_left <= tables);
            }
            Merging::NotNow(why) => {
                let off = self.node.files.is_off();
                if off || self.storage().failed().borrow().is_none() {
                    let excused = self.full || off || self.storage().rot().borrow().is_some();
                    check!(!self.new_faults().is_empty() || excused, "not merged: {why}");
                }
            }
        }
        Ok(())
    }

    fn rot(&mut self, record: usize, byte: u64) -> Check {
        self.settle()?;
        if !self.undisturbed() {
            return Ok(());
        }
        self.storage = None;
        self.node.metadata = Arc::default();
        let places = places(&self.node);
        // Of the last one nobody can tell whether it was torn.
        if let Some((_, before)) = places.split_last()
            && let Some((segment, offset, header)) = before.get(record % before.len().max(1))
        {
            let lies = self.node.lies(*segment);
            let before = self.node.bytes(&lies.path);
            let at = lies.byte(*offset);
            // One that was torn and cut may end with the file.
            let there = header.span().min(before.len() as u64 - at);
            self.rotted = Some((lies.path.to_path_buf(), before));
            self.node.files.flip_bit(&lies.path, at + byte % there, 3);
        }
        self.crash()
    }
}
