//! `STREAM.SNAPSHOT` and `STREAM.RESTORE` as an operator's tool uses them.

use async_nats::jetstream::consumer::{AckPolicy, pull};
use async_nats::jetstream::stream::Config;

use super::*;

/// What came of a snapshot: the answer, all chunks, and the status at the end.
async fn snapshot(client: &async_nats::Client, request: Value) -> (Value, Vec<Bytes>, String) {
    let inbox = request["deliver_subject"].as_str().unwrap().to_owned();
    let mut chunks = client.subscribe(inbox).await.unwrap();
    let answer = ask(client, "$JS.API.STREAM.SNAPSHOT.S", &request).await;
    let mut found = Vec::new();
    loop {
        let chunk = soon(chunks.next()).await.unwrap();
        let Some(reply) = chunk.reply else {
            let status = chunk.status.unwrap().as_u16();
            let text = chunk.description.unwrap_or_default();
            return (answer, found, format!("{status} {text}"));
        };
        assert_eq!(
            reply.split('.').nth(5).unwrap(),
            chunk.payload.len().to_string()
        );
        found.push(chunk.payload);
        client.publish(reply, "".into()).await.unwrap();
    }
}

/// Sends an archive; gives the last answer.
async fn restore(client: &async_nats::Client, request: &Value, chunks: &[Bytes]) -> Value {
    let answer = ask(client, "$JS.API.STREAM.RESTORE.S", request).await;
    let deliver = answer["deliver_subject"].as_str().unwrap_or_default();
    if answer["error"].is_object() {
        assert_eq!(deliver, "", "{answer}");
        return answer;
    }
    for chunk in chunks.iter().chain([&Bytes::new()]) {
        let sent = client.request(deliver.to_owned(), chunk.clone());
        let reply = soon(sent).await.unwrap().payload;
        if !reply.is_empty() {
            return serde_json::from_slice(&reply).unwrap();
        }
    }
    panic!("no answer at the end");
}

async fn filled(node: &Node) -> (async_nats::Client, async_nats::jetstream::Context) {
    let client = node.client().await;
    let context = async_nats::jetstream::new(client.clone());
    let config = Config {
        name: "S".into(),
        subjects: vec!["s.>".into()],
        description: Some("kept".into()),
        ..Config::default()
    };
    let stream = soon(context.create_stream(config)).await.unwrap();
    for n in 1..=50 {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("N", n.to_string().as_str());
        let body = format!("{n} {}", "x".repeat(n * 20)).into();
        let ack = context.publish_with_headers(format!("s.{}", n % 7), headers, body);
        soon(soon(ack).await.unwrap()).await.unwrap();
    }
    soon(stream.delete_message(3)).await.unwrap();
    let durable = pull::Config {
        durable_name: Some("c".into()),
        ack_policy: AckPolicy::Explicit,
        ..pull::Config::default()
    };
    let consumer = soon(stream.create_consumer(durable)).await.unwrap();
    let mut messages = soon(consumer.fetch().max_messages(4).messages())
        .await
        .unwrap();
    for at in 0..4 {
        let message = soon(messages.next()).await.unwrap().unwrap();
        if at < 2 {
            soon(message.double_ack()).await.unwrap();
        }
    }
    (client, context)
}

