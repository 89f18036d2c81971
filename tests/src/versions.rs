//! Stock servers of several versions, and a module.

use std::path::{Path, PathBuf};

/// The program of the server `name`, such as `redis-7.2.4` or `valkey-9.1.2`, as `make versions` fetched it.
///
/// # Panics
/// When it is not there.
pub fn stock(name: &str) -> PathBuf {
    let (kind, _) = name.split_once('-').expect("NAME-VERSION");
    fetched(&Path::new(name).join(format!("{kind}-server")))
}

/// The module RedisBloom, which Redis 7.0 and later load, as `make versions` fetched it.
///
/// # Panics
/// When it is not there.
pub fn bloom() -> PathBuf {
    fetched(Path::new("modules/redisbloom.so"))
}

fn fetched(path: &Path) -> PathBuf {
    let exe = std::env::current_exe().expect("the test's own path");
    let below = Path::new("servers").join(path);
    // A test lies in TARGET/PROFILE/deps, what was fetched in TARGET/servers.
    let found = exe.ancestors().map(|dir| dir.join(&below)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{} is not there: `make versions` fetches it", path.display()))
}
