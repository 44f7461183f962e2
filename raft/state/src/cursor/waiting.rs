//! Pull requests that wait: who is served next, and when a request is over. Requests are served in turn,
//! one message each; a prioritized consumer serves the most urgent ones first.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use unibus_proto::jetstream::pull::PullRequest;

use crate::delivery::{Status, StatusDetail};
use crate::ledger::Position;

/// Heartbeats come no more often, whatever is asked for: as those of push consumers. Nanoseconds.
const HEARTBEAT_NS_MIN: u64 = 100_000_000;

/// One pull request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) reply: Bytes,
    /// Messages it still wants.
    left: u64,
    served: u64,
    bytes_left: Option<u64>,
    expires_ns: Option<u64>,
    /// Interval and next time.
    heartbeat: Option<(u64, u64)>,
    no_wait: bool,
    min_pending: u64,
    min_ack_pending: u64,
    priority: i64,
    pub(super) pin: String,
}

fn positive(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

impl Request {
    pub(super) fn new(asked: &PullRequest, reply: Bytes, now_ns: u64) -> Self {
        Self {
            reply,
            left: positive(asked.batch).unwrap_or(1),
            served: 0,
            bytes_left: positive(asked.max_bytes),
            expires_ns: positive(asked.expires).map(|ns| now_ns.saturating_add(ns)),
            heartbeat: positive(asked.idle_heartbeat)
                .map(|ns| ns.max(HEARTBEAT_NS_MIN))
                .map(|ns| (ns, now_ns.saturating_add(ns))),
            no_wait: asked.no_wait,
            min_pending: positive(asked.min_pending).unwrap_or(0),
            min_ack_pending: positive(asked.min_ack_pending).unwrap_or(0),
            priority: asked.priority,
            pin: asked.id.clone(),
        }
    }

    /// Forgets its urgency, where all are equal.
    pub(super) fn level(&mut self) {
        self.priority = 0;
    }

    fn over(&self, code: u16, text: &'static str) -> Status {
        Status::unserved(code, text, self.left, self.bytes_left.unwrap_or(0))
    }

    /// When it has to be looked at.
    fn timer_ns(&self) -> u64 {
        let beat = self.heartbeat.map(|(_, at_ns)| at_ns);
        let first = self.expires_ns.into_iter().chain(beat).min();
        first.unwrap_or(u64::MAX)
    }

    /// Whether it only takes what is there.
    fn ends_when_empty(&self) -> bool {
        self.no_wait && (self.expires_ns.is_none() || self.served > 0)
    }
}

/// What a group's policy says about a request at this moment.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Serve it.
    Serve,
    /// Leave it waiting.
    Pass,
    /// End it with `423`.
    WrongPin,
}

/// How many messages there are, for overflow requests.
#[derive(Copy, Clone, Debug)]
pub(super) struct Load {
    pub(super) pending: u64,
    pub(super) ack_pending: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<Request>,
    /// No request has to be looked at before.
    timer_ns: u64,
    /// Some request takes only what is there.
    one_shots: usize,
}

