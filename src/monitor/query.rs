//! What monitoring documents can be asked for: the parameters of the HTTP endpoints and the JSON bodies
//! of `$SYS` requests, in nats-server's names. Reading only; whoever builds a document bounds it.

use serde::Deserialize;
use thiserror::Error;

/// Entries of a page where no limit is given.
pub(crate) const LIMIT_DEFAULT: usize = 1024;
/// Most entries of a page, whatever is asked for.
pub(crate) const LIMIT_MAX: usize = 65_536;
/// Longest name of a JSONP function.
const CALLBACK_BYTES_MAX: usize = 64;
/// Most parameters of one query.
const PARAMETERS_MAX: usize = 32;

/// A parameter that can't be understood.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub(crate) enum QueryError {
    /// No truth value.
    #[error("Error decoding boolean for '{name}': {found:?} is neither true nor false")]
    Boolean {
        /// The parameter.
        name: &'static str,
        /// What it says.
        found: String,
    },
    /// No number.
    #[error("Error decoding int for '{name}': {found:?} is no whole number from 0")]
    Number {
        /// The parameter.
        name: &'static str,
        /// What it says.
        found: String,
    },
    /// No order.
    #[error("invalid sorting option: {0}")]
    Sort(String),
    /// No state.
    #[error("Error decoding state for '{0}': wanted open, closed, all or any")]
    State(String),
}

/// The parameters of a URL, decoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads what follows the `?`. Of two values of one name the first counts.
    #[must_use]
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.take(PARAMETERS_MAX).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(name), decode(value))
        });
        Self(decoded.collect())
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|v| !v.is_empty())
    }

    fn text(&self, name: &str) -> String {
        self.get(name).unwrap_or_default().to_owned()
    }

    /// The function that is to be called with the document: a name, and nothing that could be more.
    pub(crate) fn callback(&self) -> Option<&str> {
        let named = |name: &&str| {
            name.len() <= CALLBACK_BYTES_MAX
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$' | b'.'))
        };
        self.get("callback").filter(named)
    }

    fn flag(&self, name: &'static str) -> Result<bool, QueryError> {
        let Some(value) = self.get(name) else {
            return Ok(false);
        };
        truth(value).ok_or_else(|| QueryError::Boolean {
            name,
            found: value.to_owned(),
        })
    }

    fn number(&self, name: &'static str) -> Result<usize, QueryError> {
        let Some(value) = self.get(name) else {
            return Ok(0);
        };
        value.parse().map_err(|_| QueryError::Number {
            name,
            found: value.to_owned(),
        })
    }

    /// `subs`: true, or `detail`.
    fn subs(&self) -> Result<(bool, bool), QueryError> {
        match self.get("subs") {
            Some(word) if word.eq_ignore_ascii_case("detail") => Ok((false, true)),
            _ => Ok((self.flag("subs")?, false)),
        }
    }
}

