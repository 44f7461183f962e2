//! What crosses from one account to another: service imports with their answers, and stream imports.
//!
//! Owns the reply subjects that stand for requests of other accounts, bounded by number and age. A
//! service import is a service in the importing plane; a stream import is a shadow of each matching
//! subscription in the exporting plane. Must never check who may import: `accounts` has.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use unibus_proto::mapping::{Mapping, intersection};

use crate::accounts::ResponseType;
use crate::clock;
use crate::fanout::Message;
use crate::plane::Plane;
use crate::ports::{Inbound, Publication, Service, UserLimits};
use crate::report::GLOBAL_ACCOUNT;

/// Requests to one account's services that may wait for answers; over it requests find no responder.
const ANSWERS_OPEN_MAX: usize = 65_536;

/// Those of one importing account among them: who never gets an answer leaves room for the others.
const IMPORTER_OPEN_MAX: usize = ANSWERS_OPEN_MAX / 4;

/// Random characters that tell this broker's reply subjects from those of other nodes.
const TOKEN_CHARS: usize = 16;

/// The header that names who asks (nats-surface §1.4).
const REQUEST_INFO: &str = "Nats-Request-Info";

/// What a plane takes from others, and its limits.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    pub(crate) streams: Vec<StreamImport>,
    /// The services that are service imports.
    pub(crate) services: Vec<u64>,
    pub(crate) limits: UserLimits,
}

/// Messages of another account that this one's subscribers see.
#[derive(Debug)]
pub(crate) struct StreamImport {
    pub(crate) source: Weak<Plane>,
    /// From the subjects here to those of the source.
    there: Mapping,
    /// And back.
    back: Arc<Mapping>,
}

/// A part of a subscription that another plane serves.
#[derive(Debug)]
pub(crate) struct Shadow {
    pub(crate) source: Arc<Plane>,
    /// What is subscribed to there.
    pub(crate) filter: Vec<u8>,
    /// How its subjects are called here.
    pub(crate) back: Arc<Mapping>,
}

impl StreamImport {
    pub(crate) fn new(source: &Arc<Plane>, back: Mapping) -> Self {
        Self {
            source: Arc::downgrade(source),
            there: back.reversed(),
            back: Arc::new(back),
        }
    }

    /// The part of a subscription to `filter` that the source serves.
    pub(crate) fn shadow(&self, filter: &[u8]) -> Option<Shadow> {
        let common = intersection(filter, self.there.from_filter())?;
        Some(Shadow {
            filter: self.there.apply(&common)?,
            source: self.source.upgrade()?,
            back: Arc::clone(&self.back),
        })
    }
}

/// Takes messages inside the node, whichever node they were published at.
pub(crate) trait Sink: Send + Sync {
    /// Runs under the plane's read lock. Returns whether somebody received it.
    fn take(&self, message: &Message<'_>) -> bool;
}

/// Requests of one account, handed to a service of another.
#[derive(Debug)]
pub(crate) struct ServiceImport {
    pub(crate) here: Weak<Plane>,
    pub(crate) target: Weak<Plane>,
    /// From the subjects here to those of the target.
    pub(crate) mapping: Mapping,
    pub(crate) answers: Arc<Answers>,
    pub(crate) response: ResponseType,
    /// How long the service may take.
    pub(crate) longest: Duration,
}

impl Service for ServiceImport {
    fn deliver(&self, message: &Inbound<'_>) -> bool {
        let Some(target) = self.target.upgrade() else {
            return false;
        };
        let Some(subject) = self.mapping.apply(message.subject) else {
            return false;
        };
        let mut reply = None;
        if let Some(wanted) = message.reply {
            let waiting = Waiting {
                plane: Weak::clone(&self.here),
                reply: wanted.into(),
                response: self.response,
                since: clock::now(),
                longest: self.longest,
            };
            match self.answers.open(waiting) {
                Some(opened) => reply = Some(opened),
                None => return false,
            }
        }
        // The node's own services see the origin itself, and must not store a word about it.
        let told = !target.services.load().wants(&subject);
        let signed = told.then(|| sign(message));
        let (header_len, data) = match &signed {
            Some((header_len, data)) => (*header_len, data.as_slice()),
            None => (message.header_len, message.data),
        };
        let publication = Publication {
            subject: &subject,
            reply: reply.as_ref().map(|opened| opened.1.as_slice()),
            header_len,
            data,
            capture: true,
            ..Publication::default()
        };
        let receivers = target.with_engine(|engine| engine.forward(publication, message.origin));
        if let (0, Some((id, _))) = (receivers, reply) {
            self.answers.close(id);
        }
        receivers > 0
    }

