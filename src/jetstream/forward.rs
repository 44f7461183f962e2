//! The task behind [`super::inlet`]: sends batches to the leader's engine, answers what it settled,
//! and deals with leaders that are gone.
//!
//! A batch stays here until the leader says that all of it is done, which for a double
//! acknowledgement means replicated. When the leader is lost before, acknowledgements go to the next
//! one (they may be repeated without harm) and pull requests are answered `409 Leadership Change`: how
//! much of them was delivered is not known.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use serde::Deserialize;
use unibus_proto::NodeId;
use unibus_raft::Leadership;

use super::core::Core;
use super::ingest::answer_to;
use super::inputs::{self, Input, InputKind, Inputs, Taken, Verdict};
use super::leader::ToLeader;
use super::text;

/// Batches on their way at once; what comes meanwhile gathers into larger ones.
const FLIGHTS_MAX: usize = 32;
/// How long a batch is offered to leaders before it is dropped: then redelivery makes it good.
const OFFER_MAX: Duration = Duration::from_secs(10);
/// Between two offers of the same batch.
const OFFER_PAUSE: Duration = Duration::from_millis(20);
/// Pull requests remembered; the oldest are forgotten first.
const PULLS_MAX: usize = 65_536;
/// How long a pull request is remembered that says no time itself.
const PULL_MEMORY: Duration = Duration::from_secs(60);
/// How long a request that does not wait is remembered.
const PULL_MEMORY_NO_WAIT: Duration = Duration::from_secs(2);
/// Longest memory of any request: clients ask again long before.
const PULL_MEMORY_MAX: Duration = Duration::from_secs(3600);
/// Sleep when nothing is due.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Whom batches go to: a leader in its term, by the route that stands. The same node in a later term has
/// forgotten everything, and over a new route what waits for this node's clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Target {
    leader: NodeId,
    term: u64,
    /// Since when the route stands; `None` = none does, or the leader is this node.
    route: Option<Instant>,
}

/// A batch and what is known of its history.
struct Parcel {
    batch: Bytes,
    since: Instant,
    /// The target that it was sent to, counted; with its pulls noted under the number.
    sent_to: u64,
}

/// How a flight ended.
enum Landing {
    Settled(Taken),
    NotNow,
    Lost,
}

type Flight = BoxFuture<'static, (Parcel, Landing)>;

struct Forwarder {
    core: Arc<Core>,
    target: Option<Target>,
    /// How many targets there were.
    targets: u64,
    flights: FuturesUnordered<Flight>,
    /// Batches to be offered again, before anything that was queued later.
    again: VecDeque<Parcel>,
    not_before: Instant,
    pulls: Pulls,
}

/// Runs until the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    let mut leadership = core.replica.leadership();
    let mut routes = core.leader_link.routes_changed();
    let mut routes_change = true;
    let mut forwarder = Forwarder::new(&core);
    loop {
        let known = *leadership.borrow_and_update();
        routes.mark_unchanged();
        core.reign.saw(known.leader, known.term, Core::now());
        forwarder.follow(&known);
        forwarder.send_all();
        let until = forwarder.sleep_until();
        tokio::select! {
            () = core.inlet.wake.notified() => {
                // The connection that woke us has more in its read buffer: let it add that.
                tokio::task::yield_now().await;
            }
            Some((parcel, landing)) = forwarder.flights.next() => {
                forwarder.land(parcel, landing);
            }
            changed = leadership.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            // A node without peers has no routes that change.
            changed = routes.changed(), if routes_change => routes_change = changed.is_ok(),
            () = tokio::time::sleep_until(until.into()) => {}
        }
    }
}

impl Forwarder {
    fn new(core: &Arc<Core>) -> Self {
        Self {
            core: Arc::clone(core),
            target: None,
            targets: 0,
            flights: FuturesUnordered::new(),
            again: VecDeque::new(),
            not_before: Instant::now(),
            pulls: Pulls::default(),
        }
    }

    fn follow(&mut self, known: &Leadership) {
        let own = self.core.replica.id();
        let leader = match known.leader {
            _ if known.is_leader => Some(own),
            leader => leader.filter(|leader| *leader != own),
        };
        let target = leader.map(|leader| Target {
            leader,
            term: known.term,
            route: self.core.leader_link.route_since(leader),
        });
        if target == self.target {
            return;
        }
        self.target = target;
        self.targets += 1;
        self.core.inlet.set_flowing(target.is_some());
        let orphans = self.pulls.take_all(Instant::now());
        self.answer_orphans(&orphans);
    }

