//! Stock servers of several versions.

use std::path::PathBuf;

/// The program of the server `name`, such as `redis-7.2.4` or `valkey-9.1.2`, as `make versions` fetched it.
///
/// # Panics
/// When it is not there.
pub fn stock(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("the test's own path");
    let (kind, _) = name.split_once('-').expect("NAME-VERSION");
    let below = PathBuf::from("servers").join(name).join(format!("{kind}-server"));
    // A test lies in TARGET/PROFILE/deps, what was fetched in TARGET/servers.
    let found = exe.ancestors().map(|dir| dir.join(&below)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not there: `make versions` fetches it"))
}
