//! API reads: gathered, put behind one read barrier, and answered from local state. So a thousand
//! gets that arrive together cost one question to the leader.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use unibus_proto::jetstream::api::{
    LIST_PAGE_MAX, MsgGetRequest, MsgGetResponse, NAMES_PAGE_MAX, PagedRequest, SUBJECTS_PAGE_MAX,
    StreamInfoRequest, StreamInfoResponse, StreamListResponse, StreamNamesResponse,
};
use unibus_proto::jetstream::config::{add_required_level, add_server_metadata};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::info::{AccountInfo, ApiStats, MessageJson};
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_proto::subject::{collide, is_valid_filter};
use unibus_state::{State, Stream};

use super::plan::Read;
use super::write::json;
use super::{Ticket, consumer_read, direct};
use crate::jetstream::core::{Core, Unread};
use crate::jetstream::internal;

/// Questions that share a barrier.
const BATCH_MAX: usize = 256;
/// Barriers and their answers at once.
const BATCHES_MAX: usize = 4;
/// Deleted sequences that one stream info lists.
const DELETED_MAX: usize = 100_000;
/// How long a read waits for a leader before it is refused.
pub(super) const BARRIER_MAX: Duration = Duration::from_secs(2);

/// One question and where its answer goes. Bounded by the API's limit on requests.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) read: Read,
    pub(super) kind: &'static str,
    internal: bool,
    pub(super) ticket: Ticket,
}

/// Gathers questions.
#[derive(Debug)]
pub(in crate::jetstream) struct Reader {
    waiting: Mutex<Waiting>,
    permits: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Waiting {
    questions: VecDeque<Question>,
    /// A task has been started that will take them.
    expected: bool,
}

impl Reader {
    pub(in crate::jetstream) fn new() -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::default(),
            permits: Arc::new(Semaphore::new(BATCHES_MAX)),
        })
    }

    /// Takes a question. What else the connection asks within the same read joins it.
    pub(super) fn ask(
        self: &Arc<Self>,
        read: Read,
        kind: &'static str,
        internal: bool,
        ticket: Ticket,
    ) {
        let question = Question {
            read,
            kind,
            internal,
            ticket,
        };
        let mut waiting = self.waiting.lock();
        waiting.questions.push_back(question);
        self.start(&mut waiting);
    }

    /// Has what waits answered, by a task of its own. Questions pile up while all permits are out: that is
    /// what makes batches.
    fn start(self: &Arc<Self>, waiting: &mut Waiting) {
        if waiting.expected || waiting.questions.is_empty() {
            return;
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return;
        };
        waiting.expected = true;
        tokio::spawn(Arc::clone(self).serve(permit));
    }

    async fn serve(self: Arc<Self>, permit: OwnedSemaphorePermit) {
        let batch: Vec<Question> = {
            let mut waiting = self.waiting.lock();
            waiting.expected = false;
            let count = waiting.questions.len().min(BATCH_MAX);
            let batch = waiting.questions.drain(..count).collect();
            self.start(&mut waiting);
            batch
        };
        let core = batch
            .first()
            .map(|question| Arc::clone(question.ticket.core()));
        if let Some(core) = core {
            answer_all(&core, batch).await;
        }
        drop(permit);
        // Who came while all permits were out has waited for this one.
        self.start(&mut self.waiting.lock());
    }
}

async fn answer_all(core: &Arc<Core>, batch: Vec<Question>) {
    let barrier = tokio::time::timeout(BARRIER_MAX, core.replica.read_barrier()).await;
    let open = matches!(barrier, Ok(Ok(_)));
    for question in batch {
        if !open {
            question.unavailable();
        } else if let Read::ConsumerInfo { .. } = question.read {
            // May have to ask the leader: does not hold up the others.
            tokio::spawn(consumer_read::answer(Arc::clone(core), question));
        } else {
            question.answer(core);
        }
    }
}

impl Question {
    fn unavailable(&self) {
        match self.read {
            Read::Direct { .. } => {
                self.ticket
                    .status(500, "JetStream system temporarily unavailable");
            }
            _ => self.ticket.refuse(self.kind, &error::CLUSTER_NOT_AVAILABLE),
        }
    }

    fn answer(self, core: &Core) {
        if let Read::Direct { stream, request } = &self.read {
            return direct::answer(core, stream, request, &self.ticket);
        }
        match self.body(core) {
            Ok(body) => self.ticket.answer(&body),
            Err(error) => self.ticket.refuse(self.kind, &error),
        }
    }

    fn body(&self, core: &Core) -> Result<Vec<u8>, ApiError> {
        match &self.read {
            Read::Account => json(self.kind, &account_info(core)),
            Read::StreamNames(request) => {
                json(self.kind, &stream_names(core, request, self.internal))
            }
            Read::StreamList(request) => {
                json(self.kind, &stream_list(core, request, self.internal))
            }
            Read::StreamInfo { stream, request } => {
                json(self.kind, &stream_info(core, stream, request)?)
            }
            Read::Message { stream, request } => json(
                self.kind,
                &MsgGetResponse {
                    message: message(core, stream, request)?,
                },
            ),
            Read::ConsumerNames { stream, request } => {
                json(self.kind, &consumer_read::names(core, stream, request)?)
            }
            Read::ConsumerList { stream, request } => {
                json(self.kind, &consumer_read::list(core, stream, request)?)
            }
            Read::ConsumerInfo { .. } | Read::Direct { .. } => Err(error::BAD_REQUEST),
        }
    }
}

