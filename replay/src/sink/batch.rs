//! One transaction for the target, and what its answers mean.
//!
//! Decides how groups become the commands between MULTI and EXEC, the position among them, and what may be concluded from what
//! the server said. Promises that a group is in one transaction as a whole, and that every transaction ends by writing the
//! position behind its last group, in database 0, where each begins. Pure.

use super::position::Place;
use super::translate::{Effect, POSITION_DB};
use bytes::BytesMut;
use redoubt_resp::reply::Value;
use redoubt_resp::stream::encode_command;
use redoubt_types::{Db, Offset, WallTime};
use std::collections::BTreeSet;

/// Commands of one transaction at most, if it has more than one group: a millisecond or two of a server's time.
pub(super) const BATCH_COMMANDS_MAX: usize = 1000;
/// Bytes of one transaction at most, if it has more than one group.
pub(super) const BATCH_BYTES_MAX: usize = 1024 * 1024;
/// Errors that pass by themselves, or with another server behind the address. Nothing is known to be applied by what begins so.
const PASSING: [&str; 6] = [
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "READONLY",
];

/// A transaction being put together.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: BytesMut,
    /// Per command: its name, and the end of its group.
    queued: Vec<(String, Offset)>,
    /// Selected on the connection behind the last command.
    db: Db,
    /// All that are selected in it.
    selected: BTreeSet<Db>,
    end: Place,
    captured: WallTime,
    groups: usize,
}

impl Batch {
    /// Nothing, at `place`.
    pub(super) fn new(place: Place) -> Self {
        Batch {
            bytes: BytesMut::new(),
            queued: Vec::new(),
            db: POSITION_DB,
            selected: BTreeSet::new(),
            end: place,
            captured: WallTime::default(),
            groups: 0,
        }
    }

    /// Whether there is no group in it.
    pub(super) fn is_empty(&self) -> bool {
        self.groups == 0
    }

    /// Commands so far.
    pub(super) fn commands(&self) -> usize {
        self.queued.len()
    }

    /// The databases that it selects. One that the server lacks would not stop the transaction, and what follows would be
    /// executed in another one.
    pub(super) fn selected(&self) -> &BTreeSet<Db> {
        &self.selected
    }

    /// Where its last group ends.
    pub(super) fn end(&self) -> &Place {
        &self.end
    }

    /// When its last group was captured.
    pub(super) fn captured(&self) -> WallTime {
        self.captured
    }

    /// Whether a group of `effects` may be in it, where there may be `commands_max` commands.
    pub(super) fn has_room_for(&self, effects: &[Effect], commands_max: usize) -> bool {
        let bytes: usize = effects.iter().map(|e| e.bytes.len()).sum();
        self.is_empty()
            || (self.queued.len() + effects.len() <= commands_max
                && self.bytes.len() + bytes <= BATCH_BYTES_MAX)
    }

    /// Adds a group that ends at `end`.
    pub(super) fn push(&mut self, effects: &[Effect], end: &Place, captured: WallTime) {
        for effect in effects {
            self.select(effect.db, end.offset);
            self.bytes.extend_from_slice(&effect.bytes);
            self.queued.push((effect.name.clone(), end.offset));
        }
        self.end = end.clone();
        self.captured = captured;
        self.groups += 1;
    }

    /// Ends it with the position: `value` under `key`.
    pub(super) fn finish(&mut self, key: &str, value: &str) {
        let at = self.end.offset;
        self.select(POSITION_DB, at);
        encode_command(&[b"SET", key.as_bytes(), value.as_bytes()], &mut self.bytes);
        self.queued.push(("the position's SET".to_owned(), at));
    }

    /// Ends it without the position: a planted bug.
    pub(super) fn finish_without_position(&mut self) {
        self.select(POSITION_DB, self.end.offset);
    }

    fn select(&mut self, db: Db, at: Offset) {
        if self.db != db {
            encode_command(&[b"SELECT", db.to_string().as_bytes()], &mut self.bytes);
            self.queued.push((format!("SELECT {db}"), at));
            self.db = db;
            self.selected.insert(db);
        }
    }

    /// What stands between MULTI and EXEC.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it was applied.
    Applied,
    /// Nothing of it: somebody else had written the position.
    Moved,
    /// Nothing of it, for a reason that passes.
    Later(String),
    /// Not what it should have been.
    Failed(Failure),
}

