//! Fast batches as clients see them. The answers are what nats-server 2.14.0 gave to the same messages,
//! sent one by one; where that one would not say what is stored (pings), this says more.

use super::*;
use crate::config::batches::BatchLimits;

/// Publishes the messages of a batch, one by one, and compares what comes back over its reply subject:
/// (operation, batch sequence, headers, what comes back for it).
async fn play(
    client: &async_nats::Client,
    subject: &str,
    batch: &str,
    steps: &[(u64, u8, &str, &[&str])],
) {
    let inbox = client.new_inbox();
    let mut answers = soon(client.subscribe(format!("{inbox}.>"))).await.unwrap();
    for (seq, operation, header, wanted) in steps {
        let reply = format!("{inbox}.{batch}.{seq}.{operation}.$FI");
        let mut headers = async_nats::HeaderMap::new();
        if let Some((name, value)) = header.split_once(": ") {
            headers.insert(name, value);
        }
        let sent = client.publish_with_reply_and_headers(
            subject.to_owned(),
            reply.clone(),
            headers,
            "x".into(),
        );
        soon(sent).await.unwrap();
        for wanted in *wanted {
            let answer = soon(answers.next()).await.unwrap();
            assert_eq!(
                std::str::from_utf8(&answer.payload).unwrap(),
                *wanted,
                "{batch} {seq} {operation}"
            );
            // Acknowledgements belong to the message that was due for one.
            assert!(answer.subject.starts_with(&format!("{inbox}.{batch}.")));
        }
    }
    // Nothing else comes: what is asked now is answered last.
    let end = format!("{inbox}.end");
    let sent = client.publish_with_reply("$JS.API.INFO", end.clone(), "".into());
    soon(sent).await.unwrap();
    let answer = soon(answers.next()).await.unwrap();
    assert_eq!(
        answer.subject.as_str(),
        end,
        "{batch}: {:?}",
        answer.payload
    );
}

