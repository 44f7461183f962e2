//! How to reach a server and as whom: the flags every command takes, and what they become together
//! with a saved context. Pure but for making paths absolute.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::text;

/// Where a server is looked for unless told otherwise.
pub(crate) const SERVER_DEFAULT: &str = "nats://127.0.0.1:4222";
/// How long one answer is awaited unless told otherwise.
pub(crate) const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// The connection flags, which may stand before or after any command.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ConnectionArgs {
    /// Server to connect to: nats://HOST:PORT or tls://HOST:PORT; several separated by commas.
    /// Sets the selected context aside, so that its secrets go to its own servers only
    /// [default: nats://127.0.0.1:4222]
    #[arg(long, short = 's', global = true, value_name = "URL", value_delimiter = ',', env = "UNIBUS_SERVER", help_heading = CONNECTION)]
    pub(crate) server: Vec<String>,
    /// Control plane of rooms: http://HOST:PORT, or https://HOST:PORT with --tls-ca; several separated by
    /// commas [default: port 8470 of each --server]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',', env = "UNIBUS_CONTROL", help_heading = CONNECTION)]
    pub(crate) control: Vec<String>,
    /// Saved context to use instead of the selected one; see unibus context
    #[arg(long, global = true, value_name = "NAME", env = "UNIBUS_CONTEXT", help_heading = CONNECTION)]
    pub(crate) context: Option<String>,
    /// User name
    #[arg(long, global = true, value_name = "NAME", env = "UNIBUS_USER", requires = "password", help_heading = CONNECTION)]
    pub(crate) user: Option<String>,
    /// The user's password; better in the environment, where other users of the host can't read it
    #[arg(long, global = true, value_name = "PASSWORD", env = "UNIBUS_PASSWORD", hide_env_values = true, requires = "user", help_heading = CONNECTION)]
    pub(crate) password: Option<String>,
    /// Token
    #[arg(long, global = true, value_name = "TOKEN", env = "UNIBUS_TOKEN", hide_env_values = true, conflicts_with_all = ["user", "nkey", "creds"], help_heading = CONNECTION)]
    pub(crate) token: Option<String>,
    /// File with an nkey seed (SU…)
    #[arg(long, global = true, value_name = "FILE", env = "UNIBUS_NKEY", conflicts_with_all = ["user", "creds"], help_heading = CONNECTION)]
    pub(crate) nkey: Option<PathBuf>,
    /// Credentials file (JWT and seed)
    #[arg(long, global = true, value_name = "FILE", env = "UNIBUS_CREDS", conflicts_with_all = ["user"], help_heading = CONNECTION)]
    pub(crate) creds: Option<PathBuf>,
    /// Identity file made by unibus identity new: logs in with its nkey
    #[arg(long, global = true, value_name = "FILE", env = "UNIBUS_IDENTITY", conflicts_with_all = ["user", "token", "nkey", "creds"], help_heading = CONNECTION)]
    pub(crate) identity: Option<PathBuf>,
    /// CA that the server's certificate must come from (PEM); TLS is then required
    #[arg(long, global = true, value_name = "FILE", env = "UNIBUS_TLS_CA", help_heading = CONNECTION)]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Certificate to show to the server (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "UNIBUS_TLS_CERT", requires = "tls_key", help_heading = CONNECTION)]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Key of --tls-cert (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "UNIBUS_TLS_KEY", requires = "tls_cert", help_heading = CONNECTION)]
    pub(crate) tls_key: Option<PathBuf>,
    /// Begin with the TLS handshake instead of the server's INFO
    #[arg(long, global = true, help_heading = CONNECTION)]
    pub(crate) tls_first: bool,
    /// JetStream domain to ask
    #[arg(long, global = true, value_name = "NAME", env = "UNIBUS_JS_DOMAIN", help_heading = CONNECTION)]
    pub(crate) js_domain: Option<String>,
    /// Prefix of the subjects on which answers are awaited [default: _INBOX]
    #[arg(long, global = true, value_name = "PREFIX", env = "UNIBUS_INBOX_PREFIX", help_heading = CONNECTION)]
    pub(crate) inbox_prefix: Option<String>,
    /// How long one answer is awaited, e.g. 500ms, 5s [default: 5s]
    #[arg(long, global = true, value_name = "TIME", env = "UNIBUS_TIMEOUT", value_parser = text::duration, help_heading = CONNECTION)]
    pub(crate) timeout: Option<Duration>,
}

