//! `redoubt verify PATH`: whether one node's data directory is whole.

use super::{advance, bar, json};
use crate::failure::Failure;
use crate::output::{self, Output};
use redoubt_env::Env;
use redoubt_journal::segment::OpenError;
use redoubt_journal::verify::{Progress, Report, directory, is_damage};
use serde::Serialize;
use std::io::ErrorKind;
use std::path::Path;

/// What is printed. Offsets and sizes are bytes.
#[derive(Debug, Default, Serialize)]
struct View {
    whole: bool,
    name: Option<String>,
    node: Option<String>,
    cluster: Option<String>,
    bytes: u64,
    /// Behind the log's last record, and behind the last that is known here to be committed.
    log_end: u64,
    committed_end: u64,
    /// Where the committed journal ends; null when it can't all be read.
    tail: Option<u64>,
    chain: Option<String>,
    txid: Option<u64>,
    /// What is damaged, a sentence each.
    damage: Vec<String>,
}

impl View {
    fn of(report: &Report) -> View {
        View {
            whole: report.damage.is_empty(),
            name: Some(report.name.clone()),
            node: Some(report.node.to_string()),
            cluster: report.cluster.map(|c| c.to_string()),
            bytes: report.bytes,
            log_end: report.log_end,
            committed_end: report.committed_end,
            tail: report.position.map(|p| p.tail.get()),
            chain: report.position.map(|p| p.tail_chain.to_string()),
            txid: report.position.map(|p| p.groups),
            damage: report.damage.clone(),
        }
    }
}

/// Checks the directory at `path`.
///
/// # Errors
/// Damage, or that it could not be checked.
pub(crate) fn run(env: &Env, path: &Path, output: Output) -> Result<(), Failure> {
    let bar = bar("reading");
    let progress = |at: Progress| {
        advance(&bar, at.bytes, at.of);
        if at.replayed > 0 {
            bar.set_message(format!("{} records replayed", at.replayed));
        }
    };
    let checked = directory(env, path, progress);
    bar.finish_and_clear();
    let view = match checked {
        Ok(report) => View::of(&report),
        Err(e) if is_damage(&e) => View {
            damage: vec![e.to_string()],
            ..View::default()
        },
        Err(e) => return Err(Failure::unchecked(unchecked(path, &e))),
    };
    match output {
        Output::Json => json(&view)?,
        Output::Table => print(path, &view),
    }
    match view.damage.len() {
        0 => Ok(()),
        n => Err(Failure::failed(format!(
            "{} is damaged in {n} places",
            path.display()
        ))),
    }
}

fn print(path: &Path, view: &View) {
    if let (Some(name), Some(node)) = (&view.name, &view.node) {
        let cluster = view.cluster.as_deref().unwrap_or("no cluster yet");
        output::line(&format!(
            "{}: node {name} ({node}), cluster {cluster}",
            path.display()
        ));
        output::line(&format!(
            "  {} bytes of editlogs, log records up to {}, committed up to {}",
            view.bytes, view.log_end, view.committed_end
        ));
    }
    if let (Some(tail), Some(chain), Some(txid)) = (view.tail, &view.chain, view.txid) {
        output::line(&format!(
            "  journal up to offset {tail}, txid {txid}, chain {chain}"
        ));
    }
    for what in &view.damage {
        output::line(&format!("  damage: {what}"));
    }
    if view.whole {
        output::line("  whole: every checksum is right, and what is committed replays");
    }
}

fn unchecked(path: &Path, error: &OpenError) -> String {
    let path = path.display();
    match error {
        OpenError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            format!("{path} is no data directory of a journal node: it holds no identity")
        }
        OpenError::Locked { .. } => format!("{path} is in use: stop the node, then check it"),
        OpenError::Io { source, .. } => format!("{error}: {source}"),
        other => other.to_string(),
    }
}
