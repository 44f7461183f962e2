//! Dead letters: messages that ran out of deliveries are stored on the subject that their consumer
//! names, once each, before the consumer lets go of them.

use std::sync::Arc;

use unibus_state::{DeadLetter, LetterFate, Outcome, StoredMessage};

use super::advisory::{self, Event};
use super::core::Core;
use super::ingest::{Answered, Call};
use super::table::Key;
use super::text;

/// What became of a dead letter.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) key: Key,
    /// The incarnation of the consumer.
    pub(super) created_ns: u64,
    pub(super) seq: u64,
    pub(super) fate: LetterFate,
}

/// What of a message's headers its dead letter does not have: what its publisher told the stream to do
/// with it. The stream of dead letters was never meant, and whoever published the message may be
/// nobody there.
const LEFT_OUT: [&[u8]; 10] = [
    b"Nats-Expected-",
    b"Nats-Msg-Id:",
    b"Nats-TTL:",
    b"Nats-Rollup:",
    b"Nats-Schedule",
    b"Nats-Batch-",
    b"Nats-Incr:",
    b"Nats-Counter-Sources:",
    b"Nats-Stream-Source:",
    b"Nats-Dead-Letter-",
];

/// The class of refusals that pass: the stream is full, and messages go.
const PASSING: u16 = 503;

/// Stores a dead letter and reports it to the engine. Repetitions are recognised by their
/// `Nats-Msg-Id` within the receiving stream's duplicate window.
pub(super) fn store(core: &Arc<Core>, key: Key, created_ns: u64, letter: DeadLetter) {
    let call = core
        .read_message(&letter.location)
        .ok()
        .and_then(|message| propose(core, &key, created_ns, &letter, &message));
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let fate = match call {
            Some(call) => fate(&core, &key, &letter, call).await,
            None => LetterFate::Later,
        };
        if fate == LetterFate::Later {
            let (stream, consumer) = &key;
            tracing::warn!(%stream, %consumer, seq = letter.seq, subject = %letter.subject, "a dead letter was not stored");
        }
        core.engine.letters.lock().push(Told {
            key,
            created_ns,
            seq: letter.seq,
            fate,
        });
        core.engine.wake.notify_one();
    });
}

fn propose(
    core: &Core,
    key: &Key,
    created_ns: u64,
    letter: &DeadLetter,
    message: &StoredMessage,
) -> Option<Call> {
    let id = format!("{}.{}.{created_ns}.{}", key.0, key.1, letter.seq);
    let deliveries = letter.deliveries.to_string();
    let fields = [
        ("Nats-Dead-Letter-Stream", &*key.0),
        ("Nats-Dead-Letter-Consumer", &*key.1),
        ("Nats-Dead-Letter-Deliveries", deliveries.as_str()),
        ("Nats-Msg-Id", id.as_str()),
    ];
    let stripped = text::without_lines(&message.headers, &LEFT_OUT);
    let headers = stripped.as_deref().unwrap_or(&message.headers);
    let mut data = Vec::new();
    let header_len = text::set_headers(&mut data, headers, &fields);
    data.extend_from_slice(&message.payload);
    core.ingest
        .append(letter.subject.as_bytes(), header_len, &data)
}

/// What came of the proposal; a refusal for good is told.
async fn fate(
    core: &Core,
    (stream, consumer): &Key,
    letter: &DeadLetter,
    call: Call,
) -> LetterFate {
    match call.await {
        Ok(Ok(Answered {
            outcome: Outcome::Published { .. } | Outcome::Silent,
            ..
        })) => LetterFate::Stored,
        Ok(Ok(Answered {
            outcome: Outcome::Refused(refusal),
            ..
        })) if refusal.error.code != PASSING => {
            let (seq, subject) = (letter.seq, &letter.subject);
            tracing::warn!(%stream, %consumer, seq, %subject, error = %refusal.error, "a dead letter is refused");
            advisory::tell(
                core,
                &Event::LetterRefused {
                    stream: stream.to_string(),
                    consumer: consumer.to_string(),
                    stream_seq: seq,
                    subject: subject.to_string(),
                    reason: refusal.error.to_string(),
                },
            );
            LetterFate::Refused
        }
        _ => LetterFate::Later,
    }
}
