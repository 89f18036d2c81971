//! The hold under load, against the server's own replication stream: whatever a client was told, everything
//! that it depends on was committed before.

use crate::lab::{Client, Lab, SOON};
use redoubt_types::Offset;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;

const CLIENTS: usize = 6;
const ROUNDS: usize = 120;

/// What a client was told of a token, and up to where was committed just after that.
type Told = Arc<Mutex<Vec<(String, Offset)>>>;

/// Plays capture and journal: reads the server's stream from where it was before any client wrote, and commits what it has
/// read, slowly and in steps.
async fn journal(lab: Arc<Lab>, from: Offset, stream: Arc<Mutex<Vec<u8>>>, done: Arc<AtomicBool>) {
    let mut replica = lab.stream(from).await;
    // About one effect at a time, so that commits stop between the effects of replies that share a fence.
    let mut chunk = vec![0; 90];
    while !done.load(Ordering::Relaxed) {
        lab.env.sleep(Duration::from_micros(100)).await;
        // The stream may be silent: a short look at it.
        if let Ok(read) = lab
            .env
            .timeout(Duration::from_millis(2), replica.read(&mut chunk))
            .await
        {
            let n = read.unwrap();
            let mut stream = stream.lock().unwrap();
            stream.extend_from_slice(&chunk[..n]);
            lab.commit(from.advance(stream.len() as u64));
        }
    }
}

/// Writes tokens of its own and reads those of others; notes what it is told, when it is told.
async fn client(lab: Arc<Lab>, number: usize, told: Told) {
    let mut client = lab.client().await;
    for round in 0..ROUNDS {
        let token = format!("<{number}:{round}>");
        match round % 4 {
            0 => write(&mut client, &format!("SET last {token}\r\n"), "+OK").await,
            1 => write(&mut client, &format!("LPUSH list{number} {token}\r\n"), ":").await,
            2 => {
                let script = format!("return redis.call('SET','last','{token}')");
                let eval = format!("*3\r\n$4\r\nEVAL\r\n${}\r\n{script}\r\n$1\r\n0\r\n", script.len());
                write(&mut client, &eval, "+OK").await;
            }
            _ => {
                client
                    .send(format!("MULTI\r\nSET last {token}\r\nEXEC\r\n"))
                    .await;
                client.expect("+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n").await;
            }
        }
        note(&lab, &told, token);
        client.send("GET last\r\n").await;
        if client.line().await != "$-1" {
            let seen = client.line().await;
            note(&lab, &told, seen);
        }
    }
}

async fn write(client: &mut Client, command: &str, answer: &str) {
    client.send(command).await;
    let line = client.line().await;
    assert!(line.starts_with(answer), "{line} to {command}");
}

fn note(lab: &Lab, told: &Told, token: String) {
    told.lock().unwrap().push((token, lab.session.hold.committed()));
}

#[tokio::test]
async fn nobody_is_told_of_anything_before_it_is_committed() {
    let mut lab = Lab::new().await;
    lab.begin_capture().await;
    let lab = Arc::new(lab);
    let base = lab.offset().await;
    let (stream, told) = (Arc::new(Mutex::new(Vec::new())), Told::default());
    let done = Arc::new(AtomicBool::new(false));
    let journal = lab
        .env
        .spawn(journal(lab.clone(), base, stream.clone(), done.clone()));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|n| lab.env.spawn(client(lab.clone(), n, told.clone())))
        .collect();
    for client in clients {
        assert!(
            lab.env.timeout(6 * SOON, client).await.unwrap().is_some(),
            "a client failed"
        );
    }
    done.store(true, Ordering::Relaxed);
    journal.await.unwrap();

    // Where each token's first effect ends in the stream, at the latest: behind its closing bracket.
    let stream = stream.lock().unwrap();
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for (at, byte) in stream.iter().enumerate() {
        if *byte == b'>'
            && let Some(begin) = stream[..at].iter().rposition(|b| *b == b'<')
        {
            let token = String::from_utf8_lossy(&stream[begin..=at]).into_owned();
            ends.entry(token).or_insert(at as u64 + 1);
        }
    }
    let told = told.lock().unwrap();
    assert!(told.len() > CLIENTS * ROUNDS);
    for (token, committed) in told.iter() {
        let end = ends.get(token).map(|end| base.advance(*end));
        assert!(
            end.is_some_and(|end| end <= *committed),
            "a client was told of {token}, which ends at {end:?}, when {committed} was committed"
        );
    }
}