    /// Tells clients that the leader which had their requests is gone, or the way to it.
    fn answer_orphans(&self, replies: &[Bytes]) {
        let broker = &self.core.broker;
        let waiting: Vec<&Bytes> = replies
            .iter()
            .filter(|reply| broker.has_interest(reply))
            .collect();
        if waiting.is_empty() {
            return;
        }
        tracing::debug!(pulls = waiting.len(), "the leader of these pulls is gone");
        let mut block = Vec::new();
        text::status(&mut block, 409, "Leadership Change");
        broker.batch(|out| {
            for reply in waiting {
                out.publish(answer_to(reply, block.len(), &block));
            }
        });
    }

    fn send_all(&mut self) {
        let Some(target) = self.target else {
            return;
        };
        let now = Instant::now();
        while self.flights.len() < FLIGHTS_MAX {
            let parcel = match self.again.front() {
                Some(_) if now < self.not_before => return,
                Some(_) => self.again.pop_front(),
                None => self.core.inlet.take().map(|batch| Parcel {
                    batch,
                    since: now,
                    sent_to: 0,
                }),
            };
            let Some(parcel) = parcel else {
                return;
            };
            self.send(target, parcel);
        }
    }

    fn send(&mut self, Target { leader, .. }: Target, mut parcel: Parcel) {
        parcel.sent_to = self.targets;
        let own = self.core.replica.id();
        // A node without peers has no other leader to wait for.
        if leader != own || !self.core.leader_link.connected().is_empty() {
            self.pulls.note(&parcel.batch, Instant::now());
        }
        let landing = if leader == own {
            let taken = self.core.engine.accept(parcel.batch.clone(), true);
            async move {
                match taken.await {
                    Ok(verdict) => Landing::of(verdict),
                    Err(_) => Landing::Lost,
                }
            }
            .boxed()
        } else {
            let request = ToLeader::Inputs {
                batch: parcel.batch.clone(),
            };
            let call = self.core.call_leader(leader, &request);
            async move {
                match call.await {
                    Ok(answer) => Verdict::decode(answer).map_or(Landing::Lost, Landing::of),
                    Err(error) => {
                        tracing::debug!(%error, "consumer inputs did not reach the leader");
                        Landing::failed(&error)
                    }
                }
            }
            .boxed()
        };
        self.flights
            .push(landing.map(|landing| (parcel, landing)).boxed());
    }

    fn land(&mut self, parcel: Parcel, landing: Landing) {
        let parcel = match landing {
            Landing::Settled(taken) => return self.settle(&parcel.batch, &taken),
            // Its pulls were answered when the target changed.
            Landing::NotNow if parcel.sent_to != self.targets => self.without_pulls(parcel),
            Landing::NotNow => {
                // Not seen by anybody: its pulls are counted when it is offered again.
                self.pulls.forget(&parcel.batch);
                parcel
            }
            Landing::Lost => self.without_pulls(parcel),
        };
        if parcel.batch.is_empty() || parcel.since.elapsed() > OFFER_MAX {
            return;
        }
        self.not_before = Instant::now() + OFFER_PAUSE;
        self.again.push_back(parcel);
    }

    /// Answers the double acknowledgements of a batch, and what found no consumer.
    fn settle(&mut self, batch: &Bytes, taken: &Taken) {
        let strays = self.strays(batch, taken);
        if taken.answered.is_empty() && strays.is_empty() {
            return;
        }
        let mut answered = taken.answered.iter().copied().peekable();
        let mut unheard = strays.iter().copied().peekable();
        self.core.broker.batch(|out| {
            for (at, input) in (0_u32..).zip(Inputs::new(batch).flatten()) {
                if answered.next_if_eq(&at).is_some() {
                    out.publish(answer_to(input.reply, 0, b""));
                } else if unheard.next_if_eq(&at).is_some() && !input.reply.is_empty() {
                    let block = text::NO_RESPONDERS;
                    out.publish(answer_to(input.reply, block.len(), block));
                }
            }
        });
        for (at, input) in (0_u32..).zip(Inputs::new(batch).flatten()) {
            if strays.binary_search(&at).is_ok() && is_pull(&input) {
                self.pulls.forget_one(input.reply);
            }
        }
    }

