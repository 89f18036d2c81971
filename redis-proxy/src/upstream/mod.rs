//! Connections to the server that this proxy stands in front of.
//!
//! Decides whether a connection leads to the session's server *process* before anything of a client passes
//! over it (H9), and asks for the fences. In data-path order: [`Upstream`], where it is and as whom the proxy speaks to it;
//! [`Control`], a connection for commands of the
//! proxy's own; [`prove`]; and [`fence`].

mod access;
mod control;
pub mod fence;
mod prove;

pub use access::{DEFAULT_USER, Login, Upstream};
pub use control::Control;
pub(crate) use prove::busy_is_no_answer;
pub use prove::{ProveError, Proven, prove, prove_for_client};

/// The last argument of commands that the proxy sends for itself: the server does not mind it, and a client's MONITOR leaves
/// them out by it.
pub const OWN: &[u8] = b"redoubt";