    /// The importer waits for the services it is connected to.
    fn ready(&self) -> Option<BoxFuture<'static, ()>> {
        let target = self.target.upgrade()?;
        let behind = target.services.load().behind(self.mapping.to_filter());
        (!behind.is_empty()).then(|| {
            let all = async move {
                join_all(behind).await;
            };
            Box::pin(all) as BoxFuture<'static, ()>
        })
    }
}

/// The message with the header that tells a service which account asks. Returns the length of the header
/// block, and block and payload.
fn sign(message: &Inbound<'_>) -> (usize, Vec<u8>) {
    const EMPTY: &[u8] = b"NATS/1.0\r\n\r\n";
    let account = message.origin.account.as_deref().unwrap_or(GLOBAL_ACCOUNT);
    let info = serde_json::json!({ "acc": account });
    let line = format!("{REQUEST_INFO}: {info}\r\n");
    let (headers, payload) = message.data.split_at(message.header_len);
    let headers = if headers.is_empty() { EMPTY } else { headers };
    // A block without its closing empty line is nobody's to mend.
    let end = headers.strip_suffix(b"\r\n").unwrap_or(headers);
    let mut data = Vec::with_capacity(headers.len() + line.len() + payload.len());
    data.extend_from_slice(end);
    data.extend_from_slice(line.as_bytes());
    data.extend_from_slice(&headers[end.len()..]);
    let header_len = data.len();
    data.extend_from_slice(payload);
    (header_len, data)
}

/// Who waits for the answer to a request that crossed.
struct Waiting {
    plane: Weak<Plane>,
    reply: Box<[u8]>,
    response: ResponseType,
    since: u64,
    longest: Duration,
}

impl Waiting {
    /// Tells importers apart.
    fn importer(&self) -> usize {
        self.plane.as_ptr() as usize
    }

    fn is_late(&self, now: u64) -> bool {
        u128::from(now.saturating_sub(self.since)) > self.longest.as_nanos()
    }
}

/// The answers that one account's services owe to others.
pub(crate) struct Answers {
    /// `_R_.<token>.`
    prefix: String,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    waiting: HashMap<u64, Waiting>,
    /// How many of them each importer has, by the address of its plane, which each of them keeps from
    /// being another's.
    by_importer: HashMap<usize, usize>,
    /// In the order they were opened.
    order: VecDeque<u64>,
}

impl Answers {
    pub(crate) fn new() -> Self {
        let token: String = (0..TOKEN_CHARS)
            .map(|_| char::from(b'a' + rand::random::<u8>() % 26))
            .collect();
        Self {
            prefix: format!("_R_.{token}."),
            open: Mutex::default(),
        }
    }

    /// What has to be subscribed to.
    pub(crate) fn filter(&self) -> String {
        format!("{}>", self.prefix)
    }

    /// A reply subject that stands for the request. `None` = too many wait.
    fn open(&self, waiting: Waiting) -> Option<(u64, Vec<u8>)> {
        let id: u64 = rand::random();
        let mut open = self.open.lock();
        open.tidy(waiting.since);
        if let Some(limit) = open.limit_reached(&waiting) {
            tracing::warn!(limit, "too many requests wait for another account");
            return None;
        }
        open.add(id, waiting);
        Some((id, format!("{}{id:016x}", self.prefix).into_bytes()))
    }

    fn close(&self, id: u64) {
        self.open.lock().remove(id);
    }

