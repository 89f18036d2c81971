//! When keys and fields end on the target: never by its own clock (H20).
//!
//! A plain server drops a key at its time by itself, and an effect that comes later finds nothing: `SET cnt 5 PXAT T`,
//! `INCR cnt`, `PERSIST cnt` give 6 on a master that did all three before T, and 1 on a server that is given the last two
//! after T. A millisecond of lag is enough, so this does not end when replay reaches the tail: while effects follow, a
//! target must not expire anything by itself.
//!
//! So every absolute time T of an effect is written as T + [`DEFER_MS`]. Why the target then holds, after each group, what a
//! replica holds after the same group, but for that shift:
//!
//! - Nothing ends by itself: T + `DEFER_MS` lies a thousand years ahead. Nor does anything on a stock replica, which waits for
//!   its master's word.
//! - What ends on the master ends here by that word: a master's stream says DEL or UNLINK for every key that expired (before
//!   anything touches the name again), and HDEL for every field. It stands in the stream where the master dropped it.
//! - Times are only ever compared with each other (GT, LT) or asked for being there (NX, XX, KEEPTTL, PERSIST), and carried along
//!   (RENAME, COPY, MOVE, SWAPDB): the same shift for all of them changes none of that.
//! - No effect tells a time relative to now: servers from 7.0 on make those absolute before they replicate them. One that does
//!   is refused, not guessed at.
//!
//! [`restored`] is the way back, once no effect follows any more. Pure.

use redoubt_env::planted;
use std::borrow::Cow;

/// What is added to every time, milliseconds: some 1,100 years, and whole seconds. Hash fields decide: Redis takes no time of
/// theirs past 2^46 ms (the year 4199), so that it must be less than half of that; and it must be more than any time that
/// anybody means, so that a shifted one is known for what it is.
pub(super) const DEFER_MS: i64 = 35_000_000_000_000;
/// The latest time that a hash field may have, milliseconds (tried on Redis 7.4 and 8.2).
const FIELD_MS_MAX: i64 = (1 << 46) - 1;

/// Why an effect's time can't be deferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpiryError {
    /// It depends on when it is applied.
    #[error("it tells a time relative to now, which no server from 7.0 on replicates")]
    Relative,
    /// Its arguments make no sense.
    #[error("its time can't be read")]
    Unreadable,
    /// The fields' times are inside of a serialized value.
    #[error(
        "it restores a hash whose fields expire: their times can't be deferred inside of a serialized value"
    )]
    InsideOfADump,
}

/// Whose time it is.
#[derive(Clone, Copy)]
enum Of {
    Key,
    Field,
}

/// Milliseconds of one unit of an absolute time; its option's name.
const ABSOLUTE: [(&str, i64); 2] = [("PXAT", 1), ("EXAT", 1000)];
const RELATIVE: [&str; 2] = ["PX", "EX"];
/// Options with a value of the caller's, which is not to be taken for an option.
const WITH_VALUE: [&str; 4] = ["IFEQ", "IFNE", "IFDEQ", "IFDNE"];
/// How the dumps of hashes begin of which fields expire: Redis 7.4 and later, and Valkey 9, whose only kind is the first.
const HASHES_WITH_TIMES: std::ops::RangeInclusive<u8> = 22..=25;

/// The command `args` with its times deferred; `None` when it has none.
///
/// # Errors
/// [`ExpiryError`]: the command can't be applied without the target's clock having a say.
pub(super) fn deferred<'a>(args: &[&'a [u8]]) -> Result<Option<Vec<Cow<'a, [u8]>>>, ExpiryError> {
    if planted::on("h20_expiries_are_not_deferred") {
        return Ok(None);
    }
    let name = args.first().copied().unwrap_or_default();
    // The longest name of them has 14 bytes.
    let mut upper = [0; 14];
    let Some(upper) = upper.get_mut(..name.len()) else {
        return Ok(None);
    };
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    match &*upper {
        b"PEXPIREAT" => replaced(args, 2, 1, Of::Key).map(Some),
        b"EXPIREAT" => replaced(args, 2, 1000, Of::Key).map(Some),
        b"HPEXPIREAT" => replaced(args, 2, 1, Of::Field).map(Some),
        b"HEXPIREAT" => replaced(args, 2, 1000, Of::Field).map(Some),
        b"SET" => option(args, 3, Of::Key),
        b"GETEX" => option(args, 2, Of::Key),
        b"MSETEX" => option(args, behind_pairs(args)?, Of::Key),
        b"HSETEX" | b"HGETEX" => option(args, 2, Of::Field),
        b"RESTORE" | b"RESTORE-ASKING" => restore(args),
        b"EXPIRE" | b"PEXPIRE" | b"SETEX" | b"PSETEX" | b"HEXPIRE" | b"HPEXPIRE" => {
            Err(ExpiryError::Relative)
        }
        _ => Ok(None),
    }
}

