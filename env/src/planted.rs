//! Planted bugs: each is a known way to break a promise, re-introduced by name so that a test can be seen to
//! catch it. Release builds, made without the `planted-bugs` feature, contain none of this.

/// Whether the bug `name` is planted in this process: named in the comma-separated environment variable
/// `REDOUBT_PLANTED_BUGS` of a build that has the `planted-bugs` feature. Always false otherwise, and known
/// to be so at compile time.
#[cfg(feature = "planted-bugs")]
pub fn on(name: &str) -> bool {
    use std::sync::OnceLock;
    static PLANTED: OnceLock<Vec<String>> = OnceLock::new();
    PLANTED
        .get_or_init(|| {
            let list = std::env::var("REDOUBT_PLANTED_BUGS").unwrap_or_default();
            list.split(',').filter(|s| !s.is_empty()).map(str::to_owned).collect()
        })
        .iter()
        .any(|b| b == name)
}

/// Whether the bug `name` is planted: never, in a build without the `planted-bugs` feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn on(_name: &str) -> bool {
    false
}
