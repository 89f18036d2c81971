//! Bases on three real nodes, by way of the real client: given, read, committed only if they are what they say and a majority holds
//! them, fetched by whoever lacks them.

#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks and sockets, and fail by panicking"
)]

mod cluster;

use bytes::Bytes;
use cluster::{REPLID, RUN_ID, RunningNode, Trio, append, outcome, send};
use redoubt_client::{Chunks, Client, ClientConfig, ClientError, Description, Reason, WriterError};
use redoubt_env::Env;
use redoubt_journal::base::Retention;
use redoubt_types::limits::BASE_CHUNK_BYTES;
use redoubt_types::{Base, BaseChecksum, BaseName, Chain, Db, JournalName, Offset, WallTime};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(10);
const SELECT: &[u8] = b"*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n";
const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";

fn client(trio: &Trio) -> Client {
    Client::new(
        Env::real(),
        ClientConfig {
            endpoints: trio.nodes.iter().map(|n| n.address.clone()).collect(),
            journal: JournalName::default(),
            cluster: None,
        },
    )
}

/// What stands for an RDB: a node does not look into it.
fn rdb(seed: u8) -> Vec<u8> {
    (0..BASE_CHUNK_BYTES * 5 / 2)
        .map(|i| (i / 999) as u8 ^ seed)
        .collect()
}

fn chunks_of(bytes: &[u8], from: u64) -> Chunks {
    let all = bytes[from as usize..].chunks(BASE_CHUNK_BYTES);
    let (tx, rx) = tokio::sync::mpsc::channel(100);
    for chunk in all {
        tx.try_send(Ok(Bytes::copy_from_slice(chunk))).unwrap();
    }
    rx
}

/// Appends a SELECT, then `sets` SETs, in entries of `per_entry` of them; returns the stream.
async fn write(trio: &mut Trio, sets: usize, per_entry: usize) -> (usize, Vec<u8>) {
    let (leader, grant) = trio.acquire(7).await;
    let (mut stream, mut requests) = (Vec::new(), Vec::new());
    let groups: Vec<&[u8]> = std::iter::once(SELECT).chain((0..sets).map(|_| SET)).collect();
    for entry in groups.chunks(per_entry) {
        let payload = entry.concat();
        let chain = Chain::EMPTY.extend(&stream);
        requests.push(append(grant.epoch, REPLID, stream.len() as u64, chain, &payload));
        stream.extend_from_slice(&payload);
    }
    let answers = send(&trio.nodes[leader], requests).await;
    assert!(answers.iter().all(|a| outcome(a).is_ok()), "{answers:?}");
    (leader, stream)
}

/// The base of `groups` groups of the stream.
fn base(stream: &[u8], groups: usize, rdb: &[u8]) -> Base {
    let at = SELECT.len() + (groups - 1) * SET.len();
    Base {
        name: BaseName {
            at: Offset::new(at as u64),
            checksum: BaseChecksum::default().extend(rdb).get(),
        },
        replid: REPLID.parse().unwrap(),
        chain: Chain::EMPTY.extend(&stream[..at]),
        groups: groups as u64,
        db: Db::new(3),
        captured: WallTime::from_ms(1),
        bytes: rdb.len() as u64,
        rdb_version: 11,
        server: "redis 7.2.4".into(),
        keys: 1,
        digest: 2,
    }
}

async fn put(client: &Client, node: &RunningNode, base: &Base, bytes: &[u8]) -> Result<(), ClientError> {
    client
        .put_base(&node.address, base, |from| chunks_of(bytes, from))
        .await
}

async fn describe(client: &Client, node: &RunningNode) -> Description {
    client.describe_node(&node.address, false).await.unwrap()
}

