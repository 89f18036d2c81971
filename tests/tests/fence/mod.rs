//! What the whole hold rests on, tried on a stock server without Redoubt: a fence that is asked for after a reply was received
//! lies at or behind the end of everything that the reply depends on, in the server's own replication stream.
//!
//! Many clients send commands of many kinds, each with a token of its own, and note each reply when it was received. One task
//! asks for fences, each for all replies that were noted before it was asked. Another is the server's replica and keeps its
//! stream, in which the end of each token's group is looked for in the end.
#![allow(
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "part of a test binary; what fails here fails a test"
)]

mod load;
mod wire;

use bytes::BytesMut;
use load::{Batch, Effect, When};
use redoubt_env::planted;
use redoubt_resp::info::{FenceAnswer, fence_of, parse_info};
use redoubt_resp::reply::Value;
use redoubt_resp::stream::{StreamScanner, commands};
use redoubt_tests::Server;
use redoubt_types::{Offset, ReplId};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use wire::{Stream, Wire};

/// Replies that are fenced at least.
const REPLIES: usize = 100_000;
/// Enough for every version to use its threads.
const CLIENTS: u64 = 64;
/// Longer than any machine takes.
const IN_TIME: Duration = Duration::from_secs(120);

/// Effects that some reply has told of: without a fence yet, and with the fence that was asked for after it.
#[derive(Default)]
struct Notes {
    told: Mutex<Vec<Effect>>,
    fenced: Mutex<Vec<(Effect, Offset)>>,
    count: AtomicUsize,
    more: Notify,
    done: AtomicBool,
}

impl Notes {
    fn add(&self, effect: Effect) {
        self.told.lock().unwrap().push(effect);
        self.count.fetch_add(1, Ordering::SeqCst);
        self.more.notify_one();
    }
}

/// Starts the server `program` with I/O threads, and checks the fences of at least [`REPLIES`] replies.
///
/// # Panics
/// When a fence is too early, or the server did not use its threads.
pub async fn holds(program: &Path) {
    let args = [
        "--io-threads",
        "4",
        "--repl-backlog-size",
        "1gb",
        "--repl-backlog-ttl",
        "0",
        "--repl-diskless-sync-delay",
        "0",
    ];
    let server = Server::start_program(program, &args).await;
    let mut control = Wire::connect(server.port).await;
    let limit = ["CONFIG", "SET", "client-output-buffer-limit", "replica 0 0 0"];
    control.call(&limit).await;
    let library =
        "#!lua name=lib\nredis.register_function('put', function(k) return redis.call('SET', k[1], 1) end)";
    control.call(&["FUNCTION", "LOAD", library]).await;
    let stream = Stream::attach(server.port, &mut control).await;
    let (replid, _) = control.position().await;

    let (began, notes) = (Instant::now(), Arc::new(Notes::default()));
    let fences = tokio::spawn(fences(server.port, replid, Arc::clone(&notes)));
    let mut news = Wire::connect(server.port).await;
    news.call(&["SUBSCRIBE", "news"]).await;
    let news = tokio::spawn(messages(news, Arc::clone(&notes)));
    let clients = (0..CLIENTS).map(|n| tokio::spawn(client(server.port, n, Arc::clone(&notes))));
    let clients: Vec<_> = clients.collect();
    for client in clients {
        let ended = tokio::time::timeout(IN_TIME, client).await;
        ended.expect("the clients end in time").expect("no panic");
    }
    notes.done.store(true, Ordering::SeqCst);
    notes.more.notify_one();
    fences.await.expect("no panic");
    news.abort();

    let (_, end) = control.position().await;
    let bytes = stream.until(end).await;
    let stats = control.call(&["INFO", "stats"]).await;
    let written = parse_info(stats.as_bytes().unwrap()).number("io_threaded_writes_processed");
    let written = written.expect("the server counts what its threads write");
    let fenced = std::mem::take(&mut *notes.fenced.lock().unwrap());
    let tight = check(&bytes, stream.from, &fenced);
    println!(
        "{} replies fenced, {tight} of them without a byte of slack; {written} writes by I/O threads; {} bytes of \
         stream; {:?}",
        fenced.len(),
        bytes.len(),
        began.elapsed()
    );
    assert!(fenced.len() >= REPLIES, "only {} replies", fenced.len());
    assert!(
        written >= 1000,
        "{written} writes by I/O threads: they were hardly used"
    );
}

/// Starts the server `program`, and asks for a fence while a script keeps it busy: there is none until the script ends.
///
/// # Panics
/// When there is one.
pub async fn not_while_busy(program: &Path) {
    let server = Server::start_program(program, &["--lua-time-limit", "20"]).await;
    let mut scripts = Wire::connect(server.port).await;
    let mut bytes = BytesMut::new();
    wire::put(&["EVAL", "while true do end", "0"], &mut bytes);
    let mut control = Wire::connect(server.port).await;
    control.call(&["PING"]).await;
    scripts.send(&bytes).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let answer = control.ask(&["INFO", "replication"]).await;
    assert_eq!(fence_of(&answer), FenceAnswer::Busy, "{answer:?}");
    control.call(&["SCRIPT", "KILL"]).await;
    assert!(scripts.answer().await.as_error().is_some());
    let answer = control.ask(&["INFO", "replication"]).await;
    assert!(
        matches!(fence_of(&answer), FenceAnswer::Master { .. }),
        "{answer:?}"
    );
}

