use super::*;
use bytes::Bytes;
use proptest::prelude::*;

const MASTER: &str = "# Replication\r\nrole:master\r\nconnected_slaves:1\r\nslave0:ip=127.0.0.1,port=7,state=online,offset=14,lag=0\r\nmaster_failover_state:no-failover\r\nmaster_replid:15551f073a12af3bb168b4c59565cbf85370be75\r\nmaster_replid2:0000000000000000000000000000000000000000\r\nmaster_repl_offset:134\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:1\r\nrepl_backlog_size:1048576\r\nrepl_backlog_first_byte_offset:1\r\nrepl_backlog_histlen:134\r\n";

const REPLICA: &str = "# Replication\r\nrole:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:7001\r\nmaster_link_status:up\r\nmaster_last_io_seconds_ago:1\r\nmaster_sync_in_progress:0\r\nslave_read_repl_offset:303\r\nslave_repl_offset:303\r\nslave_priority:100\r\nslave_read_only:1\r\nreplica_announced:1\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\nmaster_replid:15551f073a12af3bb168b4c59565cbf85370be75\r\nmaster_replid2:25551f073a12af3bb168b4c59565cbf85370be75\r\nmaster_repl_offset:303\r\nsecond_repl_offset:135\r\nrepl_backlog_active:1\r\nrepl_backlog_size:268435456\r\nrepl_backlog_first_byte_offset:100\r\nrepl_backlog_histlen:204\r\n";

const SERVER: &str = "# Server\r\nredis_version:7.0.15\r\nredis_git_sha1:00000000\r\nredis_mode:standalone\r\nprocess_id:11692\r\nrun_id:8728d30caf9162f8fccdeaa07164fb116419a29c\r\ntcp_port:30933\r\n\r\n# Persistence\r\nloading:1\r\n\r\n# Stats\r\nunexpected_error_replies:2\r\n";

