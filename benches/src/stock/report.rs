//! The report.

use super::Kind;
use crate::cpu;
use crate::load::{Load, Run, Test, ms};
use comfy_table::Table;
use comfy_table::presets::ASCII_MARKDOWN;

/// One round of one load on one system.
pub(crate) struct Measured {
    pub(crate) system: Kind,
    pub(crate) load: Load,
    pub(crate) run: Run,
}

/// The median round of each load and system, with its share of the first system's throughput.
pub(crate) fn table(kinds: &[Kind], loads: &[Load], measured: &[Measured]) -> String {
    let mut table = markdown([
        "load",
        "system",
        "operations/s",
        &format!("× {}", kinds.first().map_or("", |kind| kind.name())),
        "SET p50 ms",
        "p99",
        "GET p50 ms",
        "p99",
        "CPU µs per operation",
    ]);
    for load in loads {
        let base = kinds.first().and_then(|kind| median(measured, *load, *kind));
        let base = base.map(Run::per_second);
        // A load is named once.
        let mut name = load.name();
        for kind in kinds {
            let Some(run) = median(measured, *load, *kind) else {
                continue;
            };
            let share = base.map(|base| times(run.per_second(), base)).unwrap_or_default();
            let mut row = vec![
                std::mem::take(&mut name),
                kind.name().to_owned(),
                format!("{:.0}", run.per_second()),
                share,
            ];
            for histogram in [&run.sets, &run.gets] {
                for quantile in [0.5, 0.99] {
                    let cell = (!histogram.is_empty()).then(|| format!("{:.2}", ms(histogram, quantile)));
                    row.push(cell.unwrap_or_default());
                }
            }
            row.push(cpu::shown(&run.cpu));
            table.add_row(row);
        }
    }
    table.to_string()
}

/// What Redoubt is meant to reach, load by load, as far as the systems for it were measured: throughput beside twemproxy and
/// beside WAIT, the master's CPU time per operation beside that of a stock server, and how much later than twemproxy it
/// answers reads of clean keys.
pub(crate) fn targets(loads: &[Load], measured: &[Measured]) -> String {
    let mut table = markdown([
        "load",
        "redoubt",
        "× twemproxy",
        "× WAIT 1",
        "master's CPU × stock's",
        "clean GET p99 − twemproxy's, µs",
    ]);
    for load in loads {
        let of = |kind| median(measured, *load, kind);
        let mut name = load.name();
        for kind in [Kind::Dedicated, Kind::Shared] {
            let Some(run) = of(kind) else {
                continue;
            };
            let beside = |other: Kind| {
                let share = |other: &Run| times(run.per_second(), other.per_second());
                of(other).map(share).unwrap_or_default()
            };
            let cpu = of(Kind::Stock).and_then(|stock| {
                let (master, server) = (run.cpu.get("master-1")?, stock.cpu.get("server")?);
                Some(times(*master, *server))
            });
            let later = of(Kind::Twemproxy)
                .filter(|_| load.test == Test::Clean)
                .map(|proxy| {
                    let later = ms(&run.gets, 0.99) - ms(&proxy.gets, 0.99);
                    format!("{:+.0}", later * 1e3)
                });
            table.add_row([
                std::mem::take(&mut name),
                kind.name().to_owned(),
                beside(Kind::Twemproxy),
                beside(Kind::Wait),
                cpu.unwrap_or_default(),
                later.unwrap_or_default(),
            ]);
        }
    }
    table.to_string()
}

/// Whether every answer was right.
///
/// # Errors
/// How many were not, and the first one of each round.
pub(crate) fn wrong(measured: &[Measured]) -> Result<(), String> {
    let mut lines = Vec::new();
    for Measured { system, load, run } in measured {
        if let Some(first) = &run.first_wrong {
            let (system, load, wrong) = (system.name(), load.name(), run.wrong);
            lines.push(format!(
                "{system}: {load}: {wrong} clients had wrong answers, such as {first}"
            ));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    Err(lines.join("\n"))
}

/// How many times `other`, for people.
fn times(this: f64, other: f64) -> String {
    if other > 0.0 {
        format!("{:.2}", this / other)
    } else {
        String::new()
    }
}

/// An empty table that people and markdown can read.
pub(crate) fn markdown<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(header);
    table
}

fn median(measured: &[Measured], load: Load, system: Kind) -> Option<&Run> {
    let mut rounds: Vec<&Run> = measured
        .iter()
        .filter(|m| m.load == load && m.system == system)
        .map(|m| &m.run)
        .collect();
    rounds.sort_by(|a, b| a.per_second().total_cmp(&b.per_second()));
    rounds.get(rounds.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Times;
    use hdrhistogram::Histogram;

    const LOAD: Load = Load {
        test: Test::Clean,
        clients: 50,
        pipeline: 1,
        bytes: 100,
        rate: None,
    };

    /// A run in which every read took as many microseconds as are told.
    fn measured(system: Kind, operations: u64, us: u64, cpu: &[(&str, f64)]) -> Measured {
        let mut gets = Histogram::new(3).unwrap();
        gets.record_n(us * 1000, operations).unwrap();
        let cpu: Times = cpu.iter().map(|(name, us)| ((*name).to_owned(), *us)).collect();
        let run = Run {
            operations,
            seconds: 1.0,
            sets: Histogram::new(3).unwrap(),
            gets,
            wrong: 0,
            first_wrong: None,
            cpu,
        };
        Measured {
            system,
            load: LOAD,
            run,
        }
    }

    #[test]
    fn redoubt_is_compared_with_the_median_rounds_of_the_others() {
        let all = [
            measured(Kind::Stock, 1000, 10, &[("server", 4.0)]),
            measured(Kind::Twemproxy, 1, 1, &[]),
            measured(Kind::Twemproxy, 200, 100, &[]),
            measured(Kind::Twemproxy, 900, 900, &[]),
            measured(Kind::Shared, 100, 150, &[("master-1", 1.0)]),
        ];
        let table = targets(&[LOAD], &all);
        let row = table.lines().last().unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        assert_eq!(
            cells[2..7],
            ["redoubt, shared", "0.50", "", "0.25", "+50"],
            "{table}"
        );
    }

    #[test]
    fn a_wrong_answer_is_told() {
        let mut all = [measured(Kind::Stock, 1, 1, &[])];
        assert_eq!(wrong(&all), Ok(()));
        all[0].run.wrong = 3;
        all[0].run.first_wrong = Some("-ERR".to_owned());
        assert!(wrong(&all).is_err_and(|told| told.contains("3 clients") && told.contains("-ERR")));
    }
}
