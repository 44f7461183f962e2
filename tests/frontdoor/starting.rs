//! Starting: flags, files, what is served with and without JetStream, and what `-t` says.

use async_nats::RequestErrorKind;
use futures::StreamExt;
use tokio::io::AsyncBufReadExt;

use crate::server::{Server, configuration, output};

const HERE: [&str; 4] = ["-a", "127.0.0.1", "-p", "-1"];

#[tokio::test]
async fn a_server_without_jetstream_passes_messages_and_stores_nothing() {
    let mut server = Server::start(&[&HERE[..], &["-m", "-1"]].concat())
        .await
        .unwrap();
    let log = server.log();
    assert!(
        log.contains("[INF] Listening for client connections on 127.0.0.1:"),
        "{log}"
    );
    let pid = std::fs::read_to_string(server.pid_file()).unwrap();
    assert_eq!(pid, server.pid().to_string());
    assert_eq!(server.urls("monitoring").len(), 1);
    let client = server.connect().await.unwrap();
    let info = client.server_info();
    assert!(!info.jetstream && info.version == "2.14.0" && info.connect_urls.is_empty());
    let mut inbox = client.subscribe("a.*").await.unwrap();
    client.publish("a.b", "x".into()).await.unwrap();
    assert_eq!(inbox.next().await.unwrap().payload, "x");
    let error = client.request("$JS.API.INFO", "".into()).await.unwrap_err();
    assert_eq!(error.kind(), RequestErrorKind::NoResponders);
    server.signal("-TERM");
    assert!(server.ended().await.unwrap().success());
    assert!(!server.pid_file().exists() && !server.ports_file().exists());
}

#[tokio::test]
async fn streams_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("-sd={}", dir.path().join("s").display());
    let flags = [&HERE[..], &["-js", &store]].concat();
    let mut server = Server::start_in(dir, &flags).await.unwrap();
    let context = async_nats::jetstream::new(server.connect().await.unwrap());
    let bucket = async_nats::jetstream::kv::Config {
        bucket: "b".to_owned(),
        ..Default::default()
    };
    let bucket = context.create_key_value(bucket).await.unwrap();
    bucket.put("k", "v".into()).await.unwrap();
    server.signal("-INT");
    assert!(server.ended().await.unwrap().success());
    let dir = server.into_dir();
    assert!(dir.path().join("s/jetstream").is_dir());
    let server = Server::start_in(dir, &flags).await.unwrap();
    let context = async_nats::jetstream::new(server.connect().await.unwrap());
    let bucket = context.get_key_value("b").await.unwrap();
    assert_eq!(bucket.get("k").await.unwrap().unwrap(), "v");
}

#[tokio::test]
async fn a_domain_is_told_and_its_api_is_reached_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("s").display().to_string();
    let text = format!("jetstream {{ store_dir: '{store}', domain: hub }}");
    let file = configuration(dir.path(), &text);
    let flags = ["-a", "127.0.0.1", "-p", "-1", "-c", &file];
    let server = Server::start_in(dir, &flags).await.unwrap();
    let address = server.url().replace("nats://", "");
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut greeting = String::new();
    let mut reader = tokio::io::BufReader::new(socket);
    reader.read_line(&mut greeting).await.unwrap();
    assert!(greeting.contains(r#""domain":"hub""#), "{greeting}");
    let client = server.connect().await.unwrap();
    let hub = async_nats::jetstream::with_domain(client.clone(), "hub");
    let bucket = async_nats::jetstream::kv::Config {
        bucket: "b".into(),
        ..Default::default()
    };
    let store = hub.create_key_value(bucket).await.unwrap();
    let revision = store.put("k", "v".into()).await.unwrap();
    let entry = store.entry("k").await.unwrap().unwrap();
    assert_eq!((entry.revision, &entry.value[..]), (revision, &b"v"[..]));
    let answer = client.request("$KV.b.k", "w".into()).await.unwrap();
    let wanted = format!(
        r#"{{"stream":"KV_b","domain":"hub","seq":{}}}"#,
        revision + 1
    );
    assert_eq!(answer.payload, wanted);
    // Of another domain there is nobody here.
    let other = client.request("$JS.other.API.INFO", "".into());
    let error = other.await.unwrap_err();
    assert_eq!(error.kind(), RequestErrorKind::NoResponders);
}

#[tokio::test]
async fn a_file_decides_and_flags_win() {
    let dir = tempfile::tempdir().unwrap();
    let text = "port: 1\nhost: 127.0.0.1\nserver_name: of-the-file\nmax_payload: 2kb\nlimit: 7\n\
                max_subscriptions: $limit";
    let file = configuration(dir.path(), text);
    let server = Server::start_in(dir, &["-c", &file, "-p", "-1"])
        .await
        .unwrap();
    let info = server.connect().await.unwrap().server_info();
    assert_eq!(
        (info.server_name.as_str(), info.max_payload),
        ("of-the-file", 2048)
    );
}

#[test]
fn a_test_of_the_file_tells_every_mistake_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = configuration(dir.path(), "port: 4222\nprot: 1\nhttp: x\n");
    let run = output(&["-t", "-c", &file]);
    let words = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(
        words.contains("a.conf:2:1: unknown field \"prot\""),
        "{words}"
    );
    assert!(words.contains("a.conf:3:7: http is \"x\""), "{words}");
    let text = "tls { cert_file: \"/nope.pem\", key_file: \"/nope.key\" }";
    let run = output(&["-t", "-c", &configuration(dir.path(), text)]);
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8(run.stderr).unwrap().contains("/nope.pem"));
    let file = configuration(dir.path(), "port: 4222");
    let run = output(&["-t", "-c", &file]);
    assert!(run.status.success());
    assert!(String::from_utf8(run.stderr).unwrap().contains("is valid"));
}

#[test]
fn the_version_and_mistakes_in_flags_are_told() {
    for flag in ["-v", "--version", "version"] {
        assert_eq!(output(&[flag]).stdout, b"nats-server: v2.14.0\n");
    }
    let link = tempfile::tempdir().unwrap();
    let link = link.path().join("nats-server");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_unibus-node"), &link).unwrap();
    let run = std::process::Command::new(&link)
        .arg("-v")
        .output()
        .unwrap();
    assert_eq!(run.stdout, b"nats-server: v2.14.0\n");
    let run = output(&["-nope"]);
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8(run.stderr).unwrap().contains("-nope"));
    let run = output(&["--signal", "ldm=/nope"]);
    assert_eq!(run.status.code(), Some(1));
}
