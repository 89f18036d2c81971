//! `redoubt status` for people.

use super::view::{DiskView, NodeView, ReplicaView, View, WriterView};
use crate::duration;
use crate::output;
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use std::time::Duration;

/// The whole text.
pub(crate) fn render(view: &View) -> String {
    let mut text = head(view);
    text.push_str("\n\n");
    text.push_str(&nodes(&view.nodes));
    for node in &view.nodes {
        if let Some(error) = &node.error {
            text.push_str(&format!("\n {}: {error}", node.endpoint));
        }
    }
    if !view.replicas.is_empty() {
        text.push_str("\n\n");
        text.push_str(&replicas(&view.replicas));
    }
    text
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

fn head(view: &View) -> String {
    let mut table = plain();
    let nobody = view.nodes.iter().all(|n| n.error.is_some());
    let no_cluster = if nobody {
        "unknown: no node answers"
    } else {
        "not bootstrapped"
    };
    table.add_row(["cluster", view.cluster.as_deref().unwrap_or(no_cluster)]);
    table.add_row(["leader", &or_dash(view.leader.as_ref())]);
    let vouched = if view.confirmed {
        "confirmed by a quorum"
    } else {
        "NOT confirmed by a quorum"
    };
    table.add_row([
        "tail",
        &format!("{} ({vouched}), txid {}", or_dash(view.tail), or_dash(view.txid)),
    ]);
    table.add_row(["committed", &or_dash(view.committed)]);
    table.add_row(["epoch", &or_dash(view.epoch)]);
    match &view.writer {
        None => drop(table.add_row(["writer", "none yet"])),
        Some(writer) => {
            table.add_row(["writer", &lease(writer)]);
            table.add_row(["session", &session(writer)]);
        }
    }
    if let Some(last) = view.lineage.last() {
        let before = view.lineage.len() - 1;
        table.add_row([
            "replid",
            &format!("{} from {} on, {before} before it", last.replid, last.from),
        ]);
    }
    table.add_row(["base", &base(view)]);
    if let Some(fold) = &view.fold {
        if fold.state != "idle" {
            let text = format!("{}, {}: {}", fold.state, fold.replay, fold.message);
            table.add_row(["fold", &text]);
        }
        for replica in &fold.differing {
            table.add_row(["ALARM", &format!("{replica} DIFFERS from the journal")]);
        }
    }
    output::table(&table)
}

fn base(view: &View) -> String {
    let behind = view.fold.as_ref().map(|f| f.bytes_since_base);
    let behind = behind.map(|bytes| format!("; {} behind it", size(bytes)));
    let behind = behind.unwrap_or_default();
    match &view.base {
        None => format!("none yet{behind}"),
        Some(base) => format!(
            "{} ({} keys, {}, by {}), held by {} of {} nodes{behind}",
            base.at,
            base.keys,
            size(base.bytes),
            base.server,
            base.held_by.len(),
            view.nodes.len()
        ),
    }
}

fn lease(writer: &WriterView) -> String {
    let length = duration::shown(Duration::from_millis(writer.lease_ms));
    match writer.lease_remaining_ms {
        Some(left) if writer.lease == "held" => {
            format!("{}, lease held ({left} ms of {length} left)", writer.name)
        }
        _ => format!("{}, lease of {length} {}", writer.name, writer.lease),
    }
}

fn session(writer: &WriterView) -> String {
    match &writer.session {
        Some(s) => format!(
            "{}: {} (run_id {}), epoch {} from {} on",
            writer.session_state, s.server, s.run_id, s.epoch, s.at
        ),
        None => writer.session_state.to_owned(),
    }
}

fn nodes(nodes: &[NodeView]) -> String {
    let mut table = plain();
    table.set_header(["NODE", "ADDRESS", "ROLE", "TAIL", "COMMITTED", "DISK", "VERSION"]);
    for node in nodes {
        let role = node.role.as_deref().unwrap_or("unreachable");
        table.add_row([
            &or_dash(node.name.as_ref()),
            &node.endpoint,
            role,
            &or_dash(node.tail),
            &or_dash(node.committed),
            &or_dash(node.disk.as_ref().map(disk)),
            &or_dash(node.version.as_ref()),
        ]);
    }
    output::table(&table)
}

/// In a few words: what was set right is told as long as the process runs.
fn disk(disk: &DiskView) -> String {
    let mended = disk.ranges_repaired + disk.copies_mended;
    match (disk.rot_met, mended) {
        (0, 0) => disk.condition.clone(),
        (met, 0) => format!("{}, damage met {met}x", disk.condition),
        (_, mended) => format!("{}, repaired {mended}x", disk.condition),
    }
}

fn replicas(replicas: &[ReplicaView]) -> String {
    let mut table = plain();
    table.set_header(["REPLICA", "REPLAY", "STATE", "ACKED", "LAG", "FULL SYNCS", "SEEN"]);
    for replica in replicas {
        table.add_row([
            &replica.address,
            &replica.replay,
            &replica.state,
            &replica.acked.to_string(),
            &replica.lag_bytes.map_or_else(|| "-".to_owned(), size),
            &replica.full_syncs.to_string(),
            &format!("{} ago", duration::shown(Duration::from_millis(replica.age_ms))),
        ]);
    }
    output::table(&table)
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut whole = bytes;
    let mut unit = 0;
    while whole >= 10 * 1024 && unit + 1 < UNITS.len() {
        whole /= 1024;
        unit += 1;
    }
    format!("{whole} {}", UNITS[unit])
}