/// Go's `strconv.ParseBool`.
fn truth(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Undoes `%XX` and `+`. What is no escape stays as it is.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let Some((&first, rest)) = bytes.split_first() {
        let escaped = (first == b'%')
            .then(|| rest.get(..2))
            .flatten()
            .and_then(hex);
        match (first, escaped) {
            (_, Some(byte)) => {
                out.push(byte);
                bytes = &rest[2..];
            }
            (b'+', None) => {
                out.push(b' ');
                bytes = rest;
            }
            (other, None) => {
                out.push(other);
                bytes = rest;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    text.bytes().all(|b| b.is_ascii_hexdigit()).then_some(())?;
    u8::from_str_radix(text, 16).ok()
}

/// The page that is asked for: 0 as a limit is the default, more than allowed is what is allowed.
pub(crate) fn limit(asked: usize) -> usize {
    match asked {
        0 => LIMIT_DEFAULT,
        n => n.min(LIMIT_MAX),
    }
}

/// `/connz`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ConnzOptions {
    /// Order: a word of nats-server's.
    pub(crate) sort: String,
    /// With user and account.
    #[serde(rename = "auth")]
    pub(crate) username: bool,
    /// With the subscriptions' subjects.
    pub(crate) subscriptions: bool,
    /// With the subscriptions in detail.
    pub(crate) subscriptions_detail: bool,
    /// Entries to leave out at the start.
    pub(crate) offset: usize,
    /// Most entries.
    pub(crate) limit: usize,
    /// Only this connection; 0 is all.
    pub(crate) cid: u64,
    /// 0 open, 1 closed, 2 both.
    pub(crate) state: u8,
    /// Only this user's.
    pub(crate) user: String,
    /// Only this account's.
    #[serde(rename = "acc")]
    pub(crate) account: String,
    /// Only those with a subscription that could match.
    pub(crate) filter_subject: String,
}

impl ConnzOptions {
    /// From a URL.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) fn from_query(query: &Parameters) -> Result<Self, QueryError> {
        let (subscriptions, subscriptions_detail) = query.subs()?;
        let state = match query.text("state").to_ascii_lowercase().as_str() {
            "" | "open" => 0,
            "closed" => 1,
            "all" | "any" => 2,
            other => return Err(QueryError::State(other.to_owned())),
        };
        Ok(Self {
            sort: query.text("sort"),
            username: query.flag("auth")?,
            subscriptions,
            subscriptions_detail,
            offset: query.number("offset")?,
            limit: query.number("limit")?,
            cid: query.number("cid")? as u64,
            state,
            user: query.text("user"),
            account: query.text("acc"),
            filter_subject: query.text("filter_subject"),
        })
    }
}

/// `/subsz`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SubszOptions {
    /// Entries to leave out at the start.
    pub(crate) offset: usize,
    /// Most entries.
    pub(crate) limit: usize,
    /// With the subscriptions.
    pub(crate) subscriptions: bool,
    /// Only this account's.
    pub(crate) account: String,
    /// Only those that would receive this subject.
    pub(crate) test: String,
}

impl SubszOptions {
    /// From a URL.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) fn from_query(query: &Parameters) -> Result<Self, QueryError> {
        Ok(Self {
            offset: query.number("offset")?,
            limit: query.number("limit")?,
            subscriptions: query.flag("subs")?,
            account: query.text("acc"),
            test: query.text("test"),
        })
    }
}

/// `/jsz`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct JszOptions {
    /// Only this account.
    pub(crate) account: String,
    /// With the accounts.
    pub(crate) accounts: bool,
    /// With their streams.
    pub(crate) streams: bool,
    /// With the streams' consumers.
    pub(crate) consumer: bool,
    /// With configurations.
    pub(crate) config: bool,
    /// Only where this node leads.
    pub(crate) leader_only: bool,
    /// Entries to leave out at the start.
    pub(crate) offset: usize,
    /// Most entries.
    pub(crate) limit: usize,
    /// With the names of raft groups.
    pub(crate) raft: bool,
    /// Only streams that this node leads.
    pub(crate) stream_leader_only: bool,
}

impl JszOptions {
    /// From a URL.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) fn from_query(query: &Parameters) -> Result<Self, QueryError> {
        Ok(Self {
            account: query.text("acc"),
            accounts: query.flag("accounts")?,
            streams: query.flag("streams")?,
            consumer: query.flag("consumers")?,
            config: query.flag("config")?,
            leader_only: query.flag("leader-only")?,
            offset: query.number("offset")?,
            limit: query.number("limit")?,
            raft: query.flag("raft")?,
            stream_leader_only: query.flag("stream-leader-only")?,
        })
    }

    /// What is implied: consumers need streams, streams need accounts.
    #[must_use]
    pub(crate) fn completed(mut self) -> Self {
        self.streams |= self.consumer;
        self.accounts |= self.streams || !self.account.is_empty();
        self.limit = limit(self.limit);
        self
    }
}

