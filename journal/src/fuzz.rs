//! What `cargo fuzz` calls: everything that reads bytes of a disk, given any bytes (`fuzz/`).
//!
//! Under fuzzing no checksum is looked at (`cfg(fuzzing)`): what a checksum keeps out would never be reached otherwise, and
//! nothing behind it may rest on that. Each function panics, or takes for ever, where the code under it has a fault.

use crate::append::Command;
use crate::raft::fuzz_checkpoint;
use crate::segment::fuzz as segment;
use bytes::Bytes;

/// A target: its name, what it does with an input, and inputs to begin with.
pub struct Target {
    /// As in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&[u8]),
    /// Inputs that reach far.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

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
    let target = TARGETS.iter().find(|t| t.name == name);
    match target {
        Some(target) => (target.run)(bytes),
        None => panic!("there is no target {name}"),
    }
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
    use std::path::Path;

    /// Set to write the corpus anew.
    const WRITE: &str = "REDOUBT_WRITE_SEEDS";

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the corpus lies beside the sources")]
    fn the_seed_corpus_is_that_of_this_format_and_every_target_takes_it() {
        for target in TARGETS {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../fuzz/corpus")
                .join(target.name);
            for (n, seed) in (target.seeds)().into_iter().enumerate() {
                (target.run)(&seed);
                let path = dir.join(format!("seed-{n}"));
                if std::env::var_os(WRITE).is_some() {
                    std::fs::create_dir_all(&dir).unwrap();
                    std::fs::write(&path, &seed).unwrap();
                }
                let kept = std::fs::read(&path).unwrap_or_default();
                assert!(kept == seed, "{}: run this test with {WRITE}=1", path.display());
            }
        }
    }
}
