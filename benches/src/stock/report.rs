//! The report.

use super::load::{Load, Run};
use crate::cpu::Times;
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

/// One round of one load on one system.
pub(crate) struct Measured {
    pub(crate) system: &'static str,
    pub(crate) load: Load,
    pub(crate) run: Run,
    pub(crate) cpu: Times,
}

/// The median round of each load and system, with its share of the first system's throughput.
pub(crate) fn table(measured: &[Measured]) -> String {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "load",
        "system",
        "requests/s",
        "× (a)",
        "p50 ms",
        "p99 ms",
        "CPU µs per request",
    ]);
    for load in Load::ALL {
        let mut systems: Vec<&str> = Vec::new();
        for m in measured.iter().filter(|m| m.load == load) {
            if !systems.contains(&m.system) {
                systems.push(m.system);
            }
        }
        let base = systems
            .first()
            .and_then(|s| median(measured, load, s))
            .map(|m| m.run.per_second);
        for m in systems.iter().filter_map(|s| median(measured, load, s)) {
            let share = base
                .map(|b| format!("{:.2}", m.run.per_second / b))
                .unwrap_or_default();
            let cpu: Vec<String> = m.cpu.iter().map(|(name, us)| format!("{name} {us:.1}")).collect();
            table.add_row([
                load.name(),
                m.system.to_owned(),
                format!("{:.0}", m.run.per_second),
                share,
                format!("{:.2}", m.run.p50_ms),
                format!("{:.2}", m.run.p99_ms),
                cpu.join(", "),
            ]);
        }
    }
    table.to_string()
}

fn median<'a>(measured: &'a [Measured], load: Load, system: &str) -> Option<&'a Measured> {
    let mut rounds: Vec<&Measured> = measured
        .iter()
        .filter(|m| m.load == load && m.system == system)
        .collect();
    rounds.sort_by(|a, b| a.run.per_second.total_cmp(&b.run.per_second));
    rounds.get(rounds.len() / 2).copied()
}