/// A command that failed on the target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{command} before {offset} failed: {error}. {}", what_is_left(*.applied))]
pub struct Failure {
    /// The command's name.
    pub command: String,
    /// The end of its group.
    pub offset: Offset,
    /// What the server said.
    pub error: String,
    /// Whether the rest of its transaction was applied.
    pub applied: bool,
}

const APPLIED: &str =
    "No effect fails on a server that is equal to the master, so this one is not: it must be emptied";
const NOT_APPLIED: &str = "Nothing of its transaction was applied, and the position is where it was";

fn what_is_left(applied: bool) -> &'static str {
    if applied { APPLIED } else { NOT_APPLIED }
}

/// Judges the answers to a batch: one to each of its commands as it was queued, and that to EXEC.
pub(super) fn judge(batch: &Batch, queued: &[Value], exec: &Value) -> Outcome {
    let failed = |n: usize, error: &str, applied| {
        let unknown = ("EXEC".to_owned(), batch.end.offset);
        let (command, offset) = batch.queued.get(n).unwrap_or(&unknown).clone();
        Outcome::Failed(Failure {
            command,
            offset,
            error: error.to_owned(),
            applied,
        })
    };
    match exec {
        Value::Null => Outcome::Moved,
        Value::Array(results) if results.len() == batch.queued.len() => {
            let error = results
                .iter()
                .enumerate()
                .find_map(|(n, r)| Some((n, r.as_error()?)));
            error.map_or(Outcome::Applied, |(n, error)| failed(n, error, true))
        }
        Value::Error(_) => {
            let refused = queued
                .iter()
                .enumerate()
                .find_map(|(n, r)| Some((n, r.as_error()?)));
            let (n, error) = refused.unwrap_or((usize::MAX, exec.as_error().unwrap_or_default()));
            if passes(error) {
                Outcome::Later(error.to_owned())
            } else {
                failed(n, error, false)
            }
        }
        // What came is not known, so neither is what happened: the most careful answer.
        other => failed(usize::MAX, &format!("its answer is {}", kind(other)), true),
    }
}

/// Whether an error is one that passes. EXECABORT tells its reason behind itself.
pub(super) fn passes(error: &str) -> bool {
    let reason = error.rsplit("because of: ").next().unwrap_or(error);
    let code = reason
        .trim_start_matches('-')
        .split(' ')
        .next()
        .unwrap_or_default();
    PASSING.contains(&code)
}

