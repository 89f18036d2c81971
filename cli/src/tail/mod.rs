//! `redoubt tail`: the journal's commands, one a line.

mod printer;

use crate::failure::Failure;
use crate::output;
use printer::Printer;
use redoubt_client::{Client, TailError, TailEvent};
use redoubt_types::limits::ENTRY_PAYLOAD_BYTES_ACCEPTED;
use redoubt_types::{LineageStep, Offset};
use std::io::{self, Write};
use std::time::Duration;

/// How long the journal may take to say where it stands.
const DESCRIBE_WAIT: Duration = Duration::from_secs(10);

/// Prints the journal from `from` on: from its beginning if nothing is said, or with `follow` from its tail.
///
/// # Errors
/// When no quorum confirms where the journal stands, `from` is not in it, or it can't be read.
pub(crate) async fn run(client: &Client, from: Option<Offset>, follow: bool) -> Result<(), Failure> {
    let journal = client
        .describe(DESCRIBE_WAIT)
        .await
        .map_err(|e| Failure::unavailable(format!("can't learn where the journal stands: {e}")))?;
    let (beginning, tail) = (journal.beginning, journal.position.tail);
    let from = from.unwrap_or(if follow { tail } else { beginning });
    if from > tail {
        return Err(Failure::failed(format!(
            "offset {from} lies beyond the journal's confirmed tail {tail}"
        )));
    }
    if from < beginning {
        return Err(Failure::failed(format!(
            "offset {from} lies before the journal's beginning {beginning}"
        )));
    }
    let mut events = client.tail(read_from(from, beginning), follow);
    let mut printer = Printer::new(from);
    loop {
        let event = events.next().await.map_err(|e| failure(&e))?;
        let lines = match &event {
            TailEvent::Entry(entry) => printer.entry(entry).map_err(|e| Failure::failed(e.to_string()))?,
            TailEvent::Lineage(step) => {
                output::note(&lineage_line(step));
                continue;
            }
            TailEvent::Mark { .. } => continue,
            TailEvent::End => return Ok(()),
        };
        match print(&lines) {
            Ok(()) => {}
            // Whoever read this has enough (`| head`).
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(e) => return Err(Failure::io("write to stdout", &e)),
        }
        if let Some(skipped) = printer.take_note() {
            output::note(&skipped);
        }
    }
}

/// Where to begin reading, so that the entry in which `from` lies comes whole: only whole entries tell where
/// their commands begin. No entry is larger than this step back.
fn read_from(from: Offset, beginning: Offset) -> Offset {
    let step = ENTRY_PAYLOAD_BYTES_ACCEPTED as u64;
    beginning.max(Offset::new(from.get().saturating_sub(step)))
}

fn print(lines: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(lines.as_bytes())?;
    out.flush()
}

fn lineage_line(step: &LineageStep) -> String {
    let epoch = step
        .epoch
        .map_or_else(|| "bootstrap".to_owned(), |e| format!("epoch {e}"));
    format!(
        "# from offset {} on under replid {} ({epoch})",
        step.from, step.replid
    )
}

fn failure(error: &TailError) -> Failure {
    Failure::failed(format!("the journal can't be read on: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_begins_an_entry_earlier() {
        let at = Offset::new;
        assert_eq!(read_from(at(5_000_000), at(0)), at(5_000_000 - 1024 * 1024));
        assert_eq!(read_from(at(10), at(0)), at(0));
        assert_eq!(read_from(at(5_000_000), at(4_999_000)), at(4_999_000));
    }
}
