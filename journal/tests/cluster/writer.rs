//! A writer and a reader that know nodes by their addresses, whatever these run on.

use super::{REPLID, append, bytes, outcome};
use redoubt_proto::v1;
use redoubt_proto::v1::cluster_client::ClusterClient;
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_types::Chain;
use std::future::Future;
use std::time::Duration;

/// What the test's writer knows: every byte that it sent, and how many of them were acknowledged.
#[derive(Default)]
pub struct Written {
    pub sent: Vec<u8>,
    pub acked: usize,
}

fn set(n: usize) -> Vec<u8> {
    let value = format!("{n:08}");
    format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len()).into_bytes()
}

/// What `f` comes to, if it does in time.
pub async fn within<T>(what: &str, f: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(Duration::from_secs(20), f)
        .await
        .map_err(|_| format!("{what} took too long"))
}

/// Asks every node in turn until one grants the epoch.
pub async fn acquire(addresses: &[String], holder: u64) -> (String, v1::Grant) {
    use v1::acquire_writer_response::Outcome;
    loop {
        for address in addresses {
            let request = v1::AcquireWriterRequest {
                journal: "default".into(),
                holder,
                lease_ms: 200,
                ..Default::default()
            };
            if let Ok(mut client) = JournalClient::connect(format!("http://{address}")).await
                && let Ok(answer) = client.acquire_writer(request).await
                && let Some(Outcome::Grant(grant)) = answer.into_inner().outcome
            {
                return (address.clone(), grant);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Makes the nodes one cluster.
pub async fn bootstrap(addresses: &[String]) {
    let mut members = Vec::new();
    for address in addresses {
        let mut client = loop {
            match ClusterClient::connect(format!("http://{address}")).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        members.push(super::member(&mut client).await);
    }
    let request = super::first_membership(&"ab".repeat(16), members);
    for address in addresses {
        let mut client = ClusterClient::connect(format!("http://{address}")).await.unwrap();
        assert_eq!(
            client
                .bootstrap(request.clone())
                .await
                .unwrap()
                .into_inner()
                .refused,
            None
        );
    }
}

/// Everything that some node serves up to its confirmed tail.
pub async fn journal(addresses: &[String]) -> Vec<u8> {
    loop {
        for address in addresses {
            let request = v1::TailRequest {
                journal: "default".into(),
                ..Default::default()
            };
            let Ok(mut client) = JournalClient::connect(format!("http://{address}")).await else {
                continue;
            };
            let Ok(events) = client.tail(request).await else {
                continue;
            };
            let (mut events, mut all) = (events.into_inner(), Vec::new());
            while let Ok(Some(event)) = events.message().await {
                all.push(event);
            }
            if let Some(v1::tail_response::Event::Start(_)) = all.first().and_then(|e| e.event.as_ref()) {
                return bytes(&all);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Appends, several at a time, until the node is gone; notes what was acknowledged.
pub async fn load(address: &str, epoch: u64, written: &mut Written, cut: impl Future<Output = ()>) {
    let Ok(mut client) = JournalClient::connect(format!("http://{address}")).await else {
        return;
    };
    let (tx, rx) = tokio::sync::mpsc::channel(8);
    let requests = futures_util::stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) });
    let Ok(answers) = client.append(requests).await else {
        return;
    };
    let mut answers = answers.into_inner();
    let mut cut = std::pin::pin!(cut);
    let mut chain = Chain::EMPTY.extend(&written.sent);
    loop {
        tokio::select! {
            biased; // the cut is the end, whatever else is ready
            () = &mut cut => return,
            answer = answers.message() => match answer {
                Ok(Some(answer)) => match outcome(&answer) {
                    Ok((end, _)) => written.acked = end as usize,
                    Err(_) => return,
                },
                _ => return,
            },
            permit = tx.reserve() => {
                let Ok(permit) = permit else { return };
                let payload = set(written.sent.len());
                permit.send(append(epoch, REPLID, written.sent.len() as u64, chain, &payload));
                chain = chain.extend(&payload);
                written.sent.extend_from_slice(&payload);
            }
        }
    }
}
