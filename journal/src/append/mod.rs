//! Admission: what of the log joins the journal.
//!
//! Decides, in log order and from nothing but the log, whether an entry is admitted, and what position, epoch,
//! session and lineage follow. It promises that every node which has applied the same log decides the
//! same. It must not know sockets, files, clocks, or who leads: the one decision that needs a clock,
//! whether a lease may be given away, is [`lease`]'s, and is checked again here through the renewal that it saw.

mod admission;
mod command;
mod index;
mod lease;
#[cfg(test)]
mod tests;
mod verdict;

pub use admission::Admission;
pub use command::{Acquire, AppendEntry, Command, DecodeError, Genesis, NewBase};
pub use index::{EntryIndex, IndexEntry, Seek};
pub use lease::{LeaseDecision, LeaseKeeper};
pub use verdict::{Frame, Granted, Position, Refused, Session, Standing, Verdict, WriterState};
