//! Planted bugs: each is a known way to break a promise, re-introduced by name so that a test can be seen to
//! catch it. Release builds, made without the `planted-bugs` feature, contain none of this.

/// Whether the bug `name` is planted in this process: named in the comma-separated environment variable
/// `REDOUBT_PLANTED_BUGS` of a build that has the `planted-bugs` feature. Always false otherwise, and known
/// to be so at compile time.
#[cfg(feature = "planted-bugs")]
pub fn on(name: &str) -> bool {
    let planted = planted().iter().any(|b| b == name);
    if planted {
        reached();
    }
    planted
}

/// Whether a pause is planted as `name=PATH` and a file exists at PATH: a test holds a step there for as long
/// as it likes, and so forces an interleaving. A file that is not empty holds the ids of the processes that it is for.
#[cfg(feature = "planted-bugs")]
pub fn held(name: &str) -> bool {
    let path = planted()
        .iter()
        .find_map(|b| b.strip_prefix(name)?.strip_prefix('='));
    let text = path.and_then(|path| std::fs::read_to_string(path).ok());
    let me = std::process::id().to_string();
    let held = text.is_some_and(|ids| ids.is_empty() || ids.split_whitespace().any(|id| id == me));
    if held {
        reached();
    }
    held
}

/// Tells [`assert_catches`] that the bug's place was come to.
#[cfg(feature = "planted-bugs")]
fn reached() {
    use std::sync::Once;
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Some(path) = std::env::var_os(REACHED) {
            // Should it fail, the test that asks for it fails.
            let _ = std::fs::write(path, b"");
        }
    });
}

#[cfg(feature = "planted-bugs")]
fn planted() -> &'static [String] {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<Vec<String>> = OnceLock::new();
    PLANTED.get_or_init(|| {
        let list = std::env::var("REDOUBT_PLANTED_BUGS").unwrap_or_default();
        list.split(',')
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect()
    })
}

/// Whether the bug `name` is planted: never, in a build without the `planted-bugs` feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn on(_name: &str) -> bool {
    false
}

/// Whether a pause is held: never, in a build without the `planted-bugs` feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn held(_name: &str) -> bool {
    false
}

/// The environment variable that names the file that is made when a planted bug's place is come to.
const REACHED: &str = "REDOUBT_PLANTED_BUGS_REACHED";

/// For tests: runs the test `test` of this same test binary once more, in a process of its own in which `bug`
/// is planted (and so in every process that it starts), and is satisfied only if the test fails there, after one of
/// those processes has come to the bug's place: a test that fails for want of a server, say, has caught nothing.
///
/// # Panics
/// When the test passes in spite of the bug, fails before it, or was not run at all.
pub fn assert_catches(test: &str, bug: &str) {
    let exe = match std::env::current_exe() {
        Ok(exe) => exe,
        Err(e) => panic!("the test's own path is not known: {e}"),
    };
    // Of the same module, unless it is named with one.
    let thread = std::thread::current();
    let module = thread.name().and_then(|name| name.rsplit_once("::"));
    let test = match module {
        Some((module, _)) if !test.contains("::") => format!("{module}::{test}"),
        _ => test.to_owned(),
    };
    let marker = format!("redoubt-reached-{}-{bug}", std::process::id()).replace('/', "_");
    let marker = std::env::temp_dir().join(marker);
    let output = std::process::Command::new(exe)
        .args(["--exact", &test, "--nocapture", "--test-threads=1"])
        .env("REDOUBT_PLANTED_BUGS", bug)
        .env(REACHED, &marker)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(e) => panic!("the test binary does not run: {e}"),
    };
    let reached = std::fs::remove_file(&marker).is_ok();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("running 1 test"),
        "{test} is no test of this binary: {text}"
    );
    assert!(
        !output.status.success(),
        "{test} passes although {bug} is planted"
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(reached, "{test} fails before it comes to {bug}: {errors}");
}
