//! Dead letters: where they may go, what they are made of, and when they are given up.

use async_nats::HeaderMap;

use super::*;

/// Makes the stream `name` of `subjects`.
async fn stream(client: &async_nats::Client, name: &str, more: &Value) {
    let mut config = json!({ "name": name, "subjects": [format!("{name}.>")] });
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let made = ask(client, &format!("$JS.API.STREAM.CREATE.{name}"), &config).await;
    assert!(made["error"].is_null(), "{made}");
}

/// A consumer of `S` whose messages run out after one delivery, with its dead letters on `to`.
fn consumer(name: &str, to: &str) -> Value {
    json!({ "stream_name": "S", "config": {
        "name": name, "durable_name": name, "ack_policy": "explicit", "max_deliver": 1,
        "ack_wait": 1_000_000, "metadata": { "unibus.dead_letter": to } } })
}

/// Pulls one message and lets it run out.
async fn pull(client: &async_nats::Client, name: &str) {
    let inbox = client.new_inbox();
    let mut messages = soon(client.subscribe(inbox.clone())).await.unwrap();
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.S.{name}");
    let asked = client.publish_with_reply(subject, inbox, r#"{"batch":1}"#.into());
    soon(asked).await.unwrap();
    let message = soon(messages.next()).await.unwrap();
    assert!(message.status.is_none(), "{message:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_go_only_where_their_maker_may_publish() {
    let node = Node::start().await;
    let client = node.client().await;
    stream(&client, "S", &Value::Null).await;
    stream(&client, "D", &Value::Null).await;
    node.grant(&["$JS.API.CONSUMER.*.S.>", "S.>", "D.mine"], &[]);
    let member = node.member().await;
    let create = "$JS.API.CONSUMER.CREATE.S.c";
    let refused = ask(&member, create, &consumer("c", "D.other")).await;
    let text = refused["error"]["description"].as_str().unwrap_or_default();
    assert!(text.contains("may not publish"), "{refused}");
    let made = ask(&member, create, &consumer("c", "D.mine")).await;
    assert_eq!(made["name"], "c", "{made}");
    let moved = ask(&member, create, &consumer("c", "D.other")).await;
    assert_eq!(moved["error"], refused["error"], "an update");
    let made = ask(&client, create, &consumer("c", "D.other")).await;
    assert_eq!(made["name"], "c", "{made}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_asks_for_nothing_that_its_message_asked_for() {
    let node = Node::start().await;
    let client = node.client().await;
    let all = json!({ "allow_msg_ttl": true, "allow_rollup_hdrs": true, "allow_atomic": true });
    stream(&client, "S", &all).await;
    stream(&client, "D", &json!({ "allow_rollup_hdrs": true })).await;
    soon(client.request("D.kept", "kept".into())).await.unwrap();
    let made = ask(
        &client,
        "$JS.API.CONSUMER.CREATE.S.c",
        &consumer("c", "D.c"),
    )
    .await;
    assert_eq!(made["name"], "c", "{made}");
    let wishes: [&[(&str, &str)]; 3] = [
        &[
            ("Nats-Expected-Stream", "S"),
            ("Nats-Expected-Last-Sequence", "0"),
            ("Nats-Msg-Id", "own"),
        ],
        &[("Nats-TTL", "1h"), ("Nats-Rollup", "all")],
        &[
            ("Nats-Batch-Id", "b"),
            ("Nats-Batch-Sequence", "1"),
            ("Nats-Batch-Commit", "1"),
        ],
    ];
    for (at, wishes) in wishes.into_iter().enumerate() {
        let mut headers = HeaderMap::new();
        headers.insert("Own", "kept");
        for (name, value) in wishes {
            headers.insert(*name, *value);
        }
        let stored = client.request_with_headers("S.a", headers, "x".into());
        let stored: Value = serde_json::from_slice(&soon(stored).await.unwrap().payload).unwrap();
        assert!(stored["error"].is_null(), "{stored}");
        pull(&client, "c").await;
        let seq = at as u64 + 2;
        let last = format!(r#""last_seq":{seq},"#);
        until_answer(&client, "$JS.API.STREAM.INFO.D", &last).await;
    }
    let info = ask(&client, "$JS.API.STREAM.INFO.D", &Value::Null).await;
    assert_eq!(
        info["state"]["messages"], 4,
        "nothing was rolled up: {info}"
    );
    until_answer(
        &client,
        "$JS.API.CONSUMER.INFO.S.c",
        r#""num_ack_pending":0"#,
    )
    .await;
    let context = async_nats::jetstream::new(client);
    let held = soon(context.get_stream("D")).await.unwrap();
    for seq in 2..=4 {
        let headers = soon(held.get_raw_message(seq)).await.unwrap().headers;
        let mut names: Vec<_> = headers.iter().map(|(name, _)| name.to_string()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "Nats-Dead-Letter-Consumer",
                "Nats-Dead-Letter-Deliveries",
                "Nats-Dead-Letter-Stream",
                "Nats-Msg-Id",
                "Own"
            ]
        );
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_that_no_stream_takes_is_told_and_given_up() {
    let node = Node::start().await;
    let client = node.client().await;
    stream(&client, "S", &Value::Null).await;
    stream(&client, "D", &json!({ "max_msg_size": 10 })).await;
    let told = "$JS.EVENT.ADVISORY.CONSUMER.DEAD_LETTER_REFUSED.S.c";
    let mut told = soon(client.subscribe(told)).await.unwrap();
    let made = ask(
        &client,
        "$JS.API.CONSUMER.CREATE.S.c",
        &consumer("c", "D.c"),
    )
    .await;
    assert_eq!(made["name"], "c", "{made}");
    soon(client.request("S.a", "x".into())).await.unwrap();
    pull(&client, "c").await;
    let told: Value = serde_json::from_slice(&soon(told.next()).await.unwrap().payload).unwrap();
    assert_eq!(
        told["type"],
        "io.unibus.jetstream.advisory.v1.dead_letter_refused"
    );
    assert_eq!(
        (&told["stream_seq"], &told["subject"]),
        (&json!(1), &json!("D.c"))
    );
    assert_eq!(
        told["reason"],
        "message size exceeds maximum allowed (10054)"
    );
    until_answer(
        &client,
        "$JS.API.CONSUMER.INFO.S.c",
        r#""num_ack_pending":0"#,
    )
    .await;
    let info = ask(&client, "$JS.API.STREAM.INFO.S", &Value::Null).await;
    assert_eq!(info["state"]["messages"], 1, "it stays where it was");
    node.stop().await;
}
