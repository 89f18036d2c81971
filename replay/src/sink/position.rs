//! How far a target is, as the target itself keeps it.
//!
//! Decides how a position reads as the value of one key, and whether a target that holds it (or none) may be followed. The
//! value is written in the same transaction as the effects that lead there, so it is true of the data beside it whatever is
//! killed, restored from an older copy or failed over. Pure.

use redoubt_types::{Chain, ClusterId, Db, JournalName, Offset};
use std::fmt;

/// What the value begins with: the format and its version.
const HEAD: &str = "redoubt-position-1";

/// What may be done to the target next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It is followed: times to live are deferred.
    Following,
    /// Times to live are being made true.
    LettingGo,
    /// It stands alone: times to live are true.
    LetGo,
    /// An effect failed on it: it is not equal to the journal.
    Broken,
}

const STAGES: [(Stage, &str); 4] = [
    (Stage::Following, "following"),
    (Stage::LettingGo, "letting-go"),
    (Stage::LetGo, "let-go"),
    (Stage::Broken, "broken"),
];

/// A place in one journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Everything before it was applied.
    pub(crate) offset: Offset,
    /// The chain before it.
    pub(crate) chain: Chain,
    /// The database that the stream has selected there.
    pub(crate) db: Db,
}

impl Place {
    /// Where every journal begins.
    pub(crate) fn beginning() -> Self {
        Place {
            offset: Offset::ZERO,
            chain: Chain::EMPTY,
            db: Db::default(),
        }
    }
}

/// The value of the position's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// Of which cluster the journal is.
    pub(crate) cluster: ClusterId,
    /// The journal's name.
    pub(crate) journal: JournalName,
    /// Where in it.
    pub(crate) place: Place,
    /// What may be done next.
    pub(crate) stage: Stage,
    /// What is left out, in words without spaces.
    pub(crate) filter: String,
    /// The process that wrote it, at random.
    pub(crate) writer: u64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = STAGES.iter().find(|(stage, _)| *stage == self.stage);
        let stage = stage.map_or("", |(_, name)| name);
        let Place { offset, chain, db } = &self.place;
        let Position {
            cluster,
            journal,
            filter,
            writer,
            ..
        } = self;
        write!(
            f,
            "{HEAD} cluster={cluster} journal={journal} offset={offset} chain={chain} db={db} stage={stage} \
             filter={filter} writer={writer:016x}"
        )
    }
}

impl Position {
    /// Reads what [`Position`] prints; `None` for anything else.
    pub(crate) fn parse(value: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(value).ok()?.split(' ');
        if words.next() != Some(HEAD) {
            return None;
        }
        let mut field = |name: &str| words.next()?.strip_prefix(name)?.strip_prefix('=');
        let cluster = field("cluster")?.parse().ok()?;
        let journal = JournalName::parse(field("journal")?).ok()?;
        let place = Place {
            offset: Offset::new(field("offset")?.parse().ok()?),
            chain: Chain::from_u64(u64::from_str_radix(field("chain")?, 16).ok()?),
            db: Db::new(field("db")?.parse().ok()?),
        };
        let stage = field("stage")?;
        let stage = STAGES.into_iter().find(|(_, name)| *name == stage)?.0;
        let found = Position {
            cluster,
            journal,
            place,
            stage,
            filter: field("filter")?.to_owned(),
            writer: u64::from_str_radix(field("writer")?, 16).ok()?,
        };
        // One text for one position: what reads otherwise is somebody else's.
        (found.to_string().as_bytes() == value).then_some(found)
    }
}

