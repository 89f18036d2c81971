//! `redoubt verify`: whether what journal nodes hold is whole.

pub(crate) mod cluster;
pub(crate) mod directory;

use crate::failure::Failure;
use crate::output;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::time::Duration;

/// How often a bar moves on its own: a sign of life while a disk is slow.
const TICK: Duration = Duration::from_millis(200);

/// Prints what was found for programs.
fn json(view: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(view);
    output::line(&text.map_err(|e| Failure::unchecked(format!("can't print the result: {e}")))?);
    Ok(())
}

/// A bar for bytes on stderr, if that is a terminal.
fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = "{prefix} {bar:30} {bytes} of {total_bytes}, {bytes_per_sec} {msg}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(TICK);
    bar
}

/// Moves `bar` to `bytes` of `of`, which is an estimate.
fn advance(bar: &ProgressBar, bytes: u64, of: u64) {
    bar.set_length(of.max(bytes));
    bar.set_position(bytes);
}
