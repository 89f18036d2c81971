//! Connections over the network seam, as tonic wants them.

use hyper_util::rt::TokioIo;
use redoubt_env::Env;
use redoubt_env::net::{BoxFuture, Conn};
use redoubt_types::limits::{
    GRPC_CONNECTION_WINDOW_BYTES, GRPC_FRAME_BYTES_MAX, GRPC_STREAM_WINDOW_BYTES, KEEPALIVE_EVERY,
    KEEPALIVE_TIMEOUT, RPC_DEADLINE,
};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

/// A channel to a peer at `address` (`host:port`), connected when it is first used, and again when it breaks.
pub(crate) fn channel(env: &Env, address: &str) -> Channel {
    let (env, address) = (env.clone(), address.to_owned());
    let connector = tower::service_fn(move |_: Uri| {
        let (env, address) = (env.clone(), address.clone());
        async move {
            match env.timeout(RPC_DEADLINE, env.net().connect(&address)).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(elapsed) => Err(io::Error::new(io::ErrorKind::TimedOut, elapsed)),
            }
        }
    });
    Endpoint::from_static("http://peer")
        .initial_stream_window_size(GRPC_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(GRPC_CONNECTION_WINDOW_BYTES)
        .max_frame_size(GRPC_FRAME_BYTES_MAX)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// An accepted connection, which breaks when the life that it was accepted in is over: the server's tasks outlive the server,
/// and would go on to answer for a node that has ended.
pub(super) struct Incoming {
    conn: Box<dyn Conn>,
    over: BoxFuture<'static, ()>,
}

impl Incoming {
    /// `life` is over when its sender is dropped.
    pub(super) fn new(conn: Box<dyn Conn>, mut life: watch::Receiver<()>) -> Self {
        let over = Box::pin(async move { while life.changed().await.is_ok() {} });
        Incoming { conn, over }
    }
}

impl Connected for Incoming {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.conn).poll_read(cx, buf)
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.conn).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.conn).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.conn.is_write_vectored()
    }
}
