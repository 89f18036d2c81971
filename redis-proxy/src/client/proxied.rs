//! The PROXY protocol: a load balancer tells whose connection it passes on, before the first byte of that.
//!
//! Decides what a header says, version 1 or 2. Promises that not a byte behind it is taken, and that a connection without a
//! well-formed one is refused: whoever may connect here is trusted to tell the truth, and nobody else should be able to.

use ppp::{v1, v2};
use redoubt_env::net::Conn;
use redoubt_types::limits::PROXY_HEADER_BYTES_MAX;
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt;

/// A header of version 1 at most, bytes, its CR LF among them; by the protocol.
const V1_BYTES_MAX: usize = 107;

/// Reads the header. Returns the address of whom the connection is for, `None` when it is the load balancer's own, or of
/// none that is known.
///
/// # Errors
/// When there is none, or what the network says.
pub(crate) async fn read_header(conn: &mut Box<dyn Conn>) -> io::Result<Option<SocketAddr>> {
    let mut head = vec![0; v2::PROTOCOL_PREFIX.len()];
    conn.read_exact(&mut head).await?;
    if head == v2::PROTOCOL_PREFIX {
        let mut fixed = [0; 4];
        conn.read_exact(&mut fixed).await?;
        let len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if len > PROXY_HEADER_BYTES_MAX {
            return Err(malformed(format!("{len} bytes are too many")));
        }
        head.extend_from_slice(&fixed);
        let begin = head.len();
        head.resize(begin + len, 0);
        conn.read_exact(&mut head[begin..]).await?;
        return of_v2(&head);
    }
    while !head.ends_with(b"\r\n") {
        if head.len() >= V1_BYTES_MAX || !head.starts_with(b"PROXY ") {
            return Err(malformed("it begins with something else"));
        }
        head.push(conn.read_u8().await?);
    }
    of_v1(&head)
}

fn of_v2(head: &[u8]) -> io::Result<Option<SocketAddr>> {
    let header = v2::Header::try_from(head).map_err(malformed)?;
    let told = match header.addresses {
        v2::Addresses::IPv4(of) => Some((of.source_address, of.source_port).into()),
        v2::Addresses::IPv6(of) => Some((of.source_address, of.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    };
    Ok(told.filter(|_| header.command == v2::Command::Proxy))
}

fn of_v1(head: &[u8]) -> io::Result<Option<SocketAddr>> {
    let header = v1::Header::try_from(head).map_err(malformed)?;
    Ok(match header.addresses {
        v1::Addresses::Tcp4(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Tcp6(of) => Some((of.source_address, of.source_port).into()),
        v1::Addresses::Unknown => None,
    })
}

fn malformed(why: impl ToString) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("no PROXY protocol header: {}", why.to_string()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    /// What comes of these bytes and the end of the connection, and what is left of them.
    async fn read(bytes: &[u8]) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let (mut far, near) = tokio::io::duplex(64 * 1024);
        far.write_all(bytes).await.unwrap();
        drop(far);
        let mut near: Box<dyn Conn> = Box::new(near);
        let header = read_header(&mut near).await;
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (header, rest)
    }

    fn v2_header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    const V4: [u8; 12] = [10, 0, 0, 7, 10, 0, 0, 1, 0x1f, 0x90, 0x1b, 0x58];

    #[tokio::test]
    async fn a_header_names_the_client_and_nothing_behind_it_is_taken() {
        let v6: Vec<u8> = [[0; 15].as_slice(), &[1], &[0; 15], &[2], &[0, 80, 0, 81]].concat();
        let with_more: Vec<u8> = [&V4[..], &[4, 0, 1, b'x']].concat();
        for (header, who) in [
            (
                b"PROXY TCP4 10.0.0.7 10.0.0.1 8080 7000\r\n".to_vec(),
                Some("10.0.0.7:8080"),
            ),
            (b"PROXY TCP6 ::1 ::2 80 81\r\n".to_vec(), Some("[::1]:80")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (v2_header(1, 0x11, &V4), Some("10.0.0.7:8080")),
            (v2_header(1, 0x11, &with_more), Some("10.0.0.7:8080")),
            (v2_header(1, 0x21, &v6), Some("[::1]:80")),
            (v2_header(0, 0x00, &[]), None),
            (v2_header(0, 0x11, &V4), None),
        ] {
            let (read, rest) = read(&[&header[..], b"PING\r\n"].concat()).await;
            let who: Option<SocketAddr> = who.map(|w| w.parse().unwrap());
            assert_eq!(read.unwrap(), who, "{header:?}");
            assert_eq!(rest, b"PING\r\n");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(V1_BYTES_MAX));
        for bytes in [
            &b""[..],
            b"PING\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"PROXY TCP4 10.0.0.7\r\n",
            b"PROXY TCP4 10.0.0.7 10.0.0.1 99999 1\r\n",
            long.as_bytes(),
            &v2_header(7, 0x11, &V4),
            &v2_header(1, 0x11, &V4[..8]),
            &v2_header(1, 0x11, &[0; PROXY_HEADER_BYTES_MAX + 1]),
            &v2_header(1, 0x11, &V4)[..20],
        ] {
            assert!(read(bytes).await.0.is_err(), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..64), known in 0..3usize) {
            let begin = [&b""[..], b"PROXY ", v2::PROTOCOL_PREFIX][known];
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(read(&[begin, &bytes].concat()));
        }
    }
}
