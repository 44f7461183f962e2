//! Publish, subscribe, request.

use anyhow::Context;
use async_nats::{HeaderMap, RequestErrorKind};
use futures::StreamExt;
use unibus_testkit::{next, round_trip};

#[tokio::test]
async fn wildcards_headers_and_replies() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let (a, b) = (crate::client(&node).await?, crate::client(&node).await?);
    let mut all = a.subscribe("orders.>").await?;
    let mut one = a.subscribe("orders.*.paid").await?;
    round_trip(&a).await?;
    let mut headers = HeaderMap::new();
    headers.insert("Trace", "t1");
    headers.append("Trace", "t2");
    b.publish_with_headers("orders.7.paid", headers, "x".into())
        .await?;
    b.publish("orders.7", "y".into()).await?;
    b.flush().await?;
    let first = next(&mut all).await?;
    let values: Vec<_> = first
        .headers
        .iter()
        .flat_map(|h| h.get_all("Trace"))
        .collect();
    assert_eq!(
        values.iter().map(|v| v.as_str()).collect::<Vec<_>>(),
        ["t1", "t2"]
    );
    assert_eq!(next(&mut all).await?.payload, "y");
    assert_eq!(next(&mut one).await?.subject.as_str(), "orders.7.paid");

    let mut service = a.subscribe("add").await?;
    round_trip(&a).await?;
    let responder = a.clone();
    tokio::spawn(async move {
        while let Some(m) = service.next().await {
            if let Some(reply) = m.reply {
                let _ = responder.publish(reply, "done".into()).await;
            }
        }
    });
    assert_eq!(b.request("add", "".into()).await?.payload, "done");
    Ok(())
}

#[tokio::test]
async fn a_request_to_nobody_fails_at_once() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let client = crate::client(&node).await?;
    let error = client
        .request("nobody", "".into())
        .await
        .err()
        .context("an answer of nobody")?;
    assert_eq!(error.kind(), RequestErrorKind::NoResponders);
    Ok(())
}

#[tokio::test]
async fn large_messages_pass_and_too_large_ones_are_refused() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let client = crate::client(&node).await?;
    let mut sub = client.subscribe("big").await?;
    round_trip(&client).await?;
    let payload = vec![7_u8; 1024 * 1024];
    client.publish("big", payload.clone().into()).await?;
    let got = next(&mut sub).await?;
    assert_eq!(got.payload, payload);
    assert!(
        client
            .publish("big", vec![7_u8; 1024 * 1024 + 1].into())
            .await
            .is_err()
    );
    Ok(())
}

#[tokio::test]
async fn what_was_sent_is_in_force_after_a_round_trip_whoever_listens() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let (auditor, client) = (crate::client(&node).await?, crate::client(&node).await?);
    let mut all = auditor.subscribe(">").await?;
    round_trip(&auditor).await?;
    // The auditor hears its own round trip first.
    assert!(next(&mut all).await?.subject.starts_with("_INBOX."));
    let mut heard = client.subscribe("here").await?;
    round_trip(&client).await?;
    auditor.publish("here", "x".into()).await?;
    assert_eq!(next(&mut heard).await?.payload, "x");
    Ok(())
}
