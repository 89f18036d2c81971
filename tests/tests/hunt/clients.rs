//! Those who write and those who read.

use super::board::{Board, Slot, count};
use super::reads::{Ask, Asking};
use super::shapes::Shape;
use super::wire::{Answer, Closed, Line, put};
use bytes::BytesMut;
use redoubt_tests::Dice;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a client waits that could not connect.
const AGAIN: Duration = Duration::from_millis(20);

/// A client, and what it has of its own.
pub struct Client {
    pub board: Arc<Board>,
    pub port: u16,
    pub dice: Dice,
    pub name: String,
}

impl Client {
    /// A connection, once one is to be had; `None` when all is over.
    pub async fn connect(&mut self) -> Option<Line> {
        while !self.board.ended() {
            if let Ok(line) = Line::open(self.port).await {
                return Some(line);
            }
            tokio::time::sleep(AGAIN).await;
        }
        None
    }

    /// Notes that the connection was closed.
    pub async fn closed(&self) {
        count(&self.board.closed);
        tokio::time::sleep(AGAIN).await;
    }

    fn wrong(&self, slot: &Slot, what: &str, why: &str) {
        let (id, shape) = (slot.id, slot.shape);
        self.board
            .fail(format!("{}, {what} (register {id}, {shape:?}): {why}", self.name));
    }

    /// Writes registers of these shapes without rest, or with a pause of up to so many milliseconds.
    pub async fn write(mut self, shapes: Vec<Shape>, pause_ms_max: u64) {
        let open = |board: &Board| shapes.iter().map(|shape| board.open(*shape, None)).collect();
        let mut slots: Vec<Arc<Slot>> = open(&self.board);
        while let Some(mut line) = self.connect().await {
            if self.write_on(&mut line, &slots, pause_ms_max).await.is_ok() {
                return;
            }
            self.closed().await;
            // What was on its way may still be executed, or not: nobody writes there any more.
            let anew = slots.iter().map(|old| self.board.open(old.shape, Some(old)));
            slots = anew.collect();
        }
    }

    /// Until all is over.
    async fn write_on(
        &mut self,
        line: &mut Line,
        slots: &[Arc<Slot>],
        pause_ms_max: u64,
    ) -> Result<(), Closed> {
        let mut out = BytesMut::new();
        let mut answers: usize = slots.iter().map(|slot| slot.prepare(&mut out)).sum();
        let mut versions = vec![0; slots.len()];
        let busily = pause_ms_max == 0;
        // What answers end which version.
        let mut sent: Vec<(usize, u64)> = Vec::new();
        let mut answer = Answer::default();
        while !self.board.ended() {
            let which = self.dice.roll(slots.len() as u64) as usize;
            let slot = &slots[which];
            let several = if busily { 1 + self.dice.roll(12) } else { 1 };
            let mut expiring = false;
            for _ in 0..several {
                versions[which] += 1;
                let n = versions[which];
                answers += slot.write(n, &mut out);
                sent.push((answers, n));
                expiring = slot.shape.expires(n);
                // The end that nobody writes is the next version.
                slot.issue(n + u64::from(expiring));
                if expiring {
                    break;
                }
            }
            line.send(&mut out).await?;
            self.board.sent(slot, busily);
            let mut ended = sent.drain(..).peekable();
            for answered in 1..=answers {
                line.answer(&mut answer).await?;
                if let Some(error) = &answer.error {
                    self.wrong(slot, "a write", error);
                    return Ok(());
                }
                while let Some((_, n)) = ended.next_if(|(end, _)| *end == answered) {
                    slot.ack(n);
                    count(&self.board.writes);
                }
            }
            drop(ended);
            answers = 0;
            if expiring {
                versions[which] += 1;
                self.until_gone(line, slot, versions[which]).await?;
            }
            if pause_ms_max > 0 {
                self.dice.pause(0, pause_ms_max).await;
            }
        }
        Ok(())
    }

