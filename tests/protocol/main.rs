//! Wire conformance: scripts of what a client sends and which bytes come back.
//!
//! The scripts in `transcripts/` read as documentation of the NATS core protocol; `script.rs` says
//! how. The broker runs in this process without the rest of the node, except for those about JetStream.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod flags;
mod hostile;
mod many;
mod pattern;
mod player;
mod script;
mod server;

use std::path::Path;

use futures::future::join_all;
use unibus_proto::nkey::UserSeed;

use player::{Client, play};
use script::Script;
use server::Server;

const TRANSCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol/transcripts");

/// Guards against a moved folder, which would make everything pass.
const TRANSCRIPTS_MIN: usize = 50;

async fn run(name: &str, text: &str) -> Result<(), String> {
    let script = Script::parse(text).map_err(|problem| format!("{name}: {problem}"))?;
    play(&script)
        .await
        .map_err(|problem| format!("{name}: {problem}"))
}

#[tokio::test]
async fn every_transcript_is_met_byte_for_byte() {
    let mut paths: Vec<_> = std::fs::read_dir(TRANSCRIPTS)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(
        paths.len() >= TRANSCRIPTS_MIN,
        "only {} transcripts",
        paths.len()
    );
    let run_file = async |path: &Path| {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        run(&name, &std::fs::read_to_string(path).unwrap()).await
    };
    let outcomes = join_all(paths.iter().map(|path| run_file(path))).await;
    let failures: Vec<String> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(failures.is_empty(), "\n{}\n", failures.join("\n\n"));
}

#[tokio::test]
async fn a_script_with_a_wrong_expectation_fails() {
    for (wrong, why) in [
        ("open C\nC: PING⏎\nS: PING⏎\n", "line 3"),
        (
            "open C\nhello C\nC: SUB a 1⏎PUB a 1⏎x⏎\nS: MSG a 1 1⏎y⏎\n",
            "line 4",
        ),
        (
            "open C\nhello C\nC: PUB a -1⏎⏎\nS: -ERR 'Unknown Protocol Operation'⏎\n",
            "line 4",
        ),
        ("open C\nhello C\nC: SUB a 1⏎PUB a 1⏎x⏎\n", "at the end"),
        (
            "broker patience_ms=200\nopen C\nhello C\nclosed C\n",
            "line 4",
        ),
        ("broker patience_ms=200\nopen C\nS: PING⏎\n", "line 3"),
    ] {
        let failure = run("wrong", wrong).await.unwrap_err();
        assert!(failure.contains(why), "{failure}");
    }
}

/// The challenge of nats-surface §1.12: INFO's nonce, signed, opens the connection; nothing else
/// does.
#[tokio::test]
async fn an_nkey_signs_the_nonce_of_its_own_connection() {
    let seed = UserSeed::from_bytes([7; 32]);
    let server = Server::start(&Script::parse("broker nkey\n").unwrap()).await;
    let connect = |nonce: &str| {
        let (key, signature) = (seed.public().to_nkey(), seed.sign(nonce.as_bytes()));
        format!(
            "CONNECT {{\"verbose\":false,\"nkey\":\"{key}\",\"sig\":\"{signature}\"}}\r\nPING\r\n"
        )
    };

    let mut first = Client::connect(server.address).await.unwrap();
    let nonce = first.info_text("nonce").await.unwrap();
    assert!(nonce.len() >= 15, "{nonce}");
    first.send(connect(&nonce).as_bytes()).await.unwrap();
    first.expect("PONG⏎").await.unwrap();

    let mut second = Client::connect(server.address).await.unwrap();
    assert_ne!(
        second.info_text("nonce").await.unwrap(),
        nonce,
        "a nonce is used twice"
    );
    second.send(connect(&nonce).as_bytes()).await.unwrap();
    second
        .expect("-ERR 'Authorization Violation'⏎")
        .await
        .unwrap();
    second.expect_closed().await.unwrap();
}
