//! The replicas, as people are told of them. Pure.
//!
//! Decides nothing about what is sent: what a replica claims to have is shown, never relied on. Promises
//! bounded memory, however many connections come and go under however many addresses. One address is shown
//! once, as its newest link has it; full syncs are counted per address across its links.

use redoubt_client::ReplicaReport;
use redoubt_types::{Offset, ReplId};
use std::collections::BTreeMap;

use crate::config::REPLICA_ADDRESSES_MAX;

/// `host:port` of a replica: what it announced, the rest from where it connected.
pub(crate) fn address(peer: &str, ip: Option<&str>, port: Option<u16>) -> String {
    let (peer_ip, peer_port) = peer.rsplit_once(':').unwrap_or((peer, "0"));
    // Shown to people and sent to the journal: a name, not whatever a stranger wrote.
    let plain = |ip: &&str| (1..=255).contains(&ip.len()) && ip.bytes().all(|b| b.is_ascii_graphic());
    let ip = ip.filter(plain).unwrap_or(peer_ip);
    let port = port.map_or(peer_port.to_owned(), |p| p.to_string());
    if ip.contains(':') && !ip.starts_with('[') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

/// Where a link stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// It asked, and the answer waits for a quorum-confirmed tail.
    Waiting,
    /// It was sent a base and has not acknowledged anything yet.
    Sync,
    /// It follows.
    Online,
}

impl LinkState {
    fn name(self) -> &'static str {
        match self {
            LinkState::Waiting => "waiting",
            LinkState::Sync => "sync",
            LinkState::Online => "online",
        }
    }
}

/// One link as it was last seen.
#[derive(Clone, Debug)]
struct Link {
    /// Which connection it is: a newer one of the same address replaces it.
    id: u64,
    state: LinkState,
    acked: Offset,
    sent: Offset,
    /// `None` until the PSYNC is answered.
    replid: Option<ReplId>,
}

/// All replicas of this replay.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    links: BTreeMap<String, Link>,
    /// The replid that the last PSYNC was answered with.
    newest: Option<ReplId>,
    full_syncs: BTreeMap<String, u64>,
    trouble: Option<String>,
}

impl Registry {
    /// A replica at `address` asked for the stream over connection `id`.
    pub(crate) fn waiting(&mut self, address: &str, id: u64) {
        let link = Link {
            id,
            state: LinkState::Waiting,
            acked: Offset::ZERO,
            sent: Offset::ZERO,
            replid: None,
        };
        self.links.insert(address.to_owned(), link);
    }

    /// Connection `id` was answered: it is fed under `replid` from `from` on, with a full sync or without.
    /// Returns how many full syncs the address has had.
    pub(crate) fn answered(
        &mut self,
        address: &str,
        id: u64,
        replid: ReplId,
        from: Offset,
        full: bool,
    ) -> u64 {
        if let Some(link) = self.link(address, id) {
            link.replid = Some(replid);
            link.sent = from;
            // A replica that continues holds everything before `from`: it said so by asking.
            link.acked = from;
            link.state = if full { LinkState::Sync } else { LinkState::Online };
        }
        self.newest = Some(replid);
        if full {
            self.count_full_sync(address);
        }
        self.full_syncs(address)
    }

    /// Connection `id` was sent everything before `sent`.
    pub(crate) fn sent(&mut self, address: &str, id: u64, sent: Offset) {
        if let Some(link) = self.link(address, id) {
            link.sent = sent;
        }
    }

    /// The replica said that it has everything before `acked`.
    pub(crate) fn acked(&mut self, address: &str, id: u64, acked: Offset) {
        if let Some(link) = self.link(address, id) {
            link.acked = acked;
            if link.state == LinkState::Sync {
                link.state = LinkState::Online;
            }
        }
    }

    /// Connection `id` is gone.
    pub(crate) fn gone(&mut self, address: &str, id: u64) {
        if self.link(address, id).is_some() {
            self.links.remove(address);
        }
    }

