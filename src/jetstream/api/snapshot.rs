//! `STREAM.SNAPSHOT`: sends an archive of a stream to its asker in chunks, as fast as he acknowledges
//! them. The archive holds what was there when the request was served, less what was removed before it
//! was read; one block of messages and a few chunks are in memory.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use unibus_broker::{Inbound, Publication, Service};
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::info::StreamStateJson;
use unibus_proto::subject;
use unibus_state::{Location, StoredMessage, StreamUid};

use super::Ticket;
use super::read::BARRIER_MAX;
use super::write::json;
use crate::jetstream::advisory::{self, Event};
use crate::jetstream::archive::{self, Contents};
use crate::jetstream::core::{Core, Unread};
use crate::jetstream::text;

/// Archives that are being sent or read by one node.
const SESSIONS_MAX: usize = 16;
const CHUNK_BYTES_DEFAULT: usize = 128 * 1024;
const CHUNK_BYTES_MIN: usize = 1024;
const CHUNK_BYTES_MAX: usize = 1024 * 1024;
/// Bytes that may be unacknowledged.
const WINDOW_BYTES_DEFAULT: usize = 8 * 1024 * 1024;
const WINDOW_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long the asker may acknowledge nothing.
const FLOW_MAX: Duration = Duration::from_secs(10);
/// Chunks that wait to be sent.
const CHUNKS_AHEAD_MAX: usize = 4;
/// Messages that are looked up at once, while the state can't change.
const LOOKUPS_MAX: usize = 1024;
/// Characters that name one archive.
const ID_LEN: usize = 22;
const END: &str = "NATS/1.0 204\r\n\r\n";

/// The request's body.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct SnapshotRequest {
    /// Where chunks go.
    pub(super) deliver_subject: String,
    /// Without consumers.
    pub(super) no_consumers: bool,
    /// Bytes of one chunk; 0 = 128 KiB.
    pub(super) chunk_size: usize,
    /// Bytes that may be unacknowledged; 0 = 8 MiB.
    pub(super) window_size: usize,
}

/// `stream_snapshot_response`.
#[derive(Serialize)]
struct SnapshotResponse<'a> {
    config: &'a StreamConfig,
    state: &'a StreamStateJson,
}

/// One of the few archives that a node works on at once.
#[derive(Debug)]
pub(super) struct Session(Arc<Core>);