/// The true time of one that the target has, if it was deferred.
pub(super) fn restored(ms: i64) -> Option<i64> {
    ms.checked_sub(DEFER_MS).filter(|ms| *ms >= 0)
}

fn replaced<'a>(args: &[&'a [u8]], at: usize, unit: i64, of: Of) -> Result<Vec<Cow<'a, [u8]>>, ExpiryError> {
    let time = args.get(at).and_then(|text| std::str::from_utf8(text).ok());
    let time: i64 = time.and_then(|t| t.parse().ok()).ok_or(ExpiryError::Unreadable)?;
    let max = match of {
        Of::Key => i64::MAX,
        Of::Field => FIELD_MS_MAX,
    };
    // Later than that is never, before and after.
    let later = time.saturating_add(DEFER_MS / unit).min(max / unit);
    let mut changed: Vec<Cow<'a, [u8]>> = args.iter().map(|a| Cow::Borrowed(*a)).collect();
    changed[at] = Cow::Owned(later.to_string().into_bytes());
    Ok(changed)
}

/// Looks for an option with a time among `args` from `at` on, up to FIELDS.
fn option<'a>(args: &[&'a [u8]], mut at: usize, of: Of) -> Result<Option<Vec<Cow<'a, [u8]>>>, ExpiryError> {
    while let Some(arg) = args.get(at) {
        let is = |name: &str| arg.eq_ignore_ascii_case(name.as_bytes());
        if let Some((_, unit)) = ABSOLUTE.iter().find(|(name, _)| is(name)) {
            return replaced(args, at + 1, *unit, of).map(Some);
        }
        if RELATIVE.iter().any(|name| is(name)) {
            return Err(ExpiryError::Relative);
        }
        if is("FIELDS") {
            break;
        }
        at += if WITH_VALUE.iter().any(|name| is(name)) {
            2
        } else {
            1
        };
    }
    Ok(None)
}

/// Where the options of `MSETEX numkeys key value …` begin.
fn behind_pairs(args: &[&[u8]]) -> Result<usize, ExpiryError> {
    let keys = args
        .get(1)
        .and_then(|n| std::str::from_utf8(n).ok()?.parse::<u32>().ok());
    keys.map(|n| 2 + 2 * n as usize).ok_or(ExpiryError::Unreadable)
}

