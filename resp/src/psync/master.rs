//! The master's side: what a stock replica asks before the stream, and what it acknowledges on it.

use super::PsyncAsk;
use crate::number::signed;
use crate::request::{RequestError, RequestEvent, RequestHead, RequestScanner};
use crate::stream;
use bytes::{BufMut, Bytes, BytesMut};
use redoubt_types::limits::HANDSHAKE_REQUEST_BYTES_MAX;
use redoubt_types::{Offset, ReplId};

/// Why a replica's connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Its bytes are no requests.
    #[error("a replica sent no request: {0}")]
    Protocol(#[from] RequestError),
    /// A request is larger than [`HANDSHAKE_REQUEST_BYTES_MAX`].
    #[error("a replica sent a request of more than {HANDSHAKE_REQUEST_BYTES_MAX} bytes")]
    TooLarge,
    /// On the stream's link it sent something else than REPLCONF.
    #[error("a replica sent something else than REPLCONF while it is fed")]
    Unexpected,
}

/// What a replica asked for and said about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PsyncRequest {
    /// From where.
    pub ask: PsyncAsk,
    /// It can take an RDB of unknown length (`capa eof`).
    pub eof: bool,
    /// It can take another replid with `+CONTINUE` (`capa psync2`).
    pub psync2: bool,
    /// The port that it announces.
    pub port: Option<u16>,
    /// The address that it announces, if another than it connects from.
    pub ip: Option<String>,
    /// The version that it announces; Redis announces none.
    pub version: Option<String>,
}

/// Answers a connecting replica until it sends PSYNC. Newlines may be sent to it before that is answered;
/// afterwards nothing but the stream (H15).
#[derive(Debug, Default)]
pub struct MasterHandshake {
    requests: RequestScanner,
    head: Option<RequestHead>,
    eof: bool,
    psync2: bool,
    port: Option<u16>,
    ip: Option<String>,
    version: Option<String>,
}

impl MasterHandshake {
    /// A handshake before the replica's first byte.
    pub fn new() -> Self {
        MasterHandshake::default()
    }

    /// Takes requests off the front of `input`, appends their answers to `out`, and returns what the replica
    /// asked for when it sends PSYNC. What is behind that stays in `input`, for [`ReplicaAcks`].
    ///
    /// # Errors
    /// When the replica's bytes can't be read on; what is in `out` should be sent before closing.
    pub fn feed(
        &mut self,
        input: &mut BytesMut,
        out: &mut BytesMut,
    ) -> Result<Option<PsyncRequest>, HandshakeError> {
        while let Some(args) = next_request(&mut self.requests, &mut self.head, input)? {
            if let Some(ask) = self.answer(&args, out) {
                return Ok(Some(PsyncRequest {
                    ask,
                    eof: self.eof,
                    psync2: self.psync2,
                    port: self.port,
                    ip: self.ip.take(),
                    version: self.version.take(),
                }));
            }
        }
        Ok(None)
    }

    fn answer(&mut self, args: &[Bytes], out: &mut BytesMut) -> Option<PsyncAsk> {
        let (name, args) = args.split_first()?;
        let answer: &[u8] = match name.to_ascii_lowercase().as_slice() {
            b"ping" => b"+PONG\r\n",
            b"auth" => b"+OK\r\n",
            b"replconf" => match self.configure(args) {
                Ok(()) => b"+OK\r\n",
                Err(text) => text,
            },
            b"psync" => match parse_psync(args) {
                Ok(ask) => return Some(ask),
                Err(text) => text,
            },
            b"sync" => b"-ERR SYNC is not supported, use PSYNC\r\n",
            _ => b"-ERR only the replication handshake is answered here\r\n",
        };
        out.put_slice(answer);
        None
    }

