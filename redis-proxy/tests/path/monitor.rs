//! What MONITOR shows: what clients did, and nothing of the proxy's own.

use crate::lab::{A_WHILE, Client, Lab, SOON};
use std::time::Duration;

/// The next line's command, as it is shown.
async fn shown(monitor: &mut Client) -> String {
    let line = monitor.line().await;
    let (_, command) = line.split_once("] ").unwrap_or_else(|| panic!("{line}"));
    command.to_owned()
}

async fn monitor(lab: &Lab) -> Client {
    let mut monitor = lab.client().await;
    monitor.send("MONITOR\r\n").await;
    monitor.expect("+OK\r\n").await;
    monitor
}

#[tokio::test]
async fn monitor_shows_what_clients_do_and_nothing_of_the_proxys_own() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut watching = monitor(&lab).await;
    for round in 0..3 {
        // Each comes with a connection of its own, which is proven, or shares one; each answer is fenced.
        let mut client = lab.client().await;
        client
            .send(format!(
                "SET k {round}\r\nMIGRATE h 1 k 0 1\r\nGET k\r\nINFO replication\r\n\
                 SHUTDOWN\r\nPING\r\nWAIT 1 0\r\n"
            ))
            .await;
        client.expect("+OK\r\n-ERR MIGRATE is refused").await;
        client.line().await;
        client.expect(format!("$1\r\n{round}\r\n$")).await;
        let mut left: usize = client.line().await.parse().unwrap();
        while left > 0 {
            left -= client.line().await.len() + 2;
        }
        client.expect("\r\n-ERR SHUTDOWN is refused").await;
        client.line().await;
        client.expect("+PONG\r\n:1\r\n").await;
        client.send("CLIENT SETNAME me\r\nGET k\r\nQUIT\r\n").await;
        client.expect(format!("+OK\r\n$1\r\n{round}\r\n+OK\r\n")).await;
        client.expect_end().await;
        for want in [
            format!("\"SET\" \"k\" \"{round}\""),
            "\"GET\" \"k\"".to_owned(),
            "\"INFO\" \"replication\"".to_owned(),
            "\"PING\"".to_owned(),
            "\"WAIT\" \"1\" \"0\"".to_owned(),
            "\"CLIENT\" \"SETNAME\" \"me\"".to_owned(),
            "\"GET\" \"k\"".to_owned(),
            "\"QUIT\"".to_owned(),
        ] {
            assert_eq!(shown(&mut watching).await, want);
        }
    }
    watching.expect_silence().await;
}

#[tokio::test]
async fn monitor_asks_for_no_fence_while_no_client_does_anything() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let (mut watching, mut other) = (monitor(&lab).await, monitor(&lab).await);
    let mut control = lab.server.control(&lab.env).await;
    control.call(&[b"CONFIG", b"RESETSTAT"], SOON).await.unwrap();
    lab.env.sleep(Duration::from_millis(300)).await;
    let stats = control.call(&[b"INFO", b"commandstats"], SOON).await.unwrap();
    assert!(!stats.as_str().unwrap().contains("cmdstat_info"), "{stats:?}");
    // What a client does there costs few, although each monitor sees every fence.
    for watching in [&mut watching, &mut other] {
        watching.send("PING\r\n").await;
        watching.expect("+").await;
    }
    lab.env.sleep(A_WHILE).await;
    let stats = control.call(&[b"INFO", b"commandstats"], SOON).await.unwrap();
    let calls = stats.as_str().unwrap().split("cmdstat_info:calls=").nth(1);
    let calls: u64 = calls.unwrap().split(',').next().unwrap().parse().unwrap();
    assert!((1..=20).contains(&calls), "{calls} fences");
}

#[tokio::test]
async fn monitor_ends_with_reset_and_shows_large_commands_whole() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut watching = monitor(&lab).await;
    let mut client = lab.client().await;
    let value = "v".repeat(300_000);
    client
        .send(format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$300000\r\n{value}\r\n"))
        .await;
    client.expect("+OK\r\n").await;
    assert_eq!(shown(&mut watching).await, format!("\"SET\" \"k\" \"{value}\""));
    watching.send("RESET\r\n").await;
    while watching.line().await != "+RESET" {}
    client.send("GET k\r\n").await;
    client.expect("$300000\r\n").await;
    watching.expect_silence().await;
    watching.send("ECHO me\r\n").await;
    watching.expect("$2\r\nme\r\n").await;
}
