//! One client of the load generator.

use super::commands::Requests;
use super::{Load, Tally, Target};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Read at once at least, bytes.
const READ_BYTES: usize = 16 << 10;
/// Bytes of values that filling sends at once: no system stops reading before that is answered.
const FILL_BYTES: usize = 64 << 10;

/// When a client sends, if not whenever it has its answers.
pub(super) struct Pace {
    pub(super) next: Instant,
    pub(super) every: Duration,
}

/// A connection, and a source of random numbers.
pub(super) struct Client {
    stream: TcpStream,
    random: u64,
    input: Vec<u8>,
    out: Vec<u8>,
}

impl Client {
    /// Connects, and sees that it is served.
    pub(super) async fn connect(port: u16, seed: u64) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await;
        let mut stream = stream.unwrap_or_else(|e| panic!("client {seed} can't connect: {e}"));
        stream.set_nodelay(true).expect("a socket's option");
        let served = async {
            let mut answer = [0; 7];
            stream.write_all(b"*1\r\n$4\r\nPING\r\n").await?;
            stream.read_exact(&mut answer).await.map(|_| answer)
        };
        match served.await {
            Ok(answer) => assert_eq!(answer.escape_ascii().to_string(), "+PONG\\r\\n"),
            Err(e) => panic!("client {seed} is not served: {e}"),
        }
        Client {
            stream,
            // Never zero, from where it would not move.
            random: (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
            input: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Does what `load` says until `end`.
    pub(super) async fn work(
        mut self,
        load: Load,
        target: Target,
        mut pace: Option<Pace>,
        end: Instant,
        tally: Arc<Mutex<Tally>>,
    ) {
        let mut requests = Requests::new(load.bytes, target.waits);
        loop {
            let mut began = Instant::now();
            if let Some(pace) = &mut pace {
                if pace.next >= end {
                    break;
                }
                // One that still waited for its last answer when it was to send is late by the system's fault, and that
                // counts; one that slept too long is not.
                if began < pace.next {
                    tokio::time::sleep_until(pace.next.into()).await;
                    began = Instant::now();
                } else {
                    began = pace.next;
                }
                pace.next += pace.every;
            } else if began >= end {
                break;
            }
            for _ in 0..load.pipeline {
                match load.test.draw(self.random(), target.keys) {
                    (true, key) => requests.set(key, &mut self.out),
                    (false, key) => requests.get(key, &mut self.out),
                }
            }
            if let Err(error) = self.ask(&mut requests, began, Some(&tally)).await {
                tally.lock().expect("no client has failed").wrong(error);
                break;
            }
        }
    }

    /// Writes all keys below `keys`.
    pub(super) async fn fill(&mut self, keys: u64, bytes: usize) -> Result<(), String> {
        let mut requests = Requests::new(bytes, false);
        let at_once = (FILL_BYTES / bytes).max(1);
        for first in (0..keys).step_by(at_once) {
            (first..keys)
                .take(at_once)
                .for_each(|key| requests.set(key, &mut self.out));
            self.ask(&mut requests, Instant::now(), None).await?;
        }
        Ok(())
    }

    /// Sends what is to be sent, and waits for all answers.
    async fn ask(
        &mut self,
        requests: &mut Requests,
        began: Instant,
        tally: Option<&Mutex<Tally>>,
    ) -> Result<(), String> {
        let sent = self.stream.write_all(&self.out).await;
        sent.map_err(|e| format!("a request can't be sent: {e}"))?;
        self.out.clear();
        while !requests.is_done() {
            self.input.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Err("the connection was closed".to_owned()),
                Ok(_) => {}
                Err(e) => return Err(format!("an answer can't be read: {e}")),
            }
            let took = began.elapsed();
            let mut tally = tally.map(|t| t.lock().expect("no client has failed"));
            let taken = requests.take(&self.input, |kind| {
                if let Some(tally) = &mut tally {
                    tally.answered(kind, took);
                }
            })?;
            self.input.drain(..taken);
        }
        Ok(())
    }

    /// xorshift64*.
    fn random(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}