fn kind(value: &Value) -> String {
    match value {
        Value::Array(results) => format!("an array of {}", results.len()),
        Value::Simple(text) => format!("+{}", text.escape_ascii()),
        Value::Int(n) => format!(":{n}"),
        _ => "of another kind".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use redoubt_resp::stream::commands;
    use redoubt_types::Chain;

    fn effect(command: &str, db: u32) -> Effect {
        let mut bytes = BytesMut::new();
        let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        encode_command(&args, &mut bytes);
        Effect {
            name: command.split(' ').next().unwrap().to_owned(),
            db: Db::new(db),
            bytes: bytes.freeze(),
        }
    }

    fn place(offset: u64) -> Place {
        Place {
            offset: Offset::new(offset),
            chain: Chain::EMPTY,
            db: Db::new(5),
        }
    }

    fn batch() -> Batch {
        let mut batch = Batch::new(place(0));
        batch.push(
            &[effect("SET a 1", 2), effect("SET b 1", 2)],
            &place(10),
            WallTime::default(),
        );
        batch.push(&[], &place(15), WallTime::default());
        batch.push(&[effect("FLUSHALL", 0)], &place(20), WallTime::default());
        batch.finish("pos", "at 20");
        batch
    }

    fn text(value: &str) -> Value {
        Value::Simple(Bytes::copy_from_slice(value.as_bytes()))
    }

    fn error(value: &str) -> Value {
        Value::Error(Bytes::copy_from_slice(value.as_bytes()))
    }

    #[test]
    fn the_position_is_the_transactions_last_word_in_database_0() {
        let sent = |batch: &Batch| -> Vec<String> {
            let words = |c: redoubt_resp::stream::Command<'_>| {
                let words: Vec<_> = c.args.iter().map(|a| String::from_utf8_lossy(a)).collect();
                words.join(" ")
            };
            commands(batch.bytes()).map(|c| words(c.unwrap())).collect()
        };
        let batch = batch();
        let all = [
            "SELECT 2",
            "SET a 1",
            "SET b 1",
            "SELECT 0",
            "FLUSHALL",
            "SET pos at 20",
        ];
        assert_eq!(sent(&batch), all);
        assert_eq!(batch.commands(), all.len());
        let mut elsewhere = Batch::new(place(0));
        elsewhere.push(&[effect("SET a 1", 2)], &place(10), WallTime::default());
        elsewhere.finish("pos", "at 10");
        assert_eq!(
            sent(&elsewhere),
            ["SELECT 2", "SET a 1", "SELECT 0", "SET pos at 10"]
        );
    }

    #[test]
    fn a_group_is_never_cut_and_a_batch_is_bounded() {
        let many: Vec<Effect> = (0..BATCH_COMMANDS_MAX + 1).map(|_| effect("INCR a", 0)).collect();
        let mut batch = Batch::new(place(0));
        assert!(
            batch.has_room_for(&many, BATCH_COMMANDS_MAX),
            "a large group goes alone"
        );
        batch.push(&many[..1], &place(1), WallTime::default());
        assert!(!batch.has_room_for(&many, BATCH_COMMANDS_MAX));
        assert!(batch.has_room_for(&many[..BATCH_COMMANDS_MAX - 1], BATCH_COMMANDS_MAX));
        let large = effect(&format!("SET a {}", "x".repeat(BATCH_BYTES_MAX)), 0);
        assert!(!batch.has_room_for(&[large], BATCH_COMMANDS_MAX));
    }

    #[test]
    fn every_error_inside_of_exec_means_that_the_target_is_not_equal() {
        let (batch, ok) = (batch(), vec![text("QUEUED"); 6]);
        let results = |n: usize, result: Value| {
            let mut all = vec![text("OK"); 6];
            all[n] = result;
            Value::Array(all)
        };
        assert_eq!(judge(&batch, &ok, &results(0, text("OK"))), Outcome::Applied);
        assert_eq!(judge(&batch, &ok, &results(2, Value::Null)), Outcome::Applied);
        for why in ["WRONGTYPE no", "READONLY no", "OOM no", "BUSY no"] {
            let failure = Failure {
                command: "SET".to_owned(),
                offset: Offset::new(10),
                error: why.to_owned(),
                applied: true,
            };
            assert_eq!(
                judge(&batch, &ok, &results(2, error(why))),
                Outcome::Failed(failure)
            );
        }
        // An answer to something else.
        let short = Value::Array(vec![text("OK"); 5]);
        assert!(matches!(judge(&batch, &ok, &short), Outcome::Failed(f) if f.applied));
        assert!(matches!(judge(&batch, &ok, &text("OK")), Outcome::Failed(f) if f.applied));
    }

    #[test]
    fn what_was_not_executed_is_tried_again_only_if_the_reason_passes() {
        let (batch, mut queued) = (batch(), vec![text("QUEUED"); 6]);
        assert_eq!(judge(&batch, &queued, &Value::Null), Outcome::Moved);
        let abort = |why: &str| error(&format!("EXECABORT Transaction discarded because of: {why}"));
        let busy = "BUSY Redis is busy running a script";
        assert_eq!(
            judge(&batch, &queued, &abort(busy)),
            Outcome::Later(abort(busy).as_error().unwrap().to_owned())
        );
        queued[1] = error("LOADING wait");
        let plain = error("EXECABORT Transaction discarded because of previous errors.");
        assert_eq!(
            judge(&batch, &queued, &plain),
            Outcome::Later("LOADING wait".to_owned())
        );
        queued[1] = error("ERR unknown command 'SET'");
        let failed = judge(&batch, &queued, &plain);
        assert!(
            matches!(&failed, Outcome::Failed(f) if !f.applied && f.command == "SET" && f.offset == Offset::new(10)),
            "{failed:?}"
        );
        let oom = abort("OOM command not allowed when used memory > 'maxmemory'.");
        let ok = vec![text("QUEUED"); 6];
        assert!(matches!(judge(&batch, &ok, &oom), Outcome::Failed(f) if !f.applied));
    }
}
