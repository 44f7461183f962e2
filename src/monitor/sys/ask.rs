//! One question and its answer: which document (or order) a subject names, with which options, for whom.
//! Walks whatever the document walks: for a blocking thread.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::order::Order;
use crate::monitor::query::{
    AccountzOptions, AccstatzOptions, ConnzOptions, HealthzOptions, JszOptions, QueryError,
    SubszOptions,
};
use crate::monitor::source::Monitor;
use crate::monitor::statsz::{self, Filter};
use crate::monitor::{accountz, connz, empty, healthz, jsz, routez, subsz, varz};

/// Before every question.
pub(super) const PREFIX: &str = "$SYS.REQ.";
/// Bytes of a question's subject and options together.
pub(super) const BYTES_MAX: usize = 64 * 1024;
/// Documents that a server has, as the last token of a question.
const ENDPOINTS: [&str; 14] = [
    "STATSZ",
    "IDZ",
    "VARZ",
    "CONNZ",
    "SUBSZ",
    "ROUTEZ",
    "GATEWAYZ",
    "LEAFZ",
    "ACCOUNTZ",
    "JSZ",
    "HEALTHZ",
    "EXPVARZ",
    "IPQUEUESZ",
    "RAFTZ",
];
/// Documents that an account has.
const ACCOUNT_ENDPOINTS: [&str; 7] = ["CONNZ", "SUBSZ", "LEAFZ", "JSZ", "INFO", "STATZ", "CONNS"];

/// A question, also on its way to a peer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ask {
    /// The whole subject.
    subject: String,
    /// The options, JSON or empty.
    body: String,
    /// Only what concerns this account: for those who are not in the system account.
    account: Option<String>,
}

