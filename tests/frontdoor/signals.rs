//! Signals: reload, lame duck mode, the log opened anew.

use std::time::Duration;

use async_nats::Event;
use tokio::sync::mpsc;

use crate::server::{PATIENCE, Server, configuration, output};

const BASE: &str =
    "port: -1\nhost: 127.0.0.1\nlame_duck_grace_period: 100ms\nlame_duck_duration: 1s\n";

#[tokio::test]
async fn a_reload_changes_what_can_be_changed_and_refuses_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let file = configuration(&path, BASE);
    let server = Server::start_in(dir, &["-c", &file]).await.unwrap();
    let client = server.connect().await.unwrap();
    configuration(&path, &format!("{BASE}max_payload: 1kb\ndebug: true\n"));
    server.signal("-HUP");
    server
        .logged("Reloaded server configuration")
        .await
        .unwrap();
    let other = server.connect().await.unwrap();
    assert_eq!(other.server_info().max_payload, 1024);
    configuration(&path, &format!("{BASE}server_name: x\nmax_payload: 2kb\n"));
    server.signal("-HUP");
    server
        .logged("config reload not supported for server_name")
        .await
        .unwrap();
    configuration(&path, "nonsense: 1");
    server.signal("-HUP");
    server.logged("unknown field \"nonsense\"").await.unwrap();
    assert_eq!(
        server.connect().await.unwrap().server_info().max_payload,
        1024
    );
    // The connection from before all this is the same one.
    client.flush().await.unwrap();
    assert_eq!(
        client
            .statistics()
            .connects
            .load(std::sync::atomic::Ordering::Relaxed),
        1
    );
}

#[tokio::test]
async fn a_reload_that_fails_at_its_last_part_has_changed_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let with_log = |name: &str, more: &str| {
        let log = path.join(name).display().to_string();
        configuration(&path, &format!("{BASE}log_file: \"{log}\"\n{more}"))
    };
    let file = with_log("log", "");
    let server = Server::start_logging(dir, &["-c", &file]).await.unwrap();
    let before = server.connect().await.unwrap().server_info().max_payload;
    let users = "authorization { users: [{user: a, pass: p}] }\n";
    with_log("no/folder/log", &format!("max_payload: 1kb\n{users}"));
    server.signal("-HUP");
    server.logged("can't be opened").await.unwrap();
    let client = server.connect().await.unwrap();
    assert_eq!(client.server_info().max_payload, before);
}

#[tokio::test]
async fn users_of_the_file_come_and_go_with_a_reload() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_path_buf();
    let users = |names: &[&str]| {
        let users: Vec<String> = names
            .iter()
            .map(|name| format!("{{user: {name}, pass: p}}"))
            .collect();
        configuration(
            &path,
            &format!("{BASE}authorization {{ users: [{}] }}", users.join(", ")),
        )
    };
    let file = users(&["a", "b"]);
    let server = Server::start_in(dir, &["-c", &file]).await.unwrap();
    let connect = |name: &str| {
        async_nats::ConnectOptions::with_user_and_password(name.to_owned(), "p".to_owned())
            .connect(server.url())
    };
    assert!(server.connect().await.is_err());
    connect("a").await.unwrap();
    assert!(connect("c").await.is_err());
    users(&["b", "c"]);
    server.signal("-HUP");
    server
        .logged("Reloaded server configuration")
        .await
        .unwrap();
    connect("c").await.unwrap();
    assert!(connect("a").await.is_err());
}

#[tokio::test]
async fn lame_duck_mode_tells_the_clients_and_ends_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = configuration(dir.path(), BASE);
    let mut server = Server::start_in(dir, &["-c", &file]).await.unwrap();
    let (sender, mut events) = mpsc::channel(16);
    let options = async_nats::ConnectOptions::new().event_callback(move |event| {
        let sender = sender.clone();
        async move { drop(sender.try_send(event)) }
    });
    let client = options.connect(server.url()).await.unwrap();
    client.flush().await.unwrap();
    let sent = output(&["--signal", &format!("ldm={}", server.pid_file().display())]);
    assert!(sent.status.success(), "{sent:?}");
    let told = async {
        while let Some(event) = events.recv().await {
            if matches!(event, Event::LameDuckMode) {
                return;
            }
        }
        panic!("no event");
    };
    tokio::time::timeout(PATIENCE, told).await.unwrap();
    assert!(server.ended().await.unwrap().success());
}

#[tokio::test]
async fn the_log_can_be_moved_away() {
    let server = Server::start(&["-p", "-1", "-a", "127.0.0.1"])
        .await
        .unwrap();
    let log = server.dir.path().join("log");
    std::fs::rename(&log, server.dir.path().join("log.1")).unwrap();
    server.signal("-USR1");
    server.logged("File log re-opened").await.unwrap();
}

#[tokio::test]
async fn a_server_stops_within_seconds() {
    let mut server = Server::start(&["-p", "-1", "-a", "127.0.0.1"])
        .await
        .unwrap();
    server.signal("-TERM");
    let status = tokio::time::timeout(Duration::from_secs(15), server.ended()).await;
    assert!(status.unwrap().unwrap().success());
}
