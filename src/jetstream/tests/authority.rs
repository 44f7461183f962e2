//! What a restricted client may have the node do for it.

use super::*;

/// A snapshot of a stream: what answered, and the archive.
async fn archive(client: &async_nats::Client, stream: &str) -> (Value, Bytes) {
    let inbox = client.new_inbox();
    let mut chunks = soon(client.subscribe(inbox.clone())).await.unwrap();
    let request = json!({ "deliver_subject": inbox });
    let subject = format!("$JS.API.STREAM.SNAPSHOT.{stream}");
    let answer = ask(client, &subject, &request).await;
    let mut whole = Vec::new();
    loop {
        let chunk = soon(chunks.next()).await.unwrap();
        whole.extend_from_slice(&chunk.payload);
        let Some(reply) = chunk.reply else {
            return (answer, whole.into());
        };
        soon(client.publish(reply, "".into())).await.unwrap();
    }
}

async fn restore(client: &async_nats::Client, request: &Value, archive: Bytes) -> Value {
    let begun = ask(client, "$JS.API.STREAM.RESTORE.MINE", request).await;
    let Some(deliver) = begun["deliver_subject"].as_str() else {
        return begun;
    };
    soon(client.request(deliver.to_owned(), archive))
        .await
        .unwrap();
    let last = client.request(deliver.to_owned(), Bytes::new());
    serde_json::from_slice(&soon(last).await.unwrap().payload).unwrap()
}

/// Streams of others, and a member who may use the stream `MINE` and its subjects.
async fn world() -> (Node, async_nats::Client, async_nats::Client) {
    let node = Node::start().await;
    let client = node.client().await;
    for (name, subject) in [("OTHER", "other.>"), ("SHARED", "shared.>")] {
        let config = json!({ "name": name, "subjects": [subject] });
        let made = ask(&client, &format!("$JS.API.STREAM.CREATE.{name}"), &config).await;
        assert!(made["error"].is_null(), "{made}");
    }
    node.grant(
        &[
            "mine.>",
            "$JS.API.STREAM.*.MINE",
            "$JS.API.CONSUMER.*.MINE.>",
            "$JS.API.CONSUMER.CREATE.SHARED.*.shared.a",
            "$JS.SNAPSHOT.>",
        ],
        &["heard.>"],
    );
    let member = node.member().await;
    (node, client, member)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_reads_and_publishes_what_its_maker_may() {
    let (node, client, member) = world().await;
    let refused = [
        json!({ "subjects": ["other2.>"] }),
        json!({ "subjects": ["mine.a", ">"] }),
        json!({ "subjects": ["mine.>"], "republish": { "src": "mine.>", "dest": "other.>" } }),
        json!({ "subjects": ["mine.>"], "republish": { "src": "mine.*", "dest": "{{wildcard(1)}}.x" } }),
        json!({ "mirror": { "name": "OTHER" } }),
        json!({ "mirror": { "name": "SHARED" } }),
        json!({ "mirror": { "name": "SHARED", "filter_subject": "shared.b" } }),
        json!({ "subjects": ["mine.>"], "sources": [
            { "name": "SHARED", "filter_subject": "shared.a" }, { "name": "OTHER" } ] }),
    ];
    for more in refused {
        let mut config = more.clone();
        config["name"] = json!("MINE");
        for act in ["CREATE", "UPDATE"] {
            let subject = format!("$JS.API.STREAM.{act}.MINE");
            let answer = ask(&member, &subject, &config).await;
            let text = answer["error"]["description"].as_str().unwrap_or_default();
            assert!(text.contains("that you may n"), "{more}: {answer}");
        }
        let restore = json!({ "config": config, "state": {} });
        let answer = ask(&member, "$JS.API.STREAM.RESTORE.MINE", &restore).await;
        let text = answer["error"]["description"].as_str().unwrap_or_default();
        assert!(text.contains("that you may n"), "{more}: {answer}");
    }
    let allowed = [
        json!({ "subjects": ["mine.a", "heard.b"] }),
        json!({ "subjects": ["mine.*"], "republish": { "src": "mine.*", "dest": "mine.x.{{wildcard(1)}}" } }),
        json!({ "mirror": { "name": "SHARED", "filter_subject": "shared.a" } }),
    ];
    for more in allowed {
        let mut config = more.clone();
        config["name"] = json!("MINE");
        let answer = ask(&member, "$JS.API.STREAM.CREATE.MINE", &config).await;
        assert!(answer["error"].is_null(), "{more}: {answer}");
        let gone = ask(&member, "$JS.API.STREAM.DELETE.MINE", &Value::Null).await;
        assert_eq!(gone["success"], true);
    }
    // Who may do everything is asked nothing.
    let mut config = json!({ "name": "ALL", "mirror": { "name": "OTHER" } });
    let answer = ask(&client, "$JS.API.STREAM.CREATE.ALL", &config).await;
    assert!(answer["error"].is_null(), "{answer}");
    config = json!({ "name": "FREE", "subjects": ["free"],
        "republish": { "src": "free", "dest": "room" } });
    let answer = ask(&client, "$JS.API.STREAM.CREATE.FREE", &config).await;
    assert!(answer["error"].is_null(), "{answer}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archive_holds_no_consumer_that_could_not_be_made() {
    let (node, client, member) = world().await;
    let config = json!({ "name": "MINE", "subjects": ["mine.>"] });
    ask(&client, "$JS.API.STREAM.CREATE.MINE", &config).await;
    let consumers = [
        json!({ "deliver_subject": "other.core" }),
        json!({ "ack_policy": "explicit", "max_deliver": 1,
            "metadata": { "unibus.dead_letter": "other.letter" } }),
        json!({ "deliver_subject": "heard.c" }),
    ];
    for (at, config) in consumers.into_iter().enumerate() {
        let mut config = config;
        config["name"] = json!("c");
        config["durable_name"] = json!("c");
        let create = json!({ "stream_name": "MINE", "config": config });
        let subject = "$JS.API.CONSUMER.CREATE.MINE.c";
        let made = ask(&client, subject, &create).await;
        assert!(made["error"].is_null(), "{made}");
        let (request, archive) = archive(&client, "MINE").await;
        let gone = ask(&client, "$JS.API.STREAM.DELETE.MINE", &Value::Null).await;
        assert_eq!(gone["success"], true);
        let restored = restore(&member, &request, archive.clone()).await;
        if at == 2 {
            assert!(restored["error"].is_null(), "{restored}");
        } else {
            assert!(restored["error"].is_object(), "{config}: {restored}");
            let restored = restore(&client, &request, archive).await;
            assert!(restored["error"].is_null(), "{restored}");
            let gone = ask(&client, "$JS.API.CONSUMER.DELETE.MINE.c", &Value::Null).await;
            assert_eq!(gone["success"], true);
        }
    }
    node.stop().await;
}
