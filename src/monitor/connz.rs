//! `/connz`: who is connected, and who was (nats-surface §4.1).

use serde::Serialize;
use unibus_broker::{
    ConnectionOrder, ConnectionQuery, ConnectionReport, ConnectionState, SubscriptionReport,
};
use unibus_proto::jetstream::timestamp::Timestamp;

use super::query::{ConnzOptions, QueryError, limit};
use super::source::Monitor;
use super::text;

/// The document.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Connz {
    server_id: String,
    now: Timestamp,
    num_connections: usize,
    total: usize,
    offset: usize,
    limit: usize,
    connections: Vec<ConnInfo>,
}

/// One connection.
#[derive(Clone, Debug, Serialize)]
struct ConnInfo {
    cid: u64,
    kind: &'static str,
    #[serde(rename = "type")]
    client_type: &'static str,
    ip: String,
    port: u16,
    start: Timestamp,
    last_activity: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt: Option<String>,
    uptime: String,
    idle: String,
    pending_bytes: usize,
    in_msgs: u64,
    out_msgs: u64,
    in_bytes: u64,
    out_bytes: u64,
    subscriptions: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lang: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cipher_suite: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    authorized_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_list: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subscriptions_list_detail: Option<Vec<SubDetail>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_tag: Option<String>,
}

/// One subscription.
#[derive(Clone, Debug, Serialize)]
pub(super) struct SubDetail {
    account: String,
    account_tag: String,
    subject: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    qgroup: Option<String>,
    sid: String,
    msgs: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<u64>,
    cid: u64,
}

/// Makes the document.
///
/// # Errors
/// [`QueryError`] where an option means nothing.
pub(crate) fn connz(monitor: &Monitor, options: &ConnzOptions) -> Result<Connz, QueryError> {
    let query = query(options)?;
    let page = monitor.broker().connections(&query);
    let now = std::time::SystemTime::now();
    Ok(Connz {
        server_id: monitor.facts().server_id.clone(),
        now: text::timestamp(now),
        num_connections: page.connections.len(),
        total: page.total,
        offset: query.offset,
        limit: query.limit,
        connections: page
            .connections
            .iter()
            .map(|report| info(report, options, now))
            .collect(),
    })
}

fn query(options: &ConnzOptions) -> Result<ConnectionQuery, QueryError> {
    let given = |text: &String| (!text.is_empty()).then(|| text.clone());
    let order = order(&options.sort)?;
    let state = match options.state {
        0 => ConnectionState::Open,
        1 => ConnectionState::Closed,
        _ => ConnectionState::Any,
    };
    let cid = (options.cid != 0).then_some(options.cid);
    // Only closed connections have an end to sort by.
    let is_of_the_closed = matches!(order, ConnectionOrder::Stop | ConnectionOrder::Reason);
    if is_of_the_closed && state == ConnectionState::Open {
        return Err(QueryError::Sort(format!(
            "{} of open connections",
            options.sort
        )));
    }
    Ok(ConnectionQuery {
        // A connection that is asked for by its number is found wherever it is.
        state: if cid.is_some() {
            ConnectionState::Any
        } else {
            state
        },
        cid,
        account: given(&options.account),
        user: given(&options.user),
        filter_subject: given(&options.filter_subject),
        subscriptions: options.subscriptions || options.subscriptions_detail,
        order,
        offset: options.offset,
        limit: if cid.is_some() {
            1
        } else {
            limit(options.limit)
        },
    })
}

fn order(word: &str) -> Result<ConnectionOrder, QueryError> {
    Ok(match word {
        "" | "cid" => ConnectionOrder::Cid,
        "start" => ConnectionOrder::Start,
        "subs" => ConnectionOrder::Subscriptions,
        "pending" => ConnectionOrder::Pending,
        "msgs_to" => ConnectionOrder::MessagesTo,
        "msgs_from" => ConnectionOrder::MessagesFrom,
        "bytes_to" => ConnectionOrder::BytesTo,
        "bytes_from" => ConnectionOrder::BytesFrom,
        "last" => ConnectionOrder::Last,
        "idle" => ConnectionOrder::Idle,
        "uptime" => ConnectionOrder::Uptime,
        "stop" => ConnectionOrder::Stop,
        "reason" => ConnectionOrder::Reason,
        "rtt" => ConnectionOrder::Rtt,
        other => return Err(QueryError::Sort(other.to_owned())),
    })
}

fn info(report: &ConnectionReport, options: &ConnzOptions, now: std::time::SystemTime) -> ConnInfo {
    let client = &report.client;
    let text_of = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
    let end = report.stop.unwrap_or(now);
    let until = |from| text::uptime(end.duration_since(from).unwrap_or_default());
    let shown = options.username.then_some(client);
    let user = shown.and_then(|client| client.user.as_ref().or(client.nkey.as_ref()));
    let account = shown
        .filter(|client| client.admitted)
        .map(|client| client.account_name().to_owned());
    let subscriptions = &report.subscription_list;
    ConnInfo {
        cid: report.cid,
        kind: "Client",
        client_type: report.kind.text(),
        ip: report.peer.ip().to_string(),
        port: report.peer.port(),
        start: text::timestamp(report.start),
        last_activity: text::timestamp(report.last_activity),
        stop: report.stop.map(text::timestamp),
        reason: report.reason.map(unibus_broker::CloseReason::text),
        rtt: report.rtt.map(text::rtt),
        uptime: until(report.start),
        idle: until(report.last_activity),
        pending_bytes: report.pending_bytes,
        in_msgs: report.in_msgs,
        out_msgs: report.out_msgs,
        in_bytes: report.in_bytes,
        out_bytes: report.out_bytes,
        subscriptions: report.subscriptions,
        name: text_of(&client.name),
        lang: text_of(&client.lang),
        version: text_of(&client.version),
        tls_version: client.tls.as_ref().map(|tls| tls.version.clone()),
        tls_cipher_suite: client.tls.as_ref().map(|tls| tls.cipher.clone()),
        authorized_user: user.map(|user| user.to_string()),
        name_tag: account.clone(),
        account,
        subscriptions_list: (options.subscriptions && !subscriptions.is_empty())
            .then(|| subscriptions.iter().map(|s| s.subject.clone()).collect()),
        subscriptions_list_detail: (options.subscriptions_detail && !subscriptions.is_empty())
            .then(|| subscriptions.iter().map(SubDetail::from).collect()),
    }
}

impl From<&SubscriptionReport> for SubDetail {
    fn from(report: &SubscriptionReport) -> Self {
        let account = report
            .account
            .as_deref()
            .unwrap_or(unibus_broker::GLOBAL_ACCOUNT);
        Self {
            account: account.to_owned(),
            account_tag: account.to_owned(),
            subject: report.subject.clone(),
            qgroup: report.queue.clone(),
            sid: report.sid.clone(),
            msgs: report.msgs,
            max: report.max,
            cid: report.cid,
        }
    }
}
