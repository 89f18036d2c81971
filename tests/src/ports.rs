//! Free ports.

use std::net::TcpListener;

/// Offsets from its base that a development cluster of up to 5 nodes and 3 replicas may use.
const USED: [u16; 14] = [0, 101, 102, 103, 104, 105, 201, 211, 212, 213, 301, 302, 303, 304];

/// A port base all of whose ports are free now, and none of which the system gives to outgoing connections
/// (those are from 32768 up). Bases are spread by process id, so that two test processes rarely look at the
/// same ones.
pub fn free_base() -> u16 {
    let first = 20_000 + (std::process::id() % 30) as u16 * 400;
    (0..30)
        .map(|i| 20_000 + (first - 20_000 + i * 400) % 12_000)
        .find(|base| {
            USED.iter()
                .all(|d| TcpListener::bind(("127.0.0.1", base + d)).is_ok())
        })
        .expect("no free ports on loopback")
}
