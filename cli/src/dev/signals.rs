//! Ctrl-C and its kin.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that ask for the end: SIGINT (Ctrl-C), SIGTERM, and SIGHUP (the terminal was closed).
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// From here on none of them ends the process by itself.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one. Cancel-safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
