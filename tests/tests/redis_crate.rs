//! The `redis` crate works through the proxy as it does with Redis: connections that many tasks share, transactions,
//! subscriptions and the pushes of RESP3, and a connection manager that outlives the proxy.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "tests drive real clocks, and what fails in them is a failed test"
)]

use futures_util::StreamExt;
use futures_util::future::join_all;
use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::streams::StreamReadReply;
use redis::{AsyncCommands, Client, ErrorKind, PushInfo, PushKind, RedisResult, Script, Value};
use redoubt_tests::{DevCluster, Options, connect, eventually, wait_equal};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

fn client(port: u16, resp3: bool) -> Client {
    let protocol = if resp3 { "?protocol=resp3" } else { "" };
    Client::open(format!("redis://127.0.0.1:{port}/{protocol}")).expect("an address")
}

/// 64 tasks share one connection, and each is answered what it asked.
async fn shared_by_many(conn: &MultiplexedConnection) {
    let tasks = (0..64).map(|n| {
        let mut conn = conn.clone();
        async move {
            for i in 0..50 {
                let key = format!("shared:{n}:{i}");
                let (old, new, _): (Option<u64>, u64, u64) = redis::pipe()
                    .get(&key)
                    .set(&key, i)
                    .ignore()
                    .get(&key)
                    .incr("shared", 1)
                    .query_async(&mut conn)
                    .await
                    .unwrap();
                assert_eq!((old, new), (None, i));
            }
        }
    });
    join_all(tasks).await;
    assert_eq!(conn.clone().get::<_, u64>("shared").await.unwrap(), 3200);
}

/// What the server and the proxy refuse are errors of their kinds, and cost nothing beside.
async fn errors(conn: &mut MultiplexedConnection) {
    conn.set::<_, _, ()>("text", "x").await.unwrap();
    let wrong: RedisResult<u64> = conn.lpush("text", 1).await;
    assert_eq!(wrong.unwrap_err().code(), Some("WRONGTYPE"));
    let refused: RedisResult<Value> = redis::cmd("SHUTDOWN").query_async(conn).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ResponseError);
    assert!(refused.to_string().contains("refused by Redoubt"), "{refused}");
    assert_eq!(conn.get::<_, String>("text").await.unwrap(), "x");
}

/// Five connections add one, each to what it read: without WATCH some of it would be lost.
async fn transactions(port: u16) {
    let one = async || {
        let mut conn = connect(port).await;
        let mut lost = 0;
        for _ in 0..20 {
            loop {
                redis::cmd("WATCH")
                    .arg("counter")
                    .exec_async(&mut conn)
                    .await
                    .unwrap();
                let now: Option<u64> = conn.get("counter").await.unwrap();
                let next = now.unwrap_or(0) + 1;
                let mut exec = redis::pipe();
                exec.atomic().set("counter", next).ignore().rpush("counted", next);
                let done: Option<(u64,)> = exec.query_async(&mut conn).await.unwrap();
                if done.is_some_and(|(length,)| length == next) {
                    break;
                }
                lost += 1;
            }
        }
        lost
    };
    let lost: u64 = join_all((0..5).map(|_| one())).await.into_iter().sum();
    let counted: Vec<u64> = connect(port).await.lrange("counted", 0, -1).await.unwrap();
    assert_eq!(counted, (1..=100).collect::<Vec<_>>());
    assert!(lost > 0, "no transaction met another");
}

async fn subscriptions(port: u16, conn: &mut MultiplexedConnection) {
    let mut hears = client(port, false).get_async_pubsub().await.unwrap();
    hears.subscribe("news").await.unwrap();
    hears.psubscribe("n?ws").await.unwrap();
    for n in 0..100_u64 {
        assert_eq!(conn.publish::<_, _, u64>("news", n).await.unwrap(), 2);
    }
    let heard: Vec<u64> = timeout(
        SOON,
        hears
            .on_message()
            .take(200)
            .map(|m| m.get_payload::<u64>().unwrap())
            .collect(),
    )
    .await
    .unwrap();
    assert_eq!(heard, (0..100).flat_map(|n| [n, n]).collect::<Vec<_>>());
}

async fn scripts_and_streams(conn: &mut MultiplexedConnection) {
    let script = Script::new("return redis.call('incrby', KEYS[1], ARGV[1])");
    for total in [7, 14] {
        let sum: u64 = script.key("scripted").arg(7).invoke_async(conn).await.unwrap();
        assert_eq!(sum, total);
    }
    for n in 0..50 {
        conn.xadd::<_, _, _, _, String>("stream", "*", &[("n", n)])
            .await
            .unwrap();
    }
    let read: Option<StreamReadReply> = conn.xread(&["stream"], &["0"]).await.unwrap();
    let ids = &read.expect("entries").keys[0].ids;
    let values: Vec<u64> = ids.iter().map(|id| id.get("n").unwrap()).collect();
    assert_eq!(values, (0..50).collect::<Vec<_>>());
}

