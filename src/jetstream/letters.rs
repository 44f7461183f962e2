//! Dead letters: messages that ran out of deliveries are stored on the subject that their consumer
//! names, once each, before the consumer lets go of them.

use std::sync::Arc;

use unibus_state::{DeadLetter, Outcome};

use super::core::Core;
use super::table::Key;
use super::text;

/// What became of a dead letter.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) key: Key,
    /// The incarnation of the consumer.
    pub(super) created_ns: u64,
    pub(super) seq: u64,
    pub(super) stored: bool,
}

/// Stores a dead letter and reports it to the engine. Repetitions are recognised by their
/// `Nats-Msg-Id` within the receiving stream's duplicate window.
pub(super) fn store(core: &Arc<Core>, key: Key, created_ns: u64, letter: DeadLetter) {
    let call = core
        .read_message(&letter.location)
        .ok()
        .and_then(|message| {
            let id = format!("{}.{}.{created_ns}.{}", key.0, key.1, letter.seq);
            let deliveries = letter.deliveries.to_string();
            let mut data = Vec::new();
            let fields = [
                ("Nats-Dead-Letter-Stream", &*key.0),
                ("Nats-Dead-Letter-Consumer", &*key.1),
                ("Nats-Dead-Letter-Deliveries", deliveries.as_str()),
                ("Nats-Msg-Id", id.as_str()),
            ];
            let header_len = text::set_headers(&mut data, &message.headers, &fields);
            data.extend_from_slice(&message.payload);
            core.ingest
                .append(letter.subject.as_bytes(), header_len, &data)
        });
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let stored = match call {
            Some(call) => matches!(
                call.await,
                Ok(Ok(answered)) if matches!(answered.outcome, Outcome::Published { .. } | Outcome::Silent)
            ),
            None => false,
        };
        if !stored {
            let (stream, consumer) = &key;
            tracing::warn!(%stream, %consumer, seq = letter.seq, subject = %letter.subject, "a dead letter was not stored");
        }
        core.engine.letters.lock().push(Told {
            key,
            created_ns,
            seq: letter.seq,
            stored,
        });
        core.engine.wake.notify_one();
    });
}