fn bulk(text: &str) -> Value {
    Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn a_master_says_role_replid_and_offset_at_once() {
    let info = parse_replication(MASTER.as_bytes()).unwrap();
    assert_eq!(info.role, Role::Master);
    assert_eq!(info.replid.as_str(), "15551f073a12af3bb168b4c59565cbf85370be75");
    assert_eq!((info.replid2, info.second_offset), (None, None));
    assert_eq!(info.offset, Offset::new(134));
    assert_eq!(
        (
            info.backlog_size,
            info.backlog_histlen,
            info.backlog_first_byte_offset
        ),
        (1_048_576, 134, 1)
    );
    assert_eq!((info.connected_slaves, info.link_up), (1, false));
    assert_eq!(info.slave_repl_offset, None);
}

#[test]
fn a_second_replid_ends_one_before_what_is_printed() {
    // Promoted at 134, the server prints 135 and answers `PSYNC <replid2> 135` with CONTINUE.
    let info = parse_replication(REPLICA.as_bytes()).unwrap();
    assert_eq!(
        info.replid2.unwrap().as_str(),
        "25551f073a12af3bb168b4c59565cbf85370be75"
    );
    assert_eq!(info.second_offset, Some(Offset::new(134)));
    assert_eq!(info.second_offset.unwrap().psync(), 135);
}

#[test]
fn a_replica_says_how_its_link_is() {
    let info = parse_replication(REPLICA.as_bytes()).unwrap();
    assert_eq!(info.role, Role::Replica);
    assert!(info.link_up && !info.sync_in_progress);
    assert_eq!(info.slave_repl_offset, Some(Offset::new(303)));
    assert_eq!(
        (info.master_host.as_deref(), info.master_port),
        (Some("127.0.0.1"), Some(7001))
    );
}

#[test]
fn h09_only_role_replid_and_offset_together_are_a_fence() {
    let want = FenceAnswer::Master {
        replid: ReplId::parse(b"15551f073a12af3bb168b4c59565cbf85370be75").unwrap(),
        offset: Offset::new(134),
    };
    assert_eq!(fence_of(&bulk(MASTER)), want);
    for gone in [
        "role:master\r\n",
        "master_replid:15551f073a12af3bb168b4c59565cbf85370be75\r\n",
        "master_repl_offset:134\r\n",
    ] {
        assert!(MASTER.contains(gone));
        assert_eq!(
            fence_of(&bulk(&MASTER.replace(gone, ""))),
            FenceAnswer::Malformed,
            "without {gone:?}"
        );
    }
    for (from, to) in [
        ("offset:134", "offset:-134"),
        ("offset:134", "offset:134x"),
        ("master_replid:1555", "master_replid:155"),
        ("role:master", "role:sentinel"),
    ] {
        assert_eq!(
            fence_of(&bulk(&MASTER.replace(from, to))),
            FenceAnswer::Malformed,
            "{to:?}"
        );
    }
    // ROLE carries no replid, so it is no fence.
    let role = Value::Array(vec![bulk("master"), Value::Int(303), Value::Array(Vec::new())]);
    assert_eq!(fence_of(&role), FenceAnswer::Malformed);
    assert_eq!(fence_of(&bulk(REPLICA)), FenceAnswer::NotMaster);
}

#[test]
fn h25_a_busy_server_gives_no_fence_yet() {
    let error = |text: &'static str| fence_of(&Value::Error(Bytes::from_static(text.as_bytes())));
    assert_eq!(
        error("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE."),
        FenceAnswer::Busy
    );
    assert_eq!(
        error("LOADING Redis is loading the dataset in memory"),
        FenceAnswer::Busy
    );
    assert_eq!(error("NOAUTH Authentication required."), FenceAnswer::Malformed);
    assert_eq!(error("BUSYGROUP x"), FenceAnswer::Malformed);
    for other in [
        Value::Null,
        Value::Int(1),
        Value::Simple(Bytes::from_static(b"OK")),
        bulk(""),
    ] {
        assert_eq!(fence_of(&other), FenceAnswer::Malformed);
    }
}

#[test]
fn a_server_says_what_it_is() {
    let info = parse_server(SERVER.as_bytes()).unwrap();
    assert_eq!(info.run_id.as_str(), "8728d30caf9162f8fccdeaa07164fb116419a29c");
    assert_eq!((info.version, info.flavor), ((7, 0, 15), Flavor::Redis));
    assert!(info.loading);
    assert_eq!((info.tcp_port, info.process_id), (Some(30933), Some(11692)));
    assert_eq!(info.unexpected_error_replies, Some(2));
    let valkey = SERVER.replace(
        "redis_version:7.0.15\r\n",
        "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n",
    );
    let info = parse_server(valkey.as_bytes()).unwrap();
    assert_eq!((info.version, info.flavor), ((9, 1, 2), Flavor::Valkey));
    let other = SERVER.replace("redis_mode", "redict_version:7.3.6\r\nredis_mode");
    assert_eq!(parse_server(other.as_bytes()).unwrap().flavor, Flavor::Other);
    assert_eq!(
        parse_server(b"# Server\r\n"),
        Err(InfoError {
            field: "redis_version"
        })
    );
    assert_eq!(parse_version("8.0.0-rc1"), Some((8, 0, 0)));
    assert_eq!(parse_version("8.0"), None);
}

#[test]
fn a_field_is_found_by_its_whole_name() {
    let info = parse_info(SERVER.as_bytes());
    assert_eq!(info.get("tcp_port"), Some("30933"));
    assert_eq!(info.number("tcp_port"), Some(30933));
    assert_eq!(info.get("tcp"), None);
    assert_eq!(info.get("# Stats"), None);
    assert_eq!(info.number("redis_mode"), None);
}

proptest! {
    #[test]
    fn garbage_never_panics(text in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_replication(&text);
        let _ = parse_server(&text);
        let _ = fence_of(&Value::Bulk(text.into()));
    }

    #[test]
    fn damaged_info_never_panics(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = REPLICA.as_bytes().to_vec();
        let at = at.index(text.len());
        text[at] = byte;
        let _ = parse_replication(&text);
    }
}
