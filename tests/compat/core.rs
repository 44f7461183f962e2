//! Publish, subscribe, request.

use std::time::Duration;

use anyhow::Context;
use async_nats::{HeaderMap, RequestErrorKind};
use futures::StreamExt;

#[tokio::test]
async fn wildcards_headers_and_replies() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let (a, b) = (crate::client(&node).await?, crate::client(&node).await?);
    let mut all = a.subscribe("orders.>").await?;
    let mut one = a.subscribe("orders.*.paid").await?;
    a.flush().await?;
    let mut headers = HeaderMap::new();
    headers.insert("Trace", "t1");
    headers.append("Trace", "t2");
    b.publish_with_headers("orders.7.paid", headers, "x".into())
        .await?;
    b.publish("orders.7", "y".into()).await?;
    b.flush().await?;
    let first = all.next().await.context("ended")?;
    let values: Vec<_> = first
        .headers
        .iter()
        .flat_map(|h| h.get_all("Trace"))
        .collect();
    assert_eq!(
        values.iter().map(|v| v.as_str()).collect::<Vec<_>>(),
        ["t1", "t2"]
    );
    assert_eq!(all.next().await.context("ended")?.payload, "y");
    assert_eq!(
        one.next().await.context("ended")?.subject.as_str(),
        "orders.7.paid"
    );

    let mut service = a.subscribe("add").await?;
    a.flush().await?;
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
    let payload = vec![7_u8; 1024 * 1024];
    client.publish("big", payload.clone().into()).await?;
    let got = tokio::time::timeout(Duration::from_secs(20), sub.next())
        .await?
        .context("ended")?;
    assert_eq!(got.payload, payload);
    assert!(
        client
            .publish("big", vec![7_u8; 1024 * 1024 + 1].into())
            .await
            .is_err()
    );
    Ok(())
}
