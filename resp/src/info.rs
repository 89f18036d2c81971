//! INFO: what a server says about itself, and what of it is a fence.
//!
//! Decides when an answer may stand as a *fence*: only a whole, well-formed `INFO replication` of a master,
//! which names role, replid and offset at once (H9, H25). Knows nothing of connections, sessions or time;
//! whether the replid is the session's is the caller's question.

use crate::number::{signed, unsigned};
use crate::reply::Value;
use redoubt_types::{Offset, ReplId, RunId};

/// The text of an INFO answer, of any sections.
#[derive(Clone, Copy, Debug)]
pub struct Info<'a> {
    text: &'a [u8],
}

/// Takes the text of an INFO answer. Lines that are no `name:value` are passed over.
pub fn parse_info(text: &[u8]) -> Info<'_> {
    Info { text }
}

impl<'a> Info<'a> {
    /// All fields, in order.
    pub fn fields(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.text.split(|b| *b == b'\n').filter_map(|line| {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.first() == Some(&b'#') {
                return None;
            }
            let colon = line.iter().position(|b| *b == b':')?;
            Some((&line[..colon], &line[colon + 1..]))
        })
    }

    /// The value of the field `name`, as text. Goes over the text at each call.
    pub fn get(self, name: &str) -> Option<&'a str> {
        let (_, value) = self.fields().find(|(n, _)| *n == name.as_bytes())?;
        std::str::from_utf8(value).ok()
    }

    /// The value of the field `name`, if it is a plain unsigned number.
    pub fn number(self, name: &str) -> Option<u64> {
        unsigned(self.get(name)?.as_bytes())
    }
}

/// An INFO text that lacks a field or has a malformed one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("INFO's field {field} is missing or malformed")]
pub struct InfoError {
    /// The field's name.
    pub field: &'static str,
}

fn wrong(field: &'static str) -> InfoError {
    InfoError { field }
}

/// A server's role, as it says itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes from clients.
    Master,
    /// It takes writes from a master only.
    Replica,
}

/// The `replication` section of INFO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicationInfo {
    /// The role.
    pub role: Role,
    /// The replid (`master_replid`): a replica's is its master's.
    pub replid: ReplId,
    /// The second replid; `None` when the server has none (it prints 40 zeros then).
    pub replid2: Option<ReplId>,
    /// End of the stream that the server holds (`master_repl_offset`), for a replica too.
    pub offset: Offset,
    /// End (exclusive) of what is valid under the second replid. The server prints the first offset that is
    /// *not*: one promoted at N prints N + 1, and answers `PSYNC <replid2> N+1` with CONTINUE.
    pub second_offset: Option<Offset>,
    /// A replica's link to its master; false for a master.
    pub link_up: bool,
    /// How far a replica has applied its master's stream. Redis prints 1 before it ever had a master, so this
    /// means something only together with `link_up`. `None` for a master.
    pub slave_repl_offset: Option<Offset>,
    /// Size of the backlog, bytes.
    pub backlog_size: u64,
    /// Bytes that the backlog holds.
    pub backlog_histlen: u64,
    /// Number of the first byte in the backlog, counted from 1 as PSYNC counts; 0 when there is no backlog.
    pub backlog_first_byte_offset: u64,
    /// A replica's master.
    pub master_host: Option<String>,
    /// The port of a replica's master.
    pub master_port: Option<u16>,
    /// Whether a replica is being fully synced.
    pub sync_in_progress: bool,
    /// How many replicas are attached.
    pub connected_slaves: u64,
}

/// Parses the `replication` section in one pass.
///
/// # Errors
/// When a field that every server from 7.0 on prints is missing or malformed.
pub fn parse_replication(text: &[u8]) -> Result<ReplicationInfo, InfoError> {
    let mut role = None;
    let mut replid = None;
    let mut replid2 = None;
    let mut offset = None;
    let mut second_offset = None;
    let mut found = ReplicationInfo {
        role: Role::Master,
        replid: ReplId::from_random([0; 20]),
        replid2: None,
        offset: Offset::ZERO,
        second_offset: None,
        link_up: false,
        slave_repl_offset: None,
        backlog_size: 0,
        backlog_histlen: 0,
        backlog_first_byte_offset: 0,
        master_host: None,
        master_port: None,
        sync_in_progress: false,
        connected_slaves: 0,
    };
    for (name, value) in parse_info(text).fields() {
        let text = || std::str::from_utf8(value).ok().map(str::to_owned);
        let number = |field| unsigned(value).ok_or_else(|| wrong(field));
        match name {
            b"role" => role = Some(parse_role(value).ok_or_else(|| wrong("role"))?),
            b"master_replid" => replid = ReplId::parse(value).ok(),
            b"master_replid2" => replid2 = Some(ReplId::parse(value).map_err(|_| wrong("master_replid2"))?),
            b"master_repl_offset" => offset = unsigned(value).map(Offset::new),
            b"second_repl_offset" => {
                second_offset = Some(signed(value).ok_or_else(|| wrong("second_repl_offset"))?);
            }
            b"master_link_status" => found.link_up = value == b"up",
            b"slave_repl_offset" => found.slave_repl_offset = unsigned(value).map(Offset::new),
            b"repl_backlog_size" => found.backlog_size = number("repl_backlog_size")?,
            b"repl_backlog_histlen" => found.backlog_histlen = number("repl_backlog_histlen")?,
            b"repl_backlog_first_byte_offset" => {
                found.backlog_first_byte_offset = number("repl_backlog_first_byte_offset")?;
            }
            b"master_host" => found.master_host = text(),
            b"master_port" => found.master_port = unsigned(value).and_then(|n| u16::try_from(n).ok()),
            b"master_sync_in_progress" => found.sync_in_progress = value == b"1",
            b"connected_slaves" => found.connected_slaves = number("connected_slaves")?,
            _ => {}
        }
    }
    found.role = role.ok_or_else(|| wrong("role"))?;
    found.replid = replid.ok_or_else(|| wrong("master_replid"))?;
    found.replid2 = replid2.filter(|id| id.as_bytes() != &[b'0'; 40]);
    found.offset = offset.ok_or_else(|| wrong("master_repl_offset"))?;
    // N + 1 names the first byte that the second replid does not cover, so N is the end: the same step back
    // as from PSYNC's number to what its sender holds. -1 means none.
    found.second_offset = found.replid2.and(second_offset.and_then(Offset::from_psync));
    Ok(found)
}

