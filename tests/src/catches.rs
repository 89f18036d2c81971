//! A harness is proven by a bug that it must catch.

use std::process::Command;

/// Runs the test `test` of this same test binary once more, in a process of its own in which `bug` is planted
/// (and so in every process that it starts), and is satisfied only if the test fails there.
///
/// # Panics
/// When the test passes in spite of the bug, or was not run at all.
pub fn assert_catches(test: &str, bug: &str) {
    let exe = std::env::current_exe().expect("the test's own path");
    let output = Command::new(exe)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env("REDOUBT_PLANTED_BUGS", bug)
        .output()
        .expect("the test binary runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "{test} is no test of this binary: {text}");
    assert!(!output.status.success(), "{test} passes although {bug} is planted");
}
