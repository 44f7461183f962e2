//! Protocol traces: every operation, no payload, no secret; and `UNIBUS_NATS_DEBUG` of the native
//! command line.

use std::process::{Command, Stdio};

use async_nats::{Client, ConnectOptions};
use futures::StreamExt;
use unibus_testkit::{eventually, free_port, http_get};

use crate::server::{PATIENCE, Server};

/// A conversation of which everything but its words may be seen.
async fn talk(client: &Client) {
    let mut inbox = client.subscribe("topic.x").await.unwrap();
    client.publish("topic.x", "PAYLOAD".into()).await.unwrap();
    assert_eq!(inbox.next().await.unwrap().payload, "PAYLOAD");
}

fn judge(log: &str) {
    for seen in [
        "<<- [CONNECT {",
        "<<- [SUB topic.x",
        "<<- [PUB topic.x",
        "->> [MSG topic.x 1 7]",
        "->> [PONG]",
    ] {
        assert!(log.contains(seen), "{seen} is missing:\n{log}");
    }
    for hidden in ["PAYLOAD", "SECRET"] {
        assert!(!log.contains(hidden), "{hidden} was logged:\n{log}");
    }
}

#[tokio::test]
async fn a_trace_shows_operations_and_hides_payloads_and_secrets() {
    let flags = ["-a", "127.0.0.1", "-p", "-1", "-DV", "--auth", "SECRET"];
    let server = Server::start(&flags).await.unwrap();
    let options = ConnectOptions::with_token("SECRET".to_owned());
    talk(&options.connect(server.url()).await.unwrap()).await;
    server.logged("->> [MSG topic.x 1 7]").await.unwrap();
    judge(&server.log());
}

#[tokio::test]
async fn the_debug_variable_traces_and_opens_monitoring() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let (port, http) = (free_port().unwrap(), free_port().unwrap());
    let mut node = Command::new(env!("CARGO_BIN_EXE_unibus-node"))
        .args([
            "--port",
            &port.to_string(),
            "--http-port",
            &http.to_string(),
        ])
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .args(["--monitor-port", &free_port().unwrap().to_string()])
        .env("UNIBUS_NATS_DEBUG", "1")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let url = format!("nats://127.0.0.1:{port}");
    let connected = eventually("a node", PATIENCE, || async {
        anyhow::ensure!(http_get(http, "/healthz").await?.0 == 200);
        Ok(async_nats::connect(&url).await?)
    })
    .await;
    if let Ok(client) = &connected {
        talk(client).await;
    }
    node.kill().unwrap();
    node.wait().unwrap();
    connected.unwrap();
    judge(&std::fs::read_to_string(&log).unwrap());
}
