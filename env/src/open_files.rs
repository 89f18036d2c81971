//! How many files and sockets this process may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// Raises the limit of open files to the most that the system allows this process; returns it, `None` when there is none.
/// Shells and service managers give a process far fewer at first, for programs that can't use more.
///
/// # Errors
/// When the system does not raise it.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, limit)?;
    Ok(maximum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_the_limit_then() {
        let told = raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, told);
    }
}
