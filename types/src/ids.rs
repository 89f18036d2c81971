//! Identities: of histories, processes, clusters, nodes and writers.

use std::fmt;
use std::str::FromStr;

/// An identity that could not be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {want}, not {got:?}")]
pub struct ParseIdError {
    what: &'static str,
    want: &'static str,
    got: String,
}

fn hex40(what: &'static str, s: &[u8]) -> Result<[u8; 40], ParseIdError> {
    let fail = || ParseIdError {
        what,
        want: "40 lower-case hexadecimal digits",
        got: String::from_utf8_lossy(&s[..s.len().min(80)]).into_owned(),
    };
    let id: [u8; 40] = s.try_into().map_err(|_| fail())?;
    if !id.iter().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(c)) {
        return Err(fail());
    }
    Ok(id)
}

fn hex_of(bytes: [u8; 20]) -> [u8; 40] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut id = [0; 40];
    for (i, b) in bytes.iter().enumerate() {
        id[2 * i] = DIGITS[(b >> 4) as usize];
        id[2 * i + 1] = DIGITS[(b & 15) as usize];
    }
    id
}

macro_rules! hex40_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 40]);

        impl $name {
            /// Parses the 40 lower-case hexadecimal digits that servers print.
            ///
            /// # Errors
            /// When `s` is anything else.
            pub fn parse(s: &[u8]) -> Result<Self, ParseIdError> {
                hex40($what, s).map($name)
            }

            /// Mints an id from 20 random bytes.
            pub fn from_random(bytes: [u8; 20]) -> Self {
                $name(hex_of(bytes))
            }

            /// The 40 digits.
            pub fn as_bytes(&self) -> &[u8; 40] {
                &self.0
            }

            /// The 40 digits as text.
            pub fn as_str(&self) -> &str {
                std::str::from_utf8(&self.0).unwrap_or_default()
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(s: &str) -> Result<Self, ParseIdError> {
                Self::parse(s.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.as_str())
            }
        }
    };
}

hex40_id! {
    /// The identity of one history, as Redis' replication names it (`master_replid`).
    ReplId, "a replid"
}
hex40_id! {
    /// The identity of one redis-server *process* (`run_id` of `INFO server`).
    RunId, "a run_id"
}

/// The identity of a journal cluster, minted at bootstrap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId([u8; 16]);

impl ClusterId {
    /// An id of 16 random bytes.
    pub const fn new(bytes: [u8; 16]) -> Self {
        ClusterId(bytes)
    }

    /// The 16 bytes, as they go to disk.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

impl FromStr for ClusterId {
    type Err = ParseIdError;
    fn from_str(s: &str) -> Result<Self, ParseIdError> {
        let fail = || ParseIdError {
            what: "a cluster id",
            want: "32 hexadecimal digits",
            got: s.chars().take(80).collect(),
        };
        if s.len() != 32 || !s.is_ascii() {
            return Err(fail());
        }
        let mut id = [0; 16];
        for (i, b) in id.iter_mut().enumerate() {
            *b = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| fail())?;
        }
        Ok(ClusterId(id))
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The id `n`; `None` for 0, which stands for nobody on disk and wire.
            pub const fn new(n: u64) -> Option<Self> {
                if n == 0 { None } else { Some($name(n)) }
            }

            /// The number, never 0.
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }
    };
}

number_id! {
    /// The Raft identity of a journal node: an *incarnation*, minted when its data directory is formatted,
    /// so that a node that lost its disk can't vote under what it had promised before (H6).
    NodeId
}
number_id! {
    /// The identity of a writer *process*, random at each start, so that a lease binds one process (H14).
    HolderId
}

/// The name of a journal. Only `default` exists now; the name is in every request all the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalName(String);

impl JournalName {
    /// Parses a name: 1 to 64 of `a-z`, `0-9`, `-`.
    ///
    /// # Errors
    /// When `s` is anything else.
    pub fn parse(s: &str) -> Result<Self, ParseIdError> {
        let ok = (1..=64).contains(&s.len())
            && s.bytes()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        if !ok {
            return Err(ParseIdError {
                what: "a journal name",
                want: "1 to 64 of a-z, 0-9 and -",
                got: s.chars().take(80).collect(),
            });
        }
        Ok(JournalName(s.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for JournalName {
    fn default() -> Self {
        JournalName("default".to_owned())
    }
}

impl fmt::Display for JournalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_what_they_parse() {
        let s = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(s.parse::<ReplId>().unwrap().to_string(), s);
        assert!("0123".parse::<ReplId>().is_err());
        assert!(s.to_uppercase().parse::<RunId>().is_err());
        assert_eq!(ReplId::from_random([0xa5; 20]).as_str(), "a5".repeat(20));
        let c = ClusterId::new([7; 16]);
        assert_eq!(c.to_string().parse::<ClusterId>().unwrap(), c);
        assert!("zz".repeat(16).parse::<ClusterId>().is_err());
    }

    #[test]
    fn names_are_plain() {
        assert!(JournalName::parse("default").is_ok());
        for bad in ["", "a/b", "Ä", &"x".repeat(65)] {
            assert!(JournalName::parse(bad).is_err(), "{bad}");
        }
    }
}
