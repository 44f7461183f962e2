//! `STREAM.RESTORE`: takes an archive in chunks, each a request of its own, and proposes what is in it.
//! Nobody sees the stream before the last chunk; what is given up or goes silent leaves nothing behind.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use unibus_broker::{Inbound, Origin, Service};
use unibus_proto::jetstream::config::{StreamConfig, strip_server_metadata};
use unibus_proto::jetstream::consumer::AckPolicy;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_state::command::{RestoreBegin, RestoreConsumers, RestoreEnd, RestoreMessages};
use unibus_state::{Command, Outcome};

use super::Ticket;
use super::authority;
use super::plan::Then;
use super::snapshot::{Session, new_id};
use super::write::{self, json};
use crate::jetstream::advisory::{self, Event};
use crate::jetstream::archive::{self, ArchiveError, Item};
use crate::jetstream::core::{Core, FLOW_ACKS_NOT_YET};
use crate::jetstream::ingest::Call;

/// How long the next chunk may take.
const CHUNK_WAIT_MAX: Duration = Duration::from_secs(60);
/// Chunks that wait to be read before connections wait with their next read.
const CHUNKS_AHEAD_MAX: usize = 8;
/// Bytes that wait to be read: a connection brings some in one read that is let through. More end the
/// restore.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// What a chunk costs beside its bytes.
const CHUNK_COST: usize = 256;
/// Proposals on their way.
const PROPOSALS_MAX: usize = 4;
/// Consumers that are proposed together.
const CONSUMERS_TOGETHER_MAX: usize = 64;
/// Unacknowledged messages of consumers that are proposed together, about 5 MB; the first consumer goes with
/// all that it has.
const PENDING_TOGETHER_MAX: usize = 64 * 1024;
const CREATED: &str = "stream_create_response";

/// The request's body: what `STREAM.SNAPSHOT` answered.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct RestoreRequest {
    pub(super) config: StreamConfig,
    pub(super) state: RestoreState,
}

/// What matters of the state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct RestoreState {
    first_seq: u64,
    last_seq: u64,
}

/// `stream_restore_response`.
#[derive(Serialize)]
struct RestoreResponse<'a> {
    deliver_subject: &'a str,
}

/// A chunk and where its answer goes.
#[derive(Debug)]
struct Chunk {
    data: Bytes,
    reply: Vec<u8>,
}

/// What waits to be read of an archive.
#[derive(Debug, Default)]
struct Waiting {
    chunks: AtomicUsize,
    bytes: AtomicUsize,
    /// Nothing is read any more.
    over: AtomicBool,
    /// More came at once than is kept: the archive is not whole.
    overrun: AtomicBool,
    changed: Notify,
}

impl Waiting {
    fn is_full(&self) -> bool {
        !self.over.load(Ordering::Acquire)
            && self.chunks.load(Ordering::Acquire) >= CHUNKS_AHEAD_MAX
    }
}

/// Takes chunks from the connection of the asker.
#[derive(Debug)]
struct Inbox {
    chunks: mpsc::UnboundedSender<Chunk>,
    waiting: Arc<Waiting>,
}

impl Service for Inbox {
    fn deliver(&self, m: &Inbound<'_>) -> bool {
        let data = m.data.get(m.header_len..).unwrap_or_default();
        let waiting = &self.waiting;
        // `ready` is asked between two reads: one read may bring many chunks, and none is dropped.
        let bytes = data.len() + CHUNK_COST;
        if waiting.bytes.load(Ordering::Acquire) + bytes > WAITING_BYTES_MAX {
            waiting.overrun.store(true, Ordering::Release);
            return false;
        }
        waiting.chunks.fetch_add(1, Ordering::AcqRel);
        waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
        let data = Bytes::copy_from_slice(data);
        let reply = m.reply.unwrap_or_default().to_vec();
        self.chunks.send(Chunk { data, reply }).is_ok()
    }

    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        if !self.waiting.is_full() {
            return None;
        }
        let waiting = Arc::clone(&self.waiting);
        Some(Box::pin(async move {
            loop {
                let changed = waiting.changed.notified();
                tokio::pin!(changed);
                // Registered before the check: a change in between is not missed.
                changed.as_mut().enable();
                if !waiting.is_full() {
                    return;
                }
                changed.await;
            }
        }))
    }
}

/// The other end of an [`Inbox`].
#[derive(Debug)]
struct Chunks {
    chunks: mpsc::UnboundedReceiver<Chunk>,
    waiting: Arc<Waiting>,
}

impl Chunks {
    /// The next chunk; `None` when there is no next one, or one was lost.
    async fn next(&mut self) -> Option<Chunk> {
        let chunk = self.chunks.recv().await?;
        self.waiting.chunks.fetch_sub(1, Ordering::AcqRel);
        let bytes = chunk.data.len() + CHUNK_COST;
        self.waiting.bytes.fetch_sub(bytes, Ordering::AcqRel);
        self.waiting.changed.notify_waiters();
        let overrun = self.waiting.overrun.load(Ordering::Acquire);
        (!overrun).then_some(chunk)
    }
}

