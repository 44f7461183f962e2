//! `/healthz` of the monitoring port: whether this node serves (nats-surface §4.1), with nats-server's
//! questions: whether JetStream is on, whether the node itself is well, whether a stream is there.

use serde::Serialize;

use super::query::HealthzOptions;
use super::source::{Monitor, StorePart};

/// The document.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Healthz {
    /// `ok`, `unavailable` or `error`.
    pub(crate) status: &'static str,
    /// The HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status_code: Option<u16>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// The same, one by one, where details were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) errors: Vec<Ailment>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(crate) struct Ailment {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    account: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    stream: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    consumer: String,
    error: String,
}

/// A problem: HTTP status, kind and words.
struct Problem(u16, &'static str, String);

/// Looks, and says the HTTP status.
#[must_use]
pub(crate) fn healthz(monitor: &Monitor, options: &HealthzOptions) -> (u16, Healthz) {
    let Err(Problem(code, kind, words)) = look(monitor, options) else {
        let well = Healthz {
            status: "ok",
            status_code: None,
            error: None,
            errors: Vec::new(),
        };
        return (200, well);
    };
    let errors = if options.details {
        vec![Ailment {
            kind,
            account: options.account.clone(),
            stream: options.stream.clone(),
            consumer: options.consumer.clone(),
            error: words.clone(),
        }]
    } else {
        Vec::new()
    };
    let ill = Healthz {
        status: if code == 400 { "error" } else { "unavailable" },
        status_code: None,
        error: (!options.details).then_some(words),
        errors,
    };
    (code, ill)
}

fn look(monitor: &Monitor, options: &HealthzOptions) -> Result<(), Problem> {
    check(options)?;
    let Some(store) = monitor.store() else {
        let asked = options.js_enabled || options.js_enabled_only || !options.account.is_empty();
        return if asked {
            Err(Problem(
                503,
                "JETSTREAM",
                "JetStream not enabled".to_owned(),
            ))
        } else {
            Ok(())
        };
    };
    if options.js_enabled_only || options.js_enabled {
        return open(store);
    }
    open(store)?;
    serving(store)?;
    if options.js_server_only || options.js_meta_only || options.account.is_empty() {
        return Ok(());
    }
    object(monitor, store, options)
}

/// Questions that make no sense together.
fn check(options: &HealthzOptions) -> Result<(), Problem> {
    let bad = |words: &str| Err(Problem(400, "BAD_REQUEST", words.to_owned()));
    if options.account.is_empty() && !options.stream.is_empty() {
        return bad("\"account\" must not be empty when checking stream health");
    }
    if options.stream.is_empty() && !options.consumer.is_empty() {
        return bad("\"stream\" must not be empty when checking consumer health");
    }
    if options.js_server_only && !options.account.is_empty() {
        return bad("cannot use \"js-server-only\" with \"account\"");
    }
    Ok(())
}

fn open(store: &StorePart) -> Result<(), Problem> {
    match store.replica.status().fatal {
        None => Ok(()),
        Some(reason) => Err(Problem(
            503,
            "JETSTREAM",
            format!("JetStream is closed: {reason}"),
        )),
    }
}

fn serving(store: &StorePart) -> Result<(), Problem> {
    let unavailable = |words: &str| Err(Problem(503, "JETSTREAM", words.to_owned()));
    let status = store.replica.status();
    let led = store.replica.leadership().borrow().leader.is_some();
    if !status.has_quorum || !led {
        return unavailable("JetStream has not established contact with a meta leader");
    }
    if !*store.caught_up.borrow() {
        return unavailable("JetStream is not current with the meta leader");
    }
    Ok(())
}

fn object(monitor: &Monitor, store: &StorePart, options: &HealthzOptions) -> Result<(), Problem> {
    let missing = |kind, words| Err(Problem(404, kind, words));
    let account = &options.account;
    if *account != monitor.facts().jetstream_account {
        let words = format!("JetStream account {account:?} not found");
        return missing("ACCOUNT", words);
    }
    let (stream, consumer) = (&options.stream, &options.consumer);
    if !stream.is_empty() && !store.jetstream.has(stream, None) {
        let words = format!("JetStream stream {stream:?} not found on account {account:?}");
        return missing("STREAM", words);
    }
    if !consumer.is_empty() && !store.jetstream.has(stream, Some(consumer)) {
        let words = format!(
            "JetStream consumer {consumer:?} not found for stream {stream:?} on account {account:?}"
        );
        return missing("CONSUMER", words);
    }
    Ok(())
}
