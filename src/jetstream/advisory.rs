//! Advisories and metrics: what happened to streams and consumers, told on `$JS.EVENT.>` to whoever
//! listens (nats-surface §2.9).
//!
//! Each is published once, by the node that knows: the one that served the request, or the leader.
//! Streams may store them; nothing is published because of a stored advisory, so they can't loop.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use unibus_broker::Publication;
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::Outcome;

use super::core::Core;
use super::ingest::Call;
use super::internal;

const ADVISORY: &str = "$JS.EVENT.ADVISORY";
/// Where answered requests are told.
pub(super) const API: &str = "$JS.EVENT.ADVISORY.API";
const METRIC: &str = "$JS.EVENT.METRIC";
/// Streams whose new leader is told of.
const ELECTIONS_TOLD_MAX: usize = 1024;
/// Characters of an event's id, as nats-server's.
const ID_LEN: usize = 22;

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Event {
    /// A stream was created, changed or removed.
    Stream { stream: String, action: Action },
    /// A consumer was created or removed.
    Consumer {
        stream: String,
        consumer: String,
        action: Action,
    },
    /// A consumer was paused or resumed.
    Paused {
        stream: String,
        consumer: String,
        paused: bool,
        until: Timestamp,
    },
    /// A message ran out of deliveries.
    MaxDeliveries {
        stream: String,
        consumer: String,
        stream_seq: u64,
        deliveries: u64,
    },
    /// A dead letter will never be stored: the stream of its subject refuses it.
    LetterRefused {
        stream: String,
        consumer: String,
        stream_seq: u64,
        /// Where it was to be stored.
        subject: String,
        reason: String,
    },
    /// A client gave a message back.
    Naked(Message),
    /// A client wants a message never again.
    Terminated { message: Message, reason: String },
    /// A sampled acknowledgement.
    Acked { message: Message, ack_time_ns: u64 },
    /// A client of a group became the one that is served.
    Pinned {
        stream: String,
        consumer: String,
        group: String,
        pin: String,
    },
    /// No client of a group is the one that is served any more.
    Unpinned {
        stream: String,
        consumer: String,
        group: String,
        reason: &'static str,
    },
    /// A request of the API was answered.
    Api {
        subject: String,
        request: String,
        response: String,
        server: String,
        client: Value,
    },
    /// An archive of a stream is being sent.
    SnapshotCreate { stream: String },
    /// It was sent, or given up.
    SnapshotComplete {
        stream: String,
        start: Timestamp,
        end: Timestamp,
    },
    /// A stream is being restored.
    RestoreCreate { stream: String },
    /// It was, or that was given up.
    RestoreComplete {
        stream: String,
        start: Timestamp,
        end: Timestamp,
        bytes: u64,
    },
    /// Another node leads the group that holds a stream.
    LeaderElected { stream: String, leader: String },
}

/// The action of a [`Event::Stream`] or [`Event::Consumer`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Action {
    Create,
    Modify,
    Delete,
}

/// One delivery that an event is about.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Message {
    pub(super) stream: String,
    pub(super) consumer: String,
    pub(super) stream_seq: u64,
    pub(super) consumer_seq: u64,
    pub(super) deliveries: u64,
}

impl Action {
    fn text(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Modify => "modify",
            Self::Delete => "delete",
        }
    }

    fn token(self) -> &'static str {
        match self {
            Self::Create => "CREATED",
            Self::Modify => "UPDATED",
            Self::Delete => "DELETED",
        }
    }
}