/// `RESTORE key ttl dump [options]`: a ttl of 0 is none.
fn restore<'a>(args: &[&'a [u8]]) -> Result<Option<Vec<Cow<'a, [u8]>>>, ExpiryError> {
    let dump = args.get(3).ok_or(ExpiryError::Unreadable)?;
    if dump.first().is_some_and(|kind| HASHES_WITH_TIMES.contains(kind)) {
        return Err(ExpiryError::InsideOfADump);
    }
    if args[2] == b"0" {
        return Ok(None);
    }
    if args[4..].iter().any(|a| a.eq_ignore_ascii_case(b"ABSTTL")) {
        return replaced(args, 2, 1, Of::Key).map(Some);
    }
    Err(ExpiryError::Relative)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(command: &str) -> Result<Option<String>, ExpiryError> {
        let args: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let joined = |args: Vec<Cow<'_, [u8]>>| {
            let words: Vec<_> = args.iter().map(|a| String::from_utf8_lossy(a)).collect();
            words.join(" ")
        };
        deferred(&args).map(|changed| changed.map(joined))
    }

    #[test]
    fn h20_every_absolute_time_is_deferred_and_nothing_else_is_changed() {
        for (effect, deferred) in [
            ("SET k v PXAT 1", "SET k v PXAT 35000000000001"),
            (
                "set k PXAT xx get pxat 1",
                "set k PXAT xx get pxat 35000000000001",
            ),
            ("SET k v IFEQ EX EXAT 1", "SET k v IFEQ EX EXAT 35000000001"),
            ("PEXPIREAT k 7 GT", "PEXPIREAT k 35000000000007 GT"),
            ("EXPIREAT k 7", "EXPIREAT k 35000000007"),
            ("GETEX k PXAT 7", "GETEX k PXAT 35000000000007"),
            (
                "HPEXPIREAT h 7 NX FIELDS 1 f",
                "HPEXPIREAT h 35000000000007 NX FIELDS 1 f",
            ),
            (
                "HSETEX h FNX PXAT 7 FIELDS 1 EX 9",
                "HSETEX h FNX PXAT 35000000000007 FIELDS 1 EX 9",
            ),
            (
                "MSETEX 1 EX EX PXAT 7 NX",
                "MSETEX 1 EX EX PXAT 35000000000007 NX",
            ),
            ("RESTORE k 7 x ABSTTL", "RESTORE k 35000000000007 x ABSTTL"),
            (
                "PEXPIREAT k 9223372036854775807",
                "PEXPIREAT k 9223372036854775807",
            ),
            (
                "HPEXPIREAT h 70368744177663 FIELDS 1 f",
                "HPEXPIREAT h 70368744177663 FIELDS 1 f",
            ),
        ] {
            assert_eq!(of(effect), Ok(Some(deferred.to_owned())), "{effect}");
        }
        for effect in [
            "SET k v KEEPTTL",
            "SET EX PX",
            "PERSIST k",
            "HSETEX h KEEPTTL FIELDS 1 PXAT 9",
            "RESTORE k 0 x REPLACE",
            "HSET h PX 7",
            "NOTHING.TO-SEE-HERE k",
        ] {
            assert_eq!(of(effect), Ok(None), "{effect}");
        }
    }

    #[test]
    fn h23_a_time_relative_to_now_is_refused() {
        for effect in [
            "SET k v EX 7",
            "SETEX k 7 v",
            "EXPIRE k 7",
            "RESTORE k 7 x",
            "HSETEX h PX 7 FIELDS 1 f v",
            "MSETEX 1 k v EX 7",
            "hpexpire h 7 FIELDS 1 f",
        ] {
            assert_eq!(of(effect), Err(ExpiryError::Relative), "{effect}");
        }
        for effect in [
            "PEXPIREAT k",
            "PEXPIREAT k soon",
            "SET k v PXAT",
            "MSETEX x",
            "RESTORE k 7",
        ] {
            assert_eq!(of(effect), Err(ExpiryError::Unreadable), "{effect}");
        }
        assert_eq!(of("RESTORE h 0 \u{18}x"), Err(ExpiryError::InsideOfADump));
    }

    proptest! {
        #[test]
        fn what_was_deferred_is_restored_once(time in 0..DEFER_MS, field in any::<bool>()) {
            let command = if field { format!("HPEXPIREAT k {time}") } else { format!("PEXPIREAT k {time}") };
            let changed = of(&command).unwrap().unwrap();
            let there: i64 = changed.rsplit(' ').next().unwrap().parse().unwrap();
            prop_assert_eq!(restored(there), Some(time));
            prop_assert_eq!(restored(time), None);
        }

        #[test]
        fn order_is_kept(a in 0..i64::MAX, b in 0..i64::MAX) {
            let there = |t: i64| {
                let text = of(&format!("PEXPIREAT k {t}")).unwrap().unwrap();
                text.rsplit(' ').next().unwrap().parse::<i64>().unwrap()
            };
            if a <= b { prop_assert!(there(a) <= there(b)) } else { prop_assert!(there(a) >= there(b)) }
        }
    }
}