    /// What is told to the journal. A link that waits for its answer has no replid yet and is shown under the
    /// one that others were answered with last; before there was any, it has nothing that could be told.
    pub(crate) fn reports(&self) -> Vec<ReplicaReport> {
        let report = |(address, link): (&String, &Link)| {
            Some(ReplicaReport {
                address: address.clone(),
                acked: link.acked,
                sent: link.sent,
                replid: link.replid.or(self.newest)?,
                state: link.state.name().to_owned(),
                full_syncs: self.full_syncs(address),
            })
        };
        self.links.iter().filter_map(report).collect()
    }

    /// The journal could not be passed on to a link.
    pub(crate) fn troubled(&mut self, why: String) {
        self.trouble = Some(why);
    }

    /// Why the journal could not be passed on when that last happened.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Full syncs of `address` so far.
    pub(crate) fn full_syncs(&self, address: &str) -> u64 {
        self.full_syncs.get(address).copied().unwrap_or(0)
    }

    /// Where the replid and the end of what was sent stand on the only link that follows, if there is one.
    pub(crate) fn only_link(&self) -> Option<(ReplId, Offset)> {
        let mut links = self.links.values().filter(|l| l.state != LinkState::Waiting);
        let link = links.next()?;
        links.next().is_none().then_some((link.replid?, link.sent))
    }

    fn link(&mut self, address: &str, id: u64) -> Option<&mut Link> {
        self.links.get_mut(address).filter(|l| l.id == id)
    }

    fn count_full_sync(&mut self, address: &str) {
        if let Some(n) = self.full_syncs.get_mut(address) {
            *n += 1;
            return;
        }
        if self.full_syncs.len() >= REPLICA_ADDRESSES_MAX {
            // Forget an address without a link: a stranger that announces a new one each time must not be
            // able to fill the memory.
            let idle = self
                .full_syncs
                .keys()
                .find(|a| !self.links.contains_key(*a))
                .cloned();
            match idle {
                Some(address) => drop(self.full_syncs.remove(&address)),
                None => return,
            }
        }
        self.full_syncs.insert(address.to_owned(), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replid() -> ReplId {
        ReplId::from_random([7; 20])
    }

    #[test]
    fn an_address_is_shown_once_as_its_newest_link_has_it() {
        let mut r = Registry::default();
        r.waiting("h:1", 1);
        assert!(r.reports().is_empty(), "nothing is known of it yet");
        assert_eq!(r.answered("h:1", 1, replid(), Offset::ZERO, true), 1);
        assert_eq!(r.reports()[0].state, "sync");
        r.sent("h:1", 1, Offset::new(9));
        r.acked("h:1", 1, Offset::new(7));
        // The replica comes back before its old connection is known to be gone.
        r.waiting("h:1", 2);
        assert_eq!(r.answered("h:1", 2, replid(), Offset::new(9), false), 1);
        r.gone("h:1", 1);
        r.acked("h:1", 1, Offset::new(8));
        let reports = r.reports();
        assert_eq!(reports.len(), 1);
        assert_eq!(
            (reports[0].acked, reports[0].sent),
            (Offset::new(9), Offset::new(9))
        );
        assert_eq!((reports[0].state.as_str(), reports[0].full_syncs), ("online", 1));
        r.gone("h:1", 2);
        assert!(r.reports().is_empty());
    }

    #[test]
    fn an_address_is_what_was_announced_and_the_rest_is_seen() {
        assert_eq!(address("10.0.0.7:40001", None, Some(6380)), "10.0.0.7:6380");
        assert_eq!(
            address("10.0.0.7:40001", Some("redis-2"), Some(6380)),
            "redis-2:6380"
        );
        assert_eq!(address("[::1]:40001", None, None), "[::1]:40001");
        assert_eq!(address("10.0.0.7:40001", Some("fe80::2"), Some(1)), "[fe80::2]:1");
        assert_eq!(address("10.0.0.7:40001", Some("a\nb"), Some(1)), "10.0.0.7:1");
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let mut r = Registry::default();
        for i in 0..3 * REPLICA_ADDRESSES_MAX {
            let address = format!("h:{i}");
            r.waiting(&address, i as u64);
            r.answered(&address, i as u64, replid(), Offset::ZERO, true);
            r.gone(&address, i as u64);
        }
        assert_eq!(r.full_syncs.len(), REPLICA_ADDRESSES_MAX);
        assert!(r.links.is_empty());
    }
}