impl Drop for Chunks {
    /// Connections that wait for room go on.
    fn drop(&mut self) {
        self.waiting.over.store(true, Ordering::Release);
        self.waiting.changed.notify_waiters();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "bounded by WAITING_BYTES_MAX, which `deliver` looks at before it sends"
)]
fn inbox() -> (Inbox, Chunks) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let waiting = Arc::new(Waiting::default());
    let inbox = Inbox {
        chunks: sender,
        waiting: Arc::clone(&waiting),
    };
    let chunks = Chunks {
        chunks: receiver,
        waiting,
    };
    (inbox, chunks)
}

/// One restore.
struct Restore {
    core: Arc<Core>,
    token: String,
    stream: String,
    state: RestoreState,
    /// Who asks.
    origin: Origin,
}

/// Answers the request and takes the archive.
pub(super) async fn serve(request: RestoreRequest, origin: Origin, ticket: Ticket) {
    let kind = "stream_restore_response";
    let core = Arc::clone(ticket.core());
    let restore = Restore {
        core: Arc::clone(&core),
        token: new_id(),
        stream: request.config.name.clone(),
        state: request.state,
        origin,
    };
    let (inbox, chunks) = inbox();
    let session = match restore.begin(request.config).await {
        Ok(session) => session,
        Err(error) => return ticket.refuse(kind, &error),
    };
    let deliver = format!("$JS.SNAPSHOT.RESTORE.{}.{}", restore.stream, restore.token);
    let service = core.broker.add_service(&deliver, Arc::new(inbox));
    let response = RestoreResponse {
        deliver_subject: &deliver,
    };
    match json(kind, &response) {
        Ok(body) => ticket.answer(&body),
        Err(error) => ticket.refuse(kind, &error),
    }
    drop(ticket);
    advisory::tell(&core, &restore.created());
    let start = Core::now();
    let (bytes, done) = restore.take_all(chunks).await;
    core.broker.remove_service(service);
    if !done {
        // Nothing depends on it: a restore that is not aborted is dropped when it is silent.
        drop(
            core.ingest
                .call(&Command::RestoreAbort(restore.token.clone())),
        );
    }
    let end = Core::now();
    let stream = restore.stream;
    advisory::tell(
        &core,
        &Event::RestoreComplete {
            stream,
            start,
            end,
            bytes,
        },
    );
    drop(session);
}

/// What a proposal came to.
fn judge(answered: Result<Outcome, ApiError>) -> Result<(), ApiError> {
    match answered? {
        Outcome::Refused(refusal) => Err(refusal.error),
        _ => Ok(()),
    }
}

async fn settled(call: Call) -> Result<(), ApiError> {
    let answered = call.await.map_err(|_| error::CLUSTER_NOT_AVAILABLE)?;
    judge(match answered {
        Ok(answered) => Ok(answered.outcome),
        Err(_) => Err(error::CLUSTER_NOT_AVAILABLE),
    })
}

fn failed(why: impl std::fmt::Display) -> ApiError {
    ApiError::with(500, 10062, format!("restore failed: {why}"))
}

impl Restore {
    async fn begin(&self, mut config: StreamConfig) -> Result<Session, ApiError> {
        let session = Session::open(&self.core)?;
        strip_server_metadata(&mut config.metadata);
        let voters = self.core.replica.status().voters.len();
        let begin = RestoreBegin {
            token: self.token.clone(),
            config,
            privileged: self.origin.internal,
            replicas_max: u32::try_from(voters).unwrap_or(u32::MAX).max(1),
        };
        settled(self.core.ingest.call(&Command::RestoreBegin(begin))).await?;
        Ok(session)
    }

    fn created(&self) -> Event {
        Event::RestoreCreate {
            stream: self.stream.clone(),
        }
    }

    /// Takes chunks until the empty one. Gives the bytes taken and whether the stream is there now.
    async fn take_all(&self, mut chunks: Chunks) -> (u64, bool) {
        let (feed, pipe) = mpsc::channel(1);
        let reading = self.start_reading(pipe);
        let mut bytes = 0;
        loop {
            let next = tokio::time::timeout(CHUNK_WAIT_MAX, chunks.next()).await;
            let Ok(Some(chunk)) = next else {
                tracing::warn!(stream = %self.stream, "a restore was given up: no chunk came, or too many at once");
                return (bytes, false);
            };
            if chunk.data.is_empty() {
                drop(feed);
                return (bytes, self.finish(reading, &chunk.reply).await);
            }
            bytes += chunk.data.len() as u64;
            if feed.send(chunk.data).await.is_err() {
                // It is not read any more: the reader knows why.
                drop(feed);
                return (bytes, self.finish(reading, &chunk.reply).await);
            }
            Ticket::new(&self.core, &chunk.reply).send(0, b"");
        }
    }

