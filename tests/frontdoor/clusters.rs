//! Clusters of nats-server's settings: routes on loopback, learnt from a seed, and refused elsewhere.

use futures::StreamExt;
use unibus_testkit::{eventually, free_port};

use crate::server::{PATIENCE, Server, output};
use crate::system::document;

#[tokio::test]
async fn one_seed_makes_a_full_mesh_whose_clients_know_all_servers() {
    let seed = free_port().unwrap();
    let mut servers = Vec::new();
    for number in 0..3 {
        let port = if number == 0 {
            seed
        } else {
            free_port().unwrap()
        };
        let listen = format!("nats://u:p@127.0.0.1:{port}");
        let routes = format!("nats://u:p@127.0.0.1:{seed}");
        let flags = [
            "-p",
            "-1",
            "-a",
            "127.0.0.1",
            "--cluster",
            &listen,
            "--routes",
            &routes,
            "--cluster_name",
            "c",
            "-m",
            "-1",
        ];
        servers.push(Server::start(&flags).await.unwrap());
    }
    let (from, to) = (&servers[1], &servers[2]);
    let (publisher, subscriber) = (from.connect().await.unwrap(), to.connect().await.unwrap());
    let mut inbox = subscriber.subscribe("x").await.unwrap();
    subscriber.flush().await.unwrap();
    let mut wait = tokio::time::interval(std::time::Duration::from_millis(100));
    let message = tokio::time::timeout(PATIENCE, async {
        loop {
            tokio::select! {
                message = inbox.next() => return message.unwrap(),
                _ = wait.tick() => publisher.publish("x", "y".into()).await.unwrap(),
            }
        }
    });
    assert_eq!(message.await.unwrap().payload, "y");
    eventually("three servers in INFO", PATIENCE, || async {
        let known = from.connect().await?.server_info().connect_urls.len();
        anyhow::ensure!(known == 3, "{known}");
        Ok(())
    })
    .await
    .unwrap();
    let varz = document(from, "/varz").await;
    assert_eq!(varz["connect_urls"].as_array().unwrap().len(), 3, "{varz}");
}

/// A client over WebSocket is told where the others speak WebSocket, a plain one where they don't.
#[tokio::test]
async fn each_kind_of_client_learns_of_the_nodes_that_speak_its_way() {
    let (port, files) = (free_port().unwrap(), tempfile::tempdir().unwrap());
    let mut servers: Vec<Server> = Vec::new();
    for at in 0..2 {
        let file = files.path().join(format!("{at}.conf"));
        let advertise = format!("10.0.0.{at}:443");
        let text = format!(
            "port: -1\nwebsocket {{ listen: \"127.0.0.1:-1\", no_tls: true, advertise: \"{advertise}\" }}\n\
             client_advertise: \"10.0.0.{at}:4222\"\n"
        );
        std::fs::write(&file, text).unwrap();
        let (own, seed) = (
            if at == 0 { port } else { free_port().unwrap() },
            format!("nats://127.0.0.1:{port}"),
        );
        let own = format!("nats://127.0.0.1:{own}");
        let file = file.display().to_string();
        let mut flags = vec![
            "-c",
            &file,
            "--cluster",
            &own,
            "--cluster_name",
            "c",
            "-m",
            "-1",
        ];
        if at > 0 {
            flags.extend(["--routes", &seed]);
        }
        servers.push(Server::start(&flags).await.unwrap());
    }
    for server in &servers {
        eventually("both nodes in both lists", PATIENCE, || async {
            let info = server.connect().await?.server_info();
            let mut plain = info.connect_urls;
            plain.sort_unstable();
            anyhow::ensure!(plain == ["10.0.0.0:4222", "10.0.0.1:4222"], "{plain:?}");
            let varz = document(server, "/varz").await;
            let mut websockets: Vec<&str> = varz["ws_connect_urls"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|url| url.as_str())
                .collect();
            websockets.sort_unstable();
            anyhow::ensure!(
                websockets == ["10.0.0.0:443", "10.0.0.1:443"],
                "{websockets:?}"
            );
            Ok(())
        })
        .await
        .unwrap();
    }
}

#[test]
fn other_hosts_are_refused_with_the_way_that_works() {
    let run = output(&[
        "-p",
        "-1",
        "--cluster",
        "nats://0.0.0.0:0",
        "--cluster_name",
        "c",
    ]);
    assert_eq!(run.status.code(), Some(1));
    let words = String::from_utf8(run.stderr).unwrap();
    assert!(words.contains("unibus-node --routes"), "{words}");
}