/// What a question is about.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Target<'a> {
    /// Every server's document.
    Servers(&'a str),
    /// One server's document.
    Server(&'a str, &'a str),
    /// An account's document, of every server.
    Account(&'a str, &'a str),
    /// Every account's, of every server.
    Accounts(&'a str),
    /// One server is to do something.
    Do(&'a str, Order),
}

/// A refusal: code and words.
struct Refusal(u16, String);

impl From<QueryError> for Refusal {
    fn from(error: QueryError) -> Self {
        Self(400, error.to_string())
    }
}

impl Ask {
    /// A question of a client; `account` is none for those of the system account. `None` where the
    /// subject asks for nothing, or for what this client may not know, or where it is too long.
    pub(super) fn new(subject: &[u8], body: &[u8], account: Option<&str>) -> Option<Self> {
        let ask = Self {
            subject: std::str::from_utf8(subject).ok()?.to_owned(),
            body: String::from_utf8_lossy(body).into_owned(),
            account: account.map(str::to_owned),
        };
        ask.is_allowed().then_some(ask)
    }

    /// From a peer; `None` also for what no node lets through.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let ask: Self = serde_json::from_slice(bytes).ok()?;
        ask.is_allowed().then_some(ask)
    }

    /// Whether it asks for something that its asker may know.
    fn is_allowed(&self) -> bool {
        if self.subject.len().saturating_add(self.body.len()) > BYTES_MAX {
            return false;
        }
        let Some(target) = self.target() else {
            return false;
        };
        let own = matches!(
            target,
            Target::Accounts("CONNZ" | "STATZ") | Target::Servers("CONNZ")
        );
        own || self.account.is_none()
    }

    /// For a peer.
    pub(super) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Whether peers may have an answer too.
    pub(super) fn concerns_peers(&self, own_id: &str) -> bool {
        !matches!(self.target(), Some(Target::Server(id, _) | Target::Do(id, _)) if id == own_id)
    }

    fn target(&self) -> Option<Target<'_>> {
        let mut tokens = self.subject.strip_prefix(PREFIX)?.split('.');
        let (scope, first) = (tokens.next()?, tokens.next()?);
        let second = tokens.next();
        if tokens.next().is_some() {
            return None;
        }
        let known = |endpoint| ENDPOINTS.contains(&endpoint);
        Some(match (scope, first, second) {
            ("SERVER", "PING", None) => Target::Servers("STATSZ"),
            ("SERVER", "PING", Some(endpoint)) if known(endpoint) => Target::Servers(endpoint),
            ("SERVER", id, Some(endpoint)) if known(endpoint) => Target::Server(id, endpoint),
            ("SERVER", id, Some(order)) if id != "PING" => Target::Do(id, Order::parse(order)?),
            ("ACCOUNT", "PING", Some(endpoint @ ("STATZ" | "CONNZ"))) => Target::Accounts(endpoint),
            ("ACCOUNT", account, Some(endpoint)) if ACCOUNT_ENDPOINTS.contains(&endpoint) => {
                Target::Account(account, endpoint)
            }
            _ => return None,
        })
    }

    /// This server's answer; `None` where it has to stay silent.
    #[must_use]
    pub fn answer(&self, monitor: &Monitor) -> Option<Vec<u8>> {
        let target = self.target()?;
        let own = &monitor.facts().server_id;
        if matches!(target, Target::Server(id, _) | Target::Do(id, _) if id != own) {
            return None;
        }
        if let Target::Do(_, order) = target {
            return self.done(order, monitor);
        }
        let answer = match self.options::<Filter>() {
            Ok(filter) if !filter.matches(monitor) => return None,
            Ok(_) => self.document(&target, monitor),
            Err(refusal) => Err(refusal),
        };
        let body = answer.unwrap_or_else(|refusal| refused(monitor, &refusal));
        serde_json::to_vec(&body).ok()
    }

    /// Does what is asked for. The answer has no data: that nothing is wrong is all there is to say.
    fn done(&self, order: Order, monitor: &Monitor) -> Option<Vec<u8>> {
        let body = match order.carry_out(&self.body, monitor) {
            Ok(()) => json!({ "server": statsz::server(monitor) }),
            Err(words) => refused(monitor, &Refusal(500, words)),
        };
        serde_json::to_vec(&body).ok()
    }

    fn options<T: DeserializeOwned + Default>(&self) -> Result<T, Refusal> {
        if self.body.trim().is_empty() {
            return Ok(T::default());
        }
        serde_json::from_str(&self.body).map_err(|error| Refusal(400, error.to_string()))
    }

    fn document(&self, target: &Target<'_>, monitor: &Monitor) -> Result<Value, Refusal> {
        match target {
            Target::Servers("STATSZ") | Target::Server(_, "STATSZ") => Ok(json!({
                "server": statsz::server(monitor),
                "statsz": statsz::statsz(monitor),
            })),
            Target::Servers("IDZ") | Target::Server(_, "IDZ") => value(&statsz::idz(monitor)),
            Target::Servers(endpoint) | Target::Server(_, endpoint) => {
                let data = self.server_data(endpoint, monitor, self.account.as_deref())?;
                Ok(enveloped(monitor, &data))
            }
            Target::Account(account, endpoint) => self.account_data(account, endpoint, monitor),
            Target::Do(..) => Err(Refusal(500, "an order has no document".to_owned())),
            Target::Accounts(endpoint) => match &self.account {
                Some(account) => self.account_data(account, endpoint, monitor),
                None if *endpoint == "CONNZ" => {
                    let data = self.server_data(endpoint, monitor, None)?;
                    Ok(enveloped(monitor, &data))
                }
                None => {
                    let stats = accountz::accstatz(monitor, &self.options::<AccstatzOptions>()?);
                    Ok(enveloped(monitor, &value(&stats)?))
                }
            },
        }
    }

    fn server_data(
        &self,
        endpoint: &str,
        monitor: &Monitor,
        account: Option<&str>,
    ) -> Result<Value, Refusal> {
        match endpoint {
            "VARZ" => value(&varz::varz(monitor)),
            "CONNZ" => {
                let mut options = self.options::<ConnzOptions>()?;
                if let Some(account) = account {
                    account.clone_into(&mut options.account);
                }
                value(&connz::connz(monitor, &options)?)
            }
            "SUBSZ" => {
                let mut options = self.options::<SubszOptions>()?;
                if let Some(account) = account {
                    account.clone_into(&mut options.account);
                }
                value(&subsz::subsz(monitor, &options))
            }
            "ROUTEZ" => value(&routez::routez(monitor)),
            "GATEWAYZ" => value(&empty::gatewayz(monitor)),
            "LEAFZ" => value(&empty::leafz(monitor)),
            "ACCOUNTZ" => value(&accountz::accountz(
                monitor,
                &self.options::<AccountzOptions>()?,
            )),
            "JSZ" => {
                let mut options = self.options::<JszOptions>()?;
                if let Some(account) = account {
                    account.clone_into(&mut options.account);
                }
                value(&jsz::jsz(monitor, &options))
            }
            "HEALTHZ" => {
                let options = self.options::<HealthzOptions>()?;
                let (code, mut health) = healthz::healthz(monitor, &options);
                health.status_code = Some(code);
                value(&health)
            }
            _ => value(&empty::Empty {}),
        }
    }

    fn account_data(
        &self,
        account: &str,
        endpoint: &str,
        monitor: &Monitor,
    ) -> Result<Value, Refusal> {
        let data = match endpoint {
            "INFO" => match accountz::account_info(monitor, account) {
                Some(info) => value(&info)?,
                None => {
                    return Err(Refusal(500, format!("Account {account} does not exist")));
                }
            },
            "STATZ" => value(&accountz::accstatz(
                monitor,
                &AccstatzOptions {
                    accounts: vec![account.to_owned()],
                    include_unused: true,
                },
            ))?,
            "CONNS" => return Ok(super::events::account_connections(monitor, account)),
            other => self.server_data(other, monitor, Some(account))?,
        };
        Ok(enveloped(monitor, &data))
    }
}