async fn read(client: &Client, base: &Base) -> Result<Vec<u8>, ClientError> {
    let mut reader = client.read_base(base, 0, DEADLINE);
    let mut all = Vec::new();
    while let Some(chunk) = reader.next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

/// Waits until every node holds `base` as the journal's.
async fn held_by_all(client: &Client, trio: &Trio, base: &Base) {
    for node in &trio.nodes {
        for attempt in 0.. {
            let d = describe(client, node).await;
            if d.base.as_ref() == Some(base) && d.holds_base {
                break;
            }
            assert!(attempt < 400, "{} never held the base: {d:?}", node.address);
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}

fn bad_base(result: Result<(), WriterError>, why: &str) {
    match result {
        Err(WriterError::Refused {
            reason: Reason::BadBase,
            message,
            ..
        }) if message.contains(why) => {}
        other => panic!("{why}: {other:?}"),
    }
}

#[tokio::test]
async fn a_base_that_a_majority_holds_becomes_the_journals_and_the_third_node_gets_it() {
    let mut trio = Trio::start().await;
    let (leader, stream) = write(&mut trio, 50, 7).await;
    let (client, bytes) = (client(&trio), rdb(1));
    // In the midst of an entry.
    let first = base(&stream, 10, &bytes);
    put(&client, &trio.nodes[leader], &first, &bytes).await.unwrap();
    put(&client, &trio.nodes[(leader + 1) % 3], &first, &bytes)
        .await
        .unwrap();
    client.commit_base(&first, None, DEADLINE).await.unwrap();
    client
        .commit_base(&first, None, DEADLINE)
        .await
        .expect("the success that it was");
    held_by_all(&client, &trio, &first).await;
    assert_eq!(read(&client, &first).await.unwrap(), bytes);
    // At the tail, and in its place.
    let newer = rdb(2);
    let second = base(&stream, 51, &newer);
    for node in &trio.nodes {
        put(&client, node, &second, &newer).await.unwrap();
        put(&client, node, &second, &newer).await.expect("held already");
    }
    client
        .commit_base(&second, Some(first.name), DEADLINE)
        .await
        .unwrap();
    held_by_all(&client, &trio, &second).await;
    assert_eq!(read(&client, &second).await.unwrap(), newer);
    // Each node knows it after a start of its own.
    for i in 0..3 {
        trio.nodes[i].stop().await;
        trio.start_again(i).await;
    }
    held_by_all(&client, &trio, &second).await;
}

#[tokio::test]
async fn h19_a_base_that_lies_is_refused_and_one_that_a_single_node_holds() {
    let mut trio = Trio::start().await;
    let (leader, stream) = write(&mut trio, 20, 4).await;
    let (client, bytes) = (client(&trio), rdb(1));
    let good = base(&stream, 10, &bytes);
    let commit = async |base: &Base, previous| {
        for node in &trio.nodes {
            put(&client, node, base, &bytes).await.unwrap();
        }
        let result = client.commit_base(base, previous, DEADLINE).await;
        assert_eq!(describe(&client, &trio.nodes[leader]).await.base, None);
        // Another manifest of the same RDB would not be taken.
        for i in 0..3 {
            let path = trio.dirs[i].path().join("bases");
            assert!(std::fs::read_dir(path).unwrap().count() > 0);
        }
        result
    };
    let lies: [(&str, Base); 6] = [
        (
            "there is",
            Base {
                chain: Chain::from_u64(5),
                ..moved(&good, 0)
            },
        ),
        (
            "there is",
            Base {
                groups: 11,
                ..moved(&good, 1)
            },
        ),
        (
            "there is",
            Base {
                db: Db::new(0),
                ..moved(&good, 2)
            },
        ),
        (
            "is not of this history",
            Base {
                replid: RUN_ID.parse().unwrap(),
                ..moved(&good, 3)
            },
        ),
        ("cut in two", at(&moved(&good, 4), good.at().get() + 3)),
        ("tail is", at(&moved(&good, 5), stream.len() as u64 + 1)),
    ];
    for (why, lie) in &lies {
        let mut other = bytes.clone();
        let mark = lie.keys as usize;
        other[mark] ^= 0xff;
        let lie = Base {
            name: BaseName {
                checksum: BaseChecksum::default().extend(&other).get(),
                ..lie.name
            },
            ..lie.clone()
        };
        for node in &trio.nodes {
            put(&client, node, &lie, &other).await.unwrap();
        }
        bad_base(client.commit_base(&lie, None, DEADLINE).await, why);
    }
    // Made from a base that is not in its place.
    let previous = BaseName {
        at: Offset::new(1),
        checksum: 2,
    };
    bad_base(commit(&good, Some(previous)).await, "it was made from");
    // Held by the leader alone.
    let newer = rdb(9);
    let lone = base(&stream, 12, &newer);
    put(&client, &trio.nodes[leader], &lone, &newer).await.unwrap();
    bad_base(client.commit_base(&lone, None, DEADLINE).await, "no majority");
    assert_eq!(describe(&client, &trio.nodes[leader]).await.base, None);
    client.commit_base(&good, None, DEADLINE).await.unwrap();
    // Two folds at once began with none; the second one is late.
    let other = (leader + 1) % 3;
    put(&client, &trio.nodes[other], &lone, &newer).await.unwrap();
    bad_base(
        client.commit_base(&lone, None, DEADLINE).await,
        "it was made from none",
    );
}

/// The same base, told apart by its number of keys.
fn moved(base: &Base, n: u64) -> Base {
    Base {
        keys: n,
        ..base.clone()
    }
}

fn at(base: &Base, at: u64) -> Base {
    Base {
        name: BaseName {
            at: Offset::new(at),
            ..base.name
        },
        ..base.clone()
    }
}

#[tokio::test]
async fn what_is_not_as_its_checksum_says_is_refused_and_a_cut_transfer_goes_on() {
    let mut trio = Trio::start().await;
    let (leader, stream) = write(&mut trio, 20, 4).await;
    let (client, bytes) = (client(&trio), rdb(1));
    let good = base(&stream, 10, &bytes);
    let node = &trio.nodes[leader];
    let mut damaged = bytes.clone();
    damaged[77] ^= 1;
    match put(&client, node, &good, &damaged).await {
        Err(ClientError::Refused {
            reason: Reason::BadBase,
            message,
        }) => {
            assert!(message.contains("its checksum is"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    // Cut: its sender has no more.
    let cut = client.put_base(&node.address, &good, |from| {
        chunks_of(&bytes[..BASE_CHUNK_BYTES + 9], from)
    });
    let cut = tokio::time::timeout(Duration::from_secs(1), cut).await;
    assert!(!matches!(cut, Ok(Ok(()))), "{cut:?}");
    let asked = std::sync::Mutex::new(None);
    for _ in 0..100 {
        let open = |from| {
            *asked.lock().unwrap() = Some(from);
            chunks_of(&bytes, from)
        };
        match client.put_base(&node.address, &good, open).await {
            Ok(()) => break,
            // The node has not seen yet that the first sender is gone.
            Err(ClientError::Refused {
                reason: Reason::NotReady,
                ..
            }) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(*asked.lock().unwrap(), Some(BASE_CHUNK_BYTES as u64));
    let mut reader = client.read_base(&good, bytes.len() as u64 - 5, DEADLINE);
    assert_eq!(reader.next().await.unwrap().unwrap(), bytes[bytes.len() - 5..]);
    assert_eq!(reader.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_reader_goes_on_from_another_node_where_a_copy_has_rotted() {
    let mut trio = Trio::start().await;
    let (_, stream) = write(&mut trio, 20, 4).await;
    let (client, bytes) = (client(&trio), rdb(1));
    let good = base(&stream, 10, &bytes);
    for node in &trio.nodes {
        put(&client, node, &good, &bytes).await.unwrap();
    }
    client.commit_base(&good, None, DEADLINE).await.unwrap();
    for (i, dir) in trio.dirs.iter().enumerate().take(2) {
        let path = std::fs::read_dir(dir.path().join("bases")).unwrap();
        let rdb = path
            .map(|e| e.unwrap().path())
            .find(|p| p.extension().is_some_and(|e| e == "rdb"))
            .unwrap();
        let mut content = std::fs::read(&rdb).unwrap();
        content[(i + 1) * BASE_CHUNK_BYTES + 3] ^= 1;
        std::fs::write(&rdb, content).unwrap();
    }
    for _ in 0..4 {
        assert_eq!(read(&client, &good).await.unwrap(), bytes);
    }
    // What had rotted is fetched again from the node that has it.
    held_by_all(&client, &trio, &good).await;
    let status = client.status().await;
    let fold = status.iter().find_map(|(_, s)| s.as_ref().ok()?.fold.clone());
    let behind = stream.len() as u64 - good.at().get();
    assert_eq!(fold.expect("the leader knows").bytes_since_base, behind);
}

/// Nothing of the past is to be restorable.
const NO_PAST: Retention = Retention {
    age: Duration::ZERO,
    bytes: 0,
};
/// More than a segment has, so that each of a few entries fills most of one.
const LARGE_BYTES: usize = 700 * 1024;

/// Appends `count` large groups behind `stream`.
async fn write_large(trio: &mut Trio, stream: &mut Vec<u8>, count: usize) -> usize {
    let (leader, grant) = trio.acquire(7).await;
    for _ in 0..count {
        let value = vec![b'x'; LARGE_BYTES];
        let mut payload = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n${LARGE_BYTES}\r\n").into_bytes();
        payload.extend_from_slice(&value);
        payload.extend_from_slice(b"\r\n");
        let chain = Chain::EMPTY.extend(stream);
        let request = append(grant.epoch, REPLID, stream.len() as u64, chain, &payload);
        let answers = send(&trio.nodes[leader], vec![request]).await;
        assert!(answers.iter().all(|a| outcome(a).is_ok()), "{answers:?}");
        stream.extend_from_slice(&payload);
    }
    leader
}

/// The base at the end of `stream`, which has so many groups.
fn base_at_end(stream: &[u8], groups: usize, rdb: &[u8]) -> Base {
    Base {
        name: BaseName {
            at: Offset::new(stream.len() as u64),
            checksum: BaseChecksum::default().extend(rdb).get(),
        },
        groups: groups as u64,
        db: Db::new(0),
        chain: Chain::EMPTY.extend(stream),
        ..base(SELECT, 1, rdb)
    }
}

async fn beginning(client: &Client, node: &RunningNode) -> u64 {
    describe(client, node).await.beginning.get()
}

/// Waits until the node's log begins behind its first byte; returns where.
async fn trimmed(client: &Client, node: &RunningNode) -> u64 {
    for _ in 0..400 {
        let at = beginning(client, node).await;
        if at > 0 {
            return at;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{} trimmed nothing", node.address);
}

fn log_bytes(trio: &Trio, i: usize) -> u64 {
    let all = std::fs::read_dir(trio.dirs[i].path()).unwrap();
    let of = all
        .map(|e| e.unwrap())
        .filter(|e| e.file_name().to_string_lossy().starts_with("editlog"));
    of.map(|e| e.metadata().unwrap().len()).sum()
}

/// Every node serves what is behind the base, and refuses what is before its log.
async fn serves_the_rest(trio: &Trio, client: &Client, at: u64, stream: &[u8]) {
    for node in &trio.nodes {
        let rest = cluster::bytes(&cluster::tail(node, at).await);
        // The entry that holds the first byte comes whole.
        assert!(
            stream.ends_with(&rest) && rest.len() as u64 >= stream.len() as u64 - at,
            "{}",
            node.address
        );
        let events = cluster::tail(node, 0).await;
        let refused = match events.first().and_then(|e| e.event.as_ref()) {
            Some(redoubt_proto::v1::tail_response::Event::Refused(r)) => r.reason(),
            other => panic!("{other:?}"),
        };
        assert_eq!(refused, redoubt_proto::v1::Reason::BeforeBeginning);
        assert!(beginning(client, node).await <= at);
    }
}

#[tokio::test]
async fn what_a_base_covers_goes_from_every_node_and_what_follows_stays_also_after_a_restart() {
    let mut trio = Trio::start_with(NO_PAST).await;
    let mut stream = Vec::new();
    write_large(&mut trio, &mut stream, 8).await;
    let (client, bytes) = (client(&trio), rdb(1));
    let first = base_at_end(&stream, 8, &bytes);
    let at = first.at().get();
    write_large(&mut trio, &mut stream, 2).await;
    for node in &trio.nodes {
        put(&client, node, &first, &bytes).await.unwrap();
    }
    client.commit_base(&first, None, DEADLINE).await.unwrap();
    for i in 0..3 {
        let begins = trimmed(&client, &trio.nodes[i]).await;
        assert!(
            begins <= at && begins > at - 2 * LARGE_BYTES as u64,
            "{begins} of {at}"
        );
    }
    serves_the_rest(&trio, &client, at, &stream).await;
    for attempt in 0.. {
        // Ten large entries were in as many segments.
        let left: Vec<_> = (0..3).map(|i| log_bytes(&trio, i)).collect();
        if left.iter().all(|bytes| *bytes <= 6 << 20) {
            break;
        }
        assert!(attempt < 400, "{left:?} bytes of editlogs are left");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    for i in 0..3 {
        trio.nodes[i].stop().await;
        trio.start_again(i).await;
    }
    serves_the_rest(&trio, &client, at, &stream).await;
    write_large(&mut trio, &mut stream, 3).await;
    serves_the_rest(&trio, &client, at, &stream).await;
    // And again, from one base to the next.
    let newer = rdb(3);
    let second = base_at_end(&stream, 13, &newer);
    for node in &trio.nodes {
        put(&client, node, &second, &newer).await.unwrap();
    }
    client
        .commit_base(&second, Some(first.name), DEADLINE)
        .await
        .unwrap();
    held_by_all(&client, &trio, &second).await;
    for i in 0..3 {
        for attempt in 0.. {
            let files: Vec<_> = std::fs::read_dir(trio.dirs[i].path().join("bases"))
                .unwrap()
                .collect();
            if beginning(&client, &trio.nodes[i]).await > at && files.len() == 2 {
                break;
            }
            assert!(attempt < 400, "n{i} keeps {files:?}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }
}

#[tokio::test]
async fn a_node_that_was_away_while_the_others_trimmed_gets_their_state_and_the_base() {
    let mut trio = Trio::start_with(NO_PAST).await;
    let mut stream = Vec::new();
    let leader = write_large(&mut trio, &mut stream, 2).await;
    let away = (leader + 1) % 3;
    trio.nodes[away].stop().await;
    write_large(&mut trio, &mut stream, 6).await;
    let (client, bytes) = (client(&trio), rdb(1));
    let base = base_at_end(&stream, 8, &bytes);
    write_large(&mut trio, &mut stream, 2).await;
    for i in (0..3).filter(|i| *i != away) {
        put(&client, &trio.nodes[i], &base, &bytes).await.unwrap();
    }
    client.commit_base(&base, None, DEADLINE).await.unwrap();
    for i in (0..3).filter(|i| *i != away) {
        trimmed(&client, &trio.nodes[i]).await;
    }
    trio.start_again(away).await;
    held_by_all(&client, &trio, &base).await;
    serves_the_rest(&trio, &client, base.at().get(), &stream).await;
    // From its own disk too, and with it a majority.
    trio.nodes[away].stop().await;
    trio.start_again(away).await;
    trio.nodes[leader].stop().await;
    write_large(&mut trio, &mut stream, 2).await;
    trio.start_again(leader).await;
    held_by_all(&client, &trio, &base).await;
    serves_the_rest(&trio, &client, base.at().get(), &stream).await;
}

#[tokio::test]
async fn h19_a_node_trims_nothing_below_a_base_that_it_does_not_hold() {
    let mut trio = Trio::start_with(NO_PAST).await;
    let mut stream = Vec::new();
    let leader = write_large(&mut trio, &mut stream, 6).await;
    let (client, bytes) = (client(&trio), rdb(1));
    let base = base_at_end(&stream, 6, &bytes);
    let away = (leader + 1) % 3;
    // It has all of the journal.
    for node in &trio.nodes {
        assert!(cluster::bytes(&cluster::tail(node, 0).await) == stream);
    }
    trio.nodes[away].stop().await;
    for i in (0..3).filter(|i| *i != away) {
        put(&client, &trio.nodes[i], &base, &bytes).await.unwrap();
    }
    client.commit_base(&base, None, DEADLINE).await.unwrap();
    for i in (0..3).filter(|i| *i != away) {
        trimmed(&client, &trio.nodes[i]).await;
        trio.nodes[i].stop().await;
        // Both lose it.
        std::fs::remove_dir_all(trio.dirs[i].path().join("bases")).unwrap();
        trio.start_again(i).await;
    }
    trio.start_again(away).await;
    for attempt in 0.. {
        let d = describe(&client, &trio.nodes[away]).await;
        if d.base.is_some() {
            break;
        }
        assert!(attempt < 400, "it never learnt of the base");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    // Longer than it takes to look at the bases a few times.
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let d = describe(&client, &trio.nodes[away]).await;
        assert_eq!((d.beginning, d.holds_base), (Offset::ZERO, false));
    }
    assert!(cluster::bytes(&cluster::tail(&trio.nodes[away], 0).await) == stream);
}

#[cfg(feature = "planted-bugs")]
#[test]
fn h19_planted_bugs_are_caught() {
    for (test, bug) in [
        (
            "h19_a_node_trims_nothing_below_a_base_that_it_does_not_hold",
            "h19_trims_without_the_base",
        ),
        (
            "h19_a_base_that_lies_is_refused_and_one_that_a_single_node_holds",
            "h19_any_base",
        ),
        (
            "h19_a_base_that_lies_is_refused_and_one_that_a_single_node_holds",
            "h19_base_of_one",
        ),
    ] {
        redoubt_env::planted::assert_catches(test, bug);
    }
}
