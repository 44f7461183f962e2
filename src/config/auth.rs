//! Static authentication as the configuration writes it: users, a token, accounts, permissions. Plain
//! data, filled by whoever reads a configuration and judged by `access::static_users`;
//! decides nothing, compares nothing, and shows no secret in its `Debug`.

use std::fmt;
use std::time::Duration;

pub use unibus_broker::{ResponseType, ShareKind};
use zeroize::Zeroizing;

/// The account of everybody for whom no other is named.
pub const GLOBAL_ACCOUNT: &str = "$G";
/// The account of the system's own subjects where none is named.
pub const SYSTEM_ACCOUNT: &str = "$SYS";
/// How long a client may take to authenticate where nothing is said (nats-surface §1.7).
pub const AUTH_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Replies that `allow_responses: true` lets through for one request (nats-surface §1.12).
pub const RESPONSES_DEFAULT: u32 = 1;
/// How long after a request `allow_responses: true` lets replies through.
pub const RESPONSE_EXPIRY_DEFAULT: Duration = Duration::from_mins(2);

/// A password or token. Never printed.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The secret itself, for comparing.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Debug for Secret {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Everything that `authorization {}`, `accounts {}`, `no_auth_user` and `system_account` say, and
/// `--user`, `--pass` and `--auth`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StaticAuth {
    /// Everybody who may connect, of all accounts. `authorization { user, password }` is one of them.
    pub users: Vec<StaticUser>,
    /// `authorization { token }`: plain or bcrypt. Excludes users in [`GLOBAL_ACCOUNT`].
    pub token: Option<Secret>,
    /// The name (or nkey) of the user that clients without credentials become.
    pub no_auth_user: Option<String>,
    /// The same for clients over WebSocket, where it differs.
    pub websocket_no_auth_user: Option<String>,
    /// The accounts besides [`GLOBAL_ACCOUNT`].
    pub accounts: Vec<AccountConfig>,
    /// The account of `$SYS`; `None` is [`SYSTEM_ACCOUNT`].
    pub system_account: Option<String>,
    /// How long a client may take to authenticate (`authorization { timeout }`).
    pub timeout: Duration,
    /// `tls { verify_and_map }`: clients are who their certificate says and nothing else counts.
    pub map_certificates: bool,
}

impl Default for StaticAuth {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            token: None,
            no_auth_user: None,
            websocket_no_auth_user: None,
            accounts: Vec::new(),
            system_account: None,
            timeout: AUTH_TIMEOUT_DEFAULT,
            map_certificates: false,
        }
    }
}

impl StaticAuth {
    /// Whether anything is asked of clients. Without users and token everybody is let in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.users.is_empty() && self.token.is_none() && !self.map_certificates
    }

    /// Whether clients without credentials may become the user of this name.
    #[must_use]
    pub fn is_no_auth_user(&self, name: &str) -> bool {
        let chosen = [&self.no_auth_user, &self.websocket_no_auth_user];
        chosen.iter().any(|user| user.as_deref() == Some(name))
    }

    /// The account of `$SYS`.
    #[must_use]
    pub fn system_account(&self) -> &str {
        self.system_account.as_deref().unwrap_or(SYSTEM_ACCOUNT)
    }
}

/// Somebody who may connect.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StaticUser {
    /// The name (`user`, `username`). Exactly one of `name` and `nkey` is there.
    pub name: Option<String>,
    /// The password, plain or bcrypt (`$2a$…`); `None` only with `nkey` or where certificates are
    /// mapped.
    pub password: Option<Secret>,
    /// The public key (`U…`).
    pub nkey: Option<String>,
    /// The account; `None` is [`GLOBAL_ACCOUNT`].
    pub account: Option<String>,
    /// What the user may do; `None` is everything. Whoever reads a configuration with
    /// `default_permissions` puts them here for the users that have none of their own.
    pub permissions: Option<PermissionRules>,
    /// `allowed_connection_types`; `None` is every type.
    pub allowed_connection_types: Option<Vec<ConnectionType>>,
}

/// Permissions as they are written. A bare string or list in the place of `{allow, deny}` is `allow`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PermissionRules {
    /// `publish`, `pub`.
    pub publish: SubjectRules,
    /// `subscribe`, `sub`. An entry may be `"subject queue"`.
    pub subscribe: SubjectRules,
    /// `allow_responses`: true is the default rule. Then `publish` without `allow` allows nothing.
    pub allow_responses: Option<ResponseRule>,
}

/// One direction.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SubjectRules {
    /// `None` is every subject; an empty list is none.
    pub allow: Option<Vec<String>>,
    /// Wins over what is allowed.
    pub deny: Vec<String>,
}

/// `allow_responses { max, expires }`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResponseRule {
    /// Replies to one request; `None` is any number (written as a negative one). 0 is the default.
    pub max: Option<u32>,
    /// How long after the request; `None` is for ever (written as negative). 0 is the default.
    pub expires: Option<Duration>,
}

