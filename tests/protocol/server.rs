//! A broker in this process, set up by a script's `broker` line; a whole node in one of its own where
//! the line says `jetstream`.
//!
//! Other words: `auth` (credentials are required: `auth_token` `secret`, or `limited`, which may neither
//! publish to `denied.>` nor subscribe to `secret.>`, `responder`, which may only answer, or `grouped`,
//! which may join the groups `v1`, `v1.>` and `*.dev` on `foo` and not `*.prod` on `bar`), `nkey` (any nkey with
//! a good signature), and `<name>=<number>` for `payload_bytes_max`, `control_line_bytes_max`,
//! `subscriptions_max`, `subscription_tokens_max`, `connections_max`, `pings_out_max`, `auth_timeout_ms`, `ping_ms`, and
//! `patience_ms`, how long the player waits for bytes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use unibus_broker::{
    Admission, AuthError, AuthRequest, Authenticator, Broker, BrokerOptions, Decision, Grant,
    Limits,
};
use unibus_proto::nkey::NkeyPublic;
use unibus_proto::permissions::{Permissions, QueueRule, ResponseRule, SubjectSet};
use unibus_testkit::{NodeProcess, PATIENCE};

use crate::script::Script;

/// Serves until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _serves: Serves,
}

/// What a server lives by.
enum Serves {
    Broker { _shutdown: watch::Sender<bool> },
    Node { _node: NodeProcess, _dir: TempDir },
}

impl Server {
    pub(crate) async fn start(script: &Script) -> Self {
        if script.has("jetstream") {
            return Self::with_jetstream().await;
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mode = if script.has("nkey") {
            Mode::Nkey
        } else if script.has("auth") {
            Mode::Token
        } else {
            Mode::Open
        };
        let options = BrokerOptions {
            server_name: "oracle".into(),
            server_id: "NORACLE".into(),
            host: address.ip().to_string(),
            port: address.port(),
            auth_required: mode != Mode::Open,
            always_nonce: mode == Mode::Nkey,
            limits: limits(script),
            ..BrokerOptions::default()
        };
        let broker = Broker::new(options, Arc::new(Doorman { mode }));
        let (shutdown, stopped) = watch::channel(false);
        tokio::spawn(async move { broker.serve(listener, stopped).await });
        Self {
            address,
            _serves: Serves::Broker {
                _shutdown: shutdown,
            },
        }
    }

    async fn with_jetstream() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_unibus-node"));
        let mut node = NodeProcess::single(binary, dir.path()).unwrap();
        node.start().unwrap();
        node.ready(PATIENCE).await.unwrap();
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, node.client_port)),
            _serves: Serves::Node {
                _node: node,
                _dir: dir,
            },
        }
    }
}

fn limits(script: &Script) -> Limits {
    let mut limits = Limits::default();
    let size = |name, usual: usize| script.number(name).map_or(usual, |n| n as usize);
    limits.payload_bytes_max = size("payload_bytes_max", limits.payload_bytes_max);
    limits.control_line_bytes_max = size("control_line_bytes_max", limits.control_line_bytes_max);
    limits.subscriptions_max = size("subscriptions_max", limits.subscriptions_max);
    limits.subscription_tokens_max =
        size("subscription_tokens_max", limits.subscription_tokens_max);
    limits.connections_max = size("connections_max", limits.connections_max);
    limits.pings_out_max = size("pings_out_max", limits.pings_out_max as usize) as u32;
    if let Some(millis) = script.number("auth_timeout_ms") {
        limits.auth_timeout = Duration::from_millis(millis);
    }
    // A silent client would otherwise see the broker's own PING in a slow run.
    let ping = Duration::from_millis(script.number("ping_ms").unwrap_or(600_000));
    (limits.ping_interval, limits.first_ping) = (ping, ping);
    limits
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Mode {
    Open,
    Token,
    Nkey,
}

struct Doorman {
    mode: Mode,
}

impl Authenticator for Doorman {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Decision {
        self.admit(request).into()
    }
}

impl Doorman {
    fn admit(&self, request: &AuthRequest<'_>) -> Result<Admission, AuthError> {
        let connect = request.connect;
        let permissions = match (self.mode, connect.auth_token.as_deref()) {
            (Mode::Open, _) | (Mode::Token, Some("secret")) => Permissions::all(),
            (Mode::Token, Some("limited")) => limited(),
            (Mode::Token, Some("responder")) => responder(),
            (Mode::Token, Some("grouped")) => grouped(),
            (Mode::Nkey, _) if signed(request) => Permissions::all(),
            (Mode::Token | Mode::Nkey, _) => return Err(AuthError::Refused),
        };
        let (_, grant) = watch::channel(Grant::Active(Arc::new(permissions)));
        Ok(Admission {
            identity: connect.nkey.as_deref().map(Arc::from),
            ..Admission::new(grant)
        })
    }
}

fn signed(request: &AuthRequest<'_>) -> bool {
    let (Some(key), Some(signature)) = (&request.connect.nkey, &request.connect.sig) else {
        return false;
    };
    NkeyPublic::parse(key).is_ok_and(|key| key.verify(request.nonce.as_bytes(), signature))
}

fn limited() -> Permissions {
    let deny = |filter: &str| SubjectSet::denying(vec![filter.parse().unwrap()]);
    Permissions {
        publish: deny("denied.>"),
        subscribe: deny("secret.>"),
        ..Permissions::all()
    }
}

fn responder() -> Permissions {
    Permissions {
        publish: SubjectSet::none(),
        responses: Some(ResponseRule::default()),
        ..Permissions::all()
    }
}

fn grouped() -> Permissions {
    let rule = |subject, queue| QueueRule::new(subject, queue).unwrap();
    Permissions {
        subscribe: SubjectSet {
            allow_queues: vec![rule("foo", "v1"), rule("foo", "v1.>"), rule("foo", "*.dev")],
            deny_queues: vec![rule("bar", "*.prod")],
            ..SubjectSet::allowing(vec!["foo".parse().unwrap(), "bar".parse().unwrap()])
        },
        ..Permissions::all()
    }
}
