//! `$SYS` questions in a cluster: every node answers the node's own identity, none answers a user.

use std::collections::BTreeSet;

use anyhow::Context;
use futures::StreamExt;
use serde_json::Value;
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually, round_trip};

use crate::binary;

/// A client with the identity that node `i` made for itself.
async fn internal(cluster: &Cluster, i: usize) -> anyhow::Result<async_nats::Client> {
    let file = std::fs::read(cluster.data_dir(i).join("internal.json"))?;
    let content: Value = serde_json::from_slice(&file)?;
    let seed = content["seed"].as_str().context("no seed")?.to_owned();
    let options = async_nats::ConnectOptions::with_nkey(seed);
    Ok(options.connect(cluster.nodes[i].url()).await?)
}

/// The ids of the first `count` servers that answer `subject`, one answer each.
async fn answering(
    client: &async_nats::Client,
    subject: &str,
    count: usize,
) -> anyhow::Result<BTreeSet<String>> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    let question = client.publish_with_reply(subject.to_owned(), inbox, "".into());
    question.await?;
    let mut ids = BTreeSet::new();
    for got in 0..count {
        let answer = tokio::time::timeout(std::time::Duration::from_secs(5), answers.next())
            .await
            .with_context(|| format!("{subject}: only {got} of {count} answers"))?
            .context("ended")?;
        let body: Value = serde_json::from_slice(&answer.payload)
            .with_context(|| format!("{subject}: {answer:?}"))?;
        let id = body["server"]["id"].as_str().context("no id")?;
        anyhow::ensure!(ids.insert(id.to_owned()), "{subject}: {id} answered twice");
    }
    Ok(ids)
}

#[tokio::test]
async fn every_node_answers_the_nodes_own_identity_and_nobody_else() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let system = internal(&cluster, 0).await?;
    let ids = eventually("three servers answer", PATIENCE, || async {
        answering(&system, "$SYS.REQ.SERVER.PING", 3).await
    })
    .await?;
    for subject in ["$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.ACCOUNT.PING.CONNZ"] {
        assert_eq!(answering(&system, subject, 3).await?, ids, "{subject}");
    }
    for id in &ids {
        let asked = answering(&system, &format!("$SYS.REQ.SERVER.{id}.VARZ"), 1).await?;
        assert_eq!(asked, BTreeSet::from([id.clone()]));
    }

    let user = cluster.client(1).await?;
    let inbox = user.new_inbox();
    let mut answers = user.subscribe(inbox.clone()).await?;
    user.publish_with_reply("$SYS.REQ.SERVER.PING", inbox, "".into())
        .await?;
    round_trip(&user).await?;
    // A question that is answered, asked later at the same node: an answer to the other would be here.
    let there = internal(&cluster, 1).await?;
    assert_eq!(answering(&there, "$SYS.REQ.SERVER.PING", 3).await?, ids);
    round_trip(&user).await?;
    let answer = futures::FutureExt::now_or_never(answers.next());
    assert!(answer.is_none(), "a user was answered: {answer:?}");
    Ok(())
}