    /// The inputs of a batch that found no consumer. A leader of an earlier version does not say so: then
    /// what this node knows has to do.
    fn strays(&self, batch: &Bytes, taken: &Taken) -> Vec<u32> {
        if let Some(strays) = &taken.strays {
            return strays.clone();
        }
        let hooks = &self.core.hooks;
        let is_stray = |input: &Input<'_>| {
            inputs::target(input)
                .is_some_and(|(stream, name)| hooks.consumer_pushes(stream, name).is_none())
        };
        let inputs = (0_u32..).zip(Inputs::new(batch).flatten());
        let strays = inputs.filter(|(_, input)| is_stray(input));
        strays.map(|(at, _)| at).collect()
    }

    /// What may go to another leader after a batch was lost: its acknowledgements.
    fn without_pulls(&self, parcel: Parcel) -> Parcel {
        let mut kept = BytesMut::new();
        let mut orphans = Vec::new();
        for input in Inputs::new(&parcel.batch).flatten() {
            let (reply, body) = match input.kind {
                InputKind::Ack if asks_next(&input) => (&b""[..], &b"+ACK"[..]),
                InputKind::Ack => (input.reply, input.body),
                InputKind::Pull | InputKind::Flow => (&b""[..], &b""[..]),
            };
            if input.kind == InputKind::Ack {
                // It was framed before.
                let _ = inputs::put(&mut kept, InputKind::Ack, input.subject, reply, body);
            }
            if is_pull(&input) {
                orphans.push(Bytes::copy_from_slice(input.reply));
            }
        }
        // Those of an earlier leader were answered when it went.
        let orphans = self.pulls.known(orphans);
        self.answer_orphans(&orphans);
        Parcel {
            batch: kept.freeze(),
            since: parcel.since,
            sent_to: parcel.sent_to,
        }
    }

    fn sleep_until(&mut self) -> Instant {
        let now = Instant::now();
        self.pulls.expire(now);
        if self.again.is_empty() || self.flights.len() >= FLIGHTS_MAX {
            now + SLEEP_MAX
        } else {
            self.not_before
        }
    }
}

impl Landing {
    fn of(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Taken(taken) => Self::Settled(taken),
            Verdict::NotNow => Self::NotNow,
        }
    }

    fn failed(error: &unibus_raft::TransportError) -> Self {
        match error {
            unibus_raft::TransportError::Unreachable(_) => Self::NotNow,
            _ => Self::Lost,
        }
    }
}

/// Requests that a leader was given and that may still wait there.
#[derive(Debug, Default)]
struct Pulls {
    /// Until when, in the order of coming, and the request's number.
    waiting: VecDeque<(Instant, u64, Bytes)>,
    /// The numbers of the requests with a reply subject that still count, in the order of coming.
    known: HashMap<Bytes, VecDeque<u64>>,
    /// The number of the next request.
    next: u64,
    /// How many there may be before the expired ones are looked for.
    look_at: usize,
}

impl Pulls {
    /// Looks for expired requests when the number of known ones has doubled.
    const LOOK_AT_MIN: usize = 256;

    fn note(&mut self, batch: &Bytes, now: Instant) {
        for input in Inputs::new(batch).flatten() {
            if !is_pull(&input) {
                continue;
            }
            if self.waiting.len() >= PULLS_MAX
                && let Some((_, number, reply)) = self.waiting.pop_front()
            {
                self.drop_number(&reply, number);
            }
            // Copied: a slice would keep the whole batch.
            let reply = Bytes::copy_from_slice(input.reply);
            let numbers = self.known.entry(reply.clone()).or_default();
            numbers.push_back(self.next);
            let until = now + memory(&input);
            self.waiting.push_back((until, self.next, reply));
            self.next += 1;
        }
    }

    /// Forgets the requests of a batch, one for each that was noted last.
    fn forget(&mut self, batch: &Bytes) {
        for input in Inputs::new(batch).flatten() {
            if is_pull(&input) {
                self.forget_one(input.reply);
            }
        }
    }

