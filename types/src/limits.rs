//! Every limit of the system, with its unit and its reason. A limit that a user may set has its default here.

use std::time::Duration;

/// Payload of one entry at most, bytes. Coalescing beyond 64 KB lost 26 % in the lab; a larger group
/// travels as fragments.
pub const ENTRY_PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// What a node accepts as one entry's payload, bytes: larger than what our own clients send, so that the two
/// can change one after the other.
pub const ENTRY_PAYLOAD_BYTES_ACCEPTED: usize = 1024 * 1024;
/// Entries that an append stream keeps unanswered at most. About eight of 64 KB saturated the lab's disks;
/// small entries want a few more. Must stay below [`RETRY_BOUNDARIES`].
pub const APPEND_WINDOW_ENTRIES: usize = 32;
/// Unanswered bytes of an append stream at most.
pub const APPEND_WINDOW_BYTES: usize = 4 * 1024 * 1024;
/// Boundaries of admitted entries of the current epoch that admission remembers, to recognise a retry.
pub const RETRY_BOUNDARIES: usize = 1024;
/// Bytes captured and not committed at which the proxy stops reading from clients. Well below the default
/// backlog set by the proxy (256 MB) and the replica output limit (256 MB), so that capture never has to
/// be cut.
pub const UNCOMMITTED_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// `repl-backlog-size` that the proxy sets while its server is still a replica, bytes (H13).
pub const BACKLOG_BYTES: u64 = 256 * 1024 * 1024;
/// Overlap that is compared when capture begins, bytes at most (H16).
pub const OVERLAP_BYTES_MAX: u64 = 1024 * 1024;

/// Depth of nested RESP aggregates at most in what is decoded, not only passed on: 7 is the deepest that a stock server
/// sends by itself.
pub const RESP_DEPTH_MAX: usize = 32;
/// Depth of nested aggregates at most in an answer that is passed on. Deeper than any script's: those end at Lua's stack limit,
/// at 7,995 on Redis 7.0. A level costs 16 bytes while it is open.
pub const REPLY_DEPTH_MAX: usize = 10_000;
/// Arguments of one command at most, as servers have it. Nothing is kept of each.
pub const RESP_ELEMENTS_MAX: u64 = i32::MAX as u64;
/// Length of one argument of a command at most, bytes. A server's own limit is less by default (`proto-max-bulk-len`, 512 MB),
/// may be set to more, and is the server's to tell: what it takes must be readable in its stream.
pub const BULK_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Length of one inline command or header line at most, bytes, as in Redis (`PROTO_INLINE_MAX_SIZE`).
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of a client's unfinished command that are held before its head is passed on and the rest streams.
pub const REQUEST_HOLD_BYTES_MAX: usize = 64 * 1024;
/// Arguments of a client's command that are inspected at most: enough for `CLIENT KILL` and `DEBUG` forms.
pub const REQUEST_HEAD_ARGS_MAX: usize = 8;
/// Bytes of one argument that are inspected at most. Nothing that is refused is named by a longer word.
pub const REQUEST_HEAD_ARG_BYTES_MAX: usize = 1024;
/// Elements of one aggregate in a server's answer at most. Answers pass through unheld, so this bounds
/// nothing but nonsense: a set of ten million members is a lawful answer.
pub const REPLY_ELEMENTS_MAX: u64 = i32::MAX as u64;
/// Length of one bulk string in a server's answer at most, bytes: above [`BULK_BYTES_MAX`], since a DUMP is
/// longer than the values in it.
pub const REPLY_BULK_BYTES_MAX: u64 = 4 * BULK_BYTES_MAX;
/// Bytes of one request in a replica's handshake at most.
pub const HANDSHAKE_REQUEST_BYTES_MAX: usize = 16 * 1024;

/// Largest gRPC message that is decoded, bytes: an entry or a Raft batch with room for its envelope.
pub const GRPC_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of entries in one Raft AppendEntries at most.
pub const RAFT_BATCH_BYTES_MAX: usize = 1024 * 1024;

/// How long a writer's lease lasts by default. Twice a typical pause (fork, page cache stall), so that a
/// healthy proxy never loses it; it is also what a takeover waits for at most.
pub const LEASE: Duration = Duration::from_millis(3000);
/// Subtracted from the lease by its holder: covers clock rate difference between two machines.
pub const LEASE_MARGIN: Duration = Duration::from_millis(300);
/// How often the holder renews, so that two renewals in a row may be lost.
pub const LEASE_RENEW_EVERY: Duration = Duration::from_millis(750);
/// How long a reply may be held before its connection is closed instead. Longer than an election
/// ([`ELECTION_TIMEOUT_MAX`] twice) and a lease together.
pub const RELEASE_DEADLINE: Duration = Duration::from_secs(15);

/// Raft: interval of heartbeats. Heartbeat answers wait behind a follower's pending flush, so it must be
/// well above an fsync.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(300);
/// Raft: shortest election timeout.
pub const ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(1500);
/// Raft: longest election timeout.
pub const ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(3000);

