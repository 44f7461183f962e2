//! A client that nobody here wrote: async-nats.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::timeout;

use crate::support::{DEADLINE, Node};

async fn connect(node: &Node) -> async_nats::Client {
    async_nats::connect(format!("nats://{}", node.addr))
        .await
        .unwrap()
}

#[tokio::test]
async fn publish_and_subscribe() {
    let node = Node::start().await;
    let (a, b) = (connect(&node).await, connect(&node).await);
    let mut messages = a.subscribe("greet.*").await.unwrap();
    a.flush().await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Key", "value");
    b.publish("greet.one", "hi".into()).await.unwrap();
    b.publish_with_headers("greet.two", headers, "ho".into())
        .await
        .unwrap();
    b.flush().await.unwrap();
    let first = timeout(DEADLINE, messages.next()).await.unwrap().unwrap();
    assert_eq!(
        (first.subject.as_str(), &first.payload[..]),
        ("greet.one", &b"hi"[..])
    );
    let second = timeout(DEADLINE, messages.next()).await.unwrap().unwrap();
    assert_eq!(
        second.headers.unwrap().get("Key").unwrap().as_str(),
        "value"
    );
}

#[tokio::test]
async fn request_and_reply() {
    let node = Node::start().await;
    let (server, client) = (connect(&node).await, connect(&node).await);
    let mut requests = server
        .queue_subscribe("double", "workers".into())
        .await
        .unwrap();
    server.flush().await.unwrap();
    let answering = server.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let n: u64 = String::from_utf8_lossy(&request.payload).parse().unwrap();
            let reply = request.reply.unwrap();
            answering
                .publish(reply, (2 * n).to_string().into())
                .await
                .unwrap();
        }
    });
    for n in 0..200_u64 {
        let answer = client
            .request("double", n.to_string().into())
            .await
            .unwrap();
        assert_eq!(&answer.payload[..], (2 * n).to_string().as_bytes());
    }
}

#[tokio::test]
async fn nobody_answers() {
    let node = Node::start().await;
    let client = connect(&node).await;
    let error = client.request("nobody.home", "x".into()).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::RequestErrorKind::NoResponders);
}

#[tokio::test]
async fn unsubscribe_after() {
    let node = Node::start().await;
    let client = connect(&node).await;
    let mut messages = client.subscribe("foo").await.unwrap();
    messages.unsubscribe_after(3).await.unwrap();
    for _ in 0..5 {
        client.publish("foo", "x".into()).await.unwrap();
    }
    let mut got = 0;
    while timeout(Duration::from_secs(5), messages.next())
        .await
        .unwrap()
        .is_some()
    {
        got += 1;
    }
    assert_eq!(got, 3);
}