    /// Answers the last chunk. Whether the stream is there now.
    async fn finish(&self, reading: JoinHandle<Result<u64, ArchiveError>>, reply: &[u8]) -> bool {
        let ticket = Ticket::new(&self.core, reply);
        let error = match reading.await {
            Ok(Ok(created_ns)) => {
                let end = RestoreEnd {
                    token: self.token.clone(),
                    created_ns,
                    last_seq: self.state.last_seq,
                };
                let call = self.core.ingest.call(&Command::RestoreEnd(end));
                let then = Then::StreamCreated(self.stream.clone());
                return write::finish(CREATED, then, call, ticket).await;
            }
            Ok(Err(ArchiveError::Refused(error))) => error,
            Ok(Err(error)) => failed(error),
            Err(_) => failed("the archive was not read"),
        };
        ticket.refuse(CREATED, &error);
        false
    }

    /// Reads and proposes; gives the creation of the archived stream.
    fn start_reading(&self, pipe: mpsc::Receiver<Bytes>) -> JoinHandle<Result<u64, ArchiveError>> {
        let mut proposals = Proposals {
            core: Arc::clone(&self.core),
            token: self.token.clone(),
            stream: self.stream.clone(),
            origin: self.origin.clone(),
            created_ns: 0,
            on_their_way: VecDeque::new(),
            consumers: RestoreConsumers {
                token: self.token.clone(),
                consumers: Vec::new(),
            },
            pending: 0,
        };
        let first_seq = self.state.first_seq;
        tokio::task::spawn_blocking(move || {
            let input = Pipe {
                chunks: pipe,
                chunk: Bytes::new(),
            };
            archive::read(input, first_seq, &mut |item| proposals.take(item))?;
            proposals.propose_consumers()?;
            proposals.settle(0)?;
            Ok(proposals.created_ns)
        })
    }
}

/// Chunks as something to read from, on a blocking thread.
struct Pipe {
    chunks: mpsc::Receiver<Bytes>,
    chunk: Bytes,
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.chunk = chunk,
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.chunk.len());
        self.chunk.copy_to_slice(&mut into[..count]);
        Ok(count)
    }
}

/// Proposes what is read, a few proposals ahead of their outcomes.
struct Proposals {
    core: Arc<Core>,
    token: String,
    stream: String,
    /// For whom.
    origin: Origin,
    created_ns: u64,
    on_their_way: VecDeque<Call>,
    consumers: RestoreConsumers,
    /// Unacknowledged messages of `consumers`.
    pending: usize,
}

impl Proposals {
    fn take(&mut self, item: Item) -> Result<(), ArchiveError> {
        match item {
            Item::Meta { config, .. } if config.name != self.stream => {
                Err(ArchiveError::Refused(failed(format_args!(
                    "the archive is of stream {:?}, not of {:?}",
                    config.name, self.stream
                ))))
            }
            Item::Meta { created_ns, .. } => {
                self.created_ns = created_ns;
                Ok(())
            }
            Item::Messages { messages, removed } => {
                self.propose(&Command::RestoreMessages(RestoreMessages {
                    token: self.token.clone(),
                    messages,
                    removed,
                }))
            }
            // Made for a copy, which makes its own.
            Item::Consumer(consumer) if consumer.config.sourcing => Ok(()),
            Item::Consumer(consumer) => {
                let by_flow = consumer.config.ack_policy == AckPolicy::FlowControl;
                if by_flow && !self.core.knows_flow_acks() {
                    return Err(ArchiveError::Refused(failed(FLOW_ACKS_NOT_YET)));
                }
                // An archive is what its sender made of it: a consumer in it is one asked for.
                if let Some(error) = authority::refuse_consumer(&self.origin, &consumer.config) {
                    return Err(ArchiveError::Refused(error));
                }
                self.pending += consumer.pending.len();
                self.consumers.consumers.push(*consumer);
                if self.consumers.consumers.len() < CONSUMERS_TOGETHER_MAX
                    && self.pending < PENDING_TOGETHER_MAX
                {
                    return Ok(());
                }
                self.propose_consumers()
            }
        }
    }

    fn propose_consumers(&mut self) -> Result<(), ArchiveError> {
        let consumers = std::mem::take(&mut self.consumers.consumers);
        self.pending = 0;
        if consumers.is_empty() {
            return Ok(());
        }
        self.propose(&Command::RestoreConsumers(RestoreConsumers {
            token: self.token.clone(),
            consumers,
        }))
    }

    fn propose(&mut self, command: &Command) -> Result<(), ArchiveError> {
        self.settle(PROPOSALS_MAX - 1)?;
        self.on_their_way.push_back(self.core.ingest.call(command));
        Ok(())
    }

    /// Waits until at most `left` proposals are on their way.
    fn settle(&mut self, left: usize) -> Result<(), ArchiveError> {
        while self.on_their_way.len() > left
            && let Some(call) = self.on_their_way.pop_front()
        {
            let answered = match call.blocking_recv() {
                Ok(Ok(answered)) => Ok(answered.outcome),
                Ok(Err(_)) | Err(_) => Err(error::CLUSTER_NOT_AVAILABLE),
            };
            judge(answered).map_err(ArchiveError::Refused)?;
        }
        Ok(())
    }
}