/// Deadline of a single unary RPC. Every RPC has one.
pub const RPC_DEADLINE: Duration = Duration::from_secs(2);
/// Silence on a tail after which its reader tries another node. The node sends a mark at least every
/// [`TAIL_MARK_EVERY`].
pub const TAIL_SILENCE_MAX: Duration = Duration::from_secs(3);
/// How often a tail without new bytes sends a mark.
pub const TAIL_MARK_EVERY: Duration = Duration::from_millis(1000);
/// How often `REPLCONF ACK` is repeated (H12); a stock master drops a replica after `repl-timeout`.
pub const ACK_EVERY: Duration = Duration::from_millis(1000);

/// HTTP/2 window of one stream, bytes: a tail or an append stream must not wait for window updates on a
/// loaded link.
pub const GRPC_STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// HTTP/2 window of one connection, bytes.
pub const GRPC_CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// HTTP/2 frame at most, bytes: a large entry in frames of the default 16 KB costs a wake-up each.
pub const GRPC_FRAME_BYTES_MAX: u32 = 1024 * 1024;
/// Deadline of one TCP connection attempt from client to node.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How often a connection is pinged, so that a host that vanished is noticed also by an idle stream.
pub const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
/// How long a ping may stay unanswered.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a TCP connection is idle before the operating system asks whether its other side is there: well below what
/// routers forget after, and far from costing anything.
pub const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// How often that is asked while there is no answer.
pub const TCP_KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
/// How often that is asked at most before the connection fails.
pub const TCP_KEEPALIVE_PROBES: u32 = 3;
/// How long a node is left alone after its first failure; doubled with each further one.
pub const MASK_MIN: Duration = Duration::from_millis(50);
/// How long a failing node is left alone at most. Short, since a node that is back may be the one that makes
/// the quorum, and connections wait for it.
pub const MASK_MAX: Duration = Duration::from_secs(2);
/// Pause between two rounds of asking every node, at first; doubled with each further round.
pub const ROUND_PAUSE_MIN: Duration = Duration::from_millis(20);
/// Pause between two rounds of asking every node at most.
pub const ROUND_PAUSE_MAX: Duration = Duration::from_millis(250);
/// Silence on an append stream with unanswered entries after which it is broken off and another node is
/// asked: by then an election is over, and sooner would send the same bytes twice at every slow fsync.
pub const APPEND_SILENCE_MAX: Duration = ELECTION_TIMEOUT_MAX;
/// How long a tail stands still before it asks a quorum whether its node is cut off. Rare enough to cost nothing
/// on an idle journal.
pub const TAIL_DOUBT_AFTER: Duration = Duration::from_secs(5);
/// Verified bytes that a tail reads ahead of its consumer at most.
pub const TAIL_PREFETCH_BYTES: usize = 1024 * 1024;
/// HTTP/2 window of a tail's own connection, bytes: with [`TAIL_PREFETCH_BYTES`] what a consumer that does not read
/// costs, and 2 MB for each round trip is faster than a replica.
pub const TAIL_WINDOW_BYTES: u32 = 2 * 1024 * 1024;

