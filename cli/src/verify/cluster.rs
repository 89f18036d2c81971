//! `redoubt verify --endpoints`: whether all nodes of a running cluster hold the same journal, whole.

use super::{advance, bar, json};
use crate::failure::Failure;
use crate::output::{self, Output};
use futures_util::future::join_all;
use indicatif::MultiProgress;
use redoubt_client::{CheckFound, Client};
use redoubt_types::{Chain, Offset};
use serde::Serialize;
use std::time::Duration;

/// How long a quorum may take to say where the journal ends.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);

/// What is printed. Offsets and sizes are bytes.
#[derive(Debug, Serialize)]
struct View {
    whole: bool,
    /// The tail that a quorum confirmed, and its chain: what every node's disk has to come to.
    offset: u64,
    chain: String,
    nodes: Vec<Node>,
}

#[derive(Debug, Serialize)]
struct Node {
    endpoint: String,
    whole: bool,
    /// Bytes that it read.
    bytes: u64,
    /// As counted from its disk; null when it can't be read up to there.
    chain: Option<String>,
    /// What is damaged, a sentence each.
    damage: Vec<String>,
    /// What could not be checked, a sentence each.
    unchecked: Vec<String>,
}

/// Has all nodes of the cluster checked.
///
/// # Errors
/// Damage, or that not all could be checked.
pub(crate) async fn run(client: &Client, endpoints: &[String], output: Output) -> Result<(), Failure> {
    let confirmed = client.describe(CONFIRM_WITHIN).await;
    let confirmed =
        confirmed.map_err(|e| Failure::unchecked(format!("no quorum says where the journal ends: {e}")))?;
    let (until, chain) = (confirmed.position.tail, confirmed.position.tail_chain);
    let bars = MultiProgress::new();
    let nodes = join_all(endpoints.iter().map(|e| check(client, e, until, chain, &bars))).await;
    let view = View {
        whole: nodes.iter().all(|n| n.whole),
        offset: until.get(),
        chain: chain.to_string(),
        nodes,
    };
    match output {
        Output::Json => json(&view)?,
        Output::Table => print(&view),
    }
    let names = |nodes: Vec<&Node>| {
        nodes
            .iter()
            .map(|n| n.endpoint.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let damaged: Vec<&Node> = view.nodes.iter().filter(|n| !n.damage.is_empty()).collect();
    let unchecked: Vec<&Node> = view.nodes.iter().filter(|n| !n.unchecked.is_empty()).collect();
    if !damaged.is_empty() {
        return Err(Failure::failed(format!("damage was found at {}", names(damaged))));
    }
    if !unchecked.is_empty() {
        return Err(Failure::unchecked(format!(
            "not all could be checked at {}",
            names(unchecked)
        )));
    }
    Ok(())
}

async fn check(client: &Client, endpoint: &str, until: Offset, chain: Chain, bars: &MultiProgress) -> Node {
    let bar = bars.add(bar(endpoint));
    let mut node = Node {
        endpoint: endpoint.to_owned(),
        whole: false,
        bytes: 0,
        chain: None,
        damage: Vec::new(),
        unchecked: Vec::new(),
    };
    let told = |found| match found {
        CheckFound::Read { bytes, of } => {
            node.bytes = bytes;
            advance(&bar, bytes, of);
        }
        CheckFound::Damage(what) => node.damage.push(what),
        CheckFound::Unchecked(why) => node.unchecked.push(why),
        CheckFound::Chain(counted) => {
            if counted != chain {
                node.damage.push(format!(
                    "its chain at offset {until} is {counted}, the quorum's is {chain}"
                ));
            }
            node.chain = Some(counted.to_string());
        }
    };
    if let Err(e) = client.check(endpoint, until, told).await {
        node.unchecked.push(e.to_string());
    } else if node.chain.is_none() && node.damage.is_empty() && node.unchecked.is_empty() {
        node.unchecked.push("it said nothing of its chain".to_owned());
    }
    bar.finish_and_clear();
    node.whole = node.damage.is_empty() && node.unchecked.is_empty();
    node
}

fn print(view: &View) {
    output::line(&format!(
        "the journal up to offset {}, which a quorum confirmed, chain {}",
        view.offset, view.chain
    ));
    for node in &view.nodes {
        let verdict = match (&node.chain, node.whole) {
            (_, true) => "whole, and the chain is the same",
            (Some(_), false) => "the journal could be read, but",
            (None, false) => "the journal could not be read:",
        };
        output::line(&format!("  {}: {verdict}", node.endpoint));
        for what in &node.damage {
            output::line(&format!("    damage: {what}"));
        }
        for why in &node.unchecked {
            output::line(&format!("    not checked: {why}"));
        }
    }
}
