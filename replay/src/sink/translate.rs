//! What a group of the stream means for the target.
//!
//! Decides which commands are sent for a group, and in which database each; keeps the position's key out of harm: where the
//! stream would carry it away or name it. Pure.
//!
//! The position lives in database 0 under a name of its own, and the end of each transaction writes it there. So FLUSHALL and
//! FLUSHDB need no care. SWAPDB of database 0 carries a copy into another database, where it would be a key that the master
//! does not have: it is removed right behind the SWAPDB, in the same transaction. A command that *names* it would be of a key
//! of the user's: replay stops before it, since one of the two must be called something else.

use super::expiry::{ExpiryError, deferred};
use super::filter::Filter;
use super::groups::Group;
use bytes::{Bytes, BytesMut};
use redoubt_resp::stream::{Command, commands, encode_command};
use redoubt_types::{Db, Offset};

/// The database of the position's key.
pub(super) const POSITION_DB: Db = Db::new(0);
/// Bytes of a command's name that are told to people at most.
const NAME_BYTES_MAX: usize = 32;

/// One command for the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    /// Its name, for people.
    pub(super) name: String,
    /// The database in which it is to be executed.
    pub(super) db: Db,
    /// All of it.
    pub(super) bytes: Bytes,
}

/// Why a group can't be applied to the target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// It names the position's key.
    #[error(
        "{command} before {at} names {key:?}, which is the position's key: rename that on the target, and say \
         --position-key NEWNAME"
    )]
    NamesThePosition {
        /// The command's name.
        command: String,
        /// The group's end.
        at: Offset,
        /// The name.
        key: String,
    },
    /// It moves keys between databases of which one is left out.
    #[error("{command} before {at} moves keys between databases of which one is left out by --only-db")]
    AcrossTheFilter {
        /// The command's name.
        command: String,
        /// The group's end.
        at: Offset,
    },
    /// Its times can't be deferred.
    #[error("{command} before {at} can't be applied: {why}")]
    Expiry {
        /// The command's name.
        command: String,
        /// The group's end.
        at: Offset,
        /// Why.
        why: String,
    },
    /// Its arguments make no sense.
    #[error("{command} before {at} can't be read")]
    Unreadable {
        /// The command's name.
        command: String,
        /// The group's end.
        at: Offset,
    },
}

/// See the module's head.
#[derive(Clone, Debug)]
pub(super) struct Translator {
    pub(super) position_key: String,
    pub(super) filter: Filter,
}

/// A command's name as people see it: never a key or a value, and cut.
fn shown(name: &[u8]) -> String {
    let cut = &name[..name.len().min(NAME_BYTES_MAX)];
    cut.escape_ascii().to_string().to_ascii_uppercase()
}

impl Translator {
    /// The commands that bring the target from before `group` to behind it, in order.
    ///
    /// # Errors
    /// [`TranslateError`]: nothing of the group may be applied, and nothing behind it.
    pub(super) fn group(&self, group: &Group) -> Result<Vec<Effect>, TranslateError> {
        let mut effects = Vec::new();
        let mut db = group.db;
        for command in commands(&group.bytes) {
            let at = group.end.offset;
            // The splitter has seen whole, well-formed commands: an error here is a bug, and an error all the same.
            let command = command.map_err(|_| TranslateError::Unreadable {
                command: "a command".to_owned(),
                at,
            })?;
            if command.is("SELECT") {
                db = db_of(&command, 1, at)?;
                continue;
            }
            if ["MULTI", "EXEC", "PING", "REPLCONF"]
                .iter()
                .any(|name| command.is(name))
            {
                continue;
            }
            if self.filter.skips(command.name()) {
                continue;
            }
            self.command(&command, db, at, &mut effects)?;
        }
        Ok(effects)
    }

