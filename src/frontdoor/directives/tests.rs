//! Directives as the official suites and nats-server's documentation write them.

use std::path::Path;
use std::time::Duration;

use super::read;
use crate::config::auth::{ConnectionType, ResponseType, ShareKind};
use crate::config::batches::BatchLimits;
use crate::config::tls::HandshakeFirst;
use crate::frontdoor::conf::{Sources, parse};
use crate::frontdoor::options::{Options, Port};

struct One(String);

impl Sources for One {
    fn read(&self, _path: &Path) -> Result<String, String> {
        Ok(self.0.clone())
    }

    fn environment(&self, _name: &str) -> Option<String> {
        None
    }
}

fn options(text: &str) -> Result<Options, Vec<String>> {
    let map = parse(Path::new("a.conf"), &One(text.to_owned())).unwrap();
    read(&map).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn an_empty_file_is_every_default() {
    let options = options("").unwrap();
    assert_eq!(
        (options.host.as_str(), options.port),
        ("0.0.0.0", Port::Fixed(4222))
    );
    assert!(options.jetstream.is_none() && options.http_port.is_none());
    assert!(options.auth.is_open());
}

#[test]
fn the_javascript_suites_file_is_understood() {
    let options = options(
        r#"{"port": -1, "host": "127.0.0.1", "http": "127.0.0.1:-1", "ports_file_dir": "/tmp/x",
           "server_tags": ["a", "b"], "leafnodes": {"listen": "127.0.0.1:-1"},
           "websocket": {"port": -1, "no_tls": true},
           "jetstream": {"max_file_store": 1073741824, "max_mem_store": "10MB", "store_dir": "/s"},
           "authorization": {"users": [{"user": "a", "password": "b",
             "permission": {"publish": "x.>", "subscribe": ["y", "z"], "allow_responses": true}}]}}"#,
    )
    .unwrap();
    assert_eq!(options.port, Port::Free);
    assert_eq!(options.http_port, Some(Port::Free));
    assert_eq!(options.server_tags, ["a", "b"]);
    assert_eq!(options.websocket.unwrap().port, Some(Port::Free));
    let js = options.jetstream.unwrap();
    assert_eq!(
        (js.max_storage, js.max_memory),
        (Some(1 << 30), Some(10 << 20))
    );
    let rules = options.auth.users[0].permissions.clone().unwrap();
    assert_eq!(rules.publish.allow.unwrap(), ["x.>"]);
    assert_eq!(rules.subscribe.allow.unwrap(), ["y", "z"]);
    assert_eq!(rules.allow_responses.unwrap().max, Some(1));
    assert!(options.notes.iter().any(|note| note.contains("leafnodes")));
}

#[test]
fn who_clients_over_websocket_are_without_credentials_is_their_own() {
    let options = options(
        "websocket { port: -1, no_tls: true, no_auth_user: anon }\n\
         authorization { users: [{user: anon, password: a}] }",
    )
    .unwrap();
    assert_eq!(options.auth.no_auth_user, None);
    assert_eq!(options.auth.websocket_no_auth_user.as_deref(), Some("anon"));
}

#[test]
fn accounts_with_imports_and_exports_are_understood() {
    let options = options(
        "system_account: SYS, no_auth_user: b\n\
         accounts {\n SYS { users: [{user: s, pass: s}] }\n\
         A { users [{user: a, pass: 0123, permissions { publish { allow: x, deny: [y] } }}]\n\
          exports [{service: q.>, response_type: Stream, accounts: [B]}, {stream: e}]\n\
          jetstream { max_mem: 64MB, max_file: -1, max_streams: 10, max_bytes_required: true } }\n\
         B { users: [{user: b, pass: b, allowed_connection_types: [STANDARD]}]\n\
          imports: [{service: {account: A, subject: q.1}, to: r}, {stream: {account: A, subject: e}, prefix: p}]\n\
          default_permissions { sub: [\"a q\"] } } }",
    )
    .unwrap();
    let auth = &options.auth;
    assert_eq!(auth.system_account(), "SYS");
    assert_eq!(auth.no_auth_user.as_deref(), Some("b"));
    assert_eq!(auth.users[1].password.as_ref().unwrap().expose(), "0123");
    assert_eq!(auth.users[1].account.as_deref(), Some("A"));
    let a = &auth.accounts[1];
    assert_eq!(a.exports[0].kind, ShareKind::Service);
    assert_eq!(a.exports[0].response_type, ResponseType::Stream);
    assert_eq!(
        a.exports[0].accounts.as_deref(),
        Some(&["B".to_owned()][..])
    );
    let js = a.jetstream.as_ref().unwrap();
    assert_eq!((js.max_memory, js.max_storage), (Some(64 << 20), None));
    assert!(js.max_bytes_required);
    let b = &auth.accounts[2];
    assert_eq!(
        (b.imports[0].account.as_str(), b.imports[0].to.as_deref()),
        ("A", Some("r"))
    );
    assert_eq!(b.imports[1].prefix.as_deref(), Some("p"));
    let user = &auth.users[2];
    assert_eq!(
        user.allowed_connection_types.as_deref(),
        Some(&[ConnectionType::Standard][..])
    );
    let subscribe = &user.permissions.as_ref().unwrap().subscribe;
    assert_eq!(subscribe.allow.as_deref(), Some(&["a q".to_owned()][..]));
}