/// Asks for one fence after the other as long as there are replies without one.
async fn fences(port: u16, replid: ReplId, notes: Arc<Notes>) {
    let mut wire = Wire::connect(port).await;
    let (_, mut last) = wire.position().await;
    loop {
        // What was told before the question, and nothing else, is what its answer covers.
        let told = std::mem::take(&mut *notes.told.lock().unwrap());
        if told.is_empty() {
            if notes.done.load(Ordering::SeqCst) {
                return;
            }
            notes.more.notified().await;
            continue;
        }
        let answer = wire.ask(&["INFO", "replication"]).await;
        let FenceAnswer::Master { replid: now, offset } = fence_of(&answer) else {
            panic!("{answer:?} is no fence");
        };
        assert_eq!(now, replid);
        let fence = if planted::on("fence_from_before_the_reply") {
            last
        } else {
            offset
        };
        last = offset;
        let mut fenced = notes.fenced.lock().unwrap();
        fenced.extend(told.into_iter().map(|effect| (effect, fence)));
    }
}

/// Notes each message when it has come.
async fn messages(mut wire: Wire, notes: Arc<Notes>) {
    loop {
        let message = wire.answer().await;
        let token = message.as_array().and_then(|m| m.get(2)?.as_str());
        notes.add(Effect {
            names: &["PUBLISH"],
            token: token.expect("a message").to_owned(),
        });
    }
}

/// Sends batch after batch, of a few commands each, until all clients together were told enough.
async fn client(port: u16, number: u64, notes: Arc<Notes>) {
    let mut wire = Wire::connect(port).await;
    let waiting = Wire::connect(port).await;
    let (waits, expected) = tokio::sync::mpsc::unbounded_channel();
    let popping = tokio::spawn(pops(waiting, expected, Arc::clone(&notes)));
    let (mut n, mut batches) = (number, 0);
    let mut expiring = VecDeque::new();
    while notes.count.load(Ordering::SeqCst) < REPLIES + 1000 {
        batches += 1;
        let mut batch = Batch::default();
        for _ in 0..1 + (number + batches) % 4 {
            n += 1;
            let token = format!("<{number}.{n}>");
            if Batch::is_awaited(n) {
                waits.send(token.clone()).expect("it is read");
            }
            let old = (Batch::expires(n) && expiring.len() > 2)
                .then(|| expiring.pop_front())
                .flatten();
            batch.add(n, &token, old.as_deref());
            if Batch::expires(n) {
                expiring.push_back(token);
            }
        }
        wire.send(&batch.bytes).await;
        for expected in batch.answers {
            let answer = wire.answer().await;
            let when = expected.effect.as_ref().map(|(when, _)| *when);
            let is = match (&answer, when) {
                (Value::Error(_), Some(When::Error)) => true,
                (Value::Error(_), _) => panic!("{}: {answer:?}", expected.command),
                (Value::Null, Some(When::Nil)) | (_, Some(When::Done)) => true,
                _ => false,
            };
            if let (true, Some((_, effect))) = (is, expected.effect) {
                notes.add(effect);
            }
        }
    }
    drop(waits);
    popping.await.expect("no panic");
}

/// Waits for what the client pushes, token after token.
async fn pops(mut wire: Wire, mut tokens: tokio::sync::mpsc::UnboundedReceiver<String>, notes: Arc<Notes>) {
    while let Some(token) = tokens.recv().await {
        let (bytes, effect) = Batch::waits(&token);
        wire.send(&bytes).await;
        let answer = wire.answer().await;
        assert!(answer.as_array().is_some_and(|a| a.len() == 2), "{answer:?}");
        notes.add(effect);
    }
}

/// Looks for each effect in the stream; returns how many end exactly at their fence.
///
/// # Panics
/// When one is not there, or ends behind its fence.
fn check(stream: &[u8], from: Offset, fenced: &[(Effect, Offset)]) -> usize {
    let (mut ends, mut begin) = (BTreeMap::new(), 0);
    let mut groups = Vec::new();
    let scanned = StreamScanner::default().scan(stream, |group| groups.push(group.end));
    scanned.expect("a replication stream");
    for end in groups {
        for command in commands(&stream[begin..end]) {
            let command = command.expect("a command");
            let name = String::from_utf8_lossy(command.name()).to_ascii_uppercase();
            for token in command.args.iter().filter_map(|arg| token_of(arg)) {
                ends.insert((name.clone(), token.to_owned()), from.advance(end as u64));
            }
        }
        begin = end;
    }
    let mut tight = 0;
    for (effect, fence) in fenced {
        let end = effect
            .names
            .iter()
            .filter_map(|name| ends.get(&((*name).to_owned(), effect.token.clone())))
            .max();
        let end = *end.unwrap_or_else(|| panic!("{effect:?} is not in the stream"));
        assert!(
            end <= *fence,
            "{effect:?} ends at {end}, and the fence that was asked for after its reply is {fence}"
        );
        tight += usize::from(end == *fence);
    }
    tight
}

/// The token in an argument.
fn token_of(arg: &[u8]) -> Option<&str> {
    let begin = arg.iter().position(|b| *b == b'<')?;
    let length = arg[begin..].iter().position(|b| *b == b'>')?;
    std::str::from_utf8(&arg[begin..=begin + length]).ok()
}
