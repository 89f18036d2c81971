//! A bare connection, for tests that must know whether a single byte came.

use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

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

    /// Connects with a socket that takes next to nothing for a reader that does not read.
    pub async fn connect_small(port: u16) -> Raw {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .set_recv_buffer_size(4096)
            .expect("a socket takes its options");
        let stream = socket.connect(([127, 0, 0, 1], port).into()).await;
        Raw {
            stream: stream.unwrap_or_else(|e| panic!("can't connect to port {port}: {e}")),
        }
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

    /// Sends bytes as they are; false when the connection is closed, or takes no more within 10 s.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::time::timeout(Duration::from_secs(10), self.stream.write_all(bytes)).await;
        sent.is_ok_and(|sent| sent.is_ok())
    }

    /// Sends nothing more.
    pub async fn finish(&mut self) {
        // The other end may have closed already.
        let _ = self.stream.shutdown().await;
    }

    /// All that comes until the other end closes.
    ///
    /// # Panics
    /// When it has not closed `within`.
    pub async fn rest(&mut self, within: Duration, what: &str) -> Vec<u8> {
        let (mut came, end) = (Vec::new(), tokio::time::Instant::now() + within);
        loop {
            match self
                .read(end.saturating_duration_since(tokio::time::Instant::now()))
                .await
            {
                Some(bytes) if bytes.is_empty() => return came,
                Some(bytes) => came.extend_from_slice(&bytes),
                None => panic!(
                    "{what}: the connection is still open after {within:?} and {:?}",
                    String::from_utf8_lossy(&came)
                ),
            }
        }
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

    /// What comes next begins with `wanted`; the rest of what came with it is dropped.
    ///
    /// # Panics
    /// When it does not, or nothing came `within`.
    pub async fn begins(&mut self, wanted: &str, within: Duration) {
        let mut came = Vec::new();
        while came.len() < wanted.len() {
            match self.read(within).await {
                Some(bytes) if !bytes.is_empty() => came.extend_from_slice(&bytes),
                other => panic!("wanted {wanted:?}, got {came:?} and then {other:?}"),
            }
        }
        let came = String::from_utf8_lossy(&came);
        assert!(came.starts_with(wanted), "wanted {wanted:?}, got {came:?}");
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