impl Session {
    pub(super) fn open(core: &Arc<Core>) -> Result<Self, ApiError> {
        let held = &core.counters.archives;
        if held.fetch_add(1, Ordering::AcqRel) >= SESSIONS_MAX {
            held.fetch_sub(1, Ordering::AcqRel);
            return Err(error::INSUFFICIENT_RESOURCES);
        }
        Ok(Self(Arc::clone(core)))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.0.counters.archives.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Names an archive on its way.
pub(super) fn new_id() -> String {
    text::random_name(ID_LEN)
}

/// Answers the request and sends the archive.
pub(super) async fn serve(stream: String, request: SnapshotRequest, ticket: Ticket) {
    let kind = "stream_snapshot_response";
    let core = Arc::clone(ticket.core());
    let begun = begin(&core, &stream, &request).await;
    let (session, found) = match begun {
        Ok(begun) => begun,
        Err(error) => return ticket.refuse(kind, &error),
    };
    let response = SnapshotResponse {
        config: &found.contents.config,
        state: &found.state,
    };
    match json(kind, &response) {
        Ok(body) => ticket.answer(&body),
        Err(error) => return ticket.refuse(kind, &error),
    }
    // The request is answered; what follows is not counted as one being served.
    drop(ticket);
    let start = Core::now();
    advisory::tell(
        &core,
        &Event::SnapshotCreate {
            stream: stream.clone(),
        },
    );
    send(&core, &request, found).await;
    let end = Core::now();
    advisory::tell(&core, &Event::SnapshotComplete { stream, start, end });
    drop(session);
}

/// What is archived.
struct Found {
    contents: Contents,
    state: StreamStateJson,
    uid: StreamUid,
}

async fn begin(
    core: &Arc<Core>,
    stream: &str,
    request: &SnapshotRequest,
) -> Result<(Session, Found), ApiError> {
    if !subject::is_literal(request.deliver_subject.as_bytes()) {
        return Err(error::SNAPSHOT_DELIVER_SUBJECT_INVALID);
    }
    let barrier = tokio::time::timeout(BARRIER_MAX, core.replica.read_barrier()).await;
    if !matches!(barrier, Ok(Ok(_))) {
        return Err(error::CLUSTER_NOT_AVAILABLE);
    }
    let found = core.replica.with_state(|state| {
        let held = state.stream(stream)?;
        let consumers = held.consumers().filter(|_| !request.no_consumers);
        Some(Found {
            contents: Contents {
                config: held.config().clone(),
                created_ns: held.created_ns(),
                last_seq: held.last_seq(),
                consumers: consumers
                    .map(|c| ((**c.config()).clone(), c.created_ns(), c.ledger().clone()))
                    .collect(),
            },
            state: held.state(),
            uid: held.uid(),
        })
    });
    Ok((Session::open(core)?, found.ok_or(error::STREAM_NOT_FOUND)?))
}

/// Sends all chunks and the end, or why it ends before.
async fn send(core: &Arc<Core>, request: &SnapshotRequest, found: Found) {
    let chunk_bytes = match request.chunk_size {
        0 => CHUNK_BYTES_DEFAULT,
        asked => asked.clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX),
    };
    let window = match request.window_size {
        0 => WINDOW_BYTES_DEFAULT,
        asked => asked.clamp(CHUNK_BYTES_MAX, WINDOW_BYTES_MAX),
    };
    let prefix = format!(
        "$JS.SNAPSHOT.ACK.{}.{}",
        found.contents.config.name,
        new_id()
    );
    let acks = Arc::new(Acks::default());
    let service = core
        .broker
        .add_service(&format!("{prefix}.>"), acks.clone());
    let (chunks, mut ready) = mpsc::channel(CHUNKS_AHEAD_MAX);
    let writing = start_writing(Arc::clone(core), found, chunk_bytes, chunks);
    let to = Receiver {
        core,
        deliver: request.deliver_subject.as_bytes(),
        prefix,
        window,
        acks: &acks,
    };
    let mut ended = to.send_all(&mut ready).await;
    drop(ready);
    let written = writing.await;
    if ended.is_none() {
        ended = match written {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("NATS/1.0 500 {error}\r\n\r\n")),
            Err(_) => Some("NATS/1.0 500 the archive was not finished\r\n\r\n".to_owned()),
        };
    }
    to.send_end(ended.as_deref().unwrap_or(END));
    core.broker.remove_service(service);
}

/// What the asker has not acknowledged.
#[derive(Debug, Default)]
struct Acks {
    outstanding: AtomicUsize,
    wake: Notify,
}

impl Service for Acks {
    fn deliver(&self, m: &Inbound<'_>) -> bool {
        // `$JS.SNAPSHOT.ACK.<stream>.<id>.<bytes>.<number>`
        let bytes = subject::tokens(m.subject).nth(5);
        let bytes = bytes.and_then(|token| std::str::from_utf8(token).ok()?.parse::<usize>().ok());
        let bytes = bytes.unwrap_or(0);
        let less = |held: usize| Some(held.saturating_sub(bytes));
        let _ = self
            .outstanding
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        self.wake.notify_one();
        true
    }
}

/// The asker, as chunks are sent to him.
struct Receiver<'a> {
    core: &'a Core,
    deliver: &'a [u8],
    prefix: String,
    window: usize,
    acks: &'a Acks,
}

