//! What requests about consumers ask for: from subject and body to a command or a refusal. Pure: it
//! looks at nothing but the request.

use serde::Deserialize;
use unibus_proto::jetstream::api::{ConsumerAction, ConsumerCreateRequest};
use unibus_proto::jetstream::config::strip_server_metadata;
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::Command;
use unibus_state::command::{ConsumerCreate, ConsumerDelete, ConsumerPause, ConsumerReset};

use super::plan::{AtLeader, Caller, Plan, Target, Then, optional, required};
use crate::jetstream::subject::ConsumerTarget;
use crate::jetstream::{ConsumerLimits, internal};

/// Unacknowledged messages of a consumer that names no number.
const ACK_PENDING_DEFAULT: i64 = 1000;

/// `CONSUMER.DELETE`.
pub(super) fn delete(stream: &str, consumer: &str, caller: Caller) -> Plan {
    Plan::Write {
        command: Command::ConsumerDelete(ConsumerDelete {
            stream: stream.to_owned(),
            name: consumer.to_owned(),
            created_ns: None,
            privileged: caller.internal,
        }),
        then: Then::ConsumerDeleted(Target::new(stream, consumer)),
    }
}

/// `CONSUMER.PAUSE`.
pub(super) fn pause(
    stream: &str,
    consumer: &str,
    body: &[u8],
    caller: Caller,
) -> Result<Plan, ApiError> {
    let request: PauseRequest = optional(body)?;
    Ok(Plan::Write {
        command: Command::ConsumerPause(ConsumerPause {
            stream: stream.to_owned(),
            name: consumer.to_owned(),
            until_ns: request.pause_until.map_or(0, |until| until.0),
            privileged: caller.internal,
        }),
        then: Then::ConsumerPaused(Target::new(stream, consumer)),
    })
}

/// `CONSUMER.RESET`.
pub(super) fn reset(
    stream: &str,
    consumer: &str,
    body: &[u8],
    caller: Caller,
) -> Result<Plan, ApiError> {
    let request: ResetRequest = optional(body)?;
    Ok(Plan::Write {
        command: Command::ConsumerReset(ConsumerReset {
            stream: stream.to_owned(),
            name: consumer.to_owned(),
            seq: request.seq,
            privileged: caller.internal,
        }),
        then: Then::ConsumerReset(Target::new(stream, consumer)),
    })
}