impl Default for ResponseRule {
    fn default() -> Self {
        Self {
            max: Some(RESPONSES_DEFAULT),
            expires: Some(RESPONSE_EXPIRY_DEFAULT),
        }
    }
}

/// How a client is connected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ConnectionType {
    /// Plain TCP or TLS.
    Standard,
    /// WebSocket.
    Websocket,
    /// Inside the server's process.
    InProcess,
    /// A leaf node, MQTT and their WebSocket forms: this server has none, so nobody connects as one.
    Other,
}

impl ConnectionType {
    /// Reads the configuration's word, in any case: `STANDARD`, `WEBSOCKET`, `IN_PROCESS`,
    /// `LEAFNODE`, `LEAFNODE_WS`, `MQTT`, `MQTT_WS`. `None` for any other.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        match word.to_ascii_uppercase().as_str() {
            "STANDARD" => Some(Self::Standard),
            "WEBSOCKET" => Some(Self::Websocket),
            "IN_PROCESS" => Some(Self::InProcess),
            "LEAFNODE" | "LEAFNODE_WS" | "MQTT" | "MQTT_WS" => Some(Self::Other),
            _ => None,
        }
    }
}

/// An account: users that see each other's messages and nobody else's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccountConfig {
    /// Its name.
    pub name: String,
    /// What other accounts may import.
    pub exports: Vec<ExportConfig>,
    /// What this account takes from others.
    pub imports: Vec<ImportConfig>,
    /// `jetstream`; `None` is off for this account.
    pub jetstream: Option<AccountJetStream>,
    /// `limits`.
    pub limits: AccountLimits,
}

/// An entry of `exports`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExportConfig {
    /// `stream` or `service`.
    pub kind: ShareKind,
    /// What is exported; may have wildcards.
    pub subject: String,
    /// The accounts that may import it; `None` is every account.
    pub accounts: Option<Vec<String>>,
    /// How a service answers.
    pub response_type: ResponseType,
    /// How long a service may take (`response_threshold`); `None` is 2 minutes.
    pub response_threshold: Option<Duration>,
    /// `account_token_position`: the token (from 1) that has to be the importing account's name.
    pub account_token_position: Option<u32>,
}

/// An entry of `imports`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ImportConfig {
    /// `stream` or `service`.
    pub kind: ShareKind,
    /// The account that exports it.
    pub account: String,
    /// Its subject there.
    pub subject: String,
    /// Its subject here (`to`); `None` is the same.
    pub to: Option<String>,
    /// Put before the subject here (`prefix`, streams only).
    pub prefix: Option<String>,
    /// The exporter learns who asks (`share`).
    pub share: bool,
}

/// An account's `jetstream`. `None` is no limit (written as -1, or not at all).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccountJetStream {
    /// Bytes in memory (`max_mem`, `max_memory`).
    pub max_memory: Option<u64>,
    /// Bytes in files (`max_file`, `max_store`, `max_disk`).
    pub max_storage: Option<u64>,
    /// Streams.
    pub max_streams: Option<u64>,
    /// Consumers of one stream.
    pub max_consumers: Option<u64>,
    /// Bytes that one stream in memory may ask for.
    pub memory_max_stream_bytes: Option<u64>,
    /// Bytes that one stream in files may ask for.
    pub store_max_stream_bytes: Option<u64>,
    /// Every stream must name its `max_bytes`.
    pub max_bytes_required: bool,
    /// Most unacknowledged messages a consumer may ask for.
    pub max_ack_pending: Option<u64>,
}

/// An account's `limits`. `None` is no limit.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AccountLimits {
    /// Client connections.
    pub max_connections: Option<u64>,
    /// Subscriptions of one connection.
    pub max_subscriptions: Option<u64>,
    /// Bytes of a message.
    pub max_payload: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_printed() {
        let auth = StaticAuth {
            token: Some("t0k3n".into()),
            users: vec![StaticUser {
                name: Some("a".to_owned()),
                password: Some("pa55".into()),
                ..StaticUser::default()
            }],
            ..StaticAuth::default()
        };
        let shown = format!("{auth:?}");
        assert!(
            !shown.contains("t0k3n") && !shown.contains("pa55"),
            "{shown}"
        );
        assert!(!auth.is_open() && StaticAuth::default().is_open());
        assert_eq!(auth.system_account(), "$SYS");
    }

    #[test]
    fn connection_types_are_read_in_any_case() {
        assert_eq!(
            ConnectionType::parse("websocket"),
            Some(ConnectionType::Websocket)
        );
        assert_eq!(
            ConnectionType::parse("LEAFNODE_WS"),
            Some(ConnectionType::Other)
        );
        assert_eq!(ConnectionType::parse("CARRIER_PIGEON"), None);
    }
}
