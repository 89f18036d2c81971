//! What was acknowledged survives a power cut of all nodes at once: kill -9 never tests fsync, a cut does.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks and sockets, and fail by panicking"
)]

mod cluster;

use cluster::power::SimNode;
use cluster::{REPLID, append, bytes, outcome};
use redoubt_env::sim_files::SimFiles;
use redoubt_proto::v1;
use redoubt_proto::v1::cluster_client::ClusterClient;
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_types::Chain;
use std::future::Future;
use std::time::Duration;

/// Rounds of load, power cut, and return.
const ROUNDS: u64 = 5;

/// What the test's writer knows: every byte that it sent, and how many of them were acknowledged.
#[derive(Default)]
struct Written {
    sent: Vec<u8>,
    acked: usize,
}

fn set(n: usize) -> Vec<u8> {
    let value = format!("{n:08}");
    format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${}\r\n{value}\r\n", value.len()).into_bytes()
}

async fn within<T>(what: &str, f: impl Future<Output = T>) -> Result<T, String> {
    tokio::time::timeout(Duration::from_secs(20), f)
        .await
        .map_err(|_| format!("{what} took too long"))
}

/// Asks every node in turn until one grants the epoch.
async fn acquire(nodes: &[SimNode], holder: u64) -> (String, v1::Grant) {
    use v1::acquire_writer_response::Outcome;
    loop {
        for node in nodes {
            let request = v1::AcquireWriterRequest {
                journal: "default".into(),
                holder,
                lease_ms: 200,
                ..Default::default()
            };
            if let Ok(mut client) = JournalClient::connect(format!("http://{}", node.address)).await
                && let Ok(answer) = client.acquire_writer(request).await
                && let Some(Outcome::Grant(grant)) = answer.into_inner().outcome
            {
                return (node.address.clone(), grant);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn bootstrap(nodes: &[SimNode]) {
    let mut members = Vec::new();
    for node in nodes {
        let mut client = loop {
            match ClusterClient::connect(format!("http://{}", node.address)).await {
                Ok(client) => break client,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let id = client
            .identify(v1::IdentifyRequest {})
            .await
            .unwrap()
            .into_inner();
        members.push(v1::Member {
            node_id: id.node_id,
            name: id.name,
            address: id.address,
        });
    }
    members.sort_by_key(|m| m.node_id);
    let request = v1::BootstrapRequest {
        cluster_id: "ab".repeat(16),
        replid: REPLID.into(),
        members,
    };
    for node in nodes {
        let mut client = ClusterClient::connect(format!("http://{}", node.address))
            .await
            .unwrap();
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
async fn journal(nodes: &[SimNode]) -> Vec<u8> {
    loop {
        for node in nodes {
            let request = v1::TailRequest {
                journal: "default".into(),
                ..Default::default()
            };
            let Ok(mut client) = JournalClient::connect(format!("http://{}", node.address)).await else {
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
async fn load(address: &str, epoch: u64, written: &mut Written, cut: impl Future<Output = ()>) {
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

/// Runs the rounds; what was lost is an error.
async fn run(disks: impl Fn(u64) -> SimFiles, seed: u64) -> Result<usize, String> {
    let mut nodes: Vec<SimNode> = (0..3)
        .map(|i| SimNode::new(&format!("n{i}"), disks(seed + i)))
        .collect();
    nodes.iter_mut().for_each(SimNode::boot);
    within("bootstrap", bootstrap(&nodes)).await?;
    let mut written = Written::default();
    for round in 0..ROUNDS {
        let (leader, grant) = within("a writer's return", acquire(&nodes, 1 + round)).await?;
        let tail = grant.position.unwrap().tail as usize;
        if tail < written.acked {
            return Err(format!(
                "round {round}: {} bytes were acknowledged, {tail} are there",
                written.acked
            ));
        }
        let served = within("a tail", journal(&nodes)).await?;
        if served[..] != written.sent[..tail] {
            return Err(format!(
                "round {round}: the {tail} bytes there are not those that were sent"
            ));
        }
        written.sent.truncate(tail);
        written.acked = tail;
        let moment = Duration::from_millis(100 + (seed * 37 + round * 61) % 150);
        load(&leader, grant.epoch, &mut written, tokio::time::sleep(moment)).await;
        for (i, node) in nodes.iter_mut().enumerate() {
            node.power_cut(seed * 1000 + round * 10 + i as u64);
        }
        nodes.iter_mut().for_each(SimNode::boot);
    }
    let served = within("the last tail", async {
        acquire(&nodes, 99).await;
        journal(&nodes).await
    })
    .await?;
    nodes.iter_mut().for_each(|node| node.power_cut(0));
    if served.len() < written.acked || served[..] != written.sent[..served.len()] {
        return Err(format!(
            "{} bytes were acknowledged, {} are there",
            written.acked,
            served.len()
        ));
    }
    Ok(written.acked)
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut_of_all_nodes() {
    for seed in [1, 2] {
        let kept = run(SimFiles::new, seed).await.unwrap();
        println!(
            "seed {seed}: {kept} bytes acknowledged in {ROUNDS} rounds, all there after {ROUNDS} power cuts"
        );
        assert!(kept > 0, "nothing was ever acknowledged: the test shows nothing");
    }
}

#[tokio::test]
async fn catches_an_fdatasync_that_does_nothing() {
    let caught = run(SimFiles::with_noop_sync, 1).await;
    println!("without fdatasync: {caught:?}");
    assert!(
        caught.is_err(),
        "power cuts lost nothing although nothing was ever synced"
    );
}