impl Receiver<'_> {
    /// The status that ends the archive early; `None`: all chunks were sent.
    async fn send_all(&self, chunks: &mut mpsc::Receiver<Bytes>) -> Option<String> {
        let mut number = 0_u64;
        while let Some(chunk) = chunks.recv().await {
            while self.acks.outstanding.load(Ordering::Acquire) >= self.window {
                let acknowledged = tokio::time::timeout(FLOW_MAX, self.acks.wake.notified()).await;
                if !self.core.broker.has_interest(self.deliver) {
                    return Some("NATS/1.0 408 No Interest\r\n\r\n".to_owned());
                }
                if acknowledged.is_err() {
                    return Some("NATS/1.0 408 No Flow Response\r\n\r\n".to_owned());
                }
            }
            number += 1;
            self.acks
                .outstanding
                .fetch_add(chunk.len(), Ordering::AcqRel);
            let reply = format!("{}.{}.{number}", self.prefix, chunk.len());
            let receivers = self.core.broker.publish(Publication {
                subject: self.deliver,
                reply: Some(reply.as_bytes()),
                data: &chunk,
                ..Publication::default()
            });
            if receivers == 0 {
                return Some("NATS/1.0 408 No Interest\r\n\r\n".to_owned());
            }
        }
        None
    }

    fn send_end(&self, status: &str) {
        self.core.broker.publish(Publication {
            subject: self.deliver,
            header_len: status.len(),
            data: status.as_bytes(),
            ..Publication::default()
        });
    }
}

fn start_writing(
    core: Arc<Core>,
    found: Found,
    chunk_bytes: usize,
    chunks: mpsc::Sender<Bytes>,
) -> JoinHandle<io::Result<()>> {
    tokio::task::spawn_blocking(move || {
        let mut messages = Stored {
            core: &core,
            stream: &found.contents.config.name,
            uid: found.uid,
            last_seq: found.contents.last_seq,
        };
        let mut out = Chunker {
            chunks,
            chunk: BytesMut::with_capacity(chunk_bytes),
            chunk_bytes,
        };
        archive::write(&found.contents, &mut messages, &mut out)?;
        out.send()
    })
}

/// A stream's messages, from this node's own blocks.
struct Stored<'a> {
    core: &'a Core,
    stream: &'a str,
    uid: StreamUid,
    last_seq: u64,
}

impl archive::Messages for Stored<'_> {
    fn next(&mut self, from_seq: u64, bytes_max: usize) -> io::Result<Vec<StoredMessage>> {
        let mut from = from_seq;
        loop {
            let places = self.places(from, bytes_max);
            let Some((last, _)) = places.last() else {
                return Ok(Vec::new());
            };
            from = last + 1;
            let mut found = Vec::with_capacity(places.len());
            for (seq, place) in &places {
                match self.core.read_message(place) {
                    Ok(message) => found.push(message),
                    // Left out, like one that was removed before.
                    Err(Unread::Gone) => {}
                    Err(Unread::Damaged) => {
                        return Err(io::Error::other(format!("message {seq} can't be read")));
                    }
                }
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }
}

impl Stored<'_> {
    fn places(&self, from_seq: u64, bytes_max: usize) -> Vec<(u64, Location)> {
        self.core.replica.with_state(|state| {
            let (mut places, mut bytes, mut next) = (Vec::new(), 0, from_seq);
            let stream = state.stream(self.stream);
            let Some(stream) = stream.filter(|stream| stream.uid() == self.uid) else {
                return places;
            };
            while places.len() < LOOKUPS_MAX && bytes < bytes_max {
                let found = stream.next_for::<&[u8]>(&[], next);
                let Some((seq, place)) = found.filter(|(seq, _)| *seq <= self.last_seq) else {
                    break;
                };
                bytes += place.len as usize;
                next = seq + 1;
                places.push((seq, place));
            }
            places
        })
    }
}

/// Cuts what is written into chunks and waits while too many are unsent.
struct Chunker {
    chunks: mpsc::Sender<Bytes>,
    chunk: BytesMut,
    chunk_bytes: usize,
}

impl Chunker {
    fn send(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.chunk, BytesMut::with_capacity(self.chunk_bytes));
        // The asker is gone.
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.chunks.blocking_send(chunk.freeze()).map_err(gone)
    }
}

impl Write for Chunker {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.chunk_bytes - self.chunk.len();
        let taken = bytes.len().min(room);
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == self.chunk_bytes {
            self.send()?;
        }
        Ok(taken)
    }

    /// Chunks have their size whatever is flushed: the last one is sent at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
