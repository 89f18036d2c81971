//! A bare connection, for tests that must know whether a single byte came.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A RESP connection without a client library.
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Connects to a port on loopback.
    pub async fn connect(port: u16) -> Raw {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap_or_else(|e| panic!("can't connect to port {port}: {e}"));
        stream.set_nodelay(true).expect("a socket takes its options");
        Raw { stream }
    }

    /// Sends one command; false when the connection is closed already.
    pub async fn send(&mut self, args: &[&[u8]]) -> bool {
        let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            bytes.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            bytes.extend_from_slice(arg);
            bytes.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&bytes).await.is_ok()
    }

    /// What comes within `wait`: bytes, the end of the connection (empty), or nothing (`None`).
    pub async fn read(&mut self, wait: Duration) -> Option<Vec<u8>> {
        let mut buf = vec![0; 64 * 1024];
        match tokio::time::timeout(wait, self.stream.read(&mut buf)).await {
            Ok(Ok(n)) => {
                buf.truncate(n);
                Some(buf)
            }
            Ok(Err(_)) => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// Nothing comes for this long, neither a byte nor the end.
    ///
    /// # Panics
    /// With what came.
    pub async fn stays_silent(&mut self, wait: Duration, what: &str) {
        if let Some(bytes) = self.read(wait).await {
            panic!("{what}: came {:?}", String::from_utf8_lossy(&bytes));
        }
    }

    /// The next bytes are exactly `wanted`.
    ///
    /// # Panics
    /// When they are not, or nothing came `within`.
    pub async fn expect(&mut self, wanted: &str, within: Duration) {
        let mut came = Vec::new();
        while came.len() < wanted.len() {
            match self.read(within).await {
                Some(bytes) if !bytes.is_empty() => came.extend_from_slice(&bytes),
                other => panic!(
                    "wanted {wanted:?}, got {:?} and then {other:?}",
                    String::from_utf8_lossy(&came)
                ),
            }
        }
        assert_eq!(String::from_utf8_lossy(&came), wanted);
    }

    /// The connection is closed `within`, without a single byte before that.
    ///
    /// # Panics
    /// When a byte came, or the connection stays open.
    pub async fn closes_without_a_byte(&mut self, within: Duration, what: &str) {
        match self.read(within).await {
            Some(bytes) if bytes.is_empty() => {}
            Some(bytes) => panic!("{what}: {:?} was released", String::from_utf8_lossy(&bytes)),
            None => panic!("{what}: the connection is still open after {within:?}"),
        }
    }
}
