//! What the client path refuses, and how: over a real server, which answers as it would by itself.

use crate::lab::{A_WHILE, Lab, Plan};

#[tokio::test]
async fn refusals_come_in_their_place_in_a_pipeline() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client
        .send("INCR n\r\nREPLICAOF NO ONE\r\nINCR n\r\nCONFIG REWRITE\r\nINCR n\r\n")
        .await;
    client
        .expect(":1\r\n-ERR REPLICAOF is refused by Redoubt: ")
        .await;
    client.line().await;
    client
        .expect(":2\r\n-ERR CONFIG REWRITE is refused by Redoubt: ")
        .await;
    client.line().await;
    client.expect(":3\r\n").await;
}

#[tokio::test]
async fn a_refused_command_aborts_a_transaction() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client
        .send("MULTI\r\nSET k v\r\nSHUTDOWN\r\nEXEC\r\nGET k\r\n")
        .await;
    client
        .expect("+OK\r\n+QUEUED\r\n-ERR SHUTDOWN is refused by Redoubt: ")
        .await;
    client.line().await;
    client
        .expect("-EXECABORT Transaction discarded because of previous errors.\r\n$-1\r\n")
        .await;
}

#[tokio::test]
async fn refusals_keep_silent_where_the_client_wants_no_replies() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client
        .send(
            "CLIENT REPLY OFF\r\nSHUTDOWN\r\nSET k v\r\nWAIT 1 0\r\nCLIENT REPLY ON\r\nGET k\r\nSHUTDOWN\r\n",
        )
        .await;
    client
        .expect("+OK\r\n$1\r\nv\r\n-ERR SHUTDOWN is refused by Redoubt: ")
        .await;
}

#[tokio::test]
async fn resp3_passes_and_is_refused_alike() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    client.send("HELLO 3\r\n").await;
    client.expect("%7\r\n").await;
    while client.line().await != "modules" {}
    client.expect("*0\r\n").await;
    client
        .send("HSET h f v\r\nHGETALL h\r\nPSYNC ? -1\r\nGET none\r\n")
        .await;
    client
        .expect(":1\r\n%1\r\n$1\r\nf\r\n$1\r\nv\r\n-ERR PSYNC is refused by Redoubt: ")
        .await;
    client.line().await;
    client.expect("_\r\n").await;
}

#[tokio::test]
async fn protocol_errors_are_answered_as_the_server_itself_does_behind_what_is_held() {
    let lab = Lab::new().await;
    let long = "1".repeat(70_000);
    for bad in [
        "*1\r\n+oops\r\n".to_owned(),
        "*x\r\n".to_owned(),
        "*9999999999\r\n".to_owned(),
        "*1\r\n$x\r\n".to_owned(),
        "*2\r\n$3\r\nGET\r\n$-4\r\n".to_owned(),
        "*1\r\n$99999999999\r\n".to_owned(),
        "GET \"k\r\n".to_owned(),
        format!("*{long}"),
        format!("*1\r\n${long}"),
        long.clone(),
    ] {
        let (mut direct, mut client) = (lab.direct().await, lab.client().await);
        direct.send_as_it_is(&bad).await;
        let error = direct.rest().await;
        assert!(error.starts_with(b"-ERR Protocol error"), "{error:?}");
        client.send("SET k v\r\n").await;
        client.send_as_it_is(&bad).await;
        client.expect_silence().await;
        lab.commit_all().await;
        let got = client.rest().await;
        let want = [b"+OK\r\n", &error[..]].concat();
        assert_eq!(String::from_utf8_lossy(&got), String::from_utf8_lossy(&want));
    }
}

#[tokio::test]
async fn a_protocol_error_within_a_large_command_executes_nothing_of_it() {
    let lab = Lab::new().await;
    lab.commit_ever();
    let mut client = lab.client().await;
    let value = "x".repeat(200_000);
    client
        .send(format!(
            "INCR n\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$200000\r\n{value}!!"
        ))
        .await;
    assert_eq!(
        client.rest().await,
        b":1\r\n-ERR Protocol error: invalid bulk length\r\n"
    );
    let mut client = lab.client().await;
    client.send("EXISTS k\r\n").await;
    client.expect(":0\r\n").await;
}

#[tokio::test]
async fn one_client_too_many_is_told_so() {
    let lab = Lab::with(Plan {
        clients_max: 1,
        ..Plan::default()
    })
    .await;
    let mut client = lab.client().await;
    client.send("PING\r\n").await;
    client.expect("+PONG\r\n").await;
    let mut second = lab.client().await;
    assert_eq!(second.rest().await, b"-ERR max number of clients reached\r\n");
    drop(client);
    lab.env.sleep(A_WHILE).await;
    let mut third = lab.client().await;
    third.send("PING\r\n").await;
    third.expect("+PONG\r\n").await;
}
