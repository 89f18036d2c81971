//! The network seam: connectors and listeners are handed in, for RESP and gRPC alike.

mod listeners;
mod prepared;
pub mod tls;

pub use listeners::Listeners;
pub use prepared::{Prepare, Prepared};

use redoubt_types::limits::{TCP_KEEPALIVE_EVERY, TCP_KEEPALIVE_IDLE, TCP_KEEPALIVE_PROBES};
use rustix::net::sockopt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// What the address of a socket in the file system begins with.
pub const UNIX: &str = "unix:";

/// A future in a box, as a trait object's method returns it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A byte stream between two processes.
pub trait Conn: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Conn for T {}

/// What accepts connections.
pub trait Listener: Send {
    /// Waits for a connection; returns it with the peer's address. Cancel-safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Conn>, String)>>;

    /// The address that peers connect to, `ip:port`.
    fn local_addr(&self) -> String;
}

/// What makes connections.
pub trait Net: Send + Sync {
    /// Connects to `addr`: `host:port`, with TCP_NODELAY, or `unix:PATH`. The caller sets the deadline.
    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Conn>>>;

    /// Listens on `addr` (`ip:port`; port 0 picks a free one).
    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;
}

/// The machine's network.
pub struct RealNet;

struct RealListener(TcpListener);

impl Net for RealNet {
    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Conn>>> {
        Box::pin(async move {
            if let Some(path) = addr.strip_prefix(UNIX) {
                return Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn Conn>);
            }
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            keep_alive(&stream)?;
            Ok(Box::new(stream) as Box<dyn Conn>)
        })
    }

    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(addr).await?;
            Ok(Box::new(RealListener(listener)) as Box<dyn Listener>)
        })
    }
}

/// Has a connection fail whose other side is gone without a word, also while it is idle. There is no limit for unacknowledged
/// bytes (`TCP_USER_TIMEOUT`): it would hit those too whose other side takes none for now, as a server in a long script does.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, TCP_KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, TCP_KEEPALIVE_EVERY)?;
    sockopt::set_tcp_keepcnt(stream, TCP_KEEPALIVE_PROBES)?;
    Ok(())
}

impl Listener for RealListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(Box<dyn Conn>, String)>> {
        Box::pin(async move {
            let (stream, peer) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Conn>, peer.to_string()))
        })
    }

    fn local_addr(&self) -> String {
        self.0.local_addr().map(|a| a.to_string()).unwrap_or_default()
    }
}