fn parse_role(value: &[u8]) -> Option<Role> {
    match value {
        b"master" => Some(Role::Master),
        b"slave" => Some(Role::Replica),
        _ => None,
    }
}

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavor {
    /// Redis itself.
    Redis,
    /// Valkey.
    Valkey,
    /// Something else that speaks the protocol.
    Other,
}

/// What the `server`, `persistence` and `stats` sections of INFO say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// The identity of the process.
    pub run_id: RunId,
    /// The version, of the flavor's own counting.
    pub version: (u32, u32, u32),
    /// Whose server it is.
    pub flavor: Flavor,
    /// Whether it is loading its data set; false when the `persistence` section is missing.
    pub loading: bool,
    /// The port that it listens on.
    pub tcp_port: Option<u16>,
    /// Commands of its master that failed on it (H17); `None` when the `stats` section is missing.
    pub unexpected_error_replies: Option<u64>,
    /// Its process id.
    pub process_id: Option<u32>,
}

/// Parses the sections that tell what a server is (`INFO`, or `INFO server persistence stats`).
///
/// # Errors
/// When run id or version are missing or malformed.
pub fn parse_server(text: &[u8]) -> Result<ServerInfo, InfoError> {
    let info = parse_info(text);
    let run_id = info.get("run_id").and_then(|id| RunId::parse(id.as_bytes()).ok());
    let (flavor, version) = match (info.get("valkey_version"), info.get("redis_version")) {
        (Some(valkey), _) => (
            Flavor::Valkey,
            parse_version(valkey).ok_or_else(|| wrong("valkey_version"))?,
        ),
        (None, redis) => {
            let forked =
                info.get("redict_version").is_some() || info.get("server_name").is_some_and(|n| n != "redis");
            let flavor = if forked { Flavor::Other } else { Flavor::Redis };
            (
                flavor,
                redis
                    .and_then(parse_version)
                    .ok_or_else(|| wrong("redis_version"))?,
            )
        }
    };
    Ok(ServerInfo {
        run_id: run_id.ok_or_else(|| wrong("run_id"))?,
        version,
        flavor,
        loading: info.number("loading").is_some_and(|n| n != 0),
        tcp_port: info.number("tcp_port").and_then(|n| u16::try_from(n).ok()),
        unexpected_error_replies: info.number("unexpected_error_replies"),
        process_id: info.number("process_id").and_then(|n| u32::try_from(n).ok()),
    })
}

/// `7.0.15`, also with a suffix behind the third number (`8.0.0-rc1`).
fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let last = parts.next()?;
    let digits = last.find(|c: char| !c.is_ascii_digit()).unwrap_or(last.len());
    Some((major, minor, last[..digits].parse().ok()?))
}

/// What an answer to `INFO replication` says, as a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FenceAnswer {
    /// A master's: every reply *received* before it was asked has its effects at or before `offset`.
    Master {
        /// The history that the offset counts in; another one than the session's ends the session.
        replid: ReplId,
        /// The fence point.
        offset: Offset,
    },
    /// A script keeps the server busy, or it is loading: not yet, ask again.
    Busy,
    /// The server is no master.
    NotMaster,
    /// Nothing that can be understood: it proves nothing.
    Malformed,
}

/// Judges the answer to `INFO replication`. Only a well-formed answer of a master is a fence.
pub fn fence_of(answer: &Value) -> FenceAnswer {
    if let Some(error) = answer.as_error() {
        let busy = ["BUSY ", "LOADING "].iter().any(|code| error.starts_with(code));
        return if busy {
            FenceAnswer::Busy
        } else {
            FenceAnswer::Malformed
        };
    }
    let Value::Bulk(text) = answer else {
        return FenceAnswer::Malformed;
    };
    match parse_replication(text) {
        Ok(ReplicationInfo {
            role: Role::Master,
            replid,
            offset,
            ..
        }) => FenceAnswer::Master { replid, offset },
        Ok(ReplicationInfo {
            role: Role::Replica, ..
        }) => FenceAnswer::NotMaster,
        Err(_) => FenceAnswer::Malformed,
    }
}

#[cfg(test)]
mod tests;
