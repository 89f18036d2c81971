//! Whether every component is healthy, and why not.
//!
//! Decides from what the components say; asks them all at the same time, so that one that hangs delays no other.

use super::layout::{Kind, Part, endpoints};
use crate::redis;
use redoubt_client::{Client, ClientConfig, Description};
use redoubt_env::Env;
use redoubt_resp::info::{ReplicationInfo, Role, parse_replication, parse_server};
use redoubt_types::{JournalName, Offset, RunId};
use std::time::Duration;

/// How long a component may take to answer one question.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// How long the journal may take to say where its confirmed tail is.
const DESCRIBE_WAIT: Duration = Duration::from_secs(2);

/// What was seen of one component: what it does, or why it is not healthy.
pub(crate) type Health = Result<String, String>;

/// Asks the components of a cluster how they are.
#[derive(Clone)]
pub(crate) struct Doctor {
    env: Env,
    parts: Vec<Part>,
    client: Client,
}

/// What a redis-server says about itself.
struct Server {
    run_id: RunId,
    replication: ReplicationInfo,
}

impl Doctor {
    /// Asks `parts`.
    pub(crate) fn new(env: &Env, parts: &[Part]) -> Self {
        let config = ClientConfig {
            endpoints: endpoints(parts),
            journal: JournalName::default(),
            cluster: None,
        };
        Doctor {
            env: env.clone(),
            parts: parts.to_vec(),
            client: Client::new(env.clone(), config),
        }
    }

    /// The client of the cluster's journal.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The name of a component.
    pub(crate) fn name(&self, part: usize) -> &str {
        &self.parts[part].name
    }

    /// The health of every component, in order.
    pub(crate) async fn examine(&self) -> Vec<Health> {
        let journal = self
            .client
            .describe(DESCRIBE_WAIT)
            .await
            .map_err(|e| e.to_string());
        futures_util::future::join_all(self.parts.iter().map(|part| self.examine_one(part, &journal))).await
    }

    async fn examine_one(&self, part: &Part, journal: &Result<Description, String>) -> Health {
        match part.kind {
            Kind::Journal => {
                let address = part.address();
                let asked = self
                    .env
                    .timeout(ANSWER_WAIT, self.client.describe_node(&address, true))
                    .await;
                let description = asked.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
                judge_journal(&description, &address)
            }
            Kind::Master => judge_master(&self.server(part).await?, journal.as_ref().map_err(Clone::clone)?),
            Kind::Replica => judge_replica(&self.server(part).await?, self.port_of(Kind::Replay)),
            Kind::Proxy => {
                let pong = redis::ask(&self.env, &part.address(), &["PING"], ANSWER_WAIT).await?;
                match pong.as_str() {
                    Some("PONG") => Ok("answers PING".to_owned()),
                    _ => Err(format!("answers {pong:?} to PING")),
                }
            }
            Kind::Replay => {
                let connected = self
                    .env
                    .timeout(ANSWER_WAIT, self.env.net().connect(&part.address()))
                    .await;
                let connected = connected.map_err(|e| e.to_string())?;
                connected.map_err(|e| format!("can't connect to {}: {e}", part.address()))?;
                Ok("listens".to_owned())
            }
        }
    }

    fn port_of(&self, kind: Kind) -> Option<u16> {
        self.parts.iter().find(|p| p.kind == kind).map(|p| p.port)
    }

    async fn server(&self, part: &Part) -> Result<Server, String> {
        let info = redis::ask(&self.env, &part.address(), &["INFO"], ANSWER_WAIT).await?;
        let text = info
            .as_bytes()
            .ok_or("answers INFO with something else than text")?;
        let replication = parse_replication(text).map_err(|e| e.to_string())?;
        let server = parse_server(text).map_err(|e| e.to_string())?;
        if server.loading {
            return Err("is loading its data".to_owned());
        }
        Ok(Server {
            run_id: server.run_id,
            replication,
        })
    }

    /// Waits until every replica that answers holds all that the journal does.
    pub(crate) async fn replicas_have_all(&self) {
        loop {
            if let Ok(description) = self.client.describe(DESCRIBE_WAIT).await
                && self.all_reached(description.position.tail).await
            {
                return;
            }
            self.env.sleep(Duration::from_millis(50)).await;
        }
    }

    async fn all_reached(&self, tail: Offset) -> bool {
        for part in self.parts.iter().filter(|p| p.kind == Kind::Replica) {
            // One that does not answer is not fed either: it was stopped, or died.
            let Ok(server) = self.server(part).await else {
                continue;
            };
            if server.replication.slave_repl_offset.is_none_or(|o| o < tail) {
                return false;
            }
        }
        true
    }

    /// Waits until the replay can be connected to, or `wait` is over.
    pub(crate) async fn replay_listens(&self, wait: Duration) {
        let Some(replay) = self.parts.iter().find(|p| p.kind == Kind::Replay) else {
            return;
        };
        let until = self.env.now().plus(wait);
        while self.env.now() < until && self.env.net().connect(&replay.address()).await.is_err() {
            self.env.sleep(Duration::from_millis(10)).await;
        }
    }
}

fn judge_journal(description: &Description, address: &str) -> Health {
    if !description.confirmed {
        return Err("no quorum confirms its tail".to_owned());
    }
    let role = if description.leader.as_deref() == Some(address) {
        "leader"
    } else {
        "follower"
    };
    Ok(format!("{role}, tail {} confirmed", description.position.tail))
}

/// A master is *the* master when the journal's current epoch has a session that names its very process, and its
/// replid is the lineage's last: a process that was promoted by an earlier epoch, or by somebody else, is not.
fn judge_master(server: &Server, journal: &Description) -> Health {
    if server.replication.role != Role::Master {
        let link = if server.replication.link_up {
            "is being fed"
        } else {
            "has no link to its replay"
        };
        return Err(format!("is not promoted yet ({link})"));
    }
    let writer = &journal.writer;
    let Some(epoch) = writer.epoch else {
        return Err("the journal has no writer yet".to_owned());
    };
    let Some(session) = writer.session.as_ref().filter(|s| s.epoch == epoch) else {
        return Err(format!("epoch {epoch} has no session yet"));
    };
    if session.run_id != server.run_id {
        return Err(format!("the session of epoch {epoch} names another process"));
    }
    if journal.lineage.last().replid != server.replication.replid {
        return Err(format!(
            "its replid {} is not the lineage's last",
            server.replication.replid
        ));
    }
    Ok(format!(
        "master of epoch {epoch}, at {}",
        server.replication.offset
    ))
}

fn judge_replica(server: &Server, replay_port: Option<u16>) -> Health {
    let replication = &server.replication;
    if replication.role != Role::Replica {
        return Err("is a master".to_owned());
    }
    if replication.master_port != replay_port {
        let port = replication
            .master_port
            .map_or_else(|| "no port".to_owned(), |p| format!("port {p}"));
        return Err(format!("follows {port} instead of its replay"));
    }
    if !replication.link_up {
        return Err("its link is down".to_owned());
    }
    Ok(format!("link up, at {}", replication.offset))
}
