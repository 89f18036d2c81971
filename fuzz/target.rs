//! What a fuzz target is, and what is asked of each in every test run. A file of each crate that has some (`#[path]`): none has
//! to depend on another for it.

/// A target: its name, what it does with an input, and inputs to begin with.
pub struct Target {
    /// As in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&[u8]),
    /// Inputs that reach far.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// Runs the target `name` of `targets`.
///
/// # Panics
/// When there is none of that name, or it finds a fault.
pub fn run(targets: &[Target], name: &str, bytes: &[u8]) {
    match targets.iter().find(|t| t.name == name) {
        Some(target) => (target.run)(bytes),
        None => panic!("there is no target {name}"),
    }
}

/// Set to write the corpus anew.
#[cfg(test)]
const WRITE: &str = "REDOUBT_WRITE_SEEDS";

/// Gives each target its seeds.
///
/// # Panics
/// When a target finds a fault, or the corpus in the repository does not hold the seeds of this format.
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "the corpus lies beside the sources")]
pub fn take_seeds(targets: &[Target]) {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus");
    for target in targets {
        let dir = corpus.join(target.name);
        for (n, seed) in (target.seeds)().into_iter().enumerate() {
            (target.run)(&seed);
            let path = dir.join(format!("seed-{n}"));
            if std::env::var_os(WRITE).is_some() {
                std::fs::create_dir_all(&dir).expect("the corpus can be written");
                std::fs::write(&path, &seed).expect("the corpus can be written");
            }
            let kept = std::fs::read(&path).unwrap_or_default();
            assert!(kept == seed, "{}: run this test with {WRITE}=1", path.display());
        }
    }
}