/// The streams a caller may see, by name.
fn visible(state: &State, privileged: bool) -> Vec<&Stream> {
    let mut streams: Vec<&Stream> = state
        .streams()
        .filter(|stream| privileged || !internal::is_stream(stream.name()))
        .collect();
    streams.sort_by(|a, b| a.name().cmp(b.name()));
    streams
}

fn has_subject(stream: &Stream, filter: &str) -> bool {
    filter.is_empty()
        || stream
            .config()
            .subjects
            .iter()
            .any(|subject| collide(subject.as_bytes(), filter.as_bytes()))
}

fn account_info(core: &Core) -> AccountInfo {
    let info = core.replica.with_state(State::account_info);
    let (total, errors, inflight) = core.counters.read();
    AccountInfo {
        domain: core.options.domain.clone(),
        api: ApiStats {
            level: core.options.api_level,
            // The question itself does not count.
            total: total.saturating_sub(1),
            errors,
            inflight: inflight.saturating_sub(1),
        },
        ..info
    }
}

/// One page of `items`.
pub(super) fn page<T>(items: impl Iterator<Item = T>, offset: u64, limit: usize) -> Vec<T> {
    items
        .skip(usize::try_from(offset).unwrap_or(usize::MAX))
        .take(limit)
        .collect()
}

fn stream_names(core: &Core, request: &PagedRequest, privileged: bool) -> StreamNamesResponse {
    core.replica.with_state(|state| {
        let mut streams = visible(state, privileged);
        streams.retain(|stream| has_subject(stream, &request.subject));
        StreamNamesResponse {
            total: streams.len() as u64,
            offset: request.offset.min(streams.len() as u64),
            limit: NAMES_PAGE_MAX as u64,
            streams: page(
                streams.iter().map(|stream| stream.name().to_string()),
                request.offset,
                NAMES_PAGE_MAX,
            ),
        }
    })
}

fn stream_list(core: &Core, request: &PagedRequest, privileged: bool) -> StreamListResponse {
    let cluster = core.cluster_info();
    let is_clustered = !cluster.replicas.is_empty();
    let now = Core::now();
    core.replica.with_state(|state| {
        let mut streams = visible(state, privileged);
        streams.retain(|stream| has_subject(stream, &request.subject));
        let infos = streams.iter().map(|stream| {
            let mut info = Core::stream_info_of(state, stream, now);
            // As in the answer to a creation, it is told only where there is one.
            info.cluster = is_clustered.then(|| cluster.clone());
            let needs = info.config.required_api_level();
            add_required_level(&mut info.config.metadata, needs);
            info
        });
        StreamListResponse {
            total: streams.len() as u64,
            offset: request.offset.min(streams.len() as u64),
            limit: LIST_PAGE_MAX as u64,
            streams: page(infos, request.offset, LIST_PAGE_MAX),
        }
    })
}

fn stream_info(
    core: &Core,
    name: &str,
    request: &StreamInfoRequest,
) -> Result<StreamInfoResponse, ApiError> {
    let filter = request.subjects_filter.as_str();
    if !filter.is_empty() && !is_valid_filter(filter.as_bytes()) {
        return Err(error::BAD_REQUEST);
    }
    let cluster = core.cluster_info();
    let (mut info, total) = core
        .replica
        .with_state(|state| {
            let stream = state.stream(name)?;
            let mut info = Core::stream_info_of(state, stream, Core::now());
            let mut total = 0;
            if !filter.is_empty() {
                let offset = usize::try_from(request.offset).unwrap_or(usize::MAX);
                let (subjects, count) =
                    stream.subjects(filter.as_bytes(), offset, SUBJECTS_PAGE_MAX);
                total = count as u64;
                // nats-server leaves it out when nothing matches.
                info.state.subjects = Some(subjects).filter(|found| !found.is_empty());
            }
            if request.deleted_details {
                info.state.deleted = Some(stream.deleted(DELETED_MAX));
            }
            Some((info, total))
        })
        .ok_or(error::STREAM_NOT_FOUND)?;
    info.cluster = Some(cluster);
    let needs = info.config.required_api_level();
    let (level, version) = (core.options.api_level, core.options.version.as_str());
    add_server_metadata(&mut info.config.metadata, needs, level, version);
    let (offset, limit) = if filter.is_empty() || info.state.num_subjects == 0 {
        (0, 0)
    } else {
        (request.offset, SUBJECTS_PAGE_MAX as u64)
    };
    Ok(StreamInfoResponse {
        total,
        offset,
        limit,
        info,
    })
}

fn message(core: &Core, stream: &str, request: &MsgGetRequest) -> Result<MessageJson, ApiError> {
    if core
        .replica
        .with_state(|state| state.stream(stream).is_none())
    {
        return Err(error::STREAM_NOT_FOUND);
    }
    let stored = direct::find(core, stream, request).map_err(|unread| match unread {
        Unread::Gone => error::NO_MESSAGE_FOUND,
        Unread::Damaged => error::CLUSTER_NOT_AVAILABLE,
    })?;
    let hdrs = if request.no_hdr {
        String::new()
    } else {
        BASE64.encode(&stored.headers)
    };
    Ok(MessageJson {
        subject: String::from_utf8_lossy(&stored.subject).into_owned(),
        seq: stored.seq,
        hdrs,
        data: BASE64.encode(&stored.payload),
        time: Timestamp(stored.ts_ns),
    })
}