/// What the consumer waits for, has to deliver, and has settled and delivered.
async fn position(stream: &async_nats::jetstream::stream::Stream) -> (usize, u64, u64, u64, u64) {
    let mut consumer = soon(stream.get_consumer::<pull::Config>("c"))
        .await
        .unwrap();
    let info = soon(consumer.info()).await.unwrap();
    (
        info.num_ack_pending,
        info.num_pending,
        info.ack_floor.stream_sequence,
        info.delivered.stream_sequence,
        info.delivered.consumer_sequence,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_archived_and_restored_with_its_consumers() {
    let node = Node::start().await;
    let (client, context) = filled(&node).await;
    let mut told = client
        .subscribe("$JS.EVENT.ADVISORY.STREAM.*.S")
        .await
        .unwrap();
    let request = json!({"deliver_subject": client.new_inbox(), "chunk_size": 1024});
    let (answer, chunks, status) = snapshot(&client, request).await;
    assert_eq!(status.trim(), "204");
    assert!(
        chunks.len() > 2 && chunks[0].len() == 1024,
        "{}",
        chunks.len()
    );
    assert_eq!(answer["state"]["messages"], 49);
    let archived = context.get_stream("S").await.unwrap();
    let created = archived.cached_info().created;
    let before = position(&archived).await;

    let taken = restore(&client, &answer, &chunks).await;
    assert_eq!(taken["error"]["err_code"], 10130, "{taken}");
    soon(context.delete_stream("S")).await.unwrap();
    let restored = restore(&client, &answer, &chunks).await;
    assert_eq!(restored["did_create"], true, "{restored}");
    let mut stream = soon(context.get_stream("S")).await.unwrap();
    let info = soon(stream.info()).await.unwrap().clone();
    assert_eq!((info.state.messages, info.state.last_sequence), (49, 50));
    assert_eq!(info.config.description.as_deref(), Some("kept"));
    assert_eq!(info.created, created);
    assert!(soon(stream.get_raw_message(3)).await.is_err());
    let message = soon(stream.get_raw_message(50)).await.unwrap();
    assert_eq!(message.headers.get("N").unwrap().as_str(), "50");
    assert_eq!(message.payload.len(), 1003);
    // The consumer goes on where it was: 2 acknowledged, 2 pending, 45 to come.
    assert_eq!(position(&stream).await, before);
    assert_eq!((before.0, before.1), (2, 45));
    let ack = soon(context.publish("s.x", "new".into())).await.unwrap();
    assert_eq!(soon(ack).await.unwrap().sequence, 51);

    let mut kinds = Vec::new();
    while kinds.len() < 4 {
        let event = soon(told.next()).await.unwrap();
        let token = event.subject.split('.').nth(4).unwrap().to_owned();
        if token.contains('_') {
            kinds.push(token);
        }
    }
    let expected = [
        "SNAPSHOT_CREATE",
        "SNAPSHOT_COMPLETE",
        "RESTORE_CREATE",
        "RESTORE_COMPLETE",
    ];
    assert_eq!(kinds, expected);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_archive_is_refused_and_leaves_nothing() {
    let node = Node::start().await;
    let (client, context) = filled(&node).await;
    let request = json!({"deliver_subject": client.new_inbox()});
    let (answer, chunks, _) = snapshot(&client, request).await;
    soon(context.delete_stream("S")).await.unwrap();
    let whole = chunks.concat();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    // One bit may stand for the same zeros from another place.
    for byte in &mut damaged[middle..middle + 64] {
        *byte ^= 1;
    }
    let mut other = answer.clone();
    other["config"]["subjects"] = json!(["t.>"]);
    for (request, archive) in [
        (&answer, Bytes::from(damaged)),
        (&answer, Bytes::from(whole[..whole.len() / 2].to_vec())),
        (&answer, Bytes::from_static(b"nothing of the kind")),
    ] {
        let refused = restore(&client, request, &[archive]).await;
        assert_eq!(refused["error"]["err_code"], 10062, "{refused}");
    }
    assert!(soon(context.get_stream("S")).await.is_err());
    let restored = restore(&client, &other, &[whole.into()]).await;
    assert_eq!(restored["config"]["subjects"], json!(["t.>"]), "{restored}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_nobody_listens_to_ends() {
    let node = Node::start().await;
    let (client, _) = filled(&node).await;
    let missing = json!({"deliver_subject": "a.*"});
    let refused = ask(&client, "$JS.API.STREAM.SNAPSHOT.S", &missing).await;
    assert_eq!(refused["error"]["err_code"], 10015);
    let unknown = json!({"deliver_subject": "a.b"});
    let refused = ask(&client, "$JS.API.STREAM.SNAPSHOT.T", &unknown).await;
    assert_eq!(refused["error"]["err_code"], 10059);
    let mut told = client
        .subscribe("$JS.EVENT.ADVISORY.STREAM.SNAPSHOT_COMPLETE.S")
        .await
        .unwrap();
    // More often than a node archives at once: each gives its place free.
    for _ in 0..20 {
        let answer = ask(&client, "$JS.API.STREAM.SNAPSHOT.S", &unknown).await;
        assert!(answer["error"].is_null(), "{answer}");
        soon(told.next()).await.unwrap();
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_may_come_one_after_the_other_without_waiting() {
    let node = Node::start().await;
    let (client, context) = filled(&node).await;
    let request = json!({"deliver_subject": client.new_inbox()});
    let (answer, chunks, _) = snapshot(&client, request).await;
    soon(context.delete_stream("S")).await.unwrap();
    let whole = Bytes::from(chunks.concat());
    let pieces: Vec<Bytes> = whole.chunks(50).map(Bytes::copy_from_slice).collect();
    assert!(pieces.len() > 40, "{}", pieces.len());
    let begun = ask(&client, "$JS.API.STREAM.RESTORE.S", &answer).await;
    let deliver = begun["deliver_subject"].as_str().unwrap().to_owned();
    let inbox = client.new_inbox();
    let mut answers = soon(client.subscribe(inbox.clone())).await.unwrap();
    let expected = pieces.len() + 1;
    for piece in pieces.into_iter().chain([Bytes::new()]) {
        let sent = client.publish_with_reply(deliver.clone(), inbox.clone(), piece);
        soon(sent).await.unwrap();
    }
    for _ in 1..expected {
        let taken = soon(answers.next()).await.unwrap();
        assert!(
            taken.payload.is_empty() && taken.status.is_none(),
            "{taken:?}"
        );
    }
    let last = soon(answers.next()).await.unwrap();
    let last: Value = serde_json::from_slice(&last.payload).unwrap();
    assert_eq!(last["did_create"], true, "{last}");

    // What comes after the end keeps no connection.
    let again = ask(&client, "$JS.API.STREAM.RESTORE.T", &{
        let mut other = answer.clone();
        other["config"]["name"] = json!("T");
        other["config"]["subjects"] = json!(["t.>"]);
        other
    })
    .await;
    let deliver = again["deliver_subject"].as_str().unwrap().to_owned();
    for _ in 0..200 {
        let sent = client.publish(deliver.clone(), Bytes::from_static(&[0; 5000]));
        soon(sent).await.unwrap();
    }
    let info = ask(&client, "$JS.API.STREAM.INFO.S", &Value::Null).await;
    assert_eq!(info["state"]["messages"], 49, "{info}");
    node.stop().await;
}
