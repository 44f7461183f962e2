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
