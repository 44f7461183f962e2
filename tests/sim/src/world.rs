//! One run: nodes, network, clients and time, all from one seed. A step is one thing that happens; what
//! must hold is looked at after each.

use std::collections::{BTreeMap, BTreeSet};

use unibus_proto::jetstream::ack::AckKind;
use unibus_state::{Command, CommandBatch, EncodedBatch, Outcome};

use crate::control::{self, ROOMS, Request, USERS, Wish};
use crate::member::Member;
use crate::naive::Naive;
use crate::rng::Rng;
use crate::streams::{
    self, CONSUMERS, Publisher, REGISTER, REGISTER_SUBJECT, Reaction, Reader, STREAMS,
};
use crate::tokens::{Flight, FlightId, Landing, Packet, Token};

const MS_NS: u64 = 1_000_000;
/// The time at which every run begins, Unix nanoseconds.
const START_NS: u64 = 1_700_000_000_000 * MS_NS;
/// Packets on the network at most; beyond it what nobody waits for is lost.
const PACKETS_MAX: usize = 256;

/// What was committed, as the first replica that applied it saw it.
#[derive(Debug)]
pub(crate) struct Truth {
    pub(crate) bytes: bytes::Bytes,
    pub(crate) outcomes: Vec<Outcome>,
    /// Looked at now and then.
    pub(crate) digest: Option<[u8; 32]>,
}

/// What a run did, for its report.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Steps taken.
    pub steps: u64,
    /// Entries committed.
    pub entries: u64,
    /// Leaders elected.
    pub elections: u64,
    /// Crashes.
    pub crashes: u64,
    /// Routes cut.
    pub cuts: u64,
    /// Snapshots taken over by another node.
    pub snapshots: u64,
    /// Publishes acknowledged.
    pub published: u64,
    /// Messages delivered by consumers.
    pub deliveries: u64,
    /// Double acknowledgements answered.
    pub answered: u64,
    /// Signed requests granted.
    pub granted: u64,
    /// Signed requests sent again by somebody.
    pub replays: u64,
    /// Messages received over the message plane.
    pub received: u64,
}

impl Counts {
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.entries += other.entries;
        self.elections += other.elections;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.snapshots += other.snapshots;
        self.published += other.published;
        self.deliveries += other.deliveries;
        self.answered += other.answered;
        self.granted += other.granted;
        self.replays += other.replays;
        self.received += other.received;
    }
}

/// The whole run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) now_ns: u64,
    pub(crate) members: Vec<Member>,
    /// Whether bytes pass from one node to another.
    pub(crate) links: Vec<Vec<bool>>,
    pub(crate) packets: Vec<Packet>,
    pub(crate) flights: BTreeMap<FlightId, Flight>,
    next_id: u64,
    pub(crate) truth: Vec<Truth>,
    pub(crate) naive: Naive,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) readers: Vec<Reader>,
    requests: Vec<Request>,
    /// Messages of the plane: the next number of each sender in each room, and what each session has.
    sent: BTreeMap<(usize, usize, usize), u64>,
    pub(crate) received: BTreeMap<(usize, usize, String), u64>,
    /// Nothing breaks any more.
    pub(crate) is_calm: bool,
    pub(crate) counts: Counts,
    trace: bool,
}

pub(crate) type Checked = Result<(), String>;

