//! What the system account may tell a server to do, and the documents that others find a server by.

use async_nats::{Client, ConnectOptions, ServerInfo};
use serde_json::Value;
use unibus_testkit::{eventually, http_get};

use crate::server::{PATIENCE, Server, configuration};

const BASE: &str = "port: -1\nhost: 127.0.0.1\nhttp: \"127.0.0.1:-1\"\nserver_tags: [\"az:1\"]\n\
    system_account: SYS\n\
    accounts { SYS { users: [{user: admin, pass: p}] }, A { users: [{user: a, pass: p}] } }\n";

async fn connect(server: &Server, user: &str) -> Client {
    let options = ConnectOptions::with_user_and_password(user.to_owned(), "p".to_owned());
    options.connect(server.url()).await.unwrap()
}

async fn order(admin: &Client, id: &str, what: &str, body: &str) -> Value {
    let subject = format!("$SYS.REQ.SERVER.{id}.{what}");
    let answer = admin.request(subject, body.to_owned().into()).await;
    serde_json::from_slice(&answer.unwrap().payload).unwrap()
}

pub(crate) async fn document(server: &Server, path: &str) -> Value {
    let url = server.urls("monitoring").remove(0);
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    serde_json::from_str(&http_get(port, path).await.unwrap().1).unwrap()
}

#[tokio::test]
async fn the_system_account_throws_clients_out_and_reloads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let file = configuration(&path, BASE);
    let server = Server::start_in(dir, &["-c", &file]).await.unwrap();
    let (admin, client) = (connect(&server, "admin").await, connect(&server, "a").await);
    let ServerInfo {
        server_id: id,
        client_id: cid,
        ..
    } = client.server_info();

    let body = format!("{{\"cid\": {cid}}}");
    let done = order(&admin, &id, "KICK", &body).await;
    assert!(
        done["error"].is_null() && done["server"]["id"] == *id,
        "{done}"
    );
    eventually(
        "another connection of the same client",
        PATIENCE,
        || async {
            anyhow::ensure!(client.server_info().client_id != cid);
            Ok(())
        },
    )
    .await
    .unwrap();
    let closed = document(&server, &format!("/connz?cid={cid}")).await;
    assert_eq!(closed["connections"][0]["reason"], "Kicked", "{closed}");
    let refused = order(&admin, &id, "KICK", "{\"cid\": 999}").await;
    assert_eq!(refused["error"]["code"], 500, "{refused}");
    let refused = order(&admin, &id, "LDM", "nonsense").await;
    assert!(
        refused["error"]["description"]
            .as_str()
            .unwrap()
            .contains("cid")
    );

    let before = document(&server, "/varz").await;
    configuration(&path, &format!("{BASE}max_payload: 1kb\n"));
    let done = order(&admin, &id, "RELOAD", "").await;
    assert!(done["error"].is_null(), "{done}");
    assert_eq!(connect(&server, "a").await.server_info().max_payload, 1024);
    let after = document(&server, "/varz").await;
    assert_ne!(before["config_load_time"], after["config_load_time"]);
    configuration(&path, "nonsense: 1");
    let refused = order(&admin, &id, "RELOAD", "").await;
    let words = refused["error"]["description"].as_str().unwrap().to_owned();
    assert!(words.contains("nonsense"), "{refused}");

    // Nobody else may.
    let other = connect(&server, "a").await;
    let answer = other.request(format!("$SYS.REQ.SERVER.{id}.RELOAD"), "".into());
    assert!(answer.await.is_err());
}

#[tokio::test]
async fn varz_tells_where_clients_connect_and_how_the_server_is_set_up() {
    let dir = tempfile::tempdir().unwrap();
    let websocket = "websocket { listen: \"127.0.0.1:-1\", no_tls: true, same_origin: true, \
        advertise: \"10.1.2.3:443\" }\n";
    let file = configuration(dir.path(), &format!("{BASE}{websocket}"));
    let server = Server::start_in(dir, &["-c", &file]).await.unwrap();
    let varz = document(&server, "/varz").await;
    assert!(varz["ws_connect_urls"].is_null(), "alone: {varz}");
    assert_eq!(varz["tags"][0], "az:1");
    assert_eq!(varz["websocket"]["host"], "127.0.0.1");
    assert_eq!(varz["websocket"]["same_origin"], true);
    assert_eq!(varz["system_account"], "SYS");

    let url = server.urls("monitoring").remove(0);
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let (status, body) = http_get(port, "/varz?callback=cb.x").await.unwrap();
    assert!(status == 200 && body.starts_with("cb.x({") && body.ends_with("})"));
    let (_, body) = http_get(port, "/varz?callback=alert(1)").await.unwrap();
    assert!(body.starts_with('{'));
}

#[tokio::test]
async fn the_status_page_and_its_document_are_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store").display().to_string();
    let flags = [
        "-a",
        "127.0.0.1",
        "-p",
        "-1",
        "-m",
        "-1",
        "-js",
        "-sd",
        &store,
    ];
    let server = Server::start_in(dir, &flags).await.unwrap();
    let url = server.urls("monitoring").remove(0);
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let (status, page) = http_get(port, "/status").await.unwrap();
    assert!(
        status == 200 && page.contains("fetch(\"status.json\""),
        "{page}"
    );
    let (_, index) = http_get(port, "/").await.unwrap();
    assert!(index.contains("./status"), "{index}");

    let client = server.connect().await.unwrap();
    let context = async_nats::jetstream::new(client.clone());
    let stream = async_nats::jetstream::stream::Config {
        name: "S".to_owned(),
        subjects: vec!["s.*".to_owned()],
        ..Default::default()
    };
    let stream = context.create_stream(stream).await.unwrap();
    let consumer = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("behind".to_owned()),
        ..Default::default()
    };
    stream.create_consumer(consumer).await.unwrap();
    context
        .publish("s.a", "x".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let status = document(&server, "/status.json").await;
    assert_eq!(status["health"]["status"], "ok", "{status}");
    assert_eq!(status["health"]["role"], "leader", "{status}");
    assert_eq!(status["connections"]["open"], 1);
    assert!(status["traffic"]["in_msgs"].as_u64().unwrap() >= 1);
    assert_eq!(
        (
            &status["streams"][0]["name"],
            &status["streams"][0]["messages"]
        ),
        (&"S".into(), &1.into())
    );
    assert_eq!(
        (
            &status["lagging"][0]["name"],
            &status["lagging"][0]["pending"]
        ),
        (&"behind".into(), &1.into())
    );
    assert_eq!(status["store"]["consumers"], 1);
}
