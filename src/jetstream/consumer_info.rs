//! What is told of a consumer: what is replicated, and what only the leader knows beyond it.

use std::time::Duration;

use unibus_proto::jetstream::config::add_server_metadata;
use unibus_proto::jetstream::info::{ConsumerInfo, PriorityGroupState, SequenceInfo};
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::{Consumer, Position, Stream};

use super::core::Core;
use super::leader::ToLeader;

/// How long the leader may take to tell what it knows of a consumer.
const LEADER_ANSWER_MAX: Duration = Duration::from_secs(1);

impl Core {
    /// A consumer as the replicated state has it.
    pub(super) fn consumer_info(&self, stream: &str, name: &str) -> Option<ConsumerInfo> {
        let alone = self.replica.status().voters.len() <= 1;
        let cluster = (!alone).then(|| self.cluster_info());
        let mut info = self.replica.with_state(|state| {
            let held = state.stream(stream)?;
            held.consumer(name)
                .map(|consumer| replicated(held, consumer))
        })?;
        info.ts = Self::now();
        info.cluster = cluster;
        let deliver = info.config.deliver_subject.as_bytes();
        let heard = !info.config.sourcing && self.broker.has_interest(deliver);
        info.push_bound = info.config.is_push() && (heard || self.sinks.has(stream, name));
        tell_pause(&mut info);
        let needs = info.config.required_api_level();
        let (level, version) = (self.options.api_level, self.options.version.as_str());
        add_server_metadata(&mut info.config.metadata, needs, level, version);
        Some(info)
    }

    /// A consumer as lists tell of it: without the server's own metadata.
    pub(super) fn listed_consumer_info(&self, stream: &str, name: &str) -> Option<ConsumerInfo> {
        let mut info = self.consumer_info(stream, name)?;
        if self.is_leader() {
            self.add_live(&mut info);
        }
        for key in ["_nats.level", "_nats.ver"] {
            info.config.metadata.remove(key);
        }
        Some(info)
    }

    /// Adds what only the leader knows. To be called on the leader.
    pub(super) fn add_live(&self, info: &mut ConsumerInfo) {
        let Some(live) = self.engine.info(self, &info.stream_name, &info.name) else {
            return;
        };
        info.delivered = sequence(live.delivered, live.last_delivery_ns);
        info.ack_floor = sequence(live.ack_floor, live.last_ack_ns);
        info.num_ack_pending = live.num_ack_pending;
        info.num_redelivered = live.num_redelivered;
        info.num_waiting = live.num_waiting;
        info.num_pending = live.num_pending;
        if let Some((group, pin, since_ns)) = live.pinned {
            for state in &mut info.priority_groups {
                if *state.group == *group {
                    state.pinned_client_id = pin.to_string();
                    state.pinned_ts = Timestamp(since_ns);
                }
            }
        }
    }

    /// A consumer with what is not replicated yet: only the leader knows that.
    pub(super) async fn live_consumer_info(
        &self,
        stream: &str,
        name: &str,
    ) -> Option<ConsumerInfo> {
        let mut info = self.consumer_info(stream, name)?;
        if self.is_leader() {
            self.add_live(&mut info);
            return Some(info);
        }
        let request = ToLeader::ConsumerInfo {
            stream: stream.to_owned(),
            consumer: name.to_owned(),
        };
        let answer = tokio::time::timeout(LEADER_ANSWER_MAX, self.ask_leader(&request)).await;
        let Ok(Some(bytes)) = answer else {
            return Some(info);
        };
        let Ok(mut live) = serde_json::from_slice::<ConsumerInfo>(&bytes) else {
            return Some(info);
        };
        if live.config.is_push() {
            // The answer takes another way than what was pushed before it, and would overtake it: a
            // client that is told that nothing is pending, and has got nothing, takes the end for the
            // beginning. What is replicated is behind what was sent.
            live.delivered = info.delivered;
            live.num_pending = info.num_pending;
        }
        Some(live)
    }
}

fn sequence(position: Position, last_ns: Option<u64>) -> SequenceInfo {
    SequenceInfo {
        consumer_seq: position.consumer_seq,
        stream_seq: position.stream_seq,
        last_active: last_ns.map(Timestamp),
    }
}

/// What the replicated state knows.
fn replicated(stream: &Stream, consumer: &Consumer) -> ConsumerInfo {
    let ledger = consumer.ledger();
    let pin = consumer.pin();
    let groups = consumer.config().priority_groups.iter().map(|group| {
        let pin = pin.filter(|pin| *pin.group == **group);
        PriorityGroupState {
            group: group.clone(),
            pinned_client_id: pin.map_or_else(String::new, |pin| pin.id.to_string()),
            pinned_ts: pin.map_or_else(Timestamp::default, |pin| Timestamp(pin.since_ns)),
        }
    });
    ConsumerInfo {
        stream_name: stream.name().to_string(),
        name: consumer.name().to_string(),
        created: Timestamp(consumer.created_ns()),
        config: (**consumer.config()).clone(),
        delivered: consumer.delivered(),
        ack_floor: consumer.ack_floor(),
        num_ack_pending: ledger.pending().len() as u64,
        num_redelivered: ledger.redelivered(),
        num_pending: consumer.num_pending(stream),
        priority_groups: groups.collect(),
        ..ConsumerInfo::default()
    }
}

fn tell_pause(info: &mut ConsumerInfo) {
    let until = info.config.pause_until.map_or(0, |until| until.0);
    let left = until.saturating_sub(info.ts.0);
    info.paused = left > 0;
    info.pause_remaining = left;
}