impl World {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let mut rng = Rng::new(seed);
        let nodes = if rng.chance(25) { 5 } else { 3 };
        let mut members: Vec<_> = (0..nodes).map(|_| Member::new(nodes)).collect();
        for (me, member) in members.iter_mut().enumerate() {
            for peer in (0..nodes).filter(|peer| *peer != me) {
                member.sessions.connect(me, peer);
            }
        }
        Self {
            now_ns: START_NS,
            links: vec![vec![true; nodes]; nodes],
            members,
            packets: Vec::new(),
            flights: BTreeMap::new(),
            next_id: 0,
            truth: Vec::new(),
            naive: Naive::default(),
            publishers: (0..5).map(Publisher::new).collect(),
            readers: CONSUMERS.iter().map(|_| Reader::default()).collect(),
            requests: Vec::new(),
            sent: BTreeMap::new(),
            received: BTreeMap::new(),
            is_calm: false,
            counts: Counts::default(),
            rng,
            trace,
        }
    }

    pub(crate) fn note(&self, text: impl FnOnce() -> String) {
        if self.trace {
            let ms = (self.now_ns - START_NS) / MS_NS;
            crate::say(&format!("{:>6} {ms:>8} ms  {}", self.counts.steps, text()));
        }
    }

    pub(crate) fn is_traced(&self) -> bool {
        self.trace
    }

    pub(crate) fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn any_node(&mut self) -> usize {
        self.rng.index(self.members.len())
    }

    /// A node that is up, if the first few that are looked at are.
    pub(crate) fn any_up(&mut self) -> Option<usize> {
        (0..4).find_map(|_| Some(self.any_node()).filter(|node| self.members[*node].up))
    }

    pub(crate) fn passes(&self, from: usize, to: usize) -> bool {
        self.members[to].up && (from == to || self.links[from][to])
    }

    /// Puts the streams, consumers, buckets and users there. Nothing fails yet.
    pub(crate) fn set_up(&mut self) -> Checked {
        self.elect(0)?;
        for command in streams::setup().into_iter().chain(control::setup()) {
            self.propose(0, batch_of(&command), vec![Token::Nobody]);
        }
        self.run_quietly(4)?;
        let made = self.members[0].state.stream_count();
        (made == STREAMS.len() + 5)
            .then_some(())
            .ok_or_else(|| format!("{made} streams after the setup"))
    }

    /// Rounds in which everything that can happen does.
    pub(crate) fn run_quietly(&mut self, rounds: usize) -> Checked {
        for _ in 0..rounds {
            self.now_ns += 20 * MS_NS;
            for node in 0..self.members.len() {
                self.send_proposals(node)?;
                for peer in 0..self.members.len() {
                    self.replicate(node, peer)?;
                }
                while self.apply(node)? {}
            }
            while !self.packets.is_empty() {
                self.deliver(0)?;
            }
        }
        Ok(())
    }

    /// Puts a batch into a node's queue.
    pub(crate) fn propose(&mut self, origin: usize, batch: EncodedBatch, tokens: Vec<Token>) {
        let id = self.fresh_id();
        let flight = Flight {
            origin,
            batch,
            tokens,
        };
        self.flights.insert(id, flight);
        self.members[origin].queue.push_back(id);
    }

    pub(crate) fn post(&mut self, packet: Packet) {
        let is_answered = matches!(packet, Packet::Propose { .. } | Packet::Answer { .. });
        if is_answered || self.packets.len() < PACKETS_MAX {
            self.packets.push(packet);
        }
    }

    // --- clients of streams ------------------------------------------------------------------------

    pub(crate) fn publish(&mut self) {
        let publisher = self.rng.index(self.publishers.len());
        let Some(node) = self.any_up() else { return };
        let n = self.publishers[publisher].n;
        if let Some(batch) = self.publishers[publisher].next() {
            self.propose(node, batch, vec![Token::Publish { publisher, n }]);
        }
    }

    /// Writes the register over what a node says is its last revision.
    pub(crate) fn write_register(&mut self) {
        let Some(node) = self.any_up() else { return };
        let value = self.fresh_id();
        let stream = self.members[node].state.stream(STREAMS[REGISTER]);
        let last = stream.and_then(|stream| stream.last_seq_for(REGISTER_SUBJECT.as_bytes()));
        let expected = (
            "Nats-Expected-Last-Subject-Sequence",
            last.unwrap_or(0).to_string(),
        );
        let batch = streams::append(REGISTER_SUBJECT, &[expected], &value.to_string());
        let writer = node;
        self.propose(node, batch, vec![Token::Register { writer, value }]);
    }

    /// Deletes a message of the stream that keeps everything.
    pub(crate) fn delete(&mut self) {
        let Some(node) = self.any_up() else { return };
        let last = self.members[node].state.stream(STREAMS[0]);
        let seq = 1 + self.rng.below(last.map_or(1, |stream| stream.last_seq()));
        let command = Command::MessageDelete(unibus_state::command::MessageDelete {
            stream: STREAMS[0].into(),
            seq,
            no_erase: true,
            privileged: false,
        });
        self.propose(node, batch_of(&command), vec![Token::Nobody]);
    }

    // --- clients of consumers ----------------------------------------------------------------------

    pub(crate) fn pull(&mut self) {
        let consumer = self.rng.index(CONSUMERS.len());
        let to = self.any_node();
        self.readers[consumer].pulls += 1;
        let reply = format!("inbox.{consumer}.{}", self.readers[consumer].pulls).into_bytes();
        let batch = 1 + self.rng.below(4);
        self.post(Packet::Pull {
            consumer,
            to,
            batch,
            reply,
        });
    }

    pub(crate) fn serve(&mut self, node: usize) -> Checked {
        let consumer = self.rng.index(CONSUMERS.len());
        let at = (self.members[node].clock(self.now_ns), self.fresh_id());
        let member = &mut self.members[node];
        if !member.acts() {
            return Ok(());
        }
        let sent = member
            .desk
            .turn(consumer, CONSUMERS[consumer], &member.state, at);
        for delivery in sent {
            self.counts.deliveries += 1;
            let seq = delivery.seq;
            let answered = self.readers[consumer].answered.get(&seq);
            if let Some(index) = answered.filter(|index| **index <= self.members[node].applied) {
                return Err(format!(
                    "node {node} delivers {seq} of {:?} again, settled by entry {index}",
                    CONSUMERS[consumer]
                ));
            }
            self.note(|| format!("node {node} delivers {seq} of {:?}", CONSUMERS[consumer]));
            self.post(Packet::Delivery { consumer, seq });
        }
        Ok(())
    }

    /// A leader whose quorum was silent for a moment leads again, in the same term: with new cursors,
    /// once nothing of the old ones is on its way.
    fn lead_again(&mut self, node: usize) {
        let is_update = |token: &Token| matches!(token, Token::Update { .. });
        let mine = self.flights.values().filter(|flight| flight.origin == node);
        let under_way = mine.flat_map(|flight| &flight.tokens).any(is_update);
        self.members[node].lapsed &= under_way;
    }

    /// Proposes what cursors did.
    pub(crate) fn report(&mut self, node: usize) {
        self.lead_again(node);
        for consumer in 0..CONSUMERS.len() {
            if let Some((life, update, answers)) = self.members[node].desk.report(consumer) {
                let batch = batch_of(&Command::ConsumerUpdate(update));
                let token = Token::Update {
                    consumer,
                    life,
                    answers,
                };
                self.propose(node, batch, vec![token]);
            }
        }
    }

    pub(crate) fn tick(&mut self, node: usize) {
        let member = &self.members[node];
        let due = member.state.next_deadline_ns();
        if member.acts() && due.is_some_and(|due| due <= member.clock(self.now_ns)) {
            self.propose(node, batch_of(&Command::Tick), vec![Token::Nobody]);
        }
    }

    fn client_received(&mut self, consumer: usize, seq: u64) {
        let (calm, reader) = (self.is_calm, &mut self.readers[consumer]);
        let reaction = reader.react(seq, &mut self.rng, calm);
        // With time they find the leader; until then they try anybody.
        let leader = self.members.iter().position(Member::acts);
        let to = match leader.filter(|_| self.is_calm) {
            Some(leader) => leader,
            None => self.any_node(),
        };
        let (double, is_nak) = match reaction {
            Reaction::Ignore => return,
            Reaction::Refuse => (false, true),
            Reaction::Acknowledge { double } => {
                self.readers[consumer].acknowledged.insert(seq);
                (double, false)
            }
        };
        self.post(Packet::Ack {
            consumer,
            seq,
            to,
            double,
            is_nak,
        });
    }

    // --- the operator ------------------------------------------------------------------------------

    pub(crate) fn ask(&mut self) {
        let Some(node) = self.any_up() else { return };
        let replay = !self.requests.is_empty() && self.rng.chance(30);
        let request = if replay {
            self.counts.replays += 1;
            // The newest, which may be under way elsewhere, or an old one: is its nonce remembered?
            if self.rng.chance(50) {
                self.requests.len() - 1
            } else {
                self.rng.index(self.requests.len())
            }
        } else {
            let wish = self.wish();
            let asker = self.rng.index(USERS);
            // A client's clock may be off, but not by more than what is allowed.
            let off_ms = self.rng.below(60_000);
            let at_s = (self.now_ns / MS_NS + off_ms - 30_000) / 1000;
            let nonce = self.rng.next();
            self.requests.push(Request::new(asker, wish, at_s, nonce));
            self.requests.len() - 1
        };
        let planned = self.requests[request].plan(&self.members[node], self.now_ns);
        if let Some(change) = planned {
            let wish = self.requests[request].wish;
            self.note(|| format!("node {node} plans {wish:?} for request {request}"));
            let batch = batch_of(&Command::Control(change));
            self.propose(node, batch, vec![Token::Control { request }]);
        }
    }

    fn wish(&mut self) -> Wish {
        let (room, user) = (self.rng.index(ROOMS), self.rng.index(USERS));
        match self.rng.below(20) {
            0..=5 => Wish::Create { room },
            6..=12 => Wish::Admit { room, user },
            13..=15 => Wish::Remove { room, user },
            16..=18 => Wish::Look,
            _ => Wish::Revoke { user },
        }
    }

    // --- the message plane -------------------------------------------------------------------------

    pub(crate) fn chat(&mut self) -> Checked {
        let Some(node) = self.any_up() else {
            return Ok(());
        };
        let (room, user) = self.speaker(node);
        let subject = control::room_subject(room);
        if self.rng.chance(50) {
            self.members[node].sessions.subscribe(user, &subject);
            return Ok(());
        }
        let n = self.sent.entry((node, user, room)).or_default();
        *n += 1;
        let payload = format!("{node} {user} {n}");
        let sessions = &mut self.members[node].sessions;
        let received = sessions.publish(user, &subject, payload.as_bytes());
        if received.is_some() && !self.may_use(node, room, user) {
            return Err(format!("node {node} lets user {user} publish to {subject}"));
        }
        self.take_received(node, received.unwrap_or_default())
    }

    /// Mostly somebody who may speak, sometimes anybody.
    fn speaker(&mut self, node: usize) -> (usize, usize) {
        let pairs = (0..ROOMS).flat_map(|room| (0..USERS).map(move |user| (room, user)));
        let may: Vec<_> = pairs
            .filter(|(room, user)| self.may_use(node, *room, *user))
            .collect();
        if may.is_empty() || self.rng.chance(20) {
            return (self.rng.index(ROOMS), self.rng.index(USERS));
        }
        may[self.rng.index(may.len())]
    }

    fn may_use(&self, node: usize, room: usize, user: usize) -> bool {
        self.naive.may_use(self.members[node].applied, room, user)
    }

    pub(crate) fn take_received(
        &mut self,
        node: usize,
        received: Vec<crate::plane::Received>,
    ) -> Checked {
        for (user, subject, payload) in received {
            self.counts.received += 1;
            let room = subject
                .rsplit('.')
                .next()
                .and_then(|room| room.parse().ok());
            if !room.is_some_and(|room| self.may_use(node, room, user)) {
                return Err(format!(
                    "node {node} gives user {user} a message of {subject}"
                ));
            }
            let text = String::from_utf8_lossy(&payload).into_owned();
            let (sender, n) = text.rsplit_once(' ').ok_or("a strange payload")?;
            let n: u64 = n.parse().map_err(|_| "a strange payload")?;
            let key = (node, user, format!("{subject} {sender}"));
            let before = self.received.insert(key, n);
            if before.is_some_and(|before| before >= n) {
                return Err(format!(
                    "user {user} at node {node} has {n} of {subject} from {sender} after {before:?}"
                ));
            }
        }
        Ok(())
    }

    /// Moves some bytes from one node's outgoing stream to the other's session.
    pub(crate) fn pump(&mut self, from: usize, to: usize) -> Checked {
        let most = 1 + self.rng.index(200);
        let Some(bytes) = self.members[from].sessions.send(to, most) else {
            return Ok(());
        };
        let received = self.members[to].sessions.receive(from, &bytes)?;
        self.take_received(to, received)
    }

    // --- the network -------------------------------------------------------------------------------

    /// A packet is lost; who waits for it learns that nobody knows.
    pub(crate) fn lose_packet(&mut self, at: usize) -> Checked {
        match self.packets.swap_remove(at) {
            Packet::Propose { from, flight, .. } => self.land(from, flight, Landing::Unknown),
            Packet::Answer { to, flight, .. } => self.land(to, flight, Landing::Unknown),
            _ => Ok(()),
        }
    }

    /// Delivers a packet, in whatever order.
    pub(crate) fn deliver(&mut self, at: usize) -> Checked {
        match self.packets.swap_remove(at) {
            Packet::Propose { from, to, flight } => self.take_proposal(from, to, flight)?,
            Packet::Answer {
                from,
                to,
                flight,
                landing,
            } => {
                let landing = if self.passes(from, to) {
                    landing
                } else {
                    Landing::Unknown
                };
                self.land(to, flight, landing)?;
            }
            Packet::Delivery { consumer, seq } => self.client_received(consumer, seq),
            Packet::Pull {
                consumer,
                to,
                batch,
                reply,
            } => {
                let at = (self.members[to].clock(self.now_ns), self.fresh_id());
                let member = &mut self.members[to];
                if member.acts() {
                    let names = CONSUMERS[consumer];
                    let asked = (batch, reply);
                    member.desk.pull(consumer, names, &member.state, at, asked);
                }
            }
            Packet::Ack {
                consumer,
                seq,
                to,
                double,
                is_nak,
            } => self.take_ack(consumer, to, (seq, double, is_nak)),
        }
        Ok(())
    }

    fn take_ack(&mut self, consumer: usize, to: usize, (seq, double, is_nak): (u64, bool, bool)) {
        let at = (self.members[to].clock(self.now_ns), self.fresh_id());
        let member = &mut self.members[to];
        if !member.acts() {
            return;
        }
        let kind = if is_nak {
            AckKind::Nak { delay_ns: None }
        } else {
            AckKind::Ack
        };
        let names = CONSUMERS[consumer];
        self.note(|| format!("node {to} takes {kind:?} for {seq} of {names:?}"));
        let member = &mut self.members[to];
        let ack = (seq, double && !is_nak, &kind);
        if member.desk.ack(consumer, names, &member.state, at, ack) {
            let applied = self.members[to].applied;
            self.answer_acks(applied, consumer, vec![seq]);
        }
    }

    fn answer_acks(&mut self, index: usize, consumer: usize, seqs: Vec<u64>) {
        self.counts.answered += seqs.len() as u64;
        for seq in seqs {
            self.note(|| format!("{seq} of {:?} is settled", CONSUMERS[consumer]));
            self.readers[consumer].answered.entry(seq).or_insert(index);
        }
    }

    // --- outcomes ----------------------------------------------------------------------------------

    /// What became of one command, told to who waits for it.
    pub(crate) fn resolve(
        &mut self,
        node: usize,
        token: &Token,
        told: Option<(usize, &Outcome)>,
    ) -> Checked {
        match token {
            Token::Publish { publisher, n } => {
                let seq = match told {
                    Some((_, Outcome::Published { seq, .. })) => Some(*seq),
                    None => None,
                    Some((_, other)) => return Err(format!("a publish has {other:?}")),
                };
                self.counts.published += u64::from(seq.is_some());
                self.publishers[*publisher].answer(*n, seq)?;
            }
            Token::Update {
                consumer,
                life,
                answers,
            } => {
                let is_applied = matches!(told, Some((_, Outcome::Done)));
                self.note(|| format!("an update of cursor {life} at node {node}: {told:?}"));
                match told {
                    // Whoever leads by now: what they wait for is applied.
                    Some((index, Outcome::Done)) if !self.members[node].void.contains(life) => {
                        self.answer_acks(index, *consumer, answers.clone());
                    }
                    _ => drop(self.members[node].void.insert(*life)),
                }
                let at = (self.members[node].clock(self.now_ns), self.fresh_id());
                let member = &mut self.members[node];
                let about = (CONSUMERS[*consumer], &member.state, at);
                let answers = member.desk.settle(*consumer, *life, is_applied, about);
                let applied = self.members[node].applied;
                self.answer_acks(applied, *consumer, answers);
            }
            Token::Control { request } => {
                if let Some((index, Outcome::Done)) = told {
                    self.note(|| format!("request {request} is granted by entry {index}"));
                    self.counts.granted += 1;
                    self.requests[*request].granted = Some(index);
                }
            }
            Token::Register { .. } | Token::Nobody => {}
        }
        Ok(())
    }

    /// Publishers whose messages are still to be acknowledged.
    pub(crate) fn unanswered(&self) -> BTreeSet<usize> {
        let waiting = self.publishers.iter().enumerate();
        waiting
            .filter(|(_, publisher)| publisher.waits)
            .map(|(place, _)| place)
            .collect()
    }
}

pub(crate) fn batch_of(command: &Command) -> EncodedBatch {
    let mut batch = CommandBatch::new();
    let pushed = batch.push(command);
    debug_assert!(pushed.is_ok(), "these commands always fit");
    batch.freeze()
}
