//! The steward: has a node lead no longer than its disk lets it lead well, and keeps data out while there is no room for it.

use super::condition::Condition;
use super::config::ProposeError;
use super::node::{Node, Raft};

use openraft::async_runtime::WatchReceiver;
use std::sync::Weak;
use std::time::Duration;

/// How often a node looks at its own condition.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a node looks whether it lacks the journal's base.
const LOOK_AT_BASES_EVERY: Duration = Duration::from_secs(1);
/// Pause after leadership was handed over, or tried to be: the next leader has to show itself first.
const REST: Duration = Duration::from_secs(5);

impl Node {
    /// How this node's disk is.
    pub fn condition(&self) -> Condition {
        Condition::of(&self.storage)
    }

    /// Whether there is room for data, as far as this leader of `term` knows (H4).
    ///
    /// # Errors
    /// [`ProposeError::NoRoom`].
    pub(super) fn admits_data(&self, raft: &Raft, term: u64) -> Result<(), ProposeError> {
        let me = (self.identity().node.get(), self.condition());
        let now = self.env().now();
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let configs = metrics.membership_config.membership().get_joint_config();
        match self.conditions.board().has_room(me, term, configs, now) {
            true => Ok(()),
            false => Err(ProposeError::NoRoom),
        }
    }

    /// Looks after the node for as long as it lives.
    pub(super) async fn look_after(node: Weak<Node>) {
        while let Some(node) = node.upgrade() {
            let rest = node.look().await;
            let env = node.env().clone();
            drop(node);
            env.sleep(rest).await;
        }
    }

    /// Has the node hold the journal's base, for as long as it lives.
    pub(super) async fn keep_bases(node: Weak<Node>) {
        let mut told = String::new();
        while let Some(node) = node.upgrade() {
            match node.look_at_bases().await {
                Ok(()) => told.clear(),
                // Once per reason, not once per attempt.
                Err(why) if why != told => {
                    tracing::warn!("{why}");
                    told = why;
                }
                Err(_) => {}
            }
            let env = node.env().clone();
            drop(node);
            env.sleep(LOOK_AT_BASES_EVERY).await;
        }
    }

    async fn look_at_bases(&self) -> Result<(), String> {
        if let Err(why) = self.fetch_base().await
            && !redoubt_env::planted::on("h19_trims_without_the_base")
        {
            return Err(format!(
                "the journal's base is not here, and no other node gave it: {why}"
            ));
        }
        self.trim_what_bases_cover().await
    }

    async fn look(&self) -> Duration {
        let condition = self.condition();
        if condition == Condition::Well {
            return LOOK_EVERY;
        }
        let now = self.env().now();
        let well = |id| self.conditions.board().is_well(id, now);
        let Some(to) = self.most_advanced_follower(well) else {
            return LOOK_EVERY;
        };
        tracing::warn!(?condition, "this node's disk does not let it lead well");
        self.hand_over_to(to).await;
        REST
    }
}
