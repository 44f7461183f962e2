//! Scheduled messages, as async-nats publishes and reads them.

use async_nats::HeaderMap;
use serde_json::json;

use super::*;

async fn stream(client: &async_nats::Client) -> async_nats::jetstream::stream::Stream {
    let config = json!({
        "name": "S", "subjects": ["s.>"], "allow_msg_schedules": true, "allow_msg_ttl": true,
    });
    let request = client.request("$JS.API.STREAM.CREATE.S", config.to_string().into());
    let answer = soon(request).await.unwrap();
    let text = String::from_utf8_lossy(&answer.payload);
    assert!(text.contains("\"allow_msg_schedules\":true"), "{text}");
    let context = async_nats::jetstream::new(client.clone());
    soon(context.get_stream("S")).await.unwrap()
}

async fn publish(client: &async_nats::Client, subject: &str, fields: &[(&str, &str)], body: &str) {
    let context = async_nats::jetstream::new(client.clone());
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.insert(*name, *value);
    }
    let body = body.to_owned().into();
    let ack = soon(context.publish_with_headers(subject.to_owned(), headers, body)).await;
    soon(ack.unwrap()).await.unwrap();
}

/// The last message of a subject, once there is one.
async fn arrived(
    stream: &async_nats::jetstream::stream::Stream,
    subject: &str,
) -> async_nats::jetstream::message::StreamMessage {
    loop {
        if let Ok(message) = soon(stream.get_last_raw_message_by_subject(subject)).await {
            return message;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_published_when_they_are_due() {
    let node = Node::start().await;
    let client = node.client().await;
    let mut stream = stream(&client).await;
    let once = [
        ("Nats-Schedule", "@at 2026-01-01T00:00:00Z"),
        ("Nats-Schedule-Target", "s.once"),
        ("Nats-Schedule-TTL", "5m"),
        ("Kept", "yes"),
    ];
    publish(&client, "s.plan.once", &once, "body").await;
    let message = arrived(&stream, "s.once").await;
    assert_eq!(&message.payload[..], b"body");
    let header = |name: &str| {
        message
            .headers
            .get(name)
            .map(|value| value.as_str().to_owned())
    };
    assert_eq!(header("Nats-Scheduler").as_deref(), Some("s.plan.once"));
    assert_eq!(header("Nats-Schedule-Next").as_deref(), Some("purge"));
    assert_eq!(header("Nats-TTL").as_deref(), Some("5m"));
    assert_eq!(header("Kept").as_deref(), Some("yes"));
    assert_eq!(header("Nats-Schedule"), None);
    assert_eq!(
        soon(stream.info()).await.unwrap().state.messages,
        1,
        "the schedule is gone"
    );

    publish(&client, "s.source", &[], "latest").await;
    let sampled = [
        ("Nats-Schedule", "* * * * * *"),
        ("Nats-Schedule-Target", "s.sample"),
        ("Nats-Schedule-Source", "s.source"),
        ("Nats-Schedule-Rollup", "sub"),
        ("Nats-Schedule-Time-Zone", "Europe/Vienna"),
    ];
    publish(&client, "s.plan.sample", &sampled, "").await;
    let first = arrived(&stream, "s.sample").await;
    assert_eq!(&first.payload[..], b"latest");
    // It goes on after a restart.
    let dir = node.stop().await;
    let node = Node::start_in(dir).await;
    let client = node.client().await;
    let context = async_nats::jetstream::new(client.clone());
    let stream = soon(context.get_stream("S")).await.unwrap();
    loop {
        let next = arrived(&stream, "s.sample").await;
        if next.sequence > first.sequence {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    node.stop().await;
}