/// The next push of a kind.
async fn push(pushes: &mut UnboundedReceiver<PushInfo>, kind: PushKind) -> Vec<Value> {
    loop {
        let push = timeout(SOON, pushes.recv())
            .await
            .expect("a push")
            .expect("a connection");
        if push.kind == kind {
            return push.data;
        }
    }
}

/// Subscriptions and invalidations as pushes between the answers of one connection.
async fn pushes(port: u16, writer: &mut MultiplexedConnection) {
    let (sender, mut heard) = unbounded_channel();
    let config = redis::AsyncConnectionConfig::new().set_push_sender(sender);
    let mut conn = client(port, true)
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .unwrap();
    conn.subscribe("pushed").await.unwrap();
    redis::cmd("CLIENT")
        .arg("TRACKING")
        .arg("ON")
        .exec_async(&mut conn)
        .await
        .unwrap();
    for n in 0..50_u64 {
        let _: Option<u64> = conn.get("tracked").await.unwrap();
        writer.set::<_, _, ()>("tracked", n).await.unwrap();
        let keys = push(&mut heard, PushKind::Invalidate).await;
        assert_eq!(keys, [Value::Array(vec![Value::BulkString(b"tracked".into())])]);
        assert_eq!(conn.get::<_, u64>("tracked").await.unwrap(), n);
        assert_eq!(writer.publish::<_, _, u64>("pushed", n).await.unwrap(), 1);
        let message = push(&mut heard, PushKind::Message).await;
        let text = Value::BulkString(n.to_string().into());
        assert_eq!(message, [Value::BulkString(b"pushed".into()), text]);
    }
    let map: Value = redis::cmd("CONFIG")
        .arg(&["GET", "maxmemory"])
        .query_async(&mut conn)
        .await
        .unwrap();
    assert!(matches!(map, Value::Map(_)), "{map:?}");
}

/// A manager finds the proxy again after it was killed, with its subscription, and what was acknowledged is there.
async fn managed_through_a_kill(cluster: &DevCluster) {
    let port = cluster.port("proxy-1");
    let (sender, mut heard) = unbounded_channel();
    let config = ConnectionManagerConfig::new()
        .set_push_sender(sender)
        .set_automatic_resubscription()
        .set_response_timeout(Duration::from_secs(30));
    let mut manager = ConnectionManager::new_with_config(client(port, true), config)
        .await
        .unwrap();
    manager.subscribe("again").await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|w| {
            let mut manager = manager.clone();
            tokio::spawn(async move {
                let (mut acked, mut broken, mut since) = (Vec::new(), 0_u64, 0);
                for n in 0_u64.. {
                    match manager.set::<_, _, ()>(format!("kept:{w}:{n}"), n).await {
                        Ok(()) => acked.push(format!("kept:{w}:{n}")),
                        Err(_) => {
                            broken += 1;
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    }
                    since += u64::from(broken > 0 && acked.last() == Some(&format!("kept:{w}:{n}")));
                    if since == 100 {
                        break;
                    }
                }
                acked
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let old = cluster.kill("proxy-1");
    cluster.restarted("proxy-1", old).await;
    let mut conn = eventually("service", SOON, || redoubt_tests::try_connect(port)).await;
    for writer in writers {
        let acked = timeout(SOON, writer)
            .await
            .expect("the manager connects again")
            .unwrap();
        let kept: Vec<Option<u64>> = conn.mget(&acked).await.unwrap();
        let lost = kept.iter().filter(|v| v.is_none()).count();
        assert_eq!(lost, 0, "of {} acknowledged", acked.len());
    }
    eventually("the subscription", SOON, || {
        let mut conn = conn.clone();
        async move {
            match conn.publish::<_, _, u64>("again", "here").await {
                Ok(1) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        }
    })
    .await;
    push(&mut heard, PushKind::Message).await;
}

#[tokio::test]
async fn the_redis_crate_is_served_as_by_redis() {
    let mut cluster = DevCluster::start(Options::default()).await;
    let port = cluster.port("proxy-1");
    let mut conn = connect(port).await;
    shared_by_many(&conn).await;
    errors(&mut conn).await;
    transactions(port).await;
    subscriptions(port, &mut conn).await;
    scripts_and_streams(&mut conn).await;
    pushes(port, &mut conn).await;
    managed_through_a_kill(&cluster).await;
    let rebuilt = cluster.rebuilt().await;
    let mut master = connect(cluster.port("master-1")).await;
    wait_equal(&mut master, &mut rebuilt.connect().await).await;
    cluster.down().await;
}
