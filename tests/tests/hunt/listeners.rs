//! Those who are told: subscribers of messages and of the server's notifications, and who waits for a stream's next entry.

use super::board::{Slot, count};
use super::clients::Client;
use super::reads::of_entry;
use super::shapes::{Claim, Shape};
use super::wire::{Answer, Closed, Line, put};
use bytes::BytesMut;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often one looks whether all is over.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Which register a name is of, and which part of it.
fn named(name: &[u8]) -> Option<(usize, &str)> {
    let name = std::str::from_utf8(name).ok()?;
    let (id, part) = name.strip_prefix("hunt:")?.split_once(':')?;
    Some((id.parse().ok()?, part))
}

impl Client {
    /// Hears messages that tell of writes, and notifications of the server's.
    pub async fn listen(mut self, resp3: bool) {
        while let Some(mut line) = self.connect().await {
            match self.listen_on(&mut line, resp3).await {
                Ok(()) => return,
                Err(Closed) => self.closed().await,
            }
        }
    }

    async fn listen_on(&mut self, line: &mut Line, resp3: bool) -> Result<(), Closed> {
        let mut out = BytesMut::new();
        if resp3 {
            put(&["HELLO", "3"], &mut out);
        }
        put(
            &["PSUBSCRIBE", "hunt:*:news", "__keyspace@0__:hunt:*:n*"],
            &mut out,
        );
        line.send(&mut out).await?;
        // The last that came on this connection, by register and whether it was a message.
        let mut last = BTreeMap::new();
        let mut answer = Answer::default();
        while !self.board.ended() {
            match tokio::time::timeout(LOOK_EVERY, line.next(&mut answer)).await {
                Ok(came) => came?,
                Err(_) => continue,
            }
            if let Some(error) = &answer.error {
                self.board.fail(format!("{}: {error}", self.name));
            }
            if answer.len() != 4 || answer.leaf(0) != Some(b"pmessage") {
                continue;
            }
            count(&self.board.heard);
            if let Err(why) = self.heard(&answer, &mut last) {
                self.board
                    .fail(format!("{} hears {}: {why}", self.name, answer.show()));
            }
        }
        Ok(())
    }

    fn heard(&self, answer: &Answer, last: &mut BTreeMap<(usize, bool), u64>) -> Result<(), String> {
        let (channel, text) = (
            answer.leaf(2).unwrap_or_default(),
            answer.leaf(3).unwrap_or_default(),
        );
        let of_key = channel.strip_prefix(b"__keyspace@0__:");
        let (id, part) = named(of_key.unwrap_or(channel)).ok_or("it names no register")?;
        let slot = self.board.slot(id).ok_or("there is no such register")?;
        let number = match of_key {
            Some(_) => part.strip_prefix('n'),
            None => std::str::from_utf8(text).ok(),
        };
        let n: u64 = number.and_then(|n| n.parse().ok()).ok_or("it tells no version")?;
        if of_key.is_some() && text == b"expired" {
            self.board.ended.lock().unwrap().insert((id, n));
            return Ok(());
        }
        if of_key.is_some() && text != b"set" {
            return Ok(());
        }
        let before = last.insert((id, of_key.is_some()), n);
        if before.is_some_and(|before| n <= before) {
            return Err(format!("{before:?} came before"));
        }
        // It tells that the write is durable, not that it is the newest: no floor for itself.
        slot.saw(Claim::Is(n), 0).map(drop)
    }

    /// Waits for streams' next entries.
    pub async fn wait(mut self) {
        while let Some(mut line) = self.connect().await {
            match self.wait_on(&mut line).await {
                Ok(()) => return,
                Err(Closed) => self.closed().await,
            }
        }
    }

    async fn wait_on(&mut self, line: &mut Line) -> Result<(), Closed> {
        let (mut out, mut answer) = (BytesMut::new(), Answer::default());
        let mut last: BTreeMap<usize, u64> = BTreeMap::new();
        while !self.board.ended() {
            let mut streams: Vec<Arc<Slot>> = self.board.current();
            streams.retain(|slot| slot.shape == Shape::Stream);
            let keys: Vec<String> = streams.iter().map(|slot| slot.key("k")).collect();
            let after: Vec<String> = streams
                .iter()
                .map(|slot| format!("{}-1", last.get(&slot.id).unwrap_or(&0)))
                .collect();
            let mut args = vec!["XREAD", "BLOCK", "100", "STREAMS"];
            args.extend(keys.iter().chain(&after).map(|arg| &**arg));
            put(&args, &mut out);
            let lows: BTreeMap<usize, u64> = streams.iter().map(|slot| (slot.id, slot.floor())).collect();
            line.send(&mut out).await?;
            line.answer(&mut answer).await?;
            count(&self.board.reads);
            if let Err(why) = self.came(&answer, &lows, &mut last) {
                self.board.fail(format!(
                    "{} waits for entries: {why}: {}",
                    self.name,
                    answer.show()
                ));
            }
        }
        Ok(())
    }

    fn came(
        &self,
        answer: &Answer,
        lows: &BTreeMap<usize, u64>,
        last: &mut BTreeMap<usize, u64>,
    ) -> Result<(), String> {
        if let Some(error) = &answer.error {
            return Err(error.clone());
        }
        let mut newest = BTreeMap::new();
        let (mut at, mut of) = (0, None);
        while at < answer.len() {
            if let Some((id, _)) = answer.leaf(at).and_then(named) {
                of = Some(id);
                at += 1;
                continue;
            }
            let Some(id) = of else {
                // Nothing came.
                return Ok(());
            };
            let n = of_entry(answer.leaf(at))?;
            if n <= *last.get(&id).unwrap_or(&0) {
                return Err(format!("{n} of register {id} came before"));
            }
            last.insert(id, n);
            newest.insert(id, n);
            at += 3;
        }
        for (id, n) in newest {
            let slot = self.board.slot(id).ok_or("there is no such register")?;
            slot.saw(Claim::Is(n), *lows.get(&id).unwrap_or(&0))?;
        }
        Ok(())
    }
}