/// Reply bytes of one client that are held or not yet taken by it, at which its server connection is not
/// read any more. A larger reply passes in pieces; each waits for one fence, so this is also what a big value
/// moves per fence.
pub const CLIENT_HELD_BYTES_MAX: usize = 256 * 1024;
/// Pieces of one client's replies that wait for different fences at most: bounds what tiny pushes cost.
pub const CLIENT_HELD_PIECES_MAX: usize = 1024;
/// Batches of replies with a fence point that wait for their commit, at which the newest are taken together:
/// a long outage of the journal must not make the hold grow, however many clients come and go.
pub const HOLD_BATCHES_MAX: usize = 4096;
/// How long a client's requests behind a `CLIENT PAUSE` wait for its answer, without which nothing is paused. Longer than any
/// answer takes; none comes to who wants no answers, or may not pause.
pub const PAUSE_ANSWER_MAX: Duration = Duration::from_millis(200);
/// Rounds of reads and writes that one client gets before others have their turn: with the reads above, about
/// a millisecond.
pub const CLIENT_ROUNDS_MAX: usize = 8;
/// Request bytes of one client that its server has not taken, at which the client is not read any more.
pub const CLIENT_OUTBOUND_BYTES_MAX: usize = 64 * 1024;
/// Read at once from a client or its server connection, bytes, at first.
pub const CLIENT_READ_BYTES_MIN: usize = 16 * 1024;
/// Read at once at most, bytes: reached by doubling while reads fill what they are given.
pub const CLIENT_READ_BYTES_MAX: usize = 128 * 1024;
/// How long a client that is told of its error may take to read it before the connection is closed: closing
/// with unread input would reset the connection, and the text be lost.
pub const CLIENT_LINGER: Duration = Duration::from_millis(250);
/// Bytes of commands that clients who share a connection send at once, at which the rest of them waits for the next
/// flight.
pub const FLIGHT_BYTES_MAX: usize = 256 * 1024;
/// Flights whose fence is not answered at most. One more than one, so that the server has work while answers are handed
/// out; each further one would make them smaller, and cost a fence more.
pub const FLIGHTS_IN_THE_AIR_MAX: usize = 2;
/// What keys are told apart by when it is asked whether an uncommitted effect touched one: a power of two. With a thousand
/// uncommitted effects of three arguments each, one read in twenty waits in vain; takes 512 KiB.
pub const TOUCHED_SLOTS: usize = 64 * 1024;
/// Commands of one client of a shared connection that are unanswered at once, at first: how large its answers are is not known
/// then, and each has to be kept until its flight's last one is there.
pub const GUEST_UNANSWERED_FIRST: usize = 8;
/// Commands of one client of a shared connection that are unanswered at once at most: with small answers one more for each. A
/// few flights' worth; a surprise of that many large answers still has to be kept.
pub const GUEST_UNANSWERED_MAX: usize = 256;
/// An answer larger than this gives its client a connection of its own, where the server is read no faster than the client
/// takes what it gets.
pub const GUEST_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Answers for all clients of a shared connection at most, bytes: past that, whoever is owed most is closed. Twice the
/// largest value, so that nobody is for reading one.
pub const OUTBOXES_BYTES_MAX: usize = 1024 * 1024 * 1024;
/// For how long nothing can be sent over a shared connection before it is looked what those who wait want to say: longer than
/// an ordinary flight, short beside a person who wants to end a script.
pub const STALL_AFTER: Duration = Duration::from_millis(20);
/// How often a fence is asked for on a shared connection that nobody uses, so that a server's `timeout` does not close it.
pub const SHARED_FENCE_EVERY: Duration = Duration::from_secs(3);
/// Connections that are kept for clients who will need one of their own. More than one, since none can be made while a script
/// keeps the server busy, and the last is kept for whoever wants to end that.
pub const SPARES_MAX: usize = 3;
/// Files that a proxy opens beside its clients' connections, and theirs to the server: to journal, server and replay, also
/// while the old ones end, and one for a client that is told that there are too many.
pub const OTHER_OPEN_FILES: u64 = 100;
/// Clients that wait to be taken in at most.
pub const ARRIVALS_MAX: usize = 128;
/// Request bytes that all clients pass on between two fences at most. Far less than [`UNCOMMITTED_BYTES_MAX`], which is
/// only compared with what a fence told; a fence takes well below a millisecond, so that it slows nobody down.
pub const PASSED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Pause after a failed accept (no file descriptors left), which would fail again at once.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Deadline for connecting to the server and asking who it is, once.
pub const PROVE_DEADLINE: Duration = Duration::from_secs(2);
/// Pause before the server is asked again: after `-BUSY`, and after a failed connection.
pub const UPSTREAM_RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long a fence may stay unanswered before its connection is given up. Longer than ordinary slow commands,
/// which hold up every connection alike.
pub const FENCE_ANSWER_MAX: Duration = Duration::from_secs(5);
/// A password in a file at most, bytes: far more than anybody has, so that a wrong path is told as that.
pub const PASSWORD_BYTES_MAX: usize = 4096;
/// How often it is told that the server does not let the proxy in: each new connection finds that out.
pub const REFUSED_LOGIN_TOLD_EVERY: Duration = Duration::from_secs(10);
/// How long clients may take to get the answers to what they had sent when the proxy is told to stop. Longer than a commit and
/// an ordinary slow command; with what follows (the last captured bytes, the lease) well below the time that supervisors give
/// a process to end.
pub const DRAIN_CLIENTS_MAX: Duration = Duration::from_secs(5);
/// How long a command that may wait for ever may do so once the proxy is told to stop. Far longer than the server takes for
/// one that finds what it wants.
pub const DRAIN_WAITING_MAX: Duration = Duration::from_millis(300);
/// How long a client may take for what comes before its first command, a TLS handshake and the PROXY protocol's header
/// together: as long as `redis-server` gives for the former.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Connections whose handshake is under way at most; further ones wait to be accepted.
pub const HANDSHAKES_MAX: usize = 1024;
/// A file of certificates or a key at most, bytes: bundles of all public authorities have some 200 KB.
pub const PEM_BYTES_MAX: usize = 1024 * 1024;
/// Bytes behind the fixed part of a PROXY protocol header at most: addresses, and what a load balancer adds about its own
/// TLS.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// Bytes of one chunk of a base on its way; on disk each has a checksum of its own.
pub const BASE_CHUNK_BYTES: usize = 256 * 1024;
/// A base's transfer is given up, and tried elsewhere or later, after a silence of this: a node that syncs a chunk to a slow disk says
/// nothing meanwhile.
pub const BASE_SILENCE_MAX: Duration = Duration::from_secs(15);
/// How often a replay tells the leader that it could fold, or how far it is.
pub const FOLD_OFFER_EVERY: Duration = Duration::from_millis(1000);