/// `/healthz`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HealthzOptions {
    /// The old name of `js_enabled_only`.
    #[serde(rename = "js-enabled")]
    pub(crate) js_enabled: bool,
    /// Only whether JetStream is on.
    #[serde(rename = "js-enabled-only")]
    pub(crate) js_enabled_only: bool,
    /// Without looking at streams and consumers.
    #[serde(rename = "js-server-only")]
    pub(crate) js_server_only: bool,
    /// Only whether the group has a leader.
    #[serde(rename = "js-meta-only")]
    pub(crate) js_meta_only: bool,
    /// Only this account.
    pub(crate) account: String,
    /// Only this stream.
    pub(crate) stream: String,
    /// Only this consumer.
    pub(crate) consumer: String,
    /// With every error on its own.
    pub(crate) details: bool,
}

impl HealthzOptions {
    /// From a URL.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) fn from_query(query: &Parameters) -> Result<Self, QueryError> {
        Ok(Self {
            js_enabled: query.flag("js-enabled")?,
            js_enabled_only: query.flag("js-enabled-only")?,
            js_server_only: query.flag("js-server-only")?,
            js_meta_only: query.flag("js-meta-only")?,
            account: query.text("account"),
            stream: query.text("stream"),
            consumer: query.text("consumer"),
            details: query.flag("details")?,
        })
    }
}

/// `/accountz`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AccountzOptions {
    /// This account in detail; empty is the list.
    pub(crate) account: String,
}

impl AccountzOptions {
    /// From a URL.
    #[must_use]
    pub(crate) fn from_query(query: &Parameters) -> Self {
        Self {
            account: query.text("acc"),
        }
    }
}

/// `/accstatz`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AccstatzOptions {
    /// Only these.
    pub(crate) accounts: Vec<String>,
    /// Those without connections too.
    pub(crate) include_unused: bool,
}

impl AccstatzOptions {
    /// From a URL.
    ///
    /// # Errors
    /// [`QueryError`].
    pub(crate) fn from_query(query: &Parameters) -> Result<Self, QueryError> {
        Ok(Self {
            accounts: query.get("acc").map(str::to_owned).into_iter().collect(),
            include_unused: query.flag("unused")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connz(query: &str) -> Result<ConnzOptions, QueryError> {
        ConnzOptions::from_query(&Parameters::parse(query))
    }

    #[test]
    fn a_callback_is_a_name_and_no_program() {
        let named = |query| Parameters::parse(query).callback().map(str::to_owned);
        assert_eq!(named("callback=jQuery1.cb_2"), Some("jQuery1.cb_2".into()));
        assert_eq!(named("callback=alert(1)%2F%2F"), None);
        assert_eq!(named("callback="), None);
    }

    #[test]
    fn parameters_are_decoded() {
        let options =
            connz("acc=A%20b&user=x%2By+z&limit=7&subs=detail&state=ANY&bad=%zz").unwrap();
        assert_eq!(
            (options.account.as_str(), options.user.as_str()),
            ("A b", "x+y z")
        );
        assert_eq!((options.limit, options.state), (7, 2));
        assert!(options.subscriptions_detail && !options.subscriptions);
        assert_eq!(decode("%"), "%");
        assert_eq!(decode("%f"), "%f");
    }

    #[test]
    fn what_is_no_value_is_named() {
        let text = |query| connz(query).unwrap_err().to_string();
        assert!(text("limit=abc").starts_with("Error decoding int for 'limit'"));
        assert!(text("limit=-1").starts_with("Error decoding int for 'limit'"));
        assert!(text("auth=maybe").starts_with("Error decoding boolean for 'auth'"));
        assert!(text("state=gone").contains("'gone'"));
    }

    #[test]
    fn bodies_have_other_names_than_parameters() {
        let options: ConnzOptions =
            serde_json::from_str(r#"{"acc":"A","auth":true,"subscriptions":true,"unknown":1}"#)
                .unwrap();
        assert!(options.username && options.subscriptions && options.account == "A");
        let options: HealthzOptions = serde_json::from_str(r#"{"js-enabled-only":true}"#).unwrap();
        assert!(options.js_enabled_only);
    }

    #[test]
    fn consumers_imply_streams_and_accounts() {
        let query = Parameters::parse("consumers=true&config=true");
        let options = JszOptions::from_query(&query).unwrap().completed();
        assert!(options.streams && options.accounts && options.limit == LIMIT_DEFAULT);
        assert_eq!(limit(10_000_000), LIMIT_MAX);
    }
}
