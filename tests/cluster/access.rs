//! Who may use a cluster's nodes, and that a change reaches connections that are open elsewhere.

use std::time::Duration;

use anyhow::{Context, bail};
use async_nats::jetstream;
use futures::StreamExt;
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually};

use crate::binary;

#[tokio::test]
async fn only_known_keys_get_in_and_the_control_plane_stays_closed() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let url = cluster.nodes[1].url();
    let once = || async_nats::ConnectOptions::new().max_reconnects(1);
    assert!(
        once().connect(&url).await.is_err(),
        "a client without a key got in"
    );
    let stranger = unibus_proto::nkey::UserSeed::from_bytes([42; 32]).to_nkey();
    let refused = async_nats::ConnectOptions::with_nkey(stranger).max_reconnects(1);
    assert!(
        refused.connect(&url).await.is_err(),
        "an unknown key got in"
    );

    let client = cluster.client(1).await?;
    let context = jetstream::new(client.clone());
    assert!(
        context.get_key_value("UNIBUS_users").await.is_err(),
        "the users' bucket is readable"
    );
    let mut watch = client.subscribe("$KV.UNIBUS_users.>").await?;
    let mut all = client.subscribe(">").await?;
    client
        .publish("$KV.UNIBUS_users.intruder", "{}".into())
        .await?;
    client.publish("harmless", "x".into()).await?;
    client.flush().await?;
    // The legitimate twin comes through, and nothing of the control plane before it.
    let first = tokio::time::timeout(PATIENCE, all.next())
        .await?
        .context("ended")?;
    assert_eq!(first.subject.as_str(), "harmless");
    let forbidden = tokio::time::timeout(Duration::from_millis(1), watch.next()).await;
    assert!(!matches!(forbidden, Ok(Some(_))), "{forbidden:?}");
    Ok(())
}

#[tokio::test]
async fn revoking_a_user_closes_its_connections_on_every_node() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(cluster.client(node).await?);
    }
    cluster.user(&["revoke"], &[])?;
    for client in &clients {
        eventually("the connection is closed", PATIENCE, || async {
            match client.connection_state() {
                async_nats::connection::State::Connected => bail!("still connected"),
                _ => Ok(()),
            }
        })
        .await?;
    }
    for node in 0..3 {
        assert!(
            cluster.client(node).await.is_err(),
            "node {node} admits a revoked user"
        );
    }
    Ok(())
}