async fn fast_stream(client: &async_nats::Client) {
    for (name, flag) in [("F", "true"), ("N", "false")] {
        let body = format!(r#"{{"name":"{name}","subjects":["{name}.>"],"allow_batched":{flag}}}"#);
        let created = client.request(format!("$JS.API.STREAM.CREATE.{name}"), body.into());
        let created = soon(created).await.unwrap();
        let text = String::from_utf8(created.payload.to_vec()).unwrap();
        assert!(text.contains("did_create"), "{text}");
    }
}

const UNKNOWN: &str = r#"{"error":{"code":400,"err_code":10208,"description":"batch publish ID unknown"},"stream":"F","seq":0}"#;
const PATTERN: &str = r#"{"error":{"code":400,"err_code":10206,"description":"batch publish pattern is invalid"},"stream":"F","seq":0}"#;
const LAST: &str = "Nats-Expected-Last-Sequence: 99";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fast_batches_are_acknowledged_now_and_then_and_at_their_end() {
    let node = Node::start().await;
    let client = node.client().await;
    fast_stream(&client).await;
    let steps: [(u64, u8, &str, &[&str]); 7] = [
        (1, 0, "", &[r#"{"type":"ack","seq":0,"msgs":2}"#]),
        (2, 1, "", &[r#"{"type":"ack","seq":2,"msgs":2}"#]),
        (3, 1, "", &[]),
        (4, 1, "", &[r#"{"type":"ack","seq":4,"msgs":2}"#]),
        (5, 1, "", &[]),
        (
            6,
            2,
            "",
            &[r#"{"stream":"F","seq":6,"batch":"a","count":6}"#],
        ),
        (7, 1, "", &[UNKNOWN]),
    ];
    play(&client, "F.a", "a.2.fail", &steps).await;
    let alone: &[&str] = &[r#"{"stream":"F","seq":7,"batch":"b","count":1}"#];
    play(&client, "F.a", "b.2.fail", &[(1, 2, "", alone)]).await;
    let end: &[&str] = &[r#"{"stream":"F","seq":9,"batch":"c","count":2}"#];
    let begun: &[&str] = &[r#"{"type":"ack","seq":0,"msgs":10}"#];
    play(
        &client,
        "F.a",
        "c.10.fail",
        &[(1, 0, "", begun), (2, 1, "", &[]), (3, 3, "", end)],
    )
    .await;
    let twice: &[&str] = &[r#"{"stream":"F","seq":10,"batch":"d","count":2}"#];
    let id = "Nats-Msg-Id: z";
    play(
        &client,
        "F.a",
        "d.10.fail",
        &[(1, 0, id, begun), (2, 1, id, &[]), (3, 3, "", twice)],
    )
    .await;
    let disabled: &[&str] = &[
        r#"{"error":{"code":400,"err_code":10205,"description":"batch publish is disabled"},"stream":"N","seq":0}"#,
    ];
    play(&client, "N.a", "e.10.fail", &[(1, 0, "", disabled)]).await;
    for (seq, operation) in [(2, 0), (1, 1), (1, 3), (1, 7)] {
        play(
            &client,
            "F.a",
            "f.10.fail",
            &[(seq, operation, "", &[PATTERN])],
        )
        .await;
    }
    play(
        &client,
        "F.a",
        "g.10.fail",
        &[(5, 1, "", &[UNKNOWN]), (1, 4, "", &[UNKNOWN])],
    )
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_or_a_refusal_ends_a_fast_batch_that_wants_none() {
    let node = Node::start().await;
    let client = node.client().await;
    fast_stream(&client).await;
    let begun: &[&str] = &[r#"{"type":"ack","seq":0,"msgs":10}"#];
    let gap = r#"{"type":"gap","last_seq":2,"seq":3}"#;
    let ended = [gap, r#"{"stream":"F","seq":1,"batch":"a","count":1}"#];
    let steps: [(u64, u8, &str, &[&str]); 3] = [
        (1, 0, "", begun),
        (3, 1, "", &ended),
        (4, 1, "", &[UNKNOWN]),
    ];
    play(&client, "F.a", "a.10.fail", &steps).await;
    let ended: &[&str] = &[r#"{"stream":"F","seq":3,"batch":"b","count":3}"#];
    let steps: [(u64, u8, &str, &[&str]); 3] =
        [(1, 0, "", begun), (3, 1, "", &[gap]), (4, 3, "", ended)];
    play(&client, "F.a", "b.10.ok", &steps).await;
    let refused = r#"{"type":"err","seq":2,"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 4"}}"#;
    let ended = [refused, r#"{"stream":"F","seq":4,"batch":"c","count":1}"#];
    let steps: [(u64, u8, &str, &[&str]); 3] = [
        (1, 0, "", begun),
        (2, 1, LAST, &ended),
        (3, 1, "", &[UNKNOWN]),
    ];
    play(&client, "F.a", "c.10.fail", &steps).await;
    let refused: &[&str] = &[
        r#"{"type":"err","seq":2,"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"}}"#,
    ];
    let ended: &[&str] = &[r#"{"stream":"F","seq":5,"batch":"d","count":2}"#];
    let steps: [(u64, u8, &str, &[&str]); 3] =
        [(1, 0, "", begun), (2, 1, LAST, refused), (3, 3, "", ended)];
    play(&client, "F.a", "d.10.ok", &steps).await;
    let first = [
        begun[0],
        r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"},"stream":"F","seq":0}"#,
    ];
    let steps: [(u64, u8, &str, &[&str]); 2] = [(1, 0, LAST, &first), (2, 1, "", &[UNKNOWN])];
    play(&client, "F.a", "e.10.fail", &steps).await;
    let ping: &[&str] = &[r#"{"type":"ack","seq":2,"msgs":2}"#];
    let ended: &[&str] = &[r#"{"stream":"F","seq":8,"batch":"f","count":3}"#];
    let steps: [(u64, u8, &str, &[&str]); 4] = [
        (1, 0, "", &[r#"{"type":"ack","seq":0,"msgs":2}"#]),
        (2, 1, "", ping),
        (2, 4, "", ping),
        (3, 2, "", ended),
    ];
    play(&client, "F.a", "f.2.fail", &steps).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fast_batch_that_is_sent_at_once_is_stored_in_order() {
    const COUNT: u64 = 5_000;
    let node = Node::start().await;
    let client = node.client().await;
    fast_stream(&client).await;
    let inbox = client.new_inbox();
    let mut answers = soon(client.subscribe(format!("{inbox}.>"))).await.unwrap();
    for seq in 1..=COUNT {
        let operation = match seq {
            1 => 0,
            COUNT => 2,
            _ => 1,
        };
        let reply = format!("{inbox}.all.100.fail.{seq}.{operation}.$FI");
        let sent = client.publish_with_reply("F.a", reply, seq.to_string().into());
        soon(sent).await.unwrap();
    }
    let mut told = 0;
    loop {
        let answer = soon(answers.next()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        let seq = answer["seq"].as_u64().unwrap();
        if answer["type"] != "ack" {
            assert_eq!(
                (seq, answer["count"].as_u64()),
                (COUNT, Some(COUNT)),
                "{answer}"
            );
            break;
        }
        assert!(seq >= told, "{seq} after {told}");
        told = seq;
    }
    let context = async_nats::jetstream::new(client);
    let stream = soon(context.get_stream("F")).await.unwrap();
    for seq in [1, 2, COUNT / 2, COUNT] {
        let message = soon(stream.get_raw_message(seq)).await.unwrap();
        assert_eq!(message.payload, seq.to_string());
    }
    node.stop().await;
}

/// A node that holds batches within these limits, and a client of it with the streams of these tests.
async fn bounded(batches: BatchLimits) -> (Node, async_nats::Client) {
    let options = JetStreamOptions {
        batches,
        ..JetStreamOptions::new("n1")
    };
    let node = Node::with_options(tempfile::tempdir().unwrap(), options).await;
    let client = node.client().await;
    fast_stream(&client).await;
    let body = r#"{"name":"A","subjects":["A.>"],"allow_atomic":true}"#;
    let created = client.request("$JS.API.STREAM.CREATE.A", body.into());
    soon(created).await.unwrap();
    (node, client)
}

/// Sends one message of a fast batch; what comes back for it first.
async fn part(client: &async_nats::Client, place: &str) -> Value {
    let reply = format!("{}.{place}.$FI", client.new_inbox());
    let mut answers = soon(client.subscribe(reply.clone())).await.unwrap();
    let sent = client.publish_with_reply("F.a", reply, "x".into());
    soon(sent).await.unwrap();
    let answer = soon(answers.next()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// Sends one message of an atomic batch; the code that it is refused with, 0 for none.
async fn staged(client: &async_nats::Client, batch: &str, seq: &str, bytes: usize) -> u64 {
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Nats-Batch-Id", batch);
    headers.insert("Nats-Batch-Sequence", seq);
    let sent = client.request_with_headers("A.a", headers, vec![b'x'; bytes].into());
    let answer = soon(sent).await.unwrap();
    let answer = serde_json::from_slice::<Value>(&answer.payload);
    answer.map_or(0, |refused| refused["error"]["err_code"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_more_than_the_node_may_hold_is_refused() {
    let (node, client) = bounded(BatchLimits {
        fast_max: 1,
        atomic_per_stream_max: 2,
        atomic_staged_bytes_max: 1000,
        idle_max: Duration::from_secs(3600),
        ..BatchLimits::default()
    })
    .await;
    assert_eq!(part(&client, "a.1.fail.1.0").await["type"], "ack");
    let second = part(&client, "b.1.fail.1.0").await;
    assert_eq!(second["error"]["err_code"], 10211, "{second}");

    assert_eq!(staged(&client, "a", "1", 500).await, 0);
    assert_eq!(staged(&client, "b", "1", 1).await, 0);
    assert_eq!(staged(&client, "c", "1", 1).await, 10210);
    assert_eq!(staged(&client, "b", "2", 500).await, 10199);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_hears_nothing_for_as_long_as_was_said_is_given_up() {
    let (node, client) = bounded(BatchLimits {
        idle_max: Duration::from_millis(1),
        ..BatchLimits::default()
    })
    .await;
    assert_eq!(part(&client, "a.1.fail.1.0").await["type"], "ack");
    // Each question keeps a batch for as long again: one of the usual ten seconds would never end here.
    let forgotten = async {
        while part(&client, "a.1.fail.1.4").await["error"]["err_code"] != 10208 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    soon(forgotten).await;
    assert_eq!(staged(&client, "a", "1", 1).await, 0);
    tokio::time::sleep(Duration::from_millis(10)).await; // the limit itself is what is waited for
    assert_eq!(staged(&client, "a", "2", 1).await, 10176);
    node.stop().await;
}