    /// REPLCONF's pairs of option and value, as a stock master takes them: an error at the first unknown one,
    /// which every supported replica goes on after.
    fn configure(&mut self, args: &[Bytes]) -> Result<(), &'static [u8]> {
        if args.is_empty() || args.len() % 2 == 1 {
            return Err(b"-ERR syntax error\r\n");
        }
        for pair in args.chunks_exact(2) {
            let text = || Some(String::from_utf8_lossy(&pair[1]).into_owned());
            match pair[0].to_ascii_lowercase().as_slice() {
                b"listening-port" => {
                    let port = signed(&pair[1]).and_then(|n| u16::try_from(n).ok());
                    self.port = Some(port.ok_or(&b"-ERR value is not an integer or out of range\r\n"[..])?);
                }
                b"ip-address" => self.ip = text(),
                b"version" => self.version = text(),
                b"capa" if pair[1].eq_ignore_ascii_case(b"eof") => self.eof = true,
                b"capa" if pair[1].eq_ignore_ascii_case(b"psync2") => self.psync2 = true,
                // Capabilities that are not known are not used.
                b"capa" => {}
                _ => return Err(b"-ERR Unrecognized REPLCONF option\r\n"),
            }
        }
        Ok(())
    }
}

fn parse_psync(args: &[Bytes]) -> Result<PsyncAsk, &'static [u8]> {
    let [replid, number] = args else {
        // A third argument is FAILOVER's: a master hands its role to the one that it asks.
        return Err(b"-ERR PSYNC takes a replication id and an offset here\r\n");
    };
    let number = signed(number).ok_or(&b"-ERR value is not an integer or out of range\r\n"[..])?;
    // `? -1`, or what no history can be: it is asked for everything, as a stock master would have it.
    Ok(match (ReplId::parse(replid), Offset::from_psync(number)) {
        (Ok(replid), Some(held)) => PsyncAsk::Partial { replid, held },
        _ => PsyncAsk::Full,
    })
}

/// The next whole request's arguments.
fn next_request(
    requests: &mut RequestScanner,
    head: &mut Option<RequestHead>,
    input: &mut BytesMut,
) -> Result<Option<Vec<Bytes>>, HandshakeError> {
    while let Some(event) = requests.next(input)? {
        match event {
            RequestEvent::Head(found) => *head = Some(found),
            RequestEvent::Body { bytes, last } => {
                if !last || bytes.len() > HANDSHAKE_REQUEST_BYTES_MAX {
                    return Err(HandshakeError::TooLarge);
                }
                let head = head.take().map(|head| head.args).unwrap_or_default();
                return Ok(Some(all_args(head, &bytes)));
            }
        }
    }
    if input.len() > HANDSHAKE_REQUEST_BYTES_MAX {
        return Err(HandshakeError::TooLarge);
    }
    Ok(None)
}

/// A head shows the first few arguments only, and some replicas list more capabilities than that.
fn all_args(head: Vec<Bytes>, raw: &Bytes) -> Vec<Bytes> {
    match stream::commands(raw).next() {
        Some(Ok(command)) => command.args.iter().map(|arg| raw.slice_ref(arg)).collect(),
        _ => head,
    }
}

/// What a replica acknowledges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// It has applied the stream up to here.
    pub offset: Offset,
    /// It has made it durable in its AOF up to here, if it says so (7.2 and later, with an AOF).
    pub durable: Option<Offset>,
}

/// Reads what a replica sends while it is fed: acknowledgements, and newlines while it is loading.
#[derive(Debug, Default)]
pub struct ReplicaAcks {
    requests: RequestScanner,
    head: Option<RequestHead>,
}

impl ReplicaAcks {
    /// A reader behind a PSYNC's last byte.
    pub fn new() -> Self {
        ReplicaAcks::default()
    }

    /// Takes requests off the front of `input` and reports every acknowledgement in order.
    ///
    /// # Errors
    /// When the replica sends anything but REPLCONF.
    pub fn feed(&mut self, input: &mut BytesMut, mut on_ack: impl FnMut(Ack)) -> Result<(), HandshakeError> {
        while let Some(args) = next_request(&mut self.requests, &mut self.head, input)? {
            if !args
                .first()
                .is_some_and(|name| name.eq_ignore_ascii_case(b"replconf"))
            {
                return Err(HandshakeError::Unexpected);
            }
            let option = |want: &str| {
                let mut pairs = args[1..].chunks_exact(2);
                let pair = pairs.find(|pair| pair[0].eq_ignore_ascii_case(want.as_bytes()))?;
                // A replica that never had a master counts from -1.
                signed(&pair[1])
                    .and_then(|n| u64::try_from(n).ok())
                    .map(Offset::new)
            };
            if let Some(offset) = option("ack") {
                on_ack(Ack {
                    offset,
                    durable: option("fack"),
                });
            }
        }
        Ok(())
    }
}
