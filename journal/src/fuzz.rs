//! What `cargo fuzz` calls: everything that reads bytes of a disk, given any bytes (`fuzz/`).
//!
//! Under fuzzing no checksum is looked at (`cfg(fuzzing)`): what a checksum keeps out would never be reached otherwise, and
//! nothing behind it may rest on that. Each function panics, or takes for ever, where the code under it has a fault.

use crate::append::Command;
use crate::raft::fuzz_checkpoint;
use crate::segment::fuzz as segment;
use bytes::Bytes;
use target::Target;

#[path = "../../fuzz/target.rs"]
pub mod target;

/// All of them.
pub const TARGETS: [Target; 3] = [
    Target {
        name: "record",
        run: segment::record,
        seeds: segment::record_seeds,
    },
    Target {
        name: "directory",
        run: segment::directory,
        seeds: segment::directory_seeds,
    },
    Target {
        name: "values",
        run: values,
        seeds: segment::value_seeds,
    },
];

/// Runs the target `name`.
///
/// # Panics
/// When there is none of that name, or it finds a fault.
pub fn run(name: &str, bytes: &[u8]) {
    target::run(&TARGETS, name, bytes);
}

/// Every value that is kept beside the records.
pub fn values(bytes: &[u8]) {
    let _ = Command::decode(&Bytes::copy_from_slice(bytes));
    fuzz_checkpoint(bytes);
    segment::values(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_corpus_is_that_of_this_format_and_every_target_takes_it() {
        target::take_seeds(&TARGETS);
    }
}