    /// Forgets the request that was noted last of those with a reply subject. Its place among the waiting
    /// goes with time.
    fn forget_one(&mut self, reply: &[u8]) {
        if let Some(numbers) = self.known.get_mut(reply) {
            numbers.pop_back();
            if numbers.is_empty() {
                self.known.remove(reply);
            }
        }
    }

    fn drop_number(&mut self, reply: &Bytes, number: u64) {
        if let Some(numbers) = self.known.get_mut(reply) {
            if let Ok(at) = numbers.binary_search(&number) {
                numbers.remove(at);
            }
            if numbers.is_empty() {
                self.known.remove(reply);
            }
        }
    }

    fn still_counts(known: &HashMap<Bytes, VecDeque<u64>>, number: u64, reply: &Bytes) -> bool {
        known
            .get(reply)
            .is_some_and(|numbers| numbers.binary_search(&number).is_ok())
    }

    /// Those of `replies` that wait.
    fn known(&self, mut replies: Vec<Bytes>) -> Vec<Bytes> {
        replies.retain(|reply| self.known.contains_key(reply));
        replies
    }

    fn take_all(&mut self, now: Instant) -> Vec<Bytes> {
        let known = std::mem::take(&mut self.known);
        let waiting = std::mem::take(&mut self.waiting);
        let mut replies: Vec<Bytes> = waiting
            .into_iter()
            .filter(|(until, number, reply)| {
                *until > now && Self::still_counts(&known, *number, reply)
            })
            .map(|(_, _, reply)| reply)
            .collect();
        replies.sort_unstable();
        replies.dedup();
        replies
    }