const CONNECTION: &str = "Connection";

/// What a context file holds, and what a command connects with.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) description: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) servers: Vec<String>,
    /// Control planes; none: those of the servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) control: Vec<String>,
    #[serde(flatten)]
    pub(crate) login: Login,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tls_key: Option<PathBuf>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) tls_first: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) js_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inbox_prefix: Option<String>,
    /// In milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout_ms: Option<u64>,
}

/// Who one is to the server. Changed as a whole: half of one login and half of another is none.
#[derive(Clone, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub(crate) struct Login {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) password: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nkey: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) creds: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<PathBuf>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words())
    }
}

impl Login {
    /// How one logs in, for people; no secret.
    pub(crate) fn words(&self) -> String {
        let file = |path: &Path| path.display().to_string();
        if let Some(user) = &self.user {
            return format!("user {user}");
        }
        if self.token.is_some() {
            return "token".to_owned();
        }
        if let Some(path) = &self.nkey {
            return format!("nkey {}", file(path));
        }
        if let Some(path) = &self.creds {
            return format!("credentials {}", file(path));
        }
        match &self.identity {
            Some(path) => format!("identity {}", file(path)),
            None => "nobody".to_owned(),
        }
    }

    /// Whether the file that this is stored in has to be a secret.
    pub(crate) fn has_secret(&self) -> bool {
        self.password.is_some() || self.token.is_some()
    }

    fn of(args: &ConnectionArgs) -> Self {
        Self {
            user: args.user.clone(),
            password: args.password.clone(),
            token: args.token.clone(),
            nkey: args.nkey.as_deref().map(absolute),
            creds: args.creds.as_deref().map(absolute),
            identity: args.identity.as_deref().map(absolute),
        }
    }
}

impl Settings {
    /// These settings, changed by the flags that were given.
    pub(crate) fn with(mut self, args: &ConnectionArgs) -> Self {
        if !args.server.is_empty() {
            self.servers.clone_from(&args.server);
        }
        if !args.control.is_empty() {
            self.control.clone_from(&args.control);
        }
        let login = Login::of(args);
        if login != Login::default() {
            self.login = login;
        }
        let path = |given: &Option<PathBuf>, held: Option<PathBuf>| {
            given.as_deref().map(absolute).or(held)
        };
        self.tls_ca = path(&args.tls_ca, self.tls_ca);
        self.tls_cert = path(&args.tls_cert, self.tls_cert);
        self.tls_key = path(&args.tls_key, self.tls_key);
        self.tls_first |= args.tls_first;
        self.js_domain = args.js_domain.clone().or(self.js_domain);
        self.inbox_prefix = args.inbox_prefix.clone().or(self.inbox_prefix);
        let timeout = args
            .timeout
            .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.timeout_ms = timeout.or(self.timeout_ms);
        self
    }

    /// The servers, the default where none is named.
    pub(crate) fn servers(&self) -> Vec<String> {
        match self.servers.as_slice() {
            [] => vec![SERVER_DEFAULT.to_owned()],
            servers => servers.to_vec(),
        }
    }

    /// How long one answer is awaited.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout_ms
            .map_or(TIMEOUT_DEFAULT, Duration::from_millis)
    }
}

/// A path that means the same from any folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{ConnectionArgs, Login, Settings};

    #[test]
    fn a_login_is_replaced_as_a_whole() {
        let saved = Settings {
            servers: vec!["nats://a".into()],
            login: Login {
                user: Some("ann".into()),
                password: Some("secret".into()),
                ..Login::default()
            },
            ..Settings::default()
        };
        let args = ConnectionArgs {
            token: Some("t".into()),
            ..ConnectionArgs::default()
        };
        let used = saved.clone().with(&args);
        assert_eq!(used.login.user, None);
        assert_eq!(used.login.words(), "token");
        assert_eq!(used.servers, saved.servers);
        assert_eq!(saved.clone().with(&ConnectionArgs::default()), saved);
    }

    #[test]
    fn debug_prints_no_secret() {
        let login = Login {
            user: Some("ann".into()),
            password: Some("hunter2".into()),
            ..Login::default()
        };
        assert!(login.has_secret() && !format!("{login:?}").contains("hunter2"));
    }
}
