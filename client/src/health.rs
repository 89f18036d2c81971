//! Which node to ask next.
//!
//! Decides the order in which nodes are tried: the leader as others last named it, the node that answered
//! last, then the rest in turn. A node that failed is masked for a while that doubles with each further
//! failure; when it is over, the node may be tried again, and its first answer welcomes it back.
//!
//! Pure: knows no socket, clock or endpoint name. Nodes are indexes into the configured list.

use redoubt_types::BootTime;
use redoubt_types::limits::{MASK_MAX, MASK_MIN, ROUND_PAUSE_MAX, ROUND_PAUSE_MIN};
use std::time::Duration;

#[derive(Clone, Debug, Default)]
struct NodeHealth {
    /// Failures in a row.
    failures: u32,
    masked_until: Option<BootTime>,
}

/// What is known of every node.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    nodes: Vec<NodeHealth>,
    /// Named by a node *after* this one's last failure: so newer than its mask.
    leader: Option<usize>,
    /// The node that answered last.
    preferred: usize,
}

fn doubled(min: Duration, max: Duration, times: u32) -> Duration {
    min.saturating_mul(1 << times.min(16)).min(max)
}

impl Health {
    /// Knows nothing bad of `nodes` nodes; `first` is tried first.
    pub(crate) fn new(nodes: usize, first: usize) -> Self {
        Health {
            nodes: vec![NodeHealth::default(); nodes],
            leader: None,
            preferred: first,
        }
    }

    /// The node answered, whatever it said.
    pub(crate) fn answered(&mut self, node: usize) {
        self.nodes[node] = NodeHealth::default();
        self.preferred = node;
    }

    /// The node failed: it is masked until the returned time. If it was thought to be the leader, it is not
    /// any more until another node says so again.
    pub(crate) fn failed(&mut self, node: usize, now: BootTime) -> BootTime {
        let n = &mut self.nodes[node];
        let until = now.plus(doubled(MASK_MIN, MASK_MAX, n.failures));
        n.failures = n.failures.saturating_add(1);
        n.masked_until = Some(until);
        self.not_leader(node);
        until
    }

    /// A node named `leader`, or acted as it.
    pub(crate) fn leader_is(&mut self, leader: usize) {
        self.leader = Some(leader);
    }

    /// The node said that it is not the leader.
    pub(crate) fn not_leader(&mut self, node: usize) {
        if self.leader == Some(node) {
            self.leader = None;
        }
    }

    /// Whether the node is to be left alone at `now`.
    pub(crate) fn is_masked(&self, node: usize, now: BootTime) -> bool {
        self.nodes[node].masked_until.is_some_and(|until| now < until)
    }
}

/// Who is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// The leader; whoever else is asked can say who it is.
    Leader,
    /// Any node.
    Any,
}

/// The next step of a hunt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask this node.
    Node(usize),
    /// Every node that may be asked was asked: wait, then a new round begins.
    Pause(Duration),
}

/// Rounds of asking nodes, each at most once per round.
#[derive(Clone, Debug)]
pub(crate) struct Hunt {
    want: Want,
    tried: Vec<bool>,
    rounds: u32,
}

impl Hunt {
    /// A hunt whose first round begins.
    pub(crate) fn new(want: Want, nodes: usize) -> Self {
        Hunt {
            want,
            tried: vec![false; nodes],
            rounds: 0,
        }
    }

    /// The next step, as of what is known at `now`.
    pub(crate) fn next(&mut self, health: &Health, now: BootTime) -> Next {
        // A hint is newer than the leader's last failure (`failed` drops it), so it overrides a mask.
        if self.want == Want::Leader
            && let Some(leader) = health.leader
            && !self.tried[leader]
        {
            self.tried[leader] = true;
            return Next::Node(leader);
        }
        let nodes = self.tried.len();
        for i in 0..nodes {
            let node = (health.preferred + i) % nodes;
            if !self.tried[node] && !health.is_masked(node, now) {
                self.tried[node] = true;
                return Next::Node(node);
            }
        }
        let pause = doubled(ROUND_PAUSE_MIN, ROUND_PAUSE_MAX, self.rounds);
        self.rounds += 1;
        self.tried.fill(false);
        Next::Pause(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime::new(Duration::from_millis(ms))
    }

    fn round(hunt: &mut Hunt, health: &Health, now: BootTime) -> Vec<usize> {
        let mut nodes = Vec::new();
        while let Next::Node(n) = hunt.next(health, now) {
            nodes.push(n);
        }
        nodes
    }

    #[test]
    fn every_node_is_asked_once_a_round_beginning_with_the_one_that_answered_last() {
        let mut health = Health::new(3, 1);
        assert_eq!(round(&mut Hunt::new(Want::Any, 3), &health, at(0)), [1, 2, 0]);
        health.answered(2);
        let mut hunt = Hunt::new(Want::Any, 3);
        assert_eq!(round(&mut hunt, &health, at(0)), [2, 0, 1]);
        assert_eq!(round(&mut hunt, &health, at(0)), [2, 0, 1]);
    }

    #[test]
    fn a_failing_node_is_masked_ever_longer_up_to_a_cap_then_tried_again_and_welcomed_back() {
        let mut health = Health::new(2, 0);
        let mut now = at(0);
        let mut masks = Vec::new();
        for _ in 0..8 {
            let until = health.failed(0, now);
            masks.push(until.since(now).as_millis());
            assert!(health.is_masked(0, now));
            assert_eq!(round(&mut Hunt::new(Want::Any, 2), &health, now), [1]);
            now = until;
            assert_eq!(
                round(&mut Hunt::new(Want::Any, 2), &health, now),
                [0, 1],
                "probed when the mask ends"
            );
        }
        assert_eq!(masks, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        health.answered(0);
        let until = health.failed(0, now);
        assert_eq!(until.since(now), MASK_MIN, "an answer clears the record");
    }

    #[test]
    fn the_leader_is_asked_first_and_a_new_hint_within_the_round_is_followed() {
        let mut health = Health::new(3, 0);
        health.leader_is(2);
        let mut hunt = Hunt::new(Want::Leader, 3);
        assert_eq!(hunt.next(&health, at(0)), Next::Node(2));
        health.not_leader(2);
        health.leader_is(1);
        assert_eq!(hunt.next(&health, at(0)), Next::Node(1));
        health.leader_is(2);
        assert_eq!(
            hunt.next(&health, at(0)),
            Next::Node(0),
            "no node is asked twice in a round"
        );
    }

    #[test]
    fn a_dead_leader_is_forgotten_but_a_later_hint_overrides_its_mask() {
        let mut health = Health::new(3, 0);
        health.leader_is(2);
        health.failed(2, at(0));
        assert_eq!(round(&mut Hunt::new(Want::Leader, 3), &health, at(1)), [0, 1]);
        health.leader_is(2);
        assert_eq!(Hunt::new(Want::Leader, 3).next(&health, at(1)), Next::Node(2));
    }

    #[test]
    fn pauses_between_rounds_grow_up_to_a_cap_also_when_all_nodes_are_masked() {
        let mut health = Health::new(2, 0);
        health.failed(0, at(0));
        health.failed(1, at(0));
        let mut hunt = Hunt::new(Want::Leader, 2);
        let pauses: Vec<_> = (0..6).map(|_| hunt.next(&health, at(1))).collect();
        let ms = |n| Next::Pause(Duration::from_millis(n));
        assert_eq!(pauses, [ms(20), ms(40), ms(80), ms(160), ms(250), ms(250)]);
        assert_eq!(hunt.next(&health, at(50)), Next::Node(0));
    }
}