/// `CONSUMER.UNPIN`.
pub(super) fn unpin(stream: &str, consumer: &str, body: &[u8]) -> Result<Plan, ApiError> {
    let request: UnpinRequest = required(body)?;
    Ok(Plan::Leader(AtLeader::Unpin {
        stream: stream.to_owned(),
        consumer: consumer.to_owned(),
        group: request.group,
    }))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PauseRequest {
    pause_until: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ResetRequest {
    seq: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UnpinRequest {
    group: String,
}

/// `CONSUMER.CREATE` and `CONSUMER.DURABLE.CREATE`.
pub(super) fn create(
    target: &ConsumerTarget<'_>,
    body: &[u8],
    caller: Caller,
    generated: impl FnOnce() -> String,
) -> Result<Plan, ApiError> {
    let request: ConsumerCreateRequest = required(body)?;
    if request.stream_name != target.stream {
        return Err(error::STREAM_MISMATCH);
    }
    let mut config = request.config;
    check_names(target, &config)?;
    check_filter(target, &config)?;
    if let Some(name) = target.name {
        name.clone_into(&mut config.name);
    }
    let deliver = config.deliver_subject.as_bytes();
    if !caller.internal && !deliver.is_empty() && !internal::is_deliverable(deliver) {
        return Err(error::DELIVER_SUBJECT_NOT_VALID);
    }
    if !caller.internal && config.sourcing {
        return Err(ApiError::consumer_create(
            "sourcing consumers are made by the server alone",
        ));
    }
    limit(&mut config, caller.limits)?;
    if config.num_replicas > 1 && caller.group_size == 1 {
        return Err(error::STREAM_REPLICAS_NOT_SUPPORTED);
    }
    strip_server_metadata(&mut config.metadata);
    Ok(command(
        target.stream,
        config,
        request.action,
        caller,
        generated,
    ))
}

/// Fills in and holds to what the server allows.
fn limit(config: &mut ConsumerConfig, limits: ConsumerLimits) -> Result<(), ApiError> {
    let over = |asked: i64, max: i64| asked > max;
    let bounded = |max: u64| i64::try_from(max).unwrap_or(i64::MAX);
    if let Some(max) = limits.max_request_batch.map(bounded)
        && !config.is_push()
    {
        if config.max_batch == 0 {
            config.max_batch = max;
        }
        if over(config.max_batch, max) {
            let text = format!("consumer max request batch exceeds server limit of {max}");
            return Err(ApiError::with(400, 10125, text));
        }
    }
    if let Some(max) = limits.max_ack_pending.map(bounded)
        && config.ack_policy != AckPolicy::None
    {
        if config.max_ack_pending == 0 {
            config.max_ack_pending = max.min(ACK_PENDING_DEFAULT);
        }
        if over(config.max_ack_pending, max) {
            let text = format!("consumer max ack pending exceeds system limit of {max}");
            return Err(ApiError::with(400, 10121, text));
        }
    }
    Ok(())
}

fn command(
    stream: &str,
    config: ConsumerConfig,
    action: ConsumerAction,
    caller: Caller,
    generated: impl FnOnce() -> String,
) -> Plan {
    let unnamed = config.name.is_empty() && config.durable_name.is_empty();
    Plan::Write {
        command: Command::ConsumerCreate(ConsumerCreate {
            stream: stream.to_owned(),
            config,
            action,
            generated_name: if unnamed { generated() } else { String::new() },
            privileged: caller.internal,
        }),
        then: Then::ConsumerCreated {
            stream: stream.to_owned(),
        },
    }
}

fn check_names(target: &ConsumerTarget<'_>, config: &ConsumerConfig) -> Result<(), ApiError> {
    let durable = config.durable_name.as_str();
    match target.name {
        None if !durable.is_empty() => Err(error::CONSUMER_EPHEMERAL_WITH_DURABLE_NAME),
        None => Ok(()),
        Some(_) if target.durable && durable.is_empty() => Err(error::DURABLE_NAME_NOT_SET),
        Some(name) if !durable.is_empty() && durable != name => {
            Err(error::DURABLE_NAME_NOT_MATCH_SUBJECT)
        }
        Some(name) if !config.name.is_empty() && config.name != name => {
            Err(error::CONSUMER_DURABLE_AND_NAME_NOT_EQUAL)
        }
        Some(_) => Ok(()),
    }
}

fn check_filter(target: &ConsumerTarget<'_>, config: &ConsumerConfig) -> Result<(), ApiError> {
    let Some(filter) = target.filter else {
        return Ok(());
    };
    if !config.filter_subjects.is_empty() {
        return Err(error::CONSUMER_MULTIPLE_FILTERS_NOT_ALLOWED);
    }
    if config.filter_subject != filter {
        return Err(error::CONSUMER_FILTER_MISMATCH);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use unibus_state::Command;

    use crate::jetstream::ConsumerLimits;
    use crate::jetstream::api::plan::{Caller, Plan, plan};
    use crate::jetstream::subject::parse;

    const USER: Caller = Caller {
        internal: false,
        group_size: 1,
        limits: ConsumerLimits::NONE,
    };

    fn planned(subject: &str, body: &str, caller: Caller) -> Result<Plan, u16> {
        plan(&parse(subject.as_bytes()), body.as_bytes(), caller, || {
            "GENERATED".into()
        })
        .map_err(|error| error.err_code)
    }

    fn refused(subject: &str, body: &str) -> u16 {
        planned(subject, body, USER).unwrap_err()
    }

    #[test]
    fn the_servers_limits_are_filled_in_and_held() {
        let caller = Caller {
            limits: ConsumerLimits {
                max_request_batch: Some(100),
                max_ack_pending: Some(50),
            },
            ..USER
        };
        let plan = |config: &str| {
            let body = format!(r#"{{"stream_name":"S","config":{config}}}"#);
            planned("$JS.API.CONSUMER.CREATE.S.c", &body, caller)
        };
        let Ok(Plan::Write {
            command: Command::ConsumerCreate(create),
            ..
        }) = plan(r#"{"ack_policy":"explicit"}"#)
        else {
            panic!("not planned");
        };
        assert_eq!(
            (create.config.max_batch, create.config.max_ack_pending),
            (100, 50)
        );
        assert_eq!(plan(r#"{"max_batch":101}"#).unwrap_err(), 10125);
        let asked = r#"{"ack_policy":"all","max_ack_pending":51}"#;
        assert_eq!(plan(asked).unwrap_err(), 10121);
    }

    #[test]
    fn consumer_names_and_filters_agree_with_the_subject() {
        let named = |config: &str| format!(r#"{{"stream_name":"S","config":{config}}}"#);
        let Ok(Plan::Write {
            command: Command::ConsumerCreate(create),
            ..
        }) = planned(
            "$JS.API.CONSUMER.CREATE.S",
            &named(r#"{"deliver_subject":"_INBOX.x"}"#),
            USER,
        )
        else {
            panic!("not planned");
        };
        assert_eq!(create.generated_name, "GENERATED");
        let cases = [
            ("$JS.API.CONSUMER.CREATE.T", "{}", 10056),
            (
                "$JS.API.CONSUMER.CREATE.S",
                r#"{"durable_name":"d"}"#,
                10020,
            ),
            (
                "$JS.API.CONSUMER.CREATE.S.c",
                r#"{"durable_name":"d"}"#,
                10017,
            ),
            ("$JS.API.CONSUMER.DURABLE.CREATE.S.d", "{}", 10018),
            (
                "$JS.API.CONSUMER.CREATE.S.c.s.a",
                r#"{"filter_subject":"s.b"}"#,
                10131,
            ),
            (
                "$JS.API.CONSUMER.CREATE.S.c.s.a",
                r#"{"filter_subjects":["s.a"]}"#,
                10137,
            ),
            (
                "$JS.API.CONSUMER.CREATE.S.c",
                r#"{"deliver_subject":"$JS.API.INFO"}"#,
                10112,
            ),
            (
                "$JS.API.CONSUMER.CREATE.S.c",
                r#"{"deliver_subject":"$KV.UNIBUS_u.k"}"#,
                10112,
            ),
        ];
        for (subject, config, code) in cases {
            assert_eq!(refused(subject, &named(config)), code, "{subject} {config}");
        }
        let Ok(Plan::Write {
            command: Command::ConsumerCreate(create),
            ..
        }) = planned(
            "$JS.API.CONSUMER.CREATE.S.c.s.*",
            &named(r#"{"filter_subject":"s.*","deliver_subject":"_INBOX.x"}"#),
            USER,
        )
        else {
            panic!("not planned");
        };
        assert_eq!(create.config.name, "c");
    }
}