/// Statuses and whom they go to.
pub(super) type Statuses = VecDeque<(Bytes, Status)>;

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Messages wanted by all requests.
    pub(super) fn wanted(&self) -> u64 {
        let left = self.queue.iter().map(|request| request.left);
        left.fold(0, u64::saturating_add)
    }

    pub(super) fn next_ns(&self) -> Option<u64> {
        (!self.queue.is_empty() && self.timer_ns < u64::MAX).then_some(self.timer_ns)
    }

    pub(super) fn push(&mut self, request: Request) {
        self.timer_ns = if self.queue.is_empty() {
            request.timer_ns()
        } else {
            self.timer_ns.min(request.timer_ns())
        };
        self.one_shots += usize::from(request.no_wait);
        self.insert(request);
    }

    /// Behind those that are as urgent.
    fn insert(&mut self, request: Request) {
        let at = self
            .queue
            .iter()
            .rposition(|other| other.priority <= request.priority);
        self.queue.insert(at.map_or(0, |at| at + 1), request);
    }

    fn remove(&mut self, at: usize) -> Option<Request> {
        let request = self.queue.remove(at)?;
        self.one_shots -= usize::from(request.no_wait);
        Some(request)
    }

    /// Ends what has expired and sends heartbeats.
    pub(super) fn expire(&mut self, now_ns: u64, last: Position, out: &mut Statuses) {
        if self.queue.is_empty() || now_ns < self.timer_ns {
            return;
        }
        let mut next = u64::MAX;
        self.queue.retain_mut(|request| {
            if request.expires_ns.is_some_and(|at| at <= now_ns) {
                out.push_back((request.reply.clone(), request.over(408, "Request Timeout")));
                self.one_shots -= usize::from(request.no_wait);
                return false;
            }
            if let Some((interval, at)) = &mut request.heartbeat
                && *at <= now_ns
            {
                *at = now_ns.saturating_add(*interval);
                let beat = Status {
                    detail: StatusDetail::Last(last),
                    ..Status::fixed(100, "Idle Heartbeat")
                };
                out.push_back((request.reply.clone(), beat));
            }
            next = next.min(request.timer_ns());
            true
        });
        self.timer_ns = next;
    }

    /// Nothing is there: ends the requests that do not wait.
    pub(super) fn end_one_shots(&mut self, out: &mut Statuses) {
        if self.one_shots == 0 {
            return;
        }
        self.queue.retain(|request| {
            let ends = request.ends_when_empty();
            if ends {
                out.push_back((request.reply.clone(), Status::NO_MESSAGES));
                self.one_shots -= usize::from(request.no_wait);
            }
            !ends
        });
    }

    /// The place of the request that gets the next message, which is `size` bytes with its subjects.
    /// Requests that turn out to be over are ended.
    pub(super) fn choose(
        &mut self,
        size: u64,
        load: Load,
        mut judge: impl FnMut(&Request) -> Verdict,
        out: &mut Statuses,
    ) -> Option<usize> {
        let mut at = 0;
        while let Some(request) = self.queue.get(at) {
            let overflow =
                load.pending < request.min_pending || load.ack_pending < request.min_ack_pending;
            let verdict = if overflow {
                Verdict::Pass
            } else {
                judge(request)
            };
            let ended = match verdict {
                Verdict::Pass => {
                    at += 1;
                    continue;
                }
                Verdict::WrongPin => request.over(423, "Nats-Wrong-Pin-Id"),
                Verdict::Serve if request.bytes_left.is_some_and(|left| size > left) => {
                    request.over(409, "Message Size Exceeds MaxBytes")
                }
                Verdict::Serve => return Some(at),
            };
            if let Some(request) = self.remove(at) {
                out.push_back((request.reply, ended));
            }
        }
        None
    }

    /// Serves the chosen request: it goes to the end of its queue, or is over.
    pub(super) fn serve(
        &mut self,
        at: usize,
        size: u64,
        pin: Option<Arc<str>>,
        now_ns: u64,
        out: &mut Statuses,
    ) -> Option<Bytes> {
        let mut request = self.remove(at)?;
        let reply = request.reply.clone();
        request.left -= 1;
        request.served += 1;
        if let Some(pin) = pin {
            request.pin = pin.to_string();
        }
        if let Some(left) = &mut request.bytes_left {
            *left = left.saturating_sub(size);
            if *left == 0 {
                request.left = 0;
            } else if request.left == 0 {
                let done = request.over(409, "Batch Completed");
                out.push_back((reply.clone(), done));
            }
        }
        if let Some((interval, beat_at)) = &mut request.heartbeat {
            *beat_at = now_ns.saturating_add(*interval);
        }
        if request.left > 0 {
            self.one_shots += usize::from(request.no_wait);
            self.insert(request);
        }
        Some(reply)
    }

    /// A message that was taken for a request did not leave. One that is over by now is ended with what it
    /// did not get.
    pub(super) fn give_back(&mut self, reply: &Bytes, out: &mut Statuses) {
        let mut latest_first = self.queue.iter_mut().rev();
        match latest_first.find(|request| request.reply == *reply) {
            Some(request) => {
                request.left += 1;
                request.served = request.served.saturating_sub(1);
            }
            None => {
                let ended = Status::unserved(408, "Request Timeout", 1, 0);
                out.push_back((reply.clone(), ended));
            }
        }
    }

    /// Ends every request of a reply subject that nobody listens on. True if there were any.
    pub(super) fn forget(&mut self, reply: &[u8]) -> bool {
        let before = self.queue.len();
        self.queue.retain(|request| request.reply != reply);
        self.one_shots = self.queue.iter().filter(|request| request.no_wait).count();
        self.queue.len() < before
    }

    /// Ends everything with one status.
    pub(super) fn close(&mut self, status: &Status) -> Vec<(Bytes, Status)> {
        self.one_shots = 0;
        self.queue
            .drain(..)
            .map(|request| (request.reply, status.clone()))
            .collect()
    }

    /// The reply subjects, one for each request.
    pub(super) fn replies(&self) -> impl Iterator<Item = &Bytes> {
        self.queue.iter().map(|request| &request.reply)
    }
}