    /// Where the message with this subject goes.
    fn find(&self, subject: &[u8], is_end: bool) -> Option<(Arc<Plane>, Box<[u8]>)> {
        let id = subject.strip_prefix(self.prefix.as_bytes())?;
        let id = u64::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok()?;
        let now = clock::now();
        let mut open = self.open.lock();
        let waiting = open.waiting.get_mut(&id)?;
        let late = waiting.is_late(now);
        let ends = match waiting.response {
            ResponseType::Singleton => true,
            ResponseType::Chunked | ResponseType::Stream => is_end,
        };
        waiting.since = now;
        let found = (waiting.plane.upgrade(), waiting.reply.clone());
        if ends || late {
            open.remove(id);
        }
        drop(open);
        (!late).then_some((found.0?, found.1))
    }
}

impl Open {
    fn limit_reached(&self, more: &Waiting) -> Option<usize> {
        let own = self.by_importer.get(&more.importer()).copied();
        match (self.waiting.len(), own.unwrap_or_default()) {
            (ANSWERS_OPEN_MAX.., _) => Some(ANSWERS_OPEN_MAX),
            (_, IMPORTER_OPEN_MAX..) => Some(IMPORTER_OPEN_MAX),
            _ => None,
        }
    }

    fn add(&mut self, id: u64, waiting: Waiting) {
        *self.by_importer.entry(waiting.importer()).or_default() += 1;
        self.waiting.insert(id, waiting);
        self.order.push_back(id);
    }

    fn remove(&mut self, id: u64) {
        let Some(gone) = self.waiting.remove(&id) else {
            return;
        };
        if let Entry::Occupied(mut own) = self.by_importer.entry(gone.importer()) {
            *own.get_mut() -= 1;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }

    /// Forgets the oldest that are late or closed.
    fn tidy(&mut self, now: u64) {
        while let Some(&id) = self.order.front() {
            match self.waiting.get(&id) {
                Some(waiting) if !waiting.is_late(now) => break,
                _ => self.remove(id),
            }
            self.order.pop_front();
        }
        // Answered ones behind a slow one.
        if self.order.len() > 2 * ANSWERS_OPEN_MAX {
            let waiting = &self.waiting;
            self.order.retain(|id| waiting.contains_key(id));
        }
    }
}

impl Sink for Answers {
    fn take(&self, message: &Message<'_>) -> bool {
        let is_end = message.data.len() == message.header_len;
        let Some((plane, reply)) = self.find(message.subject, is_end) else {
            return false;
        };
        let publication = Publication {
            subject: &reply,
            shown: message.shown,
            reply: message.reply,
            header_len: message.header_len,
            data: message.data,
            capture: true,
            local: false,
        };
        plane.with_engine(|engine| engine.publish(publication)) > 0
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers")
            .field("open", &self.open.lock().waiting.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plane::Planes;

    #[test]
    fn an_importer_without_answers_leaves_room_for_others() {
        let planes = Planes::new();
        let answers = Answers::new();
        let mut now = 0;
        let mut ask = |account| {
            now += 1;
            let plane = planes.of(Some(account))?;
            answers.open(Waiting {
                plane: Arc::downgrade(&plane),
                reply: Box::default(),
                response: ResponseType::Singleton,
                since: now,
                longest: Duration::from_mins(2),
            })
        };
        let greedy: Vec<_> = (0..IMPORTER_OPEN_MAX + 10).map(|_| ask("greedy")).collect();
        assert_eq!(greedy.iter().flatten().count(), IMPORTER_OPEN_MAX);
        assert!(ask("modest").is_some());
        for (id, _) in greedy.iter().flatten().take(2) {
            answers.close(*id);
            answers.close(*id);
        }
        let again: Vec<_> = (0..3).map(|_| ask("greedy").is_some()).collect();
        assert_eq!(again, [true, true, false]);
        let all: Vec<_> = greedy.iter().flatten().collect();
        all.iter().for_each(|(id, _)| answers.close(*id));
        assert_eq!(answers.open.lock().by_importer.len(), 2);
    }
}
