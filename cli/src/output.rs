//! Standard output and error, and their two forms.

use clap::ValueEnum;
use comfy_table::Table;
use std::io::{self, Write};

/// In which form a command answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// A line to stdout. Errors are passed over: when nobody reads any more, there is nobody to tell either.
pub(crate) fn line(text: &str) {
    let mut out = io::stdout().lock();
    drop(writeln!(out, "{text}"));
    drop(out.flush());
}

/// A line to stderr.
pub(crate) fn note(text: &str) {
    drop(writeln!(io::stderr().lock(), "{text}"));
}

/// A table's text, without the blanks that fill its last column.
pub(crate) fn table(table: &Table) -> String {
    table
        .lines()
        .map(|l| l.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
