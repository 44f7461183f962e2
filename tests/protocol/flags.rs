//! Limits that a node was given on its command line, as its clients meet them.

use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use unibus_testkit::{NodeProcess, PATIENCE};

/// A node with these flags.
async fn node(dir: &Path, flags: &str) -> anyhow::Result<NodeProcess> {
    let binary = Path::new(env!("CARGO_BIN_EXE_unibus-node"));
    let flags = flags.split(' ').map(str::to_owned).collect();
    let mut node = NodeProcess::single(binary, dir)?.with_args(flags);
    node.start()?;
    node.ready(PATIENCE).await?;
    Ok(node)
}

/// Waits until the node has said this to a client that says `words`.
async fn says(node: &NodeProcess, wanted: &str, words: &str) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, node.client_port)).await?;
    stream.write_all(words.as_bytes()).await?;
    let mut said = Vec::new();
    let listening = async {
        while !String::from_utf8_lossy(&said).contains(wanted) {
            ensure!(stream.read_buf(&mut said).await? > 0, "it has ended");
        }
        Ok(())
    };
    let heard = timeout(PATIENCE, listening).await;
    let heard = heard.map_err(anyhow::Error::from).and_then(|heard| heard);
    heard.with_context(|| String::from_utf8_lossy(&said).into_owned())
}

/// What the first message of a fast batch is answered.
async fn begun(client: &async_nats::Client, batch: &str) -> anyhow::Result<Value> {
    let reply = format!("{}.{batch}.1.fail.1.0.$FI", client.new_inbox());
    let mut answers = client.subscribe(reply.clone()).await?;
    client.publish_with_reply("f.a", reply, "x".into()).await?;
    let answer = unibus_testkit::next(&mut answers).await?;
    Ok(serde_json::from_slice(&answer.payload)?)
}

#[tokio::test]
async fn clients_meet_the_limits_that_the_flags_name() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let flags = "--bus-auth enforce --auth-timeout-ms 50";
    let strict = node(dir.path(), flags).await?;
    says(&strict, "-ERR 'Authentication Timeout'\r\n", "").await?;

    let dir = tempfile::tempdir()?;
    let flags = "--max-subscriptions 2 --max-fast-batches 1 --batch-timeout-ms 60000";
    let node = node(dir.path(), flags).await?;
    let two = "CONNECT {\"verbose\":false}\r\nSUB a 1\r\nSUB b 2\r\nPING\r\n";
    says(&node, "} \r\nPONG\r\n", two).await?;
    let three = two.replace("PING", "SUB c 3");
    says(
        &node,
        "} \r\n-ERR 'maximum subscriptions exceeded'\r\n",
        &three,
    )
    .await?;
    let client = async_nats::connect(node.url()).await?;
    let body = r#"{"name":"F","subjects":["f.>"],"allow_batched":true}"#;
    client
        .request("$JS.API.STREAM.CREATE.F", body.into())
        .await?;
    let first = begun(&client, "a").await?;
    ensure!(first["type"] == "ack", "{first}");
    let second = begun(&async_nats::connect(node.url()).await?, "b").await?;
    ensure!(second["error"]["err_code"] == 10211, "{second}");
    Ok(())
}