impl Event {
    /// The subject it is told on.
    fn subject(&self) -> String {
        let consumer = |token: &str, stream: &str, consumer: &str| {
            format!("{ADVISORY}.CONSUMER.{token}.{stream}.{consumer}")
        };
        match self {
            Self::Stream { stream, action } => {
                format!("{ADVISORY}.STREAM.{}.{stream}", action.token())
            }
            Self::Consumer {
                stream,
                consumer: name,
                action,
            } => consumer(action.token(), stream, name),
            Self::Paused {
                stream,
                consumer: name,
                ..
            } => consumer("PAUSE", stream, name),
            Self::MaxDeliveries {
                stream,
                consumer: name,
                ..
            } => consumer("MAX_DELIVERIES", stream, name),
            Self::LetterRefused {
                stream,
                consumer: name,
                ..
            } => consumer("DEAD_LETTER_REFUSED", stream, name),
            Self::Naked(m) => consumer("MSG_NAKED", &m.stream, &m.consumer),
            Self::Terminated { message: m, .. } => {
                consumer("MSG_TERMINATED", &m.stream, &m.consumer)
            }
            Self::Acked { message: m, .. } => {
                format!("{METRIC}.CONSUMER.ACK.{}.{}", m.stream, m.consumer)
            }
            Self::Pinned {
                stream,
                consumer: name,
                ..
            } => consumer("PINNED", stream, name),
            Self::Unpinned {
                stream,
                consumer: name,
                ..
            } => consumer("UNPINNED", stream, name),
            Self::Api { .. } => API.to_owned(),
            Self::SnapshotCreate { stream } => {
                format!("{ADVISORY}.STREAM.SNAPSHOT_CREATE.{stream}")
            }
            Self::SnapshotComplete { stream, .. } => {
                format!("{ADVISORY}.STREAM.SNAPSHOT_COMPLETE.{stream}")
            }
            Self::RestoreCreate { stream } => {
                format!("{ADVISORY}.STREAM.RESTORE_CREATE.{stream}")
            }
            Self::RestoreComplete { stream, .. } => {
                format!("{ADVISORY}.STREAM.RESTORE_COMPLETE.{stream}")
            }
            Self::LeaderElected { stream, .. } => {
                format!("{ADVISORY}.STREAM.LEADER_ELECTED.{stream}")
            }
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Stream { .. } => "io.nats.jetstream.advisory.v1.stream_action",
            Self::Consumer { .. } => "io.nats.jetstream.advisory.v1.consumer_action",
            Self::Paused { .. } => "io.nats.jetstream.advisory.v1.consumer_pause",
            Self::MaxDeliveries { .. } => "io.nats.jetstream.advisory.v1.max_deliver",
            Self::LetterRefused { .. } => "io.unibus.jetstream.advisory.v1.dead_letter_refused",
            Self::Naked(_) => "io.nats.jetstream.advisory.v1.nak",
            Self::Terminated { .. } => "io.nats.jetstream.advisory.v1.terminated",
            Self::Acked { .. } => "io.nats.jetstream.metric.v1.consumer_ack",
            Self::Pinned { .. } => "io.nats.jetstream.advisory.v1.consumer_group_pinned",
            Self::Unpinned { .. } => "io.nats.jetstream.advisory.v1.consumer_group_unpinned",
            Self::Api { .. } => "io.nats.jetstream.advisory.v1.api_audit",
            Self::SnapshotCreate { .. } => "io.nats.jetstream.advisory.v1.snapshot_create",
            Self::SnapshotComplete { .. } => "io.nats.jetstream.advisory.v1.snapshot_complete",
            Self::RestoreCreate { .. } => "io.nats.jetstream.advisory.v1.restore_create",
            Self::RestoreComplete { .. } => "io.nats.jetstream.advisory.v1.restore_complete",
            Self::LeaderElected { .. } => "io.nats.jetstream.advisory.v1.stream_leader_elected",
        }
    }

    /// The fields beside type, id and time.
    fn fields(&self) -> Value {
        match self {
            Self::Stream { stream, action } => json!({"stream": stream, "action": action.text()}),
            Self::Consumer {
                stream,
                consumer,
                action,
            } => json!({"stream": stream, "consumer": consumer, "action": action.text()}),
            Self::Paused {
                stream,
                consumer,
                paused,
                until,
            } => json!({
                "stream": stream, "consumer": consumer, "paused": paused,
                "pause_until": until.to_string(),
            }),
            Self::MaxDeliveries {
                stream,
                consumer,
                stream_seq,
                deliveries,
            } => json!({
                "stream": stream, "consumer": consumer,
                "stream_seq": stream_seq, "deliveries": deliveries,
            }),
            Self::Naked(message) => message.fields(),
            Self::Terminated { message, reason } => {
                with(message.fields(), "reason", reason.as_str().into())
            }
            Self::Acked {
                message,
                ack_time_ns,
            } => with(message.fields(), "ack_time", (*ack_time_ns).into()),
            Self::Pinned {
                stream,
                consumer,
                group,
                pin,
            } => json!({
                "stream": stream, "consumer": consumer, "group": group, "pinned_id": pin,
            }),
            Self::Unpinned {
                stream,
                consumer,
                group,
                reason,
            } => json!({
                "stream": stream, "consumer": consumer, "group": group, "reason": reason,
            }),
            Self::Api {
                subject,
                request,
                response,
                server,
                client,
            } => json!({
                "subject": subject, "request": request, "response": response,
                "server": server, "client": client,
            }),
            _ => self.rare_fields(),
        }
    }

    /// The fields of what is told seldom: of archives, leaders and dead letters.
    fn rare_fields(&self) -> Value {
        match self {
            Self::LeaderElected { stream, leader } => {
                json!({"stream": stream, "leader": leader, "replicas": []})
            }
            Self::LetterRefused {
                stream,
                consumer,
                stream_seq,
                subject,
                reason,
            } => json!({
                "stream": stream, "consumer": consumer, "stream_seq": stream_seq,
                "subject": subject, "reason": reason,
            }),
            Self::SnapshotCreate { stream } | Self::RestoreCreate { stream } => {
                json!({"stream": stream})
            }
            Self::SnapshotComplete { stream, start, end } => json!({
                "stream": stream, "start": start.to_string(), "end": end.to_string(),
            }),
            Self::RestoreComplete {
                stream,
                start,
                end,
                bytes,
            } => json!({
                "stream": stream, "start": start.to_string(), "end": end.to_string(),
                "bytes": bytes,
            }),
            _ => Value::Null,
        }
    }

