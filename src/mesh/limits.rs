//! Every bound of the mesh, with its unit and its reason. Nothing in the mesh queues, waits or
//! retries without one of these.

use std::time::Duration;

/// The protocol versions this build speaks on routes. From 2 on, questions for a read index share a stream; from
/// 3 on, the replicated state knows consumers that acknowledge by flow control; from 4 on, rules that are raised;
/// from 5 on, clusters have identities ([`unibus_raft::CLUSTER_IDS_FROM`]).
pub(crate) const PROTOCOL_MIN: u32 = 1;
pub(crate) const PROTOCOL_MAX: u32 = unibus_raft::CLUSTER_IDS_FROM;

/// ALPN of routes.
pub(crate) const ALPN: &[u8] = b"unibus-route/1";

/// A route secret file larger than this is the wrong file.
pub(crate) const SECRET_BYTES_MAX: u64 = 4096;

/// Addresses for clients that are believed of one peer.
pub(crate) const CLIENT_URLS_MAX: usize = 64;

/// Members of a cluster that are told in a status frame; of more, none.
pub(crate) const MEMBERS_MAX: usize = 256;

/// Entries of `--routes` with those that peers have told of.
pub(crate) const ROUTES_MAX: usize = 64;

/// A control frame (HELLO, status, refusal): a few hundred bytes of JSON.
pub(crate) const CONTROL_FRAME_BYTES_MAX: usize = 16 * 1024;

/// Body of one RPC request or answer.
pub(crate) const RPC_BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Text of a refusal by a handler.
pub(crate) const RPC_ERROR_TEXT_BYTES_MAX: usize = 4096;
/// Bodies up to this size are copied next to their frame header; larger ones are sent as they are.
pub(crate) const RPC_INLINE_BYTES_MAX: usize = 16 * 1024;

/// Calls of one unordered class that may be in flight to one peer; further ones wait.
pub(crate) const UNORDERED_CALLS_MAX: usize = 64;
/// Handlers of one unordered class that may run for one peer; above it the peer is told so.
pub(crate) const UNORDERED_SERVED_MAX: usize = 256;

/// Calls of one ordered class queued or unanswered per peer; further ones fail.
pub(crate) const ORDERED_CALLS_MAX: usize = 65_536;
/// Bytes of one ordered class queued and not yet written, per peer.
pub(crate) const ORDERED_QUEUE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// One write takes frames until it has this many bytes (stack.md §5: batch into large writes).
pub(crate) const ORDERED_BATCH_BYTES: usize = 256 * 1024;
/// Handlers of one ordered class that may run for one peer; above it its stream is not read.
pub(crate) const ORDERED_SERVED_MAX: usize = 16_384;

/// Streams that a peer may have open at once: all classes' calls, and those being torn down.
pub(crate) const BIDI_STREAMS_MAX: u32 = 1024;
/// Flow-control windows (stack.md §5). The message stream alone can hold a quarter of the
/// connection's window, so consensus always has room.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 32 * 1024 * 1024;
/// Unacknowledged bytes buffered for one peer. Above the connection window on purpose: if it were
/// the smaller one, a flood of messages would fill it and votes would wait.
pub(crate) const SEND_WINDOW_BYTES: u64 = 64 * 1024 * 1024;

/// A half-open peer is gone in under 5 s (cluster.md, Routes). QUIC restarts the idle timer at the
/// first send after a receive, so silence is noticed one keep-alive plus one idle timeout after it
/// began: 4 s.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(1);
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// One attempt to reach one address.
pub(crate) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Name resolution of one attempt.
pub(crate) const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Addresses of one DNS name tried in one attempt.
pub(crate) const ADDRESSES_MAX: usize = 8;
/// The whole route handshake after TLS.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a refusal waits for the peer to have it before the connection is closed.
pub(crate) const REFUSAL_LINGER: Duration = Duration::from_millis(500);
/// Connections in TLS or route handshake at once; above it newcomers are turned away.
pub(crate) const ACCEPTING_MAX: usize = 64;
/// From here on newcomers first prove that their address is theirs (QUIC retry).
pub(crate) const ACCEPTING_UNVALIDATED_MAX: usize = 16;
/// Of those that proved their address, connections of one address in TLS or route handshake at once: one
/// host that begins handshakes and never ends them leaves room for others.
pub(crate) const ACCEPTING_PER_ADDRESS_MAX: usize = 16;

/// Backoff between attempts on one route.
pub(crate) const BACKOFF_MIN: Duration = Duration::from_millis(100);
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Within this a node that comes up is dialed by whoever has it among its routes: an attempt that was under way
/// fails, the longest pause follows, and the next attempt.
pub(crate) const REDIAL_WITHIN: Duration = Duration::from_secs(10);
/// How often an entry that turned out to be this node is looked at again (its DNS may change).
pub(crate) const OWN_RECHECK: Duration = Duration::from_secs(60);

/// A route that ends before this is no success: the next attempt waits as after a failure.
pub(crate) const STEADY_AFTER: Duration = BACKOFF_MAX;

/// How long a process that shares its node id with another one is remembered after it was last seen: several
/// attempts on a route fit.
pub(crate) const CLAIM_MEMORY: Duration = Duration::from_secs(20);
/// Processes under one node id that are remembered.
pub(crate) const CLAIMS_MAX: usize = 16;

/// Period of status frames; changes are sent at once.
pub(crate) const STATUS_PERIOD: Duration = Duration::from_secs(1);

/// Refusals remembered for /healthz.
pub(crate) const REFUSALS_MAX: usize = 64;
/// The same refusal is logged again at WARN after this long.
pub(crate) const REFUSAL_LOG_PERIOD: Duration = Duration::from_secs(60);
/// Refusals logged at WARN within that time, whoever was refused: one host may have many addresses.
pub(crate) const REFUSAL_LOGS_MAX: u32 = 64;

/// TCP connections by which peers notice the end of this process, held at once.
pub(crate) const LIFELINES_MAX: usize = 2 * ROUTES_MAX;
/// One attempt to open such a connection.
pub(crate) const LIFELINE_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before it is tried again.
pub(crate) const LIFELINE_PAUSE: Duration = Duration::from_secs(5);
/// Silence after which the kernel asks whether the host at the other end is still there, and the pause between two
/// such questions: one that lost its power frees its place.
pub(crate) const LIFELINE_KEEPALIVE: Duration = Duration::from_secs(30);
pub(crate) const LIFELINE_KEEPALIVE_PAUSE: Duration = Duration::from_secs(5);

/// How long a shutdown waits for closing frames to leave.
pub(crate) const SHUTDOWN_LINGER: Duration = Duration::from_secs(1);
