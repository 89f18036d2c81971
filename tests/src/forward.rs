//! An address that leads to whatever server a test wants: what a DNS name or a virtual address does.

use std::sync::{Arc, Mutex};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// Listens on loopback and passes each new connection on to the port that is wanted just then. A connection
/// stays with the server that it was made to.
pub struct Forward {
    /// Where it listens.
    pub port: u16,
    to: Arc<Mutex<u16>>,
    task: JoinHandle<()>,
}

impl Forward {
    /// An address that leads to the server on port `to`.
    pub async fn start(to: u16) -> Forward {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let to = Arc::new(Mutex::new(to));
        let wanted = Arc::clone(&to);
        let task = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let to = *wanted.lock().unwrap();
                tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)).await {
                        // However that ends, both ends are closed.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Forward { port, to, task }
    }

    /// From now on new connections lead to the server on port `to`.
    pub fn lead_to(&self, to: u16) {
        *self.to.lock().unwrap() = to;
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}
