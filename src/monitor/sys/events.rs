//! Events of the system account: clients that come, go or are refused, and the server's numbers every
//! few seconds (nats-surface §4.2). Published only where somebody listens.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use unibus_broker::{Broker, ConnectionReport, Events, Publication};
use unibus_proto::jetstream::timestamp::Timestamp;

use crate::monitor::accountz;
use crate::monitor::source::Monitor;
use crate::monitor::{statsz, text};
use crate::shutdown::Shutdown;

/// Between two STATSZ.
const STATSZ_EVERY: Duration = Duration::from_secs(10);
/// How many STATSZ between two reports about accounts.
const ACCOUNTS_EVERY: u32 = 3;
/// Most accounts that are reported each time.
const ACCOUNTS_MAX: usize = 1000;
/// Characters of an event's id.
const ID_LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const ID_LENGTH: usize = 22;

/// Tells the system account. `system` publishes in it.
#[derive(Clone, Debug)]
pub struct Advisories {
    monitor: Monitor,
    system: Broker,
}

#[derive(Serialize)]
struct Client {
    start: Timestamp,
    host: String,
    id: u64,
    acc: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lang: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ver: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<Timestamp>,
    name_tag: String,
    kind: &'static str,
    client_type: &'static str,
}

impl From<&ConnectionReport> for Client {
    fn from(report: &ConnectionReport) -> Self {
        let client = &report.client;
        let text_of = |text: &Option<std::sync::Arc<str>>| text.as_deref().map(str::to_owned);
        Self {
            start: text::timestamp(report.start),
            host: report.peer.ip().to_string(),
            id: report.cid,
            acc: client.account_name().to_owned(),
            user: text_of(&client.user).or_else(|| text_of(&client.nkey)),
            name: text_of(&client.name),
            lang: text_of(&client.lang),
            ver: text_of(&client.version),
            rtt: report.rtt.map(text::nanos),
            stop: report.stop.map(text::timestamp),
            name_tag: client.account_name().to_owned(),
            kind: "Client",
            client_type: report.kind.text(),
        }
    }
}

impl Advisories {
    /// Speaks for `monitor`'s server in the account that `system` is bound to.
    #[must_use]
    pub fn new(monitor: Monitor, system: Broker) -> Self {
        Self { monitor, system }
    }

    /// Says that the server stops.
    pub fn shutdown(&self) {
        self.publish_raw(&self.of_server("SHUTDOWN"), &[]);
    }

    /// Says that the server is about to stop.
    pub fn lame_duck(&self) {
        self.publish_raw(&self.of_server("LAMEDUCK"), &[]);
    }

    /// Reports the server's and the accounts' numbers until shutdown.
    pub async fn run(self, mut shutdown: Shutdown) {
        let mut round: u32 = 0;
        loop {
            self.statsz();
            if round.is_multiple_of(ACCOUNTS_EVERY) {
                self.accounts();
            }
            round = round.wrapping_add(1);
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(STATSZ_EVERY) => {}
            }
        }
    }

    fn statsz(&self) {
        self.publish(&self.of_server("STATSZ"), || {
            json!({
                "server": statsz::server(&self.monitor),
                "statsz": statsz::statsz(&self.monitor),
            })
        });
    }

    fn accounts(&self) {
        let accounts = self.monitor.broker().accounts();
        let active = accounts.iter().filter(|account| account.connections > 0);
        for account in active.take(ACCOUNTS_MAX) {
            let name = &account.name;
            for subject in [
                format!("$SYS.ACCOUNT.{name}.SERVER.CONNS"),
                format!("$SYS.SERVER.ACCOUNT.{name}.CONNS"),
            ] {
                self.publish(&subject, || account_connections(&self.monitor, name));
            }
        }
    }

    fn of_server(&self, what: &str) -> String {
        format!("$SYS.SERVER.{}.{what}", self.monitor.facts().server_id)
    }

    fn of_account(report: &ConnectionReport, what: &str) -> String {
        format!("$SYS.ACCOUNT.{}.{what}", report.client.account_name())
    }

    fn gone(&self, report: &ConnectionReport, reason: &str) -> Value {
        let amount = |msgs: u64, bytes: u64| json!({ "msgs": msgs, "bytes": bytes });
        json!({
            "type": "io.nats.server.advisory.v1.client_disconnect",
            "id": event_id(),
            "timestamp": text::now(),
            "server": statsz::server(&self.monitor),
            "client": Client::from(report),
            "sent": amount(report.out_msgs, report.out_bytes),
            "received": amount(report.in_msgs, report.in_bytes),
            "reason": reason,
        })
    }

    fn publish(&self, subject: &str, body: impl FnOnce() -> Value) {
        if self.system.has_interest(subject.as_bytes())
            && let Ok(body) = serde_json::to_vec(&body())
        {
            self.publish_raw(subject, &body);
        }
    }

    fn publish_raw(&self, subject: &str, data: &[u8]) {
        self.system.publish(Publication {
            subject: subject.as_bytes(),
            data,
            ..Publication::default()
        });
    }
}

impl Events for Advisories {
    fn connected(&self, report: &ConnectionReport) {
        self.publish(&Self::of_account(report, "CONNECT"), || {
            json!({
                "type": "io.nats.server.advisory.v1.client_connect",
                "id": event_id(),
                "timestamp": text::now(),
                "server": statsz::server(&self.monitor),
                "client": Client::from(report),
            })
        });
    }

    fn disconnected(&self, report: &ConnectionReport) {
        self.publish(&Self::of_account(report, "DISCONNECT"), || {
            let reason = report.reason.map_or("", unibus_broker::CloseReason::text);
            self.gone(report, reason)
        });
    }

    fn auth_failed(&self, report: &ConnectionReport, _text: &str) {
        self.publish(&self.of_server("CLIENT.AUTH.ERR"), || {
            self.gone(report, "Authentication Failure")
        });
    }
}

/// What an account does on this server, as an event.
pub(super) fn account_connections(monitor: &Monitor, name: &str) -> Value {
    let mut event = json!({
        "type": "io.nats.server.advisory.v1.account_connections",
        "id": event_id(),
        "timestamp": text::now(),
        "server": statsz::server(monitor),
    });
    let stat = serde_json::to_value(accountz::account_stat(monitor, name));
    if let (Some(event), Ok(Value::Object(stat))) = (event.as_object_mut(), stat) {
        event.extend(stat);
    }
    event
}

/// An id that no other event has.
fn event_id() -> String {
    let random: [u8; ID_LENGTH] = rand::random();
    let letters = random
        .iter()
        .map(|byte| ID_LETTERS[usize::from(*byte) % ID_LETTERS.len()]);
    letters.map(char::from).collect()
}
