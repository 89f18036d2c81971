//! The seams between Redoubt and the machine: clocks, randomness, tasks, files and network.
//!
//! One [`Env`] is passed to every program's `run(config, env)`. Nothing outside this crate reads a clock,
//! sleeps, spawns, opens a file or a socket by itself (clippy's `disallowed-methods` keeps it so), so that a
//! whole cluster can run in one process with time, network and disk driven by a seed.
#![allow(
    clippy::disallowed_methods,
    reason = "this is the one place where the machine is touched"
)]

mod clock;
pub mod files;
pub mod net;
mod open_files;
pub mod planted;
pub mod sim_files;
mod task;

pub use open_files::raise_open_files;
pub use task::{Elapsed, Task};

use clock::{Clock, RealClock};
use files::{Files, RealFiles};
use net::{Net, RealNet};
use redoubt_types::{BootTime, WallTime};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Access to the machine, cheap to clone.
#[derive(Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    files: Arc<dyn Files>,
    net: Arc<dyn Net>,
}

impl Env {
    /// The real machine. Must be used inside a tokio runtime.
    pub fn real() -> Self {
        Env {
            clock: Arc::new(RealClock),
            files: Arc::new(RealFiles),
            net: Arc::new(RealNet),
        }
    }

    /// The same environment over another file system.
    #[must_use]
    pub fn with_files(mut self, files: Arc<dyn Files>) -> Self {
        self.files = files;
        self
    }

    /// The same environment over another network.
    #[must_use]
    pub fn with_net(mut self, net: Arc<dyn Net>) -> Self {
        self.net = net;
        self
    }

    /// The boot-time clock: what leases and deadlines are measured with.
    pub fn now(&self) -> BootTime {
        self.clock.now()
    }

    /// The wall clock: for people only.
    pub fn wall(&self) -> WallTime {
        self.clock.wall()
    }

    /// Waits for `d`.
    pub async fn sleep(&self, d: Duration) {
        tokio::time::sleep(d).await;
    }

    /// Waits until the clock reads `at`.
    pub async fn sleep_until(&self, at: BootTime) {
        self.sleep(at.since(self.now())).await;
    }

    /// Runs `f`, but for `d` at most.
    ///
    /// # Errors
    /// [`Elapsed`] when `d` passed first; `f` is dropped then.
    pub async fn timeout<F: Future>(&self, d: Duration, f: F) -> Result<F::Output, Elapsed> {
        tokio::time::timeout(d, f).await.map_err(|_| Elapsed(d))
    }

    /// Random bytes from the operating system.
    ///
    /// # Panics
    /// When the operating system has no randomness: identities minted without it would be unsafe.
    pub fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        if let Err(e) = getrandom::fill(&mut bytes) {
            panic!("the operating system gave no random bytes: {e}");
        }
        bytes
    }

    /// A random number that is not 0.
    pub fn random_nonzero(&self) -> u64 {
        u64::from_le_bytes(self.random_bytes()).max(1)
    }

    /// Runs `f` as a task of its own, which ends when the returned handle is dropped.
    pub fn spawn<F>(&self, f: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        Task::new(tokio::spawn(f))
    }

    /// Runs blocking work on a thread of its own: the storage thread of a journal node.
    ///
    /// # Errors
    /// When the operating system can't start a thread.
    pub fn spawn_thread(&self, name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(f)
            .map(drop)
    }

    /// The file system.
    pub fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    /// The network.
    pub fn net(&self) -> &Arc<dyn Net> {
        &self.net
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}
