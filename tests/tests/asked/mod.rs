//! A cluster under load and clients of its journal's nodes, for tests that ask them wrongly.
#![allow(
    unreachable_pub,
    dead_code,
    clippy::expect_used,
    reason = "shared by several test binaries, each of which uses a part; what fails here fails a test"
)]

use redoubt_client::Description;
use redoubt_proto::v1;
use redoubt_proto::v1::Reason;
use redoubt_proto::v1::append_response::Outcome;
use redoubt_proto::v1::journal_client::JournalClient;
use redoubt_tests::{Abused, DevCluster, Options};
use redoubt_types::payload_crc;
use std::time::Duration;
use tonic::transport::Channel;

pub const SOON: Duration = Duration::from_secs(10);
pub const OTHER_ID: &str = "0123456789abcdef0123456789abcdef01234567";
pub const OTHER_CLUSTER: &str = "0123456789abcdef0123456789abcdef";
pub const SET: &[u8] = b"*3\r\n$3\r\nSET\r\n$5\r\nevil!\r\n$1\r\nv\r\n";

/// What a process may take beyond what it took under the same load alone: a few of the largest messages at once
/// (16 MB each), which are taken in before they are judged, and the log's own memory of what was proposed.
const GROWN_MAX: u64 = 160 << 20;

/// A cluster in its second epoch at least, and clients of two of its nodes.
pub struct Asked {
    pub abused: Abused,
    pub leader: JournalClient<Channel>,
    pub follower: JournalClient<Channel>,
}

async fn journal_at(address: &str) -> JournalClient<Channel> {
    let client = JournalClient::connect(format!("http://{address}")).await;
    client
        .unwrap_or_else(|e| panic!("{address}: {e}"))
        .max_encoding_message_size(usize::MAX)
}

impl Asked {
    pub async fn start() -> Asked {
        let cluster = DevCluster::start(Options::default()).await;
        let killed = cluster.kill("proxy-1");
        cluster.restarted("proxy-1", killed).await;
        let abused = Abused::of(cluster, GROWN_MAX).await;
        let leader = abused.cluster.leader().await;
        let journals = abused.cluster.of_kind("journal");
        let of = |leads: bool| {
            let found = journals.iter().find(|j| (j.name == leader) == leads);
            found.expect("a journal node").address.clone()
        };
        Asked {
            leader: journal_at(&of(true)).await,
            follower: journal_at(&of(false)).await,
            abused,
        }
    }

    pub async fn described(&self) -> Description {
        let journal = self.abused.cluster.journal();
        journal.describe(SOON).await.expect("the journal answers")
    }

    /// An append in which everything is right at this moment, but that nobody may make.
    pub async fn right(&self) -> v1::AppendRequest {
        let d = self.described().await;
        v1::AppendRequest {
            request_id: 7,
            cluster_id: d.cluster.to_string(),
            journal: "default".into(),
            entry: Some(v1::Entry {
                epoch: d.writer.epoch.expect("a writer").get(),
                replid: d.lineage.last().replid.to_string(),
                start: d.position.pending_end.get(),
                chain: d.position.pending_chain.get(),
                payload: SET.into(),
                payload_crc: payload_crc(SET),
                captured_wall_ms: 1,
            }),
        }
    }

    /// Nobody noticed, and what was refused is not there.
    pub async fn unhurt(self) {
        self.abused.unhurt(&["evil!"]).await;
    }
}

/// A refusal for this reason, in words.
pub fn assert_refused(what: &str, refused: Option<&v1::Refusal>, reason: Reason) {
    let refused = refused.unwrap_or_else(|| panic!("{what} was not refused"));
    let got = refused.reason();
    assert_eq!(got, reason, "{what}: {}", refused.message);
    assert!(!refused.message.is_empty(), "{what} is refused without a word");
    println!("{what}: {}", refused.message);
}

/// Sends appends on one stream; returns the answers.
pub async fn append(
    journal: &mut JournalClient<Channel>,
    requests: Vec<v1::AppendRequest>,
) -> Vec<v1::AppendResponse> {
    let count = requests.len();
    let stream = futures_util::stream::iter(requests);
    let mut answers = journal
        .append(stream)
        .await
        .expect("an append stream")
        .into_inner();
    let mut all = Vec::new();
    while all.len() < count {
        let answer = tokio::time::timeout(SOON, answers.message())
            .await
            .expect("an answer in time");
        all.push(answer.expect("an answer").expect("an answer to each append"));
    }
    all
}

pub fn refusal_of(answer: &v1::AppendResponse) -> Option<&v1::Refusal> {
    match answer.outcome.as_ref() {
        Some(Outcome::Refused(refused)) => Some(refused),
        _ => None,
    }
}

/// An append that is right but for what `spoil` does to it.
pub async fn spoiled(asked: &mut Asked, spoil: impl Fn(&mut v1::AppendRequest)) -> v1::AppendResponse {
    let mut request = asked.right().await;
    spoil(&mut request);
    let answers = append(&mut asked.leader, vec![request]).await;
    assert_eq!(answers[0].request_id, 7);
    answers.into_iter().next().expect("one answer")
}

pub fn entry(request: &mut v1::AppendRequest) -> &mut v1::Entry {
    request.entry.as_mut().expect("an entry")
}

pub fn pay(request: &mut v1::AppendRequest, payload: Vec<u8>) {
    entry(request).payload_crc = payload_crc(&payload);
    entry(request).payload = payload.into();
}