    fn command(
        &self,
        command: &Command<'_>,
        db: Db,
        at: Offset,
        out: &mut Vec<Effect>,
    ) -> Result<(), TranslateError> {
        let across = || TranslateError::AcrossTheFilter {
            command: shown(command.name()),
            at,
        };
        if command.is("SWAPDB") {
            let (one, other) = (db_of(command, 1, at)?, db_of(command, 2, at)?);
            match (self.filter.has(one), self.filter.has(other)) {
                (true, true) => self.swap(command, db, one, other, out),
                (false, false) => {}
                _ => return Err(across()),
            }
            return Ok(());
        }
        if command.is("FLUSHALL") && !self.filter.dbs.is_empty() {
            let mut args = command.args.clone();
            args[0] = b"FLUSHDB";
            let flushes = self.filter.dbs.iter().map(|db| effect(&args, *db));
            out.extend(flushes);
            return Ok(());
        }
        // Libraries belong to no database.
        let of_no_db = command.is("FUNCTION") || command.is("FLUSHALL");
        if let Some(to) = other_db(command, at)?
            && self.filter.has(to) != self.filter.has(db)
        {
            return Err(across());
        }
        if !of_no_db && !self.filter.has(db) {
            return Ok(());
        }
        if command.args[1..].contains(&self.position_key.as_bytes()) {
            return Err(TranslateError::NamesThePosition {
                command: shown(command.name()),
                at,
                key: self.position_key.clone(),
            });
        }
        let changed = deferred(&command.args).map_err(|e: ExpiryError| TranslateError::Expiry {
            command: shown(command.name()),
            at,
            why: e.to_string(),
        })?;
        out.push(match changed {
            Some(args) => effect(&args.iter().map(AsRef::as_ref).collect::<Vec<_>>(), db),
            None => Effect {
                name: shown(command.name()),
                db,
                bytes: Bytes::copy_from_slice(command.raw),
            },
        });
        Ok(())
    }

    fn swap(&self, command: &Command<'_>, db: Db, one: Db, other: Db, out: &mut Vec<Effect>) {
        out.push(effect(&command.args, db));
        let carried_to = match (one, other) {
            (POSITION_DB, POSITION_DB) => None,
            (POSITION_DB, other) => Some(other),
            (one, POSITION_DB) => Some(one),
            _ => None,
        };
        if let Some(to) = carried_to {
            out.push(effect(&[b"DEL", self.position_key.as_bytes()], to));
        }
    }
}

fn effect(args: &[&[u8]], db: Db) -> Effect {
    let mut out = BytesMut::new();
    encode_command(args, &mut out);
    Effect {
        name: shown(args.first().copied().unwrap_or_default()),
        db,
        bytes: out.freeze(),
    }
}

fn db_of(command: &Command<'_>, index: usize, at: Offset) -> Result<Db, TranslateError> {
    let text = command.args.get(index).and_then(|a| std::str::from_utf8(a).ok());
    text.and_then(|t| t.parse().ok().map(Db::new))
        .ok_or_else(|| TranslateError::Unreadable {
            command: shown(command.name()),
            at,
        })
}

