//! Plain streams: publish with acknowledgement, dedupe, limits, direct gets, ordered delivery.

use async_nats::HeaderMap;
use async_nats::jetstream::{self, consumer, stream};
use unibus_testkit::next;

fn config(name: &str) -> stream::Config {
    stream::Config {
        name: name.into(),
        subjects: vec![format!("{name}.>")],
        allow_direct: true,
        ..Default::default()
    }
}

#[tokio::test]
async fn publishes_are_numbered_and_deduplicated() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let context = jetstream::new(crate::client(&node).await?);
    let mut stream = context.create_stream(config("S")).await?;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "m1");
    let publish = || context.publish_with_headers("S.a", headers.clone(), "x".into());
    let first = publish().await?.await?;
    assert_eq!(
        (first.stream.as_str(), first.sequence, first.duplicate),
        ("S", 1, false)
    );
    let again = publish().await?.await?;
    assert_eq!((again.sequence, again.duplicate), (1, true));
    let message = stream.get_raw_message(1).await?;
    assert_eq!(
        (message.subject.as_str(), &message.payload[..]),
        ("S.a", &b"x"[..])
    );
    let direct = stream.direct_get_last_for_subject("S.a").await?;
    assert_eq!(direct.sequence, 1);
    assert_eq!(stream.info().await?.state.messages, 1);
    assert!(context.create_stream(config("S.bad")).await.is_err());
    Ok(())
}

#[tokio::test]
async fn an_ordered_consumer_replays_and_follows() -> anyhow::Result<()> {
    let (node, _dir) = crate::node().await?;
    let client = crate::client(&node).await?;
    let context = jetstream::new(client.clone());
    let stream = context.create_stream(config("R")).await?;
    for i in 0..1000 {
        context.publish("R.x", i.to_string().into()).await?.await?;
    }
    let ordered = consumer::push::OrderedConfig {
        deliver_subject: client.new_inbox(),
        ..Default::default()
    };
    let mut messages = stream.create_consumer(ordered).await?.messages().await?;
    for i in 0..1000 {
        let message = next(&mut messages).await??;
        assert_eq!(message.payload, i.to_string());
    }
    context.publish("R.x", "live".into()).await?.await?;
    assert_eq!(next(&mut messages).await??.payload, "live");
    Ok(())
}
