//! What the promises are tested with: whole clusters of real processes, real servers, clients that remember
//! what was acknowledged to them, and a comparison that leaves nothing out.
//!
//! Everything listens on loopback only, on free ports, and is ended by its process id when its handle is
//! dropped.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness drives real clocks, files and processes, and a failure in it is a failed test"
)]

mod abused;
mod client_program;
mod cluster;
mod dice;
mod disk;
mod equal;
mod forward;
mod journal;
mod kinds;
mod marker;
mod ports;
mod program;
mod raw;
mod server;
mod tokens;
mod versions;
mod watched;

pub use abused::Abused;
pub use client_program::ClientProgram;
pub use cluster::{Component, DevCluster, Options};
pub use dice::Dice;
pub use disk::{flip, place_of};
pub use equal::{assert_equal, differences, differences_but_in_time, wait_equal};
pub use forward::Forward;
pub use journal::{contains, served, take_over_and_write};
pub use kinds::{run, write_all_types};
pub use marker::Marker;
pub use ports::free_base;
pub use program::{Program, redoubt};
pub use raw::Raw;
pub use redoubt_env::planted::assert_catches;
pub use server::{Server, config_set, connect, info_field, try_connect, try_connect_as};
pub use tokens::{Outcome, Tokens};
pub use versions::{bloom, stock};
pub use watched::{Watched, memory};

use std::future::Future;
use std::time::{Duration, Instant};

/// Asks `check` again and again until it is satisfied.
///
/// # Panics
/// When `within` has passed; the message names `what` and the last answer.
pub async fn eventually<T, E, F>(what: &str, within: Duration, mut check: impl FnMut() -> F) -> T
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let end = Instant::now() + within;
    loop {
        match check().await {
            Ok(t) => return t,
            Err(e) if Instant::now() > end => panic!("{what} did not happen within {within:?}: {e}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