/// Why a target may not be followed into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfollowable {
    /// It holds keys and no position.
    #[error(
        "it holds {0} keys and no position: nobody knows what of the journal they hold. Use an empty server (FLUSHALL), or \
         name the key that holds the position (--position-key)"
    )]
    HasKeys(u64),
    /// It holds functions and no position.
    #[error("it holds {0} function libraries and no position: use an empty server (FUNCTION FLUSH)")]
    HasFunctions(usize),
    /// The key of the position is somebody's.
    #[error("its key {0:?} is no position: name another one (--position-key)")]
    NotAPosition(String),
    /// It was fed from elsewhere.
    #[error("it holds a position in {0}, and this is {1}")]
    OtherJournal(String, String),
    /// It was fed with something else left out.
    #[error("it was fed with the filter {0}, and this is {1}: what was left out can't be had any more")]
    OtherFilter(String, String),
    /// It was let go.
    #[error(
        "it was let go at {0}: its times to live are its own now, and it can't be followed into any more"
    )]
    LetGo(Offset),
    /// It is being let go.
    #[error("letting it go has begun, at {0}: run --let-go again")]
    LettingGo(Offset),
    /// An effect failed on it.
    #[error("an effect failed on it before {0}, so it is not equal to the journal: empty it, and begin anew")]
    Broken(Offset),
    /// Another program moved the position.
    #[error("another program moves its position (now at {0}): only one may follow into a server")]
    Taken(Offset),
    /// It is a replica.
    #[error("it is a replica: name its master")]
    IsReplica,
    /// It is a cluster.
    #[error("it is part of a Redis cluster, where a transaction can't hold all keys")]
    IsCluster,
    /// There is nothing to let go.
    #[error("it holds no position: nothing was followed into it")]
    NoPosition,
}

/// Where to go on with a target that holds `stored`, when `own` (whose place does not matter) would be written to it.
///
/// # Errors
/// [`Unfollowable`].
pub(crate) fn resume(stored: &Position, own: &Position) -> Result<Place, Unfollowable> {
    let journal = |p: &Position| format!("journal {} of cluster {}", p.journal, p.cluster);
    if journal(stored) != journal(own) {
        return Err(Unfollowable::OtherJournal(journal(stored), journal(own)));
    }
    let at = stored.place.offset;
    match stored.stage {
        Stage::Following => {}
        Stage::LettingGo => return Err(Unfollowable::LettingGo(at)),
        Stage::LetGo => return Err(Unfollowable::LetGo(at)),
        Stage::Broken => return Err(Unfollowable::Broken(at)),
    }
    if stored.filter != own.filter {
        return Err(Unfollowable::OtherFilter(
            stored.filter.clone(),
            own.filter.clone(),
        ));
    }
    Ok(stored.place.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(offset: u64) -> Position {
        Position {
            cluster: ClusterId::new([7; 16]),
            journal: JournalName::default(),
            place: Place {
                offset: Offset::new(offset),
                chain: Chain::from_u64(0xabc),
                db: Db::new(3),
            },
            stage: Stage::Following,
            filter: "none".to_owned(),
            writer: 9,
        }
    }

    #[test]
    fn only_ones_own_position_is_gone_on_from() {
        let (own, stored) = (position(0), position(90));
        assert_eq!(resume(&stored, &own), Ok(stored.place.clone()));
        let other = |change: fn(&mut Position)| {
            let mut stored = position(90);
            change(&mut stored);
            resume(&stored, &own)
        };
        assert!(matches!(
            other(|p| p.cluster = ClusterId::new([8; 16])),
            Err(Unfollowable::OtherJournal(..))
        ));
        assert!(matches!(
            other(|p| p.filter = "db:1".to_owned()),
            Err(Unfollowable::OtherFilter(..))
        ));
        let at = Offset::new(90);
        assert_eq!(other(|p| p.stage = Stage::LetGo), Err(Unfollowable::LetGo(at)));
        assert_eq!(
            other(|p| p.stage = Stage::LettingGo),
            Err(Unfollowable::LettingGo(at))
        );
        assert_eq!(other(|p| p.stage = Stage::Broken), Err(Unfollowable::Broken(at)));
    }

    #[test]
    fn what_is_no_position_is_not_read_as_one() {
        let text = position(5).to_string();
        for wrong in [
            "",
            "5",
            &text[1..],
            &format!("{text} "),
            &text.replace("offset=5", "offset=05"),
        ] {
            assert_eq!(Position::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_position_reads_as_it_was_written(
            offset in any::<u64>(), chain in any::<u64>(), db in any::<u32>(), writer in any::<u64>(), stage in 0..STAGES.len(),
        ) {
            let mut p = position(offset);
            p.place.chain = Chain::from_u64(chain);
            p.place.db = Db::new(db);
            p.writer = writer;
            p.stage = STAGES[stage].0.clone();
            prop_assert_eq!(Position::parse(p.to_string().as_bytes()), Some(p));
        }
    }
}
