//! Streams that copy, rename and publish again, as async-nats sees them.

use async_nats::jetstream::stream::{Config, Republish, Source, SubjectTransform};

use super::*;

async fn payloads(context: &async_nats::jetstream::Context, name: &str, count: u64) -> Vec<String> {
    let mut stream = soon(context.get_stream(name)).await.unwrap();
    let last = loop {
        let state = soon(stream.info()).await.unwrap().state.clone();
        if state.messages >= count {
            break state.last_sequence;
        }
        tokio::task::yield_now().await;
    };
    let mut found = Vec::new();
    for seq in 1..=last {
        if let Ok(message) = soon(stream.get_raw_message(seq)).await {
            let payload = String::from_utf8_lossy(&message.payload).into_owned();
            found.push(format!("{} {payload}", message.subject));
        }
    }
    found
}

async fn publish(context: &async_nats::jetstream::Context, subject: &str, payload: &str) {
    let ack = soon(context.publish(subject.to_owned(), payload.to_owned().into())).await;
    soon(ack.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mirrors_and_sources_follow_their_origins() {
    let node = Node::start().await;
    let context = node.context().await;
    let origin = Config {
        name: "O".into(),
        subjects: vec!["o.>".into()],
        ..Config::default()
    };
    soon(context.create_stream(origin)).await.unwrap();
    publish(&context, "o.a", "skipped").await;
    publish(&context, "o.a", "1").await;
    let mirror = Config {
        name: "M".into(),
        mirror: Some(Source {
            name: "O".into(),
            start_sequence: Some(2),
            ..Source::default()
        }),
        ..Config::default()
    };
    soon(context.create_stream(mirror)).await.unwrap();
    let gathered = Config {
        name: "G".into(),
        sources: Some(vec![Source {
            name: "O".into(),
            subject_transforms: vec![SubjectTransform {
                source: "o.b".into(),
                destination: "g.b".into(),
            }],
            ..Source::default()
        }]),
        ..Config::default()
    };
    soon(context.create_stream(gathered)).await.unwrap();
    publish(&context, "o.b", "2").await;
    assert_eq!(payloads(&context, "M", 2).await, ["o.a 1", "o.b 2"]);
    assert_eq!(payloads(&context, "G", 1).await, ["g.b 2"]);
    let stream = soon(context.get_stream("G")).await.unwrap();
    let copy = soon(stream.get_raw_message(1)).await.unwrap();
    let from = copy.headers.get("Nats-Stream-Source").unwrap();
    assert_eq!(from.as_str(), "O 3 o.b g.b o.b");
    let info = stream.cached_info();
    assert_eq!(info.sources[0].lag, 0);
    soon(context.delete_stream("O")).await.unwrap();
    let promoted = Config {
        name: "M".into(),
        subjects: vec!["o.>".into()],
        ..Config::default()
    };
    soon(context.update_stream(promoted)).await.unwrap();
    publish(&context, "o.c", "3").await;
    assert_eq!(payloads(&context, "M", 3).await.last().unwrap(), "o.c 3");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_messages_are_published_again() {
    let node = Node::start().await;
    let client = node.client().await;
    let context = async_nats::jetstream::new(client.clone());
    let config = Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        republish: Some(Republish {
            source: ">".into(),
            destination: "again.>".into(),
            headers_only: false,
        }),
        ..Config::default()
    };
    soon(context.create_stream(config)).await.unwrap();
    let sink = Config {
        name: "T".into(),
        subjects: vec!["again.>".into()],
        ..Config::default()
    };
    soon(context.create_stream(sink)).await.unwrap();
    let mut heard = soon(client.subscribe("again.>")).await.unwrap();
    soon(client.flush()).await.unwrap();
    for n in 1..=3 {
        publish(&context, "s.a", &n.to_string()).await;
    }
    for n in 1..=3_u64 {
        let message = soon(heard.next()).await.unwrap();
        assert_eq!(message.subject.as_str(), "again.s.a");
        let headers = message.headers.unwrap();
        let value = |name: &str| headers.get(name).unwrap().to_string();
        assert_eq!(value("Nats-Stream"), "S");
        assert_eq!(value("Nats-Subject"), "s.a");
        assert_eq!(value("Nats-Sequence"), n.to_string());
        assert_eq!(value("Nats-Last-Sequence"), (n - 1).to_string());
    }
    assert_eq!(
        payloads(&context, "T", 3).await,
        ["again.s.a 1", "again.s.a 2", "again.s.a 3"]
    );
    node.stop().await;
}
