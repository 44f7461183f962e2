//! `INFO` and `CONNECT`: what the two sides tell each other first (nats-surface §1.2, §1.3).
//!
//! Owns the JSON names and defaults. Whether credentials are good is the authenticator's to say.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;

/// The broker's side: every field of nats-surface §1.2, in the stock server's order.
///
/// `Default` is all empty, which no client accepts: `server_id`, `server_name`, `version`, `proto`
/// (1), `host`, `port`, `headers` (true) and `max_payload` have to be filled in.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    /// Unique for each process.
    pub server_id: String,
    /// Configured name of the node.
    pub server_name: String,
    /// Semantic version in three parts; clients gate features on it.
    pub version: String,
    /// Must be 1.
    pub proto: u8,
    /// Source revision.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub git_commit: Option<String>,
    /// Toolchain; clients ignore it.
    pub go: String,
    /// Address of the client listener.
    pub host: String,
    /// Port of the client listener.
    pub port: u16,
    /// Must be true: several clients refuse the connection otherwise.
    pub headers: bool,
    /// Whether CONNECT has to carry credentials.
    #[serde(skip_serializing_if = "is_false")]
    pub auth_required: bool,
    /// TLS must start after this line.
    #[serde(skip_serializing_if = "is_false")]
    pub tls_required: bool,
    /// TLS client certificates are verified.
    #[serde(skip_serializing_if = "is_false")]
    pub tls_verify: bool,
    /// TLS may start after this line.
    #[serde(skip_serializing_if = "is_false")]
    pub tls_available: bool,
    /// Bytes of headers and payload in one message.
    pub max_payload: u64,
    /// Whether the JetStream API answers.
    #[serde(skip_serializing_if = "is_false")]
    pub jetstream: bool,
    /// This connection's number on this server.
    #[serde(skip_serializing_if = "is_zero")]
    pub client_id: u64,
    /// The client's address as the server sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<String>,
    /// What an nkey has to sign; unique for each connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// Cluster name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Whether the cluster name was made up at start.
    #[serde(skip_serializing_if = "is_false")]
    pub cluster_dynamic: bool,
    /// JetStream domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// `host:port` of every node, as reachable by clients, this one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connect_urls: Vec<String>,
    /// The same for WebSocket listeners.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ws_connect_urls: Vec<String>,
    /// Lame duck: this node is about to stop.
    #[serde(skip_serializing_if = "is_false")]
    pub ldm: bool,
    /// Public X25519 key for auth callout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xkey: Option<String>,
    /// JetStream API level.
    #[serde(skip_serializing_if = "is_zero_level")]
    pub api_lvl: u8,
    /// True in the second INFO, which follows the first PONG.
    #[serde(skip_serializing_if = "is_false")]
    pub connect_info: bool,
    /// Account of this connection; in the second INFO only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_account: Option<String>,
    /// Whether that is the system account.
    #[serde(skip_serializing_if = "is_false")]
    pub acc_is_sys: bool,
}

/// The client's side: every field of nats-surface §1.3. Unknown fields are ignored, `null` and
/// empty strings count as absent.
#[derive(Clone, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectOptions {
    /// Answer each operation with `+OK`. True unless the client says otherwise.
    #[serde(deserialize_with = "yes_unless_told")]
    pub verbose: bool,
    /// Check publish subjects. True unless the client says otherwise.
    #[serde(deserialize_with = "yes_unless_told")]
    pub pedantic: bool,
    /// Deliver the connection's own messages to it. True unless the client says otherwise.
    #[serde(deserialize_with = "yes_unless_told")]
    pub echo: bool,
    /// The client insists on TLS.
    #[serde(deserialize_with = "no_unless_told")]
    pub tls_required: bool,
    /// Public user nkey, `U…`.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub nkey: Option<String>,
    /// User JWT.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub jwt: Option<String>,
    /// Signature of the nonce: base64url without padding, or standard base64.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub sig: Option<String>,
    /// Shared token.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub auth_token: Option<String>,
    /// User name.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Password.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
    /// Connection name, for people.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Client library's language.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub lang: Option<String>,
    /// Client library's version.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// 0, or 1 for clients that take INFO at any time.
    #[serde(deserialize_with = "number")]
    pub protocol: i64,
    /// The client can read HMSG and may send HPUB.
    #[serde(deserialize_with = "no_unless_told")]
    pub headers: bool,
    /// The client wants the 503 status; needs `headers`.
    #[serde(deserialize_with = "no_unless_told")]
    pub no_responders: bool,
    /// Account to register; always refused.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Registration of a new account; always refused.
    #[serde(deserialize_with = "no_unless_told")]
    pub new_account: bool,
    /// Signature of a trusted proxy.
    #[serde(deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub proxy_sig: Option<String>,
}

/// CONNECT's argument is not a JSON object of the right types: the connection is closed silently.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
#[error("malformed CONNECT")]
pub struct MalformedConnect;

impl ConnectOptions {
    /// Reads CONNECT's argument.
    pub fn parse(json: &[u8]) -> Result<Self, MalformedConnect> {
        // serde would also take an array, as fields in order.
        if !json.trim_ascii_start().starts_with(b"{") {
            return Err(MalformedConnect);
        }
        serde_json::from_slice(json).map_err(|_| MalformedConnect)
    }

    /// The `-ERR` text with which these options have to be refused whatever the credentials, if
    /// any.
    pub fn violation(&self) -> Option<&'static str> {
        if !(0..=1).contains(&self.protocol) {
            return Some("invalid client protocol");
        }
        if self.account.is_some() || self.new_account {
            return Some("Authorization Violation");
        }
        if self.no_responders && !self.headers {
            return Some("no responders requires headers support");
        }
        None
    }
}

