//! Free ports.

use std::net::TcpListener;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Offsets from its base that a development cluster of up to 5 nodes and 3 replicas may use.
const USED: [u16; 14] = [0, 101, 102, 103, 104, 105, 201, 211, 212, 213, 301, 302, 303, 304];
/// Offset from a base of a port that is listened on by the process that has taken the base: two that look at the same time
/// don't find the same one.
const CLAIM: u16 = 399;
/// How long a claim is kept: by then what it was taken for listens itself.
const CLAIMED_FOR: Duration = Duration::from_secs(90);

static CLAIMS: Mutex<Vec<(Instant, TcpListener)>> = Mutex::new(Vec::new());

/// A port base all of whose ports are free now, none of which the system gives to outgoing connections
/// (those are from 32768 up), and which no other process is given for a while.
pub fn free_base() -> u16 {
    let mut claims = CLAIMS.lock().unwrap();
    claims.retain(|(since, _)| since.elapsed() < CLAIMED_FOR);
    let first = (std::process::id() % 30) as u16;
    let (base, claim) = (0..30)
        .map(|i| 20_000 + (first + i) % 30 * 400)
        .find_map(|base| {
            let claim = TcpListener::bind(("127.0.0.1", base + CLAIM)).ok()?;
            let free = |offset: &u16| TcpListener::bind(("127.0.0.1", base + offset)).is_ok();
            USED.iter().all(free).then_some((base, claim))
        })
        .expect("no free ports on loopback");
    claims.push((Instant::now(), claim));
    base
}
