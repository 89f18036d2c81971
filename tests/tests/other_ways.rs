//! Other ways to the server and from clients: a socket in the file system, and a load balancer that tells whose connection
//! it passes on.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

#[allow(dead_code, reason = "not all helpers are needed here")]
mod standby;

use redoubt_tests::{Options, Raw, Server, eventually, wait_equal};
use standby::{Standby, unserved};
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_server_behind_a_socket_in_the_file_system_is_served() {
    let cluster = unserved(Options::default()).await;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let socket = dir.path().join("redis.sock").to_string_lossy().into_owned();
    let replay = cluster.port("replay-1").to_string();
    let args = [
        "--replicaof",
        "127.0.0.1",
        &replay,
        "--unixsocket",
        &socket,
        "--enable-debug-command",
        "local",
    ];
    let server = Server::start_program(Path::new("redis-server"), &args).await;
    let proxy = Standby::start_before(&cluster, &format!("unix:{socket}"), None, &[]).await;
    let mut client = redoubt_tests::connect(proxy.port).await;
    for n in 0..100 {
        redis::cmd("SET")
            .arg(&[format!("k{n}"), "v".to_owned()])
            .exec_async(&mut client)
            .await
            .expect("it is acknowledged");
    }
    let own: String = redis::cmd("CLIENT")
        .arg("INFO")
        .query_async(&mut client)
        .await
        .expect("CLIENT INFO");
    let addr = format!("{socket}:0");
    assert!(own.contains(&format!("addr={addr} ")), "{own}");
    // The address is that of all connections there, the proxy's own among them.
    for kill in [
        &["KILL", "ADDR", &addr][..],
        &["KILL", &addr],
        &["KILL", "ADDR", &addr, "SKIPME", "no"],
    ] {
        let refused = redis::cmd("CLIENT")
            .arg(kill)
            .exec_async(&mut client)
            .await
            .expect_err("it is refused");
        assert!(refused.to_string().contains("refused by Redoubt"), "{refused}");
    }
    let id: u64 = redis::cmd("CLIENT")
        .arg("ID")
        .query_async(&mut client)
        .await
        .expect("CLIENT ID");
    let mut other = redoubt_tests::connect(proxy.port).await;
    let killed: usize = redis::cmd("CLIENT")
        .arg(&["KILL", "ID", &id.to_string()])
        .query_async(&mut other)
        .await
        .expect("by id it may");
    assert_eq!(killed, 1);
    let rebuilt = cluster.rebuilt().await;
    wait_equal(&mut server.connect().await, &mut rebuilt.connect().await).await;
}

#[tokio::test]
async fn behind_a_load_balancer_each_connection_begins_with_its_header() {
    let cluster = unserved(Options::default()).await;
    let upstream = format!("127.0.0.1:{}", cluster.port("master-1"));
    let proxy = Standby::start_before(&cluster, &upstream, None, &["--proxy-protocol"]).await;
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x07\x0a\0\0\x01\x1f\x90\x1b\x58";
    let asked = async |bytes: &[u8]| {
        let mut raw = Raw::connect(proxy.port).await;
        raw.send_bytes(bytes).await;
        raw.read(SOON).await
    };
    let pong = Some(b"+PONG\r\n".to_vec());
    let ping = b"*1\r\n$4\r\nPING\r\n";
    eventually("it serves", SOON, || async {
        let answer = asked(&[&v2[..], ping].concat()).await;
        if answer == pong {
            Ok(())
        } else {
            Err(format!("{answer:?}"))
        }
    })
    .await;
    let v1 = b"PROXY TCP4 10.0.0.7 10.0.0.1 8080 7000\r\n";
    assert_eq!(asked(&[&v1[..], ping].concat()).await, pong);
    for none in [
        &ping[..],
        b"PROXY TCP4 10.0.0.7\r\n",
        &[&v1[..30], b"\r\n", ping].concat(),
    ] {
        assert_eq!(asked(none).await, Some(Vec::new()), "{none:?}");
    }
    let (status, log) = proxy.stop().await;
    assert!(status.success(), "{log}");
}