fn refused(monitor: &Monitor, Refusal(code, description): &Refusal) -> Value {
    json!({
        "server": statsz::server(monitor),
        "error": { "code": code, "description": description },
    })
}

fn value(document: &impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(document).map_err(|error| Refusal(500, error.to_string()))
}

fn enveloped(monitor: &Monitor, data: &Value) -> Value {
    json!({ "server": statsz::server(monitor), "data": data })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(subject: &str, account: Option<&str>) -> Option<Ask> {
        Ask::new(subject.as_bytes(), b"", account)
    }

    #[test]
    fn the_system_account_asks_about_everything() {
        for (subject, target) in [
            ("$SYS.REQ.SERVER.PING", Target::Servers("STATSZ")),
            ("$SYS.REQ.SERVER.PING.JSZ", Target::Servers("JSZ")),
            ("$SYS.REQ.SERVER.NABC.VARZ", Target::Server("NABC", "VARZ")),
            ("$SYS.REQ.ACCOUNT.A.CONNZ", Target::Account("A", "CONNZ")),
            ("$SYS.REQ.ACCOUNT.PING.STATZ", Target::Accounts("STATZ")),
            ("$SYS.REQ.SERVER.NABC.KICK", Target::Do("NABC", Order::Kick)),
        ] {
            assert_eq!(ask(subject, None).unwrap().target(), Some(target));
        }
        for nothing in [
            "$SYS.REQ.SERVER.PING.NOPEZ",
            "$SYS.REQ.SERVER",
            "$SYS.REQ.ACCOUNT.A.NOPE",
            "$SYS.REQ.SERVER.A.VARZ.x",
            "$SYS.REQ.SERVER.PING.RELOAD",
            "$SYS.REQ.CLAIMS.LIST",
            "$SYS.OTHER",
        ] {
            assert!(ask(nothing, None).is_none(), "{nothing}");
        }
    }

    #[test]
    fn others_ask_about_their_own_account_only() {
        for own in [
            "$SYS.REQ.ACCOUNT.PING.CONNZ",
            "$SYS.REQ.ACCOUNT.PING.STATZ",
            "$SYS.REQ.SERVER.PING.CONNZ",
        ] {
            assert!(ask(own, Some("A")).is_some(), "{own}");
        }
        for denied in [
            "$SYS.REQ.SERVER.PING",
            "$SYS.REQ.SERVER.PING.VARZ",
            "$SYS.REQ.SERVER.NABC.CONNZ",
            "$SYS.REQ.SERVER.NABC.KICK",
            "$SYS.REQ.SERVER.NABC.RELOAD",
            "$SYS.REQ.ACCOUNT.A.CONNZ",
            "$SYS.REQ.ACCOUNT.B.INFO",
        ] {
            assert!(ask(denied, Some("A")).is_none(), "{denied}");
        }
    }

    #[test]
    fn a_question_survives_the_way_to_a_peer() {
        let sent = Ask::new(b"$SYS.REQ.SERVER.PING.CONNZ", b"{\"limit\":3}", Some("A")).unwrap();
        let got = Ask::decode(&sent.encode()).unwrap();
        assert_eq!(
            (got.body.as_str(), got.account.as_deref()),
            ("{\"limit\":3}", Some("A"))
        );
        assert!(got.concerns_peers("NX") && Ask::decode(b"?").is_none());
    }

    #[test]
    fn a_peer_takes_only_what_a_node_lets_through() {
        let forged = |subject: &str, body: String, account: Option<&str>| {
            let ask = Ask {
                subject: subject.to_owned(),
                body,
                account: account.map(str::to_owned),
            };
            Ask::decode(&ask.encode())
        };
        let varz = "$SYS.REQ.SERVER.PING.VARZ";
        assert!(forged(varz, String::new(), None).is_some());
        assert!(forged(varz, String::new(), Some("A")).is_none());
        assert!(forged("$SYS.REQ.CLAIMS.LIST", String::new(), None).is_none());
        assert!(forged(varz, " ".repeat(BYTES_MAX), None).is_none());
    }
}
