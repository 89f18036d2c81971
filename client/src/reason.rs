//! Why a node refused: the wire's reasons as a noun of this crate.

use redoubt_proto::v1;
use std::fmt;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Why a journal node refused a request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// A reason from the wire; numbers of a newer version are [`Reason::Unspecified`].
            pub(crate) fn from_wire(n: i32) -> Self {
                match v1::Reason::try_from(n) {
                    $(Ok(v1::Reason::$name) => Reason::$name,)*
                    Err(_) => Reason::Unspecified,
                }
            }
        }

        impl fmt::Display for Reason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Reason::$name => $text,)*
                })
            }
        }
    };
}

reasons! {
    /// None that this version knows.
    Unspecified = "unspecified",
    /// The node is not the leader.
    NotLeader = "not the leader",
    /// No quorum, an election, or the leader is catching up. Ask again.
    NotReady = "not ready",
    /// The disks of the nodes are full. Ask again.
    NoRoom = "no room",
    /// A higher epoch exists: final.
    Fenced = "fenced",
    /// Another holder's lease has not ended.
    LeaseHeld = "lease held",
    /// The lease was renewed while the request was on its way.
    LeaseRenewed = "lease renewed",
    /// Offset or chain is not the pending end.
    Mismatch = "mismatch",
    /// The payload is neither whole groups nor a fragment of one.
    Framing = "framing",
    /// The payload's CRC-32 is wrong.
    Checksum = "checksum",
    /// The replid is not the lineage's last, or a step does not begin at the tail.
    Lineage = "lineage",
    /// The request names another cluster.
    WrongCluster = "wrong cluster",
    /// There is no journal of that name.
    UnknownJournal = "unknown journal",
    /// A field is missing, malformed or too large.
    Invalid = "invalid",
    /// The offset lies beyond the quorum-confirmed tail.
    BeyondEnd = "beyond the end",
    /// The offset lies before the first editlog.
    BeforeBeginning = "before the beginning",
    /// The node's copy is damaged there.
    Damaged = "damaged",
    /// The node is in no cluster yet.
    NotBootstrapped = "not bootstrapped",
    /// No session record of the epoch was committed.
    NoSession = "no session",
    /// The node does not hold that base.
    NoBase = "no such base",
    /// The base can't be the journal's.
    BadBase = "bad base",
}