    fn body(&self, now: Timestamp, domain: Option<&str>) -> Vec<u8> {
        let mut fields = match self.fields() {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        fields.insert("type".into(), self.kind().into());
        fields.insert("id".into(), new_id().into());
        fields.insert("timestamp".into(), now.to_string().into());
        if let Some(domain) = domain {
            fields.insert("domain".into(), domain.into());
        }
        Value::Object(fields).to_string().into_bytes()
    }
}

impl Message {
    fn fields(&self) -> Value {
        json!({
            "stream": self.stream, "consumer": self.consumer,
            "consumer_seq": self.consumer_seq, "stream_seq": self.stream_seq,
            "deliveries": self.deliveries,
        })
    }
}

fn with(mut fields: Value, name: &str, value: Value) -> Value {
    if let Value::Object(map) = &mut fields {
        map.insert(name.to_owned(), value);
    }
    fields
}

/// Tells who listens; costs next to nothing when nobody does. Must not be called with the state or
/// the engine's table locked.
pub(super) fn tell(core: &Core, event: &Event) {
    let subject = event.subject();
    if !core.broker.has_interest(subject.as_bytes()) && !core.hooks.stores_events() {
        return;
    }
    let body = event.body(Core::now(), core.options.domain.as_deref());
    core.broker.publish(Publication {
        subject: subject.as_bytes(),
        shown: None,
        reply: None,
        header_len: 0,
        data: &body,
        capture: true,
        local: false,
    });
}

/// Tells that a consumer was removed, once it is.
pub(super) fn tell_removed(core: &Arc<Core>, stream: &str, consumer: &str, removed: Call) {
    let event = Event::Consumer {
        stream: stream.to_owned(),
        consumer: consumer.to_owned(),
        action: Action::Delete,
    };
    let core = Arc::clone(core);
    tokio::spawn(async move {
        if let Ok(Ok(answered)) = removed.await
            && answered.outcome == Outcome::Done
        {
            tell(&core, &event);
        }
    });
}

/// Tells that this node leads: one event for each stream, as nats-server's streams have leaders of
/// their own.
pub(super) fn tell_leader(core: &Arc<Core>) {
    if core.replica.status().voters.len() <= 1 {
        return;
    }
    let streams: Vec<String> = core.replica.with_state(|state| {
        let names = state.streams().map(|stream| stream.name().to_string());
        names
            .filter(|name| !internal::is_stream(name))
            .take(ELECTIONS_TOLD_MAX)
            .collect()
    });
    for stream in streams {
        let event = Event::LeaderElected {
            stream,
            leader: core.options.server_name.clone(),
        };
        tell(core, &event);
    }
}

fn new_id() -> String {
    super::text::random_name(ID_LEN)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use unibus_proto::jetstream::timestamp::Timestamp;

    use super::{Action, Event, Message};

    fn read(event: &Event) -> Value {
        serde_json::from_slice(&event.body(Timestamp(1), None)).unwrap()
    }

    #[test]
    fn events_name_their_object_type_and_time() {
        let event = Event::Consumer {
            stream: "S".into(),
            consumer: "c".into(),
            action: Action::Delete,
        };
        assert_eq!(event.subject(), "$JS.EVENT.ADVISORY.CONSUMER.DELETED.S.c");
        let body = read(&event);
        assert_eq!(
            body["type"],
            "io.nats.jetstream.advisory.v1.consumer_action"
        );
        assert_eq!(body["action"], "delete");
        assert_eq!(body["id"].as_str().unwrap().len(), 22);
        assert_eq!(body["timestamp"], "1970-01-01T00:00:00.000000001Z");
        assert_ne!(body["id"], read(&event)["id"]);
    }

    #[test]
    fn deliveries_are_told_with_their_numbers() {
        let message = Message {
            stream: "S".into(),
            consumer: "c".into(),
            stream_seq: 3,
            consumer_seq: 4,
            deliveries: 2,
        };
        let event = Event::Terminated {
            message: message.clone(),
            reason: "why".into(),
        };
        assert_eq!(
            event.subject(),
            "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.S.c"
        );
        let body = read(&event);
        assert_eq!(
            (&body["stream_seq"], &body["deliveries"]),
            (&3.into(), &2.into())
        );
        assert_eq!(body["reason"], "why");
        let event = Event::Acked {
            message,
            ack_time_ns: 7,
        };
        assert_eq!(event.subject(), "$JS.EVENT.METRIC.CONSUMER.ACK.S.c");
        assert_eq!(read(&event)["ack_time"], 7);
    }
}
