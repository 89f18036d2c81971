//! What may be rebuilt, and when it is done: pure.
//!
//! Decides from a server's own words. Promises that a server that holds anything is left alone, that nothing
//! counts as fed but a live link at exactly the goal under the replid that it was answered with (H16), and
//! that a promotion is believed only when the promoted server names that goal as the end of its old replid.

use redoubt_env::planted;
use redoubt_resp::info::{ReplicationInfo, Role, ServerInfo};
use redoubt_types::{Offset, ReplId};

/// Why a server is not rebuilt into.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It is too old: its effects would mean something else when replayed (H23).
    #[error("it is version {}.{}.{}, and 7.0 is the oldest supported", .0.0, .0.1, .0.2)]
    TooOld((u32, u32, u32)),
    /// It is loading its data set.
    #[error("it is still loading its data set: try again later")]
    Loading,
    /// It has keys.
    #[error("it holds {0} keys, which a rebuild would delete: use an empty server, or FLUSHALL it first")]
    HasKeys(u64),
    /// It has function libraries.
    #[error(
        "it holds {0} function libraries, which a rebuild would delete: use an empty server, or FUNCTION FLUSH it first"
    )]
    HasFunctions(usize),
    /// It is a replica.
    #[error("it is a replica of {0}: send it REPLICAOF NO ONE first, if nothing else feeds it")]
    IsReplica(String),
    /// It feeds replicas, so it is part of something: a live master that happens to be empty, for instance.
    #[error("{0} replicas are attached to it, so it is in use")]
    HasReplicas(u64),
}

/// Whether the server may be rebuilt into.
///
/// # Errors
/// [`Unfit`], the first reason that was found.
pub(super) fn fit(
    server: &ServerInfo,
    replication: &ReplicationInfo,
    keys: u64,
    functions: usize,
) -> Result<(), Unfit> {
    if server.version < (7, 0, 0) {
        return Err(Unfit::TooOld(server.version));
    }
    if server.loading {
        return Err(Unfit::Loading);
    }
    if keys > 0 {
        return Err(Unfit::HasKeys(keys));
    }
    if functions > 0 {
        return Err(Unfit::HasFunctions(functions));
    }
    if replication.role == Role::Replica {
        let host = replication.master_host.as_deref().unwrap_or("?");
        let port = replication.master_port.unwrap_or(0);
        return Err(Unfit::IsReplica(format!("{host}:{port}")));
    }
    if replication.connected_slaves > 0 {
        return Err(Unfit::HasReplicas(replication.connected_slaves));
    }
    Ok(())
}

/// Whether a server that is being fed holds everything before `goal` and nothing else, under `replid`, the one
/// that its link was answered with.
///
/// A full sync that failed leaves `master_repl_offset` at the goal, no keys, and the link down: the offset
/// alone proves nothing.
pub(super) fn arrived(replication: &ReplicationInfo, replid: ReplId, goal: Offset) -> bool {
    if planted::on("h16_offset_alone") {
        return replication.offset == goal;
    }
    replication.role == Role::Replica
        && replication.link_up
        && !replication.sync_in_progress
        && replication.slave_repl_offset == Some(goal)
        && replication.offset == goal
        && replication.replid == replid
}

/// Whether a server that was let go is a master whose old replid ends at exactly `goal`.
pub(super) fn let_go(replication: &ReplicationInfo, replid: ReplId, goal: Offset) -> bool {
    replication.role == Role::Master
        && replication.replid2 == Some(replid)
        && replication.second_offset == Some(goal)
}

#[cfg(test)]
mod tests {
    use super::*;
    use redoubt_resp::info::{parse_replication, parse_server};

    const X: &str = "0123456789abcdef0123456789abcdef01234567";
    const NONE: &str = "0000000000000000000000000000000000000000";

    fn replica(link: &str, at: u64) -> ReplicationInfo {
        let text = format!(
            "role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:1\r\nmaster_link_status:{link}\r\n\
             slave_repl_offset:{at}\r\nmaster_replid:{X}\r\nmaster_replid2:{NONE}\r\n\
             master_repl_offset:{at}\r\nsecond_repl_offset:-1\r\nconnected_slaves:0\r\n"
        );
        parse_replication(text.as_bytes()).unwrap()
    }

    fn master(replicas: u64) -> ReplicationInfo {
        let text = format!(
            "role:master\r\nmaster_replid:{NONE}\r\nmaster_replid2:{X}\r\nmaster_repl_offset:90\r\n\
             second_repl_offset:91\r\nconnected_slaves:{replicas}\r\n"
        );
        parse_replication(text.as_bytes()).unwrap()
    }

    fn server(version: &str) -> ServerInfo {
        parse_server(format!("redis_version:{version}\r\nrun_id:{X}\r\n").as_bytes()).unwrap()
    }

    #[test]
    fn h22_only_an_empty_unattached_server_is_rebuilt_into() {
        let new = server("7.0.15");
        assert_eq!(fit(&new, &master(0), 0, 0), Ok(()));
        assert_eq!(
            fit(&server("6.2.14"), &master(0), 0, 0),
            Err(Unfit::TooOld((6, 2, 14)))
        );
        assert_eq!(fit(&new, &master(0), 1, 0), Err(Unfit::HasKeys(1)));
        assert_eq!(fit(&new, &master(0), 0, 2), Err(Unfit::HasFunctions(2)));
        assert_eq!(
            fit(&new, &replica("up", 5), 0, 0),
            Err(Unfit::IsReplica("127.0.0.1:1".to_owned()))
        );
        assert_eq!(fit(&new, &master(1), 0, 0), Err(Unfit::HasReplicas(1)));
    }

    #[test]
    fn h16_an_offset_without_a_link_is_not_taken_for_the_data() {
        let (x, goal) = (ReplId::parse(X.as_bytes()).unwrap(), Offset::new(90));
        assert!(arrived(&replica("up", 90), x, goal));
        assert!(!arrived(&replica("down", 90), x, goal));
        assert!(!arrived(&replica("up", 89), x, goal));
        assert!(!arrived(&replica("up", 91), x, goal));
        assert!(!arrived(
            &replica("up", 90),
            ReplId::parse(NONE.as_bytes()).unwrap(),
            goal
        ));
        assert!(!arrived(&master(0), x, goal));
    }

    #[test]
    fn a_promotion_is_believed_only_at_the_goal() {
        let x = ReplId::parse(X.as_bytes()).unwrap();
        assert!(let_go(&master(0), x, Offset::new(90)));
        assert!(!let_go(&master(0), x, Offset::new(89)));
        assert!(!let_go(&replica("up", 90), x, Offset::new(90)));
    }
}
