//! A connection that sends many commands at once, and the answers as the leaves of their trees: what a read shows is in
//! those, whatever the nesting.

use bytes::{Buf, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A proxy answers or closes within its release deadline; far longer than that is never.
const NEVER: Duration = Duration::from_secs(90);

/// One answer or push.
#[derive(Debug, Default)]
pub struct Answer {
    /// Contents of its leaves, `None` for nulls.
    leaves: Vec<Option<(usize, usize)>>,
    bytes: BytesMut,
    /// The type of the whole.
    pub kind: u8,
    /// The first error in it.
    pub error: Option<String>,
}

impl Answer {
    /// How many leaves it has.
    pub fn len(&self) -> usize {
        self.leaves.len()
    }

    /// The content of leaf `n`; `None` for a null.
    ///
    /// # Panics
    /// When there is no such leaf.
    pub fn leaf(&self, n: usize) -> Option<&[u8]> {
        self.leaves[n].map(|(start, end)| &self.bytes[start..end])
    }

    /// For people.
    pub fn show(&self) -> String {
        let leaves = (0..self.len()).map(|n| match self.leaf(n) {
            Some(bytes) => bytes.escape_ascii().to_string(),
            None => "null".to_owned(),
        });
        format!("{}[{}]", self.kind as char, leaves.collect::<Vec<_>>().join(", "))
    }

    /// Takes the first answer of `input`, if all of it is there.
    fn take(&mut self, input: &mut BytesMut) -> bool {
        self.leaves.clear();
        self.error = None;
        let (mut at, mut missing) = (0, 1usize);
        while missing > 0 {
            let Some(line) = input[at..].iter().position(|b| *b == b'\n') else {
                return false;
            };
            let (kind, start, end) = (input[at], at + 1, at + line - 1);
            if at == 0 {
                self.kind = kind;
            }
            at += line + 1;
            missing -= 1;
            let count = || {
                let text = std::str::from_utf8(&input[start..end]).expect("a length is ASCII");
                text.parse::<i64>()
                    .unwrap_or_else(|_| panic!("no length: {text:?}"))
            };
            match kind {
                b'+' | b':' | b',' | b'#' => self.leaves.push(Some((start, end))),
                b'-' => {
                    let text = String::from_utf8_lossy(&input[start..end]).into_owned();
                    self.error.get_or_insert(text);
                }
                b'_' => self.leaves.push(None),
                b'$' => match usize::try_from(count()) {
                    Ok(len) if input.len() < at + len + 2 => return false,
                    Ok(len) => {
                        self.leaves.push(Some((at, at + len)));
                        at += len + 2;
                    }
                    Err(_) => self.leaves.push(None),
                },
                b'*' | b'~' | b'>' | b'%' => match usize::try_from(count()) {
                    Ok(n) => missing += if kind == b'%' { 2 * n } else { n },
                    Err(_) => self.leaves.push(None),
                },
                other => panic!("an answer can't begin with {:?}", other as char),
            }
        }
        self.bytes = input.split_to(at);
        true
    }
}

/// A connection was closed.
#[derive(Debug)]
pub struct Closed;

/// A connection to the proxy.
pub struct Line {
    stream: TcpStream,
    input: BytesMut,
}

impl Line {
    /// Connects to a port on loopback.
    pub async fn open(port: u16) -> Result<Line, Closed> {
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|_| Closed)?;
        stream.set_nodelay(true).map_err(|_| Closed)?;
        Ok(Line {
            stream,
            input: BytesMut::new(),
        })
    }

    /// Sends all of `bytes`, and empties it.
    pub async fn send(&mut self, bytes: &mut BytesMut) -> Result<(), Closed> {
        while bytes.has_remaining() {
            let sent = tokio::time::timeout(NEVER, self.stream.write_buf(bytes)).await;
            match sent.expect("the proxy reads or closes") {
                Ok(1..) => {}
                _ => return Err(Closed),
            }
        }
        Ok(())
    }

    /// Fills in the next answer, which must come or the connection be closed.
    pub async fn answer(&mut self, answer: &mut Answer) -> Result<(), Closed> {
        tokio::time::timeout(NEVER, self.next(answer))
            .await
            .expect("the proxy answers or closes")
    }

    /// Fills in the next answer or push, whenever it comes. Cancel-safe.
    pub async fn next(&mut self, answer: &mut Answer) -> Result<(), Closed> {
        while !answer.take(&mut self.input) {
            self.input.reserve(16 * 1024);
            match self.stream.read_buf(&mut self.input).await {
                Ok(1..) => {}
                _ => return Err(Closed),
            }
        }
        Ok(())
    }
}

/// Adds a command as it is sent.
pub fn put(args: &[&str], to: &mut BytesMut) {
    let args: Vec<&[u8]> = args.iter().map(|a| a.as_bytes()).collect();
    redoubt_resp::stream::encode_command(&args, to);
}