/// The database that `MOVE key db` or `COPY source destination … DB db …` writes to beside the selected one.
fn other_db(command: &Command<'_>, at: Offset) -> Result<Option<Db>, TranslateError> {
    if command.is("MOVE") {
        return db_of(command, 2, at).map(Some);
    }
    if command.is("COPY") {
        let option = command
            .args
            .iter()
            .skip(3)
            .position(|a| a.eq_ignore_ascii_case(b"DB"));
        return option.map(|n| db_of(command, n + 4, at)).transpose();
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::groups::Groups;
    use super::super::position::Place;
    use super::*;
    use redoubt_types::{Chain, WallTime};

    const KEY: &str = "redoubt:position";

    /// What the stream `commands` means, as `db command`.
    fn of(filter: Filter, stream: &[&str]) -> Result<Vec<String>, TranslateError> {
        let mut bytes = BytesMut::new();
        for command in stream {
            let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
            encode_command(&args, &mut bytes);
        }
        let bytes = bytes.freeze();
        let mut groups = Groups::new(Place::beginning());
        groups
            .push(
                Offset::ZERO,
                &bytes,
                Chain::EMPTY.extend(&bytes),
                WallTime::default(),
            )
            .unwrap();
        let translator = Translator {
            position_key: KEY.to_owned(),
            filter,
        };
        let mut all = Vec::new();
        while let Some(group) = groups.next() {
            for effect in translator.group(group)? {
                let command = commands(&effect.bytes).next().unwrap().unwrap();
                let words: Vec<_> = command
                    .args
                    .iter()
                    .map(|a| String::from_utf8_lossy(a).into_owned())
                    .collect();
                all.push(format!("{} {}", effect.db, words.join(" ")));
            }
            groups.pop();
        }
        Ok(all)
    }

    fn only(dbs: &[u32]) -> Filter {
        Filter {
            dbs: dbs.iter().copied().map(Db::new).collect(),
            ..Filter::default()
        }
    }

    #[test]
    fn the_streams_own_selects_are_followed_and_what_is_no_effect_is_left_out() {
        let stream = [
            "PING",
            "SELECT 2",
            "SET k v",
            "REPLCONF GETACK *",
            "PUBLISH c m",
            "SPUBLISH c m",
        ];
        assert_eq!(of(Filter::default(), &stream).unwrap(), ["2 SET k v"]);
        let stream = [
            "SET a 1", "MULTI", "INCR a", "SELECT 3", "INCR b", "EXEC", "INCR c",
        ];
        let all = ["0 SET a 1", "0 INCR a", "3 INCR b", "3 INCR c"];
        assert_eq!(of(Filter::default(), &stream).unwrap(), all);
        let publish = Filter {
            publish: true,
            ..Filter::default()
        };
        assert_eq!(of(publish, &["PUBLISH c m"]).unwrap(), ["0 PUBLISH c m"]);
    }

    #[test]
    fn a_copy_of_the_position_that_swapdb_carries_away_is_removed() {
        let all = of(
            Filter::default(),
            &["SWAPDB 0 3", "SWAPDB 4 0", "SWAPDB 1 2", "SWAPDB 0 0"],
        )
        .unwrap();
        let expected = [
            "0 SWAPDB 0 3",
            "3 DEL redoubt:position",
            "0 SWAPDB 4 0",
            "4 DEL redoubt:position",
            "0 SWAPDB 1 2",
            "0 SWAPDB 0 0",
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_users_key_of_the_positions_name_is_never_touched() {
        for command in [
            "SET redoubt:position 1",
            "RENAME a redoubt:position",
            "DEL a redoubt:position",
            "MOVE redoubt:position 1",
        ] {
            let refused = of(Filter::default(), &["SET a 1", command]);
            assert!(
                matches!(refused, Err(TranslateError::NamesThePosition { .. })),
                "{command}: {refused:?}"
            );
        }
    }

    #[test]
    fn databases_that_are_left_out_stay_out() {
        let stream = [
            "SET a 1",
            "SELECT 1",
            "SET b 1",
            "COPY b c",
            "SELECT 0",
            "FLUSHALL ASYNC",
            "FUNCTION FLUSH",
            "SWAPDB 0 2",
        ];
        let all = of(only(&[1, 3]), &stream).unwrap();
        let expected = [
            "1 SET b 1",
            "1 COPY b c",
            "1 FLUSHDB ASYNC",
            "3 FLUSHDB ASYNC",
            "0 FUNCTION FLUSH",
        ];
        assert_eq!(all, expected);
        for command in ["MOVE a 1", "COPY a b DB 3", "SWAPDB 0 1", "copy a b replace db 1"] {
            let refused = of(only(&[1, 3]), &[command]);
            assert!(
                matches!(refused, Err(TranslateError::AcrossTheFilter { .. })),
                "{command}: {refused:?}"
            );
        }
        assert_eq!(
            of(only(&[1, 3]), &["SELECT 1", "MOVE a 3"]).unwrap(),
            ["1 MOVE a 3"]
        );
    }

    #[test]
    fn commands_that_are_left_out_stay_out() {
        let filter = Filter {
            commands: [b"flushall".to_vec()].into(),
            ..Filter::default()
        };
        assert_eq!(of(filter, &["FlushAll", "DEL a"]).unwrap(), ["0 DEL a"]);
    }
}
