//! A connection that tells of each answer as it comes, and a server's replication stream as its replica hears it.

use bytes::{Buf, BytesMut};
use redoubt_resp::info::parse_replication;
use redoubt_resp::reply::{ReplyScanner, Value, parse_frame};
use redoubt_resp::stream::encode_command;
use redoubt_types::{Offset, ReplId};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);

/// A RESP connection.
pub struct Wire {
    stream: TcpStream,
    input: BytesMut,
    /// Bytes of the input that the scanner has seen.
    scanned: usize,
    scanner: ReplyScanner,
}

impl Wire {
    pub async fn connect(port: u16) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .expect("the server listens");
        stream.set_nodelay(true).expect("a socket takes its options");
        Wire {
            stream,
            input: BytesMut::new(),
            scanned: 0,
            scanner: ReplyScanner::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Value {
        loop {
            // A master that has not begun a full sync yet keeps its replica waiting with newlines.
            while self.scanned == 0 && self.input.first() == Some(&b'\n') {
                self.input.advance(1);
            }
            let found = self
                .scanner
                .next_frame(&self.input[self.scanned..])
                .expect("RESP");
            if let Some(frame) = found {
                let bytes = self.input.split_to(self.scanned + frame.end);
                self.scanned = 0;
                return parse_frame(&bytes).expect("RESP").expect("a whole frame").0;
            }
            self.scanned = self.input.len();
            let n = self
                .stream
                .read_buf(&mut self.input)
                .await
                .expect("the server answers");
            assert!(n > 0, "the server closed the connection");
        }
    }

    /// One command and its answer, which must be no error.
    pub async fn call(&mut self, args: &[&str]) -> Value {
        let answer = self.ask(args).await;
        assert!(answer.as_error().is_none(), "{args:?}: {answer:?}");
        answer
    }

    /// One command and its answer.
    pub async fn ask(&mut self, args: &[&str]) -> Value {
        let mut bytes = BytesMut::new();
        put(args, &mut bytes);
        self.send(&bytes).await;
        self.answer().await
    }

    /// Its replid and offset.
    pub async fn position(&mut self) -> (ReplId, Offset) {
        let text = self.call(&["INFO", "replication"]).await;
        let info = parse_replication(text.as_bytes().expect("text")).expect("INFO");
        (info.replid, info.offset)
    }
}

/// Adds a command as it is sent.
pub fn put(args: &[&str], to: &mut BytesMut) {
    let args: Vec<&[u8]> = args.iter().map(|a| a.as_bytes()).collect();
    encode_command(&args, to);
}

/// Bytes of a server's stream, as they come.
#[derive(Clone)]
pub struct Stream {
    bytes: Arc<Mutex<Vec<u8>>>,
    /// The offset before the first of them.
    pub from: Offset,
}

impl Stream {
    /// Attaches to the server on `port`, whose `control` is a connection to it.
    pub async fn attach(port: u16, control: &mut Wire) -> Stream {
        // A server counts offsets only once a replica has asked for all of it.
        let mut first = Wire::connect(port).await;
        first.call(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await;
        let answer = first.call(&["PSYNC", "?", "-1"]).await;
        assert!(
            answer.as_str().is_some_and(|a| a.starts_with("FULLRESYNC")),
            "{answer:?}"
        );
        drop(first);
        let (replid, from) = control.position().await;
        let mut replica = Wire::connect(port).await;
        replica.call(&["REPLCONF", "capa", "psync2"]).await;
        let answer = replica
            .call(&["PSYNC", replid.as_str(), &from.psync().to_string()])
            .await;
        assert!(
            answer.as_str().is_some_and(|a| a.starts_with("CONTINUE")),
            "{answer:?}"
        );
        let bytes = Arc::new(Mutex::new(Vec::with_capacity(64 << 20)));
        let stream = Stream {
            bytes: Arc::clone(&bytes),
            from,
        };
        tokio::spawn(async move {
            let Wire {
                stream: mut socket,
                mut input,
                ..
            } = replica;
            loop {
                bytes.lock().unwrap().extend_from_slice(input.chunk());
                input.clear();
                if !matches!(socket.read_buf(&mut input).await, Ok(1..)) {
                    return;
                }
            }
        });
        stream
    }

    /// All bytes up to `end`.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn until(&self, end: Offset) -> Vec<u8> {
        let length = usize::try_from(end.since(self.from).expect("further on")).expect("it fits");
        redoubt_tests::eventually("the end of the stream", SOON, || {
            let have = self.bytes.lock().unwrap().len();
            std::future::ready(if have >= length {
                Ok(())
            } else {
                Err(format!("{have} of {length} bytes"))
            })
        })
        .await;
        self.bytes.lock().unwrap()[..length].to_vec()
    }
}