impl Default for ConnectOptions {
    /// What holds before CONNECT: verbose, pedantic and echo are on.
    fn default() -> Self {
        Self {
            verbose: true,
            pedantic: true,
            echo: true,
            tls_required: false,
            nkey: None,
            jwt: None,
            sig: None,
            auth_token: None,
            user: None,
            pass: None,
            name: None,
            lang: None,
            version: None,
            protocol: 0,
            headers: false,
            no_responders: false,
            account: None,
            new_account: false,
            proxy_sig: None,
        }
    }
}

impl fmt::Debug for ConnectOptions {
    /// Leaves credentials out: this ends up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectOptions")
            .field("verbose", &self.verbose)
            .field("pedantic", &self.pedantic)
            .field("echo", &self.echo)
            .field("nkey", &self.nkey)
            .field("user", &self.user)
            .field("name", &self.name)
            .field("lang", &self.lang)
            .field("version", &self.version)
            .field("protocol", &self.protocol)
            .field("headers", &self.headers)
            .field("no_responders", &self.no_responders)
            .finish_non_exhaustive()
    }
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_zero_level(level: &u8) -> bool {
    *level == 0
}

fn yes_unless_told<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(true))
}

fn no_unless_told<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(false))
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(0))
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::{ConnectOptions, MalformedConnect, ServerInfo};

    #[test]
    fn absent_and_null_fields_take_the_defaults() {
        let empty = ConnectOptions::parse(b"{}").unwrap();
        assert_eq!(empty, ConnectOptions::default());
        assert!(empty.verbose && empty.pedantic && empty.echo);
        assert!(!empty.headers && !empty.no_responders && !empty.tls_required);
        let nulls =
            br#"{"verbose":null,"echo":null,"user":null,"sig":"","protocol":null,"headers":null}"#;
        assert_eq!(
            ConnectOptions::parse(nulls).unwrap(),
            ConnectOptions::default()
        );
    }

    #[test]
    fn a_usual_connect_is_read() {
        let options = ConnectOptions::parse(
            br#"{"verbose":false,"pedantic":false,"nkey":"UABC","sig":"c2ln","lang":"go","name":"n",
                "version":"1","protocol":1,"echo":false,"headers":true,"no_responders":true,"extra":[1]}"#,
        )
        .unwrap();
        assert!(!options.verbose && !options.pedantic && !options.echo);
        assert!(options.headers && options.no_responders);
        assert_eq!(options.protocol, 1);
        assert_eq!(options.nkey.as_deref(), Some("UABC"));
        assert_eq!(options.sig.as_deref(), Some("c2ln"));
        assert_eq!(options.violation(), None);
    }

    #[test]
    fn malformed_json_is_refused() {
        for json in [
            &b""[..],
            b"{",
            b"{]",
            b"[]",
            b"1",
            br#"{"verbose":"yes"}"#,
            br#"{"user":1}"#,
        ] {
            assert_eq!(
                ConnectOptions::parse(json),
                Err(MalformedConnect),
                "{json:?}"
            );
        }
    }

    #[test]
    fn refusals_have_the_exact_texts() {
        let violation = |json: &str| ConnectOptions::parse(json.as_bytes()).unwrap().violation();
        assert_eq!(
            violation(r#"{"protocol":2}"#),
            Some("invalid client protocol")
        );
        assert_eq!(
            violation(r#"{"protocol":-1}"#),
            Some("invalid client protocol")
        );
        assert_eq!(
            violation(r#"{"no_responders":true}"#),
            Some("no responders requires headers support")
        );
        assert_eq!(violation(r#"{"no_responders":true,"headers":true}"#), None);
        assert_eq!(
            violation(r#"{"account":"A"}"#),
            Some("Authorization Violation")
        );
        assert_eq!(
            violation(r#"{"new_account":true}"#),
            Some("Authorization Violation")
        );
    }

    #[test]
    fn debug_shows_no_credentials() {
        let json = br#"{"pass":"hunter2","auth_token":"t0ken","jwt":"ey","sig":"s1g","user":"u"}"#;
        let shown = format!("{:?}", ConnectOptions::parse(json).unwrap());
        for secret in ["hunter2", "t0ken", "ey\"", "s1g"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn info_has_the_wire_names_and_leaves_out_what_is_not_set() {
        let info = ServerInfo {
            server_id: "NID".into(),
            server_name: "oracle".into(),
            version: "2.14.0".into(),
            proto: 1,
            go: "rust".into(),
            host: "127.0.0.1".into(),
            port: 4222,
            headers: true,
            max_payload: 1_048_576,
            ..ServerInfo::default()
        };
        assert_eq!(
            serde_json::to_string(&info).unwrap(),
            r#"{"server_id":"NID","server_name":"oracle","version":"2.14.0","proto":1,"go":"rust","host":"127.0.0.1","port":4222,"headers":true,"max_payload":1048576}"#
        );
    }

    #[test]
    fn every_info_field_goes_out_under_its_name_and_comes_back() {
        let json = serde_json::json!({
            "server_id": "a", "server_name": "b", "version": "2.14.0", "proto": 1,
            "git_commit": "c", "go": "d", "host": "e", "port": 1, "headers": true,
            "auth_required": true, "tls_required": true, "tls_verify": true,
            "tls_available": true, "max_payload": 2, "jetstream": true, "client_id": 3,
            "client_ip": "f", "nonce": "g", "cluster": "h", "cluster_dynamic": true,
            "domain": "i", "connect_urls": ["j:1"], "ws_connect_urls": ["k:1"], "ldm": true,
            "xkey": "l", "api_lvl": 4, "connect_info": true, "remote_account": "A",
            "acc_is_sys": true,
        });
        let info: ServerInfo = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&info).unwrap(), json);
    }
}