    fn expire(&mut self, now: Instant) {
        if self.waiting.len() <= self.look_at.max(Self::LOOK_AT_MIN) {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        for (until, number, reply) in waiting {
            if until <= now {
                self.drop_number(&reply, number);
            } else if Self::still_counts(&self.known, number, &reply) {
                self.waiting.push_back((until, number, reply));
            }
        }
        self.look_at = self.waiting.len() * 2;
    }
}

fn asks_next(input: &Input<'_>) -> bool {
    input.body.starts_with(b"+NXT")
}

/// Whether messages or a status are to come to the input's reply subject.
fn is_pull(input: &Input<'_>) -> bool {
    !input.reply.is_empty()
        && match input.kind {
            InputKind::Pull => true,
            InputKind::Ack => asks_next(input),
            InputKind::Flow => false,
        }
}

/// How long a request may wait at the leader.
fn memory(input: &Input<'_>) -> Duration {
    /// The part of a request that matters here.
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Head {
        expires: i64,
        no_wait: bool,
    }

    let body = input.body.strip_prefix(b"+NXT").unwrap_or(input.body);
    let head: Head = match body.trim_ascii() {
        json @ [b'{', ..] => serde_json::from_slice(json).unwrap_or_default(),
        _ => Head::default(),
    };
    match u64::try_from(head.expires) {
        Ok(ns) if ns > 0 => Duration::from_nanos(ns).min(PULL_MEMORY_MAX),
        _ if head.no_wait => PULL_MEMORY_NO_WAIT,
        _ => PULL_MEMORY,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bytes::{Bytes, BytesMut};

    use futures::StreamExt;
    use unibus_proto::NodeId;
    use unibus_raft::Leadership;

    use super::{Forwarder, Landing, PULL_MEMORY, Parcel, Pulls, memory};
    use crate::jetstream::inputs::{InputKind, Inputs, put};
    use crate::jetstream::tests::{Node, ask, soon};

    fn batch(inputs: &[(InputKind, &str, &str)]) -> Bytes {
        let mut out = BytesMut::new();
        for (kind, reply, body) in inputs {
            put(&mut out, *kind, b"s", reply.as_bytes(), body.as_bytes()).unwrap();
        }
        out.freeze()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn requests_are_answered_when_the_route_to_their_leader_is_made_anew() {
        let node = Node::start().await;
        let client = node.client().await;
        let mut inbox = soon(client.subscribe("waiting.here")).await.unwrap();
        // Once this is answered, the node knows of the subscription.
        ask(&client, "$JS.API.INFO", &serde_json::Value::Null).await;
        let mut forwarder = Forwarder::new(&node.jetstream.core);
        let known = Leadership {
            leader: Some(NodeId(99)),
            term: 7,
            is_leader: false,
        };
        *node.link.route.lock() = Some(Instant::now());
        forwarder.follow(&known);
        let pull = batch(&[(InputKind::Pull, "waiting.here", "")]);
        forwarder.pulls.note(&pull, Instant::now());
        forwarder.follow(&known);
        assert_eq!(forwarder.pulls.known(vec!["waiting.here".into()]).len(), 1);
        *node.link.route.lock() = Some(Instant::now() + Duration::from_nanos(1));
        forwarder.follow(&known);
        let told = soon(inbox.next()).await.unwrap();
        assert_eq!(told.status.unwrap().as_u16(), 409);
        assert_eq!(told.description.as_deref(), Some("Leadership Change"));

        // A batch that nobody looked at by the old route goes by the new one, without the requests whose
        // clients were told.
        let mixed = batch(&[
            (InputKind::Pull, "waiting.here", ""),
            (InputKind::Ack, "", "+ACK"),
        ]);
        let parcel = Parcel {
            batch: mixed,
            since: Instant::now(),
            sent_to: forwarder.targets - 1,
        };
        forwarder.land(parcel, Landing::NotNow);
        let again: Vec<_> = forwarder.again.iter().collect();
        let kinds: Vec<_> = Inputs::new(&again[0].batch)
            .map(|input| input.unwrap().kind)
            .collect();
        assert_eq!(kinds, [InputKind::Ack]);
        node.stop().await;
    }

    #[test]
    fn requests_are_remembered_as_long_as_they_may_wait() {
        let waits = |body: &str| {
            let batch = batch(&[(InputKind::Pull, "r", body)]);
            memory(&Inputs::new(&batch).next().unwrap().unwrap())
        };
        assert_eq!(waits(""), PULL_MEMORY);
        assert_eq!(waits("10"), PULL_MEMORY);
        assert_eq!(
            waits(r#"{"batch":1,"expires":5000000000}"#),
            Duration::from_secs(5)
        );
        assert!(waits(r#"{"no_wait":true}"#) < PULL_MEMORY);
        assert_eq!(
            waits(r#"+NXT {"expires":1000000000}"#),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn only_requests_that_still_wait_are_answered() {
        let now = Instant::now();
        let mut pulls = Pulls::default();
        let noted = batch(&[
            (InputKind::Pull, "a", r#"{"expires":1000000000}"#),
            (InputKind::Pull, "b", r#"{"expires":9000000000}"#),
            (InputKind::Pull, "b", r#"{"expires":9000000000}"#),
            (InputKind::Pull, "", ""),
            (InputKind::Ack, "c", "+ACK"),
            (InputKind::Ack, "d", "+NXT 1"),
            (InputKind::Flow, "e", ""),
        ]);
        pulls.note(&noted, now);
        let left = pulls.take_all(now + Duration::from_secs(2));
        assert_eq!(left, ["b", "d"]);
        assert!(pulls.take_all(now).is_empty());
        pulls.note(&noted, now);
        pulls.forget(&noted);
        assert!(pulls.take_all(now).is_empty());
    }

    #[test]
    fn other_requests_of_an_inbox_are_not_forgotten() {
        let now = Instant::now();
        let mut pulls = Pulls::default();
        let first = batch(&[(InputKind::Pull, "a", ""), (InputKind::Pull, "b", "")]);
        let again = batch(&[(InputKind::Pull, "a", "")]);
        pulls.note(&first, now);
        pulls.note(&again, now);
        pulls.forget(&again);
        assert_eq!(pulls.known(vec!["a".into(), "c".into()]), ["a"]);
        assert_eq!(pulls.take_all(now), ["a", "b"]);
        assert!(pulls.known(vec!["a".into()]).is_empty());
    }

    #[test]
    fn what_is_forgotten_makes_room() {
        let now = Instant::now();
        let mut pulls = Pulls::default();
        let one = batch(&[(InputKind::Pull, "a", "")]);
        for _ in 0..10 * Pulls::LOOK_AT_MIN {
            pulls.note(&one, now);
            pulls.forget(&one);
            pulls.expire(now);
        }
        assert!(pulls.waiting.len() <= Pulls::LOOK_AT_MIN + 1);
        assert!(pulls.known.is_empty());
    }
}
