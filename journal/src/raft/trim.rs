//! What goes from a node's log once a base covers it.
//!
//! A node trims by itself, and only below a base that it holds and that its own log vouches for (H19): what other nodes hold may be gone
//! tomorrow. So the nodes' logs begin at different places, and whoever lacks entries that its leader has trimmed is given the state
//! that the leader's log begins behind (openraft's snapshot), and gets the base from whoever holds it.
//!
//! Where the log is cut: before a file, since files are what is removed, and between two groups, since the state there must be
//! whole. `h19_a_node_trims_nothing_below_a_base_that_it_does_not_hold` dies without the question whether the base is held.

use super::checkpoint::Checkpoint;
use super::node::Node;
use crate::append::Seek;
use redoubt_env::planted;
use redoubt_types::{Base, BaseName, Offset};

/// Whole bases that are newer than the journal's, kept beside it at most: one may be about to be committed.
const NEWER_MAX: usize = 2;

impl Node {
    /// Removes old bases, and has the log begin later, as the retention allows.
    ///
    /// # Errors
    /// A sentence: why nothing is trimmed though it should be.
    pub(super) async fn trim_what_bases_cover(&self) -> Result<(), String> {
        let (base, position, beginning) = {
            let state = self.state();
            let base = state.admission.base().cloned();
            (base, state.admission.position(), state.beginning())
        };
        let Some(base) = base else { return Ok(()) };
        let held = self.bases().held().borrow().clone();
        let mut bases: Vec<Base> = held.iter().filter(|b| b.at() <= base.at()).cloned().collect();
        if bases.last() != Some(&base) {
            if !planted::on("h19_trims_without_the_base") {
                return Ok(());
            }
            bases.push(base.clone());
        }
        let bases_kept: Vec<_> = bases.iter().map(|b| b.name).collect();
        let kept = self
            .config()
            .retention
            .keeps(beginning, position.tail, &bases, self.env().wall());
        // What is newer may be on its way to become the journal's; of what came to nothing, only the newest stay.
        let newer = held.iter().rev().filter(|b| b.at() > base.at());
        let stale: Vec<_> = newer.skip(NEWER_MAX).map(|b| b.name).collect();
        let at = base.at();
        let keeps = move |name: BaseName| match name.at > at {
            true => !stale.contains(&name),
            false => name.at >= kept.from && bases_kept.contains(&name),
        };
        let gone = self.bases().retain(keeps).await;
        let gone = gone.map_err(|e| format!("old bases can't be removed: {e}"))?;
        if !gone.is_empty() {
            tracing::info!(
                count = gone.len(),
                kept_from = kept.from.get(),
                "removed old bases"
            );
        }
        if kept.from <= beginning {
            return Ok(());
        }
        // The one that the log will begin with, and the journal's: whoever needs what goes begins with one of them.
        let oldest = bases.iter().find(|b| b.at() == kept.from);
        for needed in oldest.into_iter().chain([&base]) {
            if planted::on("h19_trims_without_the_base") {
                break;
            }
            let vouched = self.vouch_for(needed).await;
            vouched.map_err(|doubt| {
                let name = needed.name;
                format!("nothing is trimmed, since base {name} is not vouched for here: {doubt}")
            })?;
        }
        self.trim_to(kept.from).await
    }

    /// Has the log begin as late as it can with everything from `from` on still in it.
    async fn trim_to(&self, from: Offset) -> Result<(), String> {
        let unread =
            |e: &dyn std::fmt::Display| format!("nothing is trimmed, since the log can't be read: {e}");
        let first_kept = match self
            .index(Seek::Offset(from), 1)
            .await
            .map_err(|e| unread(&e))?
            .first()
        {
            Some(entry) => entry.log_index,
            None => self.state().next(),
        };
        let trimmed = self.storage.trimmed().map_or(0, |id| id.index + 1);
        let starts = self.storage.starts().into_iter().rev();
        for start in starts.filter(|start| *start <= first_kept && *start > trimmed) {
            let state = self
                .pages
                .state_at(&self.machine, start)
                .await
                .map_err(|e| unread(&e))?;
            // Inside a group: its fragments would be cut off from it (H3).
            let (Some(applied), Some(standing)) = (state.applied, state.admission.standing()) else {
                continue;
            };
            let at = standing.tail;
            self.machine.prepare(Checkpoint {
                applied,
                membership: state.membership,
                standing,
            });
            let raft = self.raft().map_err(|e| e.to_string())?;
            raft.trigger().snapshot().await.map_err(|e| e.to_string())?;
            tracing::info!(
                from = at.get(),
                "the log begins later: a base covers what was before"
            );
            return Ok(());
        }
        Ok(())
    }
}
