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

/// Publishes with headers and answers with what came back on the reply subject.
async fn asked(client: &async_nats::Client, subject: &str, headers: &[(&str, &str)]) -> String {
    let mut map = async_nats::HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, *value);
    }
    let answer = client.request_with_headers(subject.to_owned(), map, "".into());
    let answer = soon(answer).await.unwrap();
    String::from_utf8(answer.payload.to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_staged_and_counters_add_up() {
    let node = Node::start().await;
    let client = node.client().await;
    for (name, flag) in [("B", "allow_atomic"), ("C", "allow_msg_counter")] {
        let body = format!(r#"{{"name":"{name}","subjects":["{name}.>"],"{flag}":true}}"#);
        let created = client.request(format!("$JS.API.STREAM.CREATE.{name}"), body.into());
        let created = soon(created).await.unwrap();
        let text = String::from_utf8(created.payload.to_vec()).unwrap();
        assert!(text.contains("did_create"), "{text}");
    }
    let part = |seq: &'static str| [("Nats-Batch-Id", "A"), ("Nats-Batch-Sequence", seq)];
    let end = |seq| [part(seq)[0], part(seq)[1], ("Nats-Batch-Commit", "1")];
    assert_eq!(asked(&client, "B.a", &part("1")).await, "");
    let committed = asked(&client, "B.b", &end("2")).await;
    assert_eq!(committed, r#"{"stream":"B","seq":2,"batch":"A","count":2}"#);
    assert_eq!(asked(&client, "B.a", &part("1")).await, "");
    let gap = asked(&client, "B.b", &end("3")).await;
    assert!(gap.contains("10176"), "{gap}");
    assert_eq!(asked(&client, "B.a", &part("1")).await, "");
    let eob = [part("2")[0], part("2")[1], ("Nats-Batch-Commit", "eob")];
    let committed = asked(&client, "B.a", &eob).await;
    assert_eq!(committed, r#"{"stream":"B","seq":3,"batch":"A","count":1}"#);
    let disabled = asked(&client, "C.a", &part("1")).await;
    assert!(
        disabled.contains("10169") || disabled.contains("10174"),
        "{disabled}"
    );
    for (incr, val) in [("5", "5"), ("-7", "-2")] {
        let answer = asked(&client, "C.a", &[("Nats-Incr", incr)]).await;
        assert!(answer.ends_with(&format!(r#""val":"{val}"}}"#)), "{answer}");
    }
    let stepdown = asked(&client, "$JS.API.STREAM.LEADER.STEPDOWN.B", &[]).await;
    assert!(stepdown.contains("10010"), "{stepdown}");
    node.stop().await;
}
