//! The streams of a run, and clients that publish to them: each message once, in the order of its
//! publisher, however often it has to be sent.

use unibus_proto::jetstream::config::{Retention, StreamConfig};
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_state::command::{Command, ConsumerCreate, StreamPut};
use unibus_state::{CommandBatch, EncodedBatch};

use crate::rng::Rng;

/// Names of the streams: one that keeps everything, a work queue, a key-value bucket.
pub(crate) const STREAMS: [&str; 3] = ["S", "W", "KV_r"];
/// The place of the bucket.
pub(crate) const REGISTER: usize = 2;
/// The subject of the register.
pub(crate) const REGISTER_SUBJECT: &str = "$KV.r.x";
/// Consumers: stream and name. The last one takes only what one publisher says.
pub(crate) const CONSUMERS: [(&str, &str); 3] = [("S", "all"), ("W", "work"), ("S", "one")];
/// What the last consumer filters.
pub(crate) const ONE: &str = "s.0";

const SECOND_NS: i64 = 1_000_000_000;

/// The stream that takes a subject.
pub(crate) fn of_subject(subject: &str) -> Option<&'static str> {
    let place = match subject.split('.').next()? {
        "s" => 0,
        "w" => 1,
        "$KV" => REGISTER,
        _ => return None,
    };
    Some(STREAMS[place])
}

/// The value of a header.
pub(crate) fn header(block: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(block).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.strip_prefix(':')?.trim().to_owned())
}

/// What a cluster is given first.
pub(crate) fn setup() -> Vec<Command> {
    let stream = |name: &str, subjects: &str, retention, history| {
        let config = StreamConfig {
            name: name.to_owned(),
            subjects: vec![subjects.to_owned()],
            retention,
            max_msgs_per_subject: history,
            // Longer than a run: a retry is always within it.
            duplicate_window: 3600 * SECOND_NS,
            ..StreamConfig::default()
        };
        Command::StreamCreate(put(config))
    };
    let mut commands = vec![
        stream(STREAMS[0], "s.>", Retention::Limits, -1),
        stream(STREAMS[1], "w.>", Retention::Workqueue, -1),
        stream(STREAMS[REGISTER], "$KV.r.>", Retention::Limits, 1),
    ];
    commands.extend((0..CONSUMERS.len()).map(consumer));
    commands
}

pub(crate) fn put(config: StreamConfig) -> StreamPut {
    StreamPut {
        config,
        privileged: true,
        replicas_max: 5,
        pedantic: false,
    }
}

fn consumer(place: usize) -> Command {
    let (stream, name) = CONSUMERS[place];
    let one = (name == "one").then(|| ONE.to_owned());
    Command::ConsumerCreate(ConsumerCreate {
        stream: stream.to_owned(),
        config: ConsumerConfig {
            durable_name: name.to_owned(),
            ack_policy: AckPolicy::Explicit,
            ack_wait: 3 * SECOND_NS,
            filter_subject: one.unwrap_or_default(),
            max_ack_pending: if place == 0 { 5 } else { -1 },
            ..ConsumerConfig::default()
        },
        action: unibus_proto::jetstream::api::ConsumerAction::Create,
        generated_name: String::new(),
        privileged: true,
    })
}

/// One message as a batch.
pub(crate) fn append(subject: &str, headers: &[(&str, String)], payload: &str) -> EncodedBatch {
    let mut data = String::from("NATS/1.0\r\n");
    for (name, value) in headers {
        data.push_str(&format!("{name}: {value}\r\n"));
    }
    data.push_str("\r\n");
    let header_len = data.len();
    data.push_str(payload);
    let mut batch = CommandBatch::new();
    let pushed = batch.push_append(subject.as_bytes(), header_len, data.as_bytes(), false);
    debug_assert!(pushed.is_ok(), "a small message always fits");
    batch.freeze()
}

/// A client that publishes numbers, each until it is acknowledged.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) subject: String,
    /// The number it is at.
    pub(crate) n: u64,
    /// Sent, and no answer yet.
    pub(crate) waits: bool,
    /// Number and sequence, in order.
    pub(crate) acknowledged: Vec<(u64, u64)>,
}

impl Publisher {
    pub(crate) fn new(place: usize) -> Self {
        let prefix = if place.is_multiple_of(2) { "s" } else { "w" };
        Self {
            subject: format!("{prefix}.{place}"),
            n: 0,
            waits: false,
            acknowledged: Vec::new(),
        }
    }

    /// What it sends next: the same number until that is acknowledged.
    pub(crate) fn next(&mut self) -> Option<EncodedBatch> {
        if self.waits {
            return None;
        }
        self.waits = true;
        let id = format!("{}-{}", self.subject, self.n);
        Some(append(
            &self.subject,
            &[("Nats-Msg-Id", id)],
            &self.n.to_string(),
        ))
    }

    /// An answer, or that there will be none.
    pub(crate) fn answer(&mut self, n: u64, seq: Option<u64>) -> Result<(), String> {
        if n != self.n {
            return Ok(());
        }
        self.waits = false;
        let Some(seq) = seq else { return Ok(()) };
        if let Some((before, at)) = self.acknowledged.last().filter(|(_, at)| *at >= seq) {
            return Err(format!(
                "{}: number {n} has sequence {seq}, and {before} before it {at}",
                self.subject
            ));
        }
        self.acknowledged.push((n, seq));
        self.n += 1;
        Ok(())
    }
}

/// What a consumer's client knows.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    /// How often each message came.
    pub(crate) received: std::collections::BTreeMap<u64, u64>,
    /// What it said it is done with.
    pub(crate) acknowledged: std::collections::BTreeSet<u64>,
    /// Acknowledgements that were answered, and the entry that settled them.
    pub(crate) answered: std::collections::BTreeMap<u64, usize>,
    /// Pull requests made.
    pub(crate) pulls: u64,
}

/// What a client does with a message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reaction {
    Ignore,
    Refuse,
    Acknowledge { double: bool },
}

impl Reader {
    pub(crate) fn react(&mut self, seq: u64, rng: &mut Rng, is_calm: bool) -> Reaction {
        *self.received.entry(seq).or_default() += 1;
        match rng.below(if is_calm { 6 } else { 10 }) {
            0..=2 => Reaction::Acknowledge { double: false },
            3..=5 => Reaction::Acknowledge { double: true },
            6 => Reaction::Refuse,
            _ => Reaction::Ignore,
        }
    }
}
