//! Messages that a stream publishes once more (its `republish`): collected from what is applied,
//! published by the leader, so that each goes out once for the cluster. What is applied while nobody
//! leads is not published again: like nats-server's, these copies are sent at most once. Streams that
//! capture them have them from apply.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use unibus_broker::Publication;
use unibus_state::{Effect, Location};

use super::core::Core;
use super::internal;
use super::text::{self, DirectPlace};

/// Messages that wait to be published again at most; the oldest give way, with a warning.
const WAITING_MAX: usize = 256 * 1024;
/// Messages published before the task lets others run.
const PER_TURN: usize = 256;

/// One message to publish.
#[derive(Debug)]
struct Again {
    stream: Arc<str>,
    subject: Bytes,
    last_seq: u64,
    location: Location,
    headers_only: bool,
    /// Streams have it already.
    captured: bool,
}

/// What waits. Filled inside apply, emptied by [`run`].
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<Again>>,
    wake: Notify,
    leading: AtomicBool,
}

impl Outbox {
    /// Takes a message to publish, if this node is the one that publishes.
    pub(super) fn note(&self, effect: &Effect) {
        let Effect::Republish {
            stream,
            subject,
            last_seq,
            location,
            headers_only,
            captured,
            ..
        } = effect
        else {
            return;
        };
        if !self.leading.load(Ordering::Acquire) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() >= WAITING_MAX && waiting.pop_front().is_some() {
            tracing::warn!(%stream, limit = WAITING_MAX, "too many messages wait to be published again");
        }
        waiting.push_back(Again {
            stream: stream.clone(),
            subject: subject.clone(),
            last_seq: *last_seq,
            location: *location,
            headers_only: *headers_only,
            captured: *captured,
        });
        drop(waiting);
        self.wake.notify_one();
    }

    fn take(&self) -> Vec<Again> {
        let mut waiting = self.waiting.lock();
        let count = waiting.len().min(PER_TURN);
        waiting.drain(..count).collect()
    }
}

/// Publishes until the task is aborted.
pub(super) async fn run(core: Arc<Core>) {
    let outbox = &core.hooks.republish;
    let mut leadership = core.replica.leadership();
    loop {
        let leading = leadership.borrow_and_update().is_leader;
        outbox.leading.store(leading, Ordering::Release);
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = outbox.wake.notified() => loop {
                let turn = outbox.take();
                if turn.is_empty() {
                    break;
                }
                publish(&core, &turn);
                tokio::task::yield_now().await;
            },
        }
    }
}

fn publish(core: &Core, turn: &[Again]) {
    let mut data = Vec::new();
    for again in turn {
        // What only the node may write is not written on a stream's behalf.
        if internal::is_subject(&again.subject) {
            continue;
        }
        let Ok(message) = core.read_message(&again.location) else {
            continue;
        };
        let place = DirectPlace {
            stream: &again.stream,
            subject: &message.subject,
            seq: message.seq,
            ts_ns: message.ts_ns,
            batch: None,
        };
        let payload_len = again.headers_only.then_some(message.payload.len());
        data.clear();
        let header_len = text::republish_headers(
            &mut data,
            &message.headers,
            &place,
            again.last_seq,
            payload_len,
        );
        if !again.headers_only {
            data.extend_from_slice(&message.payload);
        }
        core.broker.publish(Publication {
            subject: &again.subject,
            shown: None,
            reply: None,
            header_len,
            data: &data,
            capture: !again.captured,
            local: false,
        });
    }
}
