//! The payloads of the two-slot files: the vote, and who this node is.

use super::model::{ClusterMembershipSeed, Identity, SeedMember, Vote};
use redoubt_types::{ClusterId, NodeId, ReplId};

/// Magic of the vote file.
pub(crate) const VOTE_MAGIC: [u8; 8] = *b"RDBTVOTE";
/// Magic of the identity file.
pub(crate) const IDENTITY_MAGIC: [u8; 8] = *b"RDBTIDEN";

const VOTE_BYTES: usize = 18;

/// The payload for a vote; `None` is what a directory is formatted with.
pub(crate) fn encode_vote(vote: Option<Vote>) -> Vec<u8> {
    let mut b = Vec::with_capacity(VOTE_BYTES);
    let v = vote.unwrap_or(Vote {
        term: 0,
        node: 0,
        committed: false,
    });
    b.push(vote.is_some().into());
    b.push(v.committed.into());
    b.extend_from_slice(&v.term.to_le_bytes());
    b.extend_from_slice(&v.node.to_le_bytes());
    b
}

/// Reads [`encode_vote`]'s bytes; the outer `None` means that they aren't.
pub(crate) fn decode_vote(b: &[u8]) -> Option<Option<Vote>> {
    let mut r = Reader(b);
    let present = r.bool()?;
    let committed = r.bool()?;
    let vote = Vote {
        committed,
        term: r.u64()?,
        node: r.u64()?,
    };
    r.finish(present.then_some(vote))
}

/// The payload for an identity.
pub(crate) fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut b = Vec::new();
    b.extend_from_slice(&identity.node.get().to_le_bytes());
    put_text(&mut b, &identity.name);
    b.push(identity.cluster.is_some().into());
    if let Some(seed) = &identity.cluster {
        b.extend_from_slice(seed.cluster.as_bytes());
        b.extend_from_slice(seed.replid.as_bytes());
        b.extend_from_slice(&(seed.members.len() as u16).to_le_bytes());
        for m in &seed.members {
            b.extend_from_slice(&m.node.get().to_le_bytes());
            put_text(&mut b, &m.name);
            put_text(&mut b, &m.address);
        }
    }
    b
}

/// Reads [`encode_identity`]'s bytes.
pub(crate) fn decode_identity(b: &[u8]) -> Option<Identity> {
    let mut r = Reader(b);
    let node = NodeId::new(r.u64()?)?;
    let name = r.text()?;
    let cluster = if r.bool()? { Some(r.seed()?) } else { None };
    r.finish(Identity { node, name, cluster })
}

fn put_text(b: &mut Vec<u8>, s: &str) {
    // Longer texts than 64 KiB don't fit a slot either, which the caller has checked.
    b.extend_from_slice(&(s.len() as u16).to_le_bytes());
    b.extend_from_slice(s.as_bytes());
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn bool(&mut self) -> Option<bool> {
        match self.take()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn text(&mut self) -> Option<String> {
        let len = usize::from(u16::from_le_bytes(self.take()?));
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        String::from_utf8(head.to_vec()).ok()
    }

    fn seed(&mut self) -> Option<ClusterMembershipSeed> {
        let cluster = ClusterId::new(self.take()?);
        let replid = ReplId::parse(&self.take::<40>()?).ok()?;
        let count = u16::from_le_bytes(self.take()?);
        let mut members = Vec::new();
        for _ in 0..count {
            let node = NodeId::new(self.u64()?)?;
            members.push(SeedMember {
                node,
                name: self.text()?,
                address: self.text()?,
            });
        }
        Some(ClusterMembershipSeed {
            cluster,
            replid,
            members,
        })
    }

    fn finish<T>(self, value: T) -> Option<T> {
        self.0.is_empty().then_some(value)
    }
}