    /// Waits until the key has ended by time, in version `n`.
    async fn until_gone(&mut self, line: &mut Line, slot: &Arc<Slot>, n: u64) -> Result<(), Closed> {
        let (mut out, mut answer) = (BytesMut::new(), Answer::default());
        while !self.board.ended() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            put(&["GET", &slot.key("k")], &mut out);
            line.send(&mut out).await?;
            line.answer(&mut answer).await?;
            if answer.error.is_none() && answer.leaf(0).is_none() {
                slot.ack(n);
                count(&self.board.writes);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads without rest, up to so many commands at once.
    pub async fn read(mut self, at_once_max: u64, resp3: bool) {
        let mut known = Known::default();
        while let Some(mut line) = self.connect().await {
            if resp3 && hello(&mut line).await.is_err() {
                self.closed().await;
                continue;
            }
            while !self.board.ended() {
                // Most are short, so that a read which could leave early is not behind one that can't.
                let most = 1 + self.dice.roll(at_once_max);
                let many = 1 + self.dice.roll(most);
                let current = self.board.current();
                let all = self.board.all();
                let mut reads = Reads::default();
                let mut asking = reads.asking();
                for _ in 0..many {
                    match self.dice.roll(16) {
                        // What was left behind may go on for a moment, never back.
                        0 => asking.read(&all[self.dice.roll(all.len() as u64) as usize], &mut self.dice),
                        1 => self.together(&mut asking, &current),
                        _ => asking.read(&self.dice.pick(&current), &mut self.dice),
                    }
                }
                if self.run(&mut line, &mut reads, &mut known).await.is_err() {
                    break;
                }
                // On one thread: others have their turn.
                tokio::task::yield_now().await;
            }
            if self.board.ended() {
                return;
            }
            self.closed().await;
        }
    }

    /// Reads what others have just written, before that can be committed. `plainly`: with nothing that would need a connection
    /// of its own, so that it always shares one.
    pub async fn read_at_once(mut self, busily: bool, plainly: bool) {
        let mut known = Known::default();
        while let Some(mut line) = self.connect().await {
            while !self.board.ended() {
                let Some(slot) = self.board.just_written(busily).await else {
                    continue;
                };
                let mut reads = Reads::default();
                let mut asking = reads.asking();
                for _ in 0..=self.dice.roll(3) {
                    if plainly {
                        asking.plainly(&slot);
                    } else {
                        asking.read(&slot, &mut self.dice);
                    }
                }
                if self.run(&mut line, &mut reads, &mut known).await.is_err() {
                    break;
                }
            }
            if self.board.ended() {
                return;
            }
            self.closed().await;
        }
    }

    /// Some registers of one value each, at once.
    fn together(&mut self, asking: &mut Asking<'_>, current: &[Arc<Slot>]) {
        let simple = |slot: &&Arc<Slot>| matches!(slot.shape, Shape::Text | Shape::Count | Shape::Away);
        let simple: Vec<Arc<Slot>> = current.iter().filter(simple).cloned().collect();
        let some: Vec<Arc<Slot>> = (0..=self.dice.roll(4)).map(|_| self.dice.pick(&simple)).collect();
        let in_transaction = self.dice.roll(3) == 0;
        asking.together(&some, in_transaction);
    }

    async fn run(&self, line: &mut Line, reads: &mut Reads, known: &mut Known) -> Result<(), Closed> {
        line.send(&mut reads.out).await?;
        let mut answer = Answer::default();
        for ask in &reads.asks {
            for n in 0..=ask.before + ask.behind {
                line.answer(&mut answer).await?;
                if n == ask.before {
                    self.check(ask, &answer, known);
                } else if let Some(error) = &answer.error {
                    self.board.fail(format!("{}, {ask}: {error}", self.name));
                }
            }
            count(&self.board.reads);
        }
        Ok(())
    }

    fn check(&self, ask: &Ask, answer: &Answer, known: &mut Known) {
        let shown = match &answer.error {
            Some(error) => Err(error.clone()),
            None => ask.shown(answer),
        };
        let shown = match shown {
            Ok(shown) => shown,
            Err(why) => {
                return self
                    .board
                    .fail(format!("{}, {ask}: {why}: {}", self.name, answer.show()));
            }
        };
        for seen in shown {
            // On this connection, and on those that this client had before, commands are executed in order.
            let own = known.of(seen.slot.id);
            match seen.slot.saw(seen.claim, seen.low.max(*own)) {
                Ok(n) => *own = n,
                Err(why) => {
                    let own = *own;
                    let why = format!("{why}; this client itself knew {own}: {}", answer.show());
                    return self.wrong(&seen.slot, &ask.to_string(), &why);
                }
            }
            self.board.shown.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn hello(line: &mut Line) -> Result<(), Closed> {
    let (mut out, mut answer) = (BytesMut::new(), Answer::default());
    put(&["HELLO", "3"], &mut out);
    line.send(&mut out).await?;
    line.answer(&mut answer).await
}

/// Reads that are sent at once.
#[derive(Default)]
struct Reads {
    out: BytesMut,
    asks: Vec<Ask>,
}

impl Reads {
    fn asking(&mut self) -> Asking<'_> {
        Asking {
            out: &mut self.out,
            asks: &mut self.asks,
        }
    }
}

/// The latest version that a client saw itself, by register.
#[derive(Default)]
struct Known(Vec<u64>);

impl Known {
    fn of(&mut self, id: usize) -> &mut u64 {
        if self.0.len() <= id {
            self.0.resize(id + 1, 0);
        }
        &mut self.0[id]
    }
}
