//! A host of one cursor: polls it, reports its changes to the state, and writes down in short words what
//! it was told.

use bytes::Bytes;
use unibus_proto::jetstream::ack::{AckKind, AckTokens};
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_proto::jetstream::pull::PullRequest;
use unibus_state::command::Command;
use unibus_state::{AckOutcome, Consumer, ConsumerCursor, Delivery, Outcome, Poll, Status};

use super::{Bench, SECOND};

/// A durable pull consumer with explicit acknowledgements after 30 s.
pub(crate) fn pull_config() -> ConsumerConfig {
    ConsumerConfig {
        durable_name: "c".into(),
        ack_policy: AckPolicy::Explicit,
        ..ConsumerConfig::default()
    }
}

pub(crate) fn batch(messages: i64) -> PullRequest {
    PullRequest {
        batch: messages,
        ..PullRequest::default()
    }
}

pub(crate) struct Host {
    pub(crate) bench: Bench,
    pub(crate) cursor: ConsumerCursor,
}

impl Host {
    /// The consumer "c" of a stream, which `bench` has.
    pub(crate) fn new(mut bench: Bench, config: ConsumerConfig) -> Self {
        let outcome = bench.consumer(config, ConsumerAction::Create);
        assert!(
            matches!(outcome, Outcome::ConsumerCreated { created: true, .. }),
            "{outcome:?}"
        );
        let cursor = Self::fresh(&bench);
        Self { bench, cursor }
    }

    pub(crate) fn fresh(bench: &Bench) -> ConsumerCursor {
        let stream = bench.stream();
        ConsumerCursor::new(stream, stream.consumer("c").unwrap(), bench.now)
    }

    pub(crate) fn consumer(&self) -> &Consumer {
        self.bench.stream().consumer("c").unwrap()
    }

    pub(crate) fn pull(&mut self, request: &PullRequest, reply: &str) -> Option<String> {
        let reply = Bytes::copy_from_slice(reply.as_bytes());
        let (stream, now) = (self.bench.state.stream("S").unwrap(), self.bench.now);
        let refused = self.cursor.handle_pull(stream, request, reply, now);
        refused.map(|status| text(&status))
    }

    /// Says something about the last delivery of a message.
    pub(crate) fn say(&mut self, seq: u64, body: &str) -> AckOutcome {
        let tokens = AckTokens {
            domain: None,
            account: None,
            stream: "S",
            consumer: "c",
            delivered: 1,
            stream_seq: seq,
            consumer_seq: seq,
            ts_ns: 0,
            pending: 0,
        };
        let kind = AckKind::parse(body.as_bytes()).unwrap();
        self.cursor.handle_ack(&kind, &tokens, self.bench.now)
    }

    pub(crate) fn poll(&mut self) -> Poll {
        let stream = self.bench.state.stream("S").unwrap();
        self.cursor.poll(stream, self.bench.now)
    }

    /// Everything there is to do now, in short words.
    pub(crate) fn all(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            match self.poll() {
                Poll::Idle { .. } => return told,
                other => told.push(short(&other)),
            }
            assert!(told.len() < 10_000, "does not come to rest");
        }
    }

    /// Reports what changed; the row says the same as the cursor afterwards.
    pub(crate) fn flush(&mut self) {
        if let Some(update) = self.cursor.take_changes() {
            let outcome = self.bench.run(&Command::ConsumerUpdate(update));
            assert_eq!(outcome, Outcome::Done);
        }
        assert_eq!(self.consumer().ledger(), self.cursor.ledger());
    }

    /// Another node leads.
    pub(crate) fn fail_over(&mut self) {
        self.bench.now += 1;
        self.cursor = Self::fresh(&self.bench);
    }

    pub(crate) fn wait(&mut self, seconds: u64) {
        self.bench.now += seconds * SECOND;
    }
}

/// `reply: code text`, with what was not served.
fn text(status: &Status) -> String {
    let mut out = Vec::new();
    status.write(&mut out);
    let out = String::from_utf8(out).unwrap();
    let out = out.trim_end().trim_start_matches("NATS/1.0 ");
    let out = out.replace("\r\nNats-Pending-Messages: ", " ");
    let out = out.replace("\r\nNats-Pending-Bytes: ", "/");
    let out = out.replace("\r\nNats-Last-Consumer: ", " ");
    out.replace("\r\nNats-Last-Stream: ", "/")
}

/// `to stream_seq#consumer_seq x times +pending`.
fn delivery(d: &Delivery) -> String {
    let to = String::from_utf8_lossy(&d.to);
    let times = if d.delivered == 1 {
        String::new()
    } else {
        format!(" x{}", d.delivered)
    };
    let (seq, consumer_seq, more) = (d.seq, d.consumer_seq, d.num_pending);
    format!("{to} {seq}#{consumer_seq}{times} +{more}")
}

fn short(poll: &Poll) -> String {
    match poll {
        Poll::Deliver(d) => delivery(d),
        Poll::Status { to, status } => {
            format!("{}: {}", String::from_utf8_lossy(to), text(status))
        }
        Poll::Heartbeat { last_consumer, .. } => format!("beat {last_consumer}"),
        Poll::FlowControl { reply } => format!("flow {reply}"),
        Poll::Advisory(advisory) => format!("{advisory:?}"),
        Poll::DeadLetter(letter) => format!("letter {} to {}", letter.seq, letter.subject),
        Poll::Abandoned => "abandoned".into(),
        Poll::Idle { deadline_ns } => format!("idle {deadline_ns:?}"),
    }
}