#[test]
fn tls_and_times_are_understood() {
    let options = options(
        "tls { cert_file: c, key_file: k, ca_file: a, verify: true, timeout: 0.5, handshake_first: 300ms }\n\
         ping_interval: 2\nping_max: 5\nwrite_deadline: '3s'\nlame_duck_duration: 1m30s\n\
         lame_duck_grace_period: 1s\nmax_payload: 4MB\nmax_connections: 10\nmax_subscriptions: 7",
    )
    .unwrap();
    let tls = options.tls.unwrap();
    assert_eq!(tls.timeout, Duration::from_millis(500));
    assert_eq!(
        tls.handshake_first,
        HandshakeFirst::Auto(Duration::from_millis(300))
    );
    assert!(tls.verify);
    let limits = &options.limits;
    assert_eq!(
        (limits.ping_interval, limits.pings_out_max),
        (Duration::from_secs(2), 5)
    );
    assert_eq!(limits.write_deadline, Duration::from_secs(3));
    assert_eq!(
        (limits.payload_bytes_max, limits.connections_max),
        (4 << 20, 10)
    );
    assert_eq!(limits.subscriptions_max, 7);
    assert_eq!(options.lame_duck.duration, Duration::from_secs(90));
}

#[test]
fn every_mistake_is_told_with_its_place_and_no_secret() {
    let mistakes = options(
        "prot: 4222\nhttp: nowhere\nauthorization { user: a, token: s3cret, usres: [] }\n\
         jetstream { max_file: many }\ntls { cert_file: c }\nping_interval: soon\n\
         websocket { port: 80 }\ngateway {}\nused: 1\nserver_name: $used",
    )
    .unwrap_err();
    let text = mistakes.join("\n");
    for wanted in [
        "a.conf:1:1: unknown field \"prot\" in the file; did you mean \"port\"?",
        "a.conf:2:7: http is \"nowhere\"; wanted host:port, or a port",
        "a.conf:3:41: unknown field \"usres\" in authorization {}; did you mean \"user",
        "both user and token",
        "jetstream.max_file is \"many\"; wanted a whole number",
        "a.conf:5:1: tls needs both cert_file and key_file",
        "wanted a duration",
        "websocket needs tls {}",
        "gateway is not supported",
    ] {
        assert!(text.contains(wanted), "{wanted} is missing in:\n{text}");
    }
    assert!(
        !text.contains("s3cret") && !text.contains("\"used\""),
        "{text}"
    );
}

#[test]
fn jwts_are_refused_in_one_sentence() {
    let mistakes = options("operator: x\nresolver: MEMORY\nresolver_preload { A: b }").unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
    assert!(
        mistakes[0].contains("a.conf:1:1: operator is not supported"),
        "{mistakes:?}"
    );
}

#[test]
fn limits_of_batches_reach_the_node() {
    let limits = |block: &str| {
        let options = options(&format!("jetstream {{ limits {{ batch {{ {block} }} }} }}"))?;
        let built = crate::frontdoor::build::node_config(&options, "N");
        Ok::<_, Vec<String>>((built.unwrap().config.limits.batches, options.notes))
    };
    let (batches, notes) = limits("").unwrap();
    assert_eq!((batches, notes.len()), (BatchLimits::default(), 0));
    let block = "max_inflight_per_stream: 5, max_inflight_total: 7, timeout: 3s, max_msgs: 10";
    let (batches, notes) = limits(block).unwrap();
    let expected = BatchLimits {
        atomic_per_stream_max: 5,
        fast_max: 7,
        idle_max: Duration::from_secs(3),
        ..BatchLimits::default()
    };
    assert_eq!(batches, expected);
    assert!(notes[0].contains("batch.max_msgs"), "{notes:?}");
    let wrong = limits("max_inflight: 1").unwrap_err();
    assert!(wrong[0].contains("max_inflight_total"), "{wrong:?}");
}
