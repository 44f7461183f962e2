//! Who means harm and has no login, at every listener of a node without a cluster: noise, half requests,
//! connections that are reset, readers that don't read, and more connections than there are files. Others
//! are served meanwhile, nothing is left behind, and no thread runs on.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use async_nats::jetstream;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use unibus_testkit::hostile::{babble, drip, hold, sip, vanish};
use unibus_testkit::{NodeProcess, PATIENCE, eventually, free_port, http_get, round_trip};

use crate::many::may_open;

/// Where harm comes from.
const ATTACKER: [u8; 4] = [127, 0, 0, 66];
const ACCOMPLICE: [u8; 4] = [127, 0, 0, 77];
const READERS: [[u8; 4]; 2] = [[127, 0, 0, 88], [127, 0, 0, 99]];
/// Rounds of harm for each listener.
const ROUNDS: usize = 100;
/// Connections of each kind that are held open meanwhile.
const HELD: usize = 20;
/// What the node's memory may grow by, in bytes: thousands of clients have come and gone.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Open files of the node that has few.
const FEW_FILES: u64 = 512;
/// Those that it must not lose to whoever connects.
const SPARE_FILES: u64 = 64;

/// Lines in the log of a node whose store fails.
const FAILING_LINES_MAX: usize = 200;

const PROBE: &[u8] = b"GET /livez HTTP/1.1\r\nhost: n\r\n\r\n";
const HALF_PROBE: &[u8] = b"GET /livez HTTP/1.1\r\nhost: n\r\n";

/// Beginnings of what clients of NATS and of HTTP say.
const NATS: [&[u8]; 4] = [
    b"",
    b"CONNECT {\"verbose\":true}\r\nPING\r\nNOISE\r\n",
    b"CONNECT {\"verbose\":",
    b"PUB a 99999\r\nx",
];
const HTTP: [&[u8]; 5] = [
    b"",
    PROBE,
    HALF_PROBE,
    b"POST /rooms HTTP/1.1\r\nhost: n\r\ncontent-type: application/json\r\ncontent-length: 99999\r\n\r\n{",
    b"POST /rooms HTTP/1.1\r\nhost: n\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
];

/// A node with a store and monitoring, and more flags; its open files are limited where `files` says so.
fn node(dir: &Path, files: Option<u64>, flags: &[&str]) -> anyhow::Result<(NodeProcess, u16)> {
    let at = |name: &str| dir.join(name).display().to_string();
    let monitor = free_port()?;
    let limit = files.map_or(String::new(), |files| format!("ulimit -n {files} && "));
    let mut args = vec![
        "-c".to_owned(),
        format!("{limit}exec \"$0\" \"$@\""),
        env!("CARGO_BIN_EXE_unibus-node").to_owned(),
        "--bind=127.0.0.1".to_owned(),
        format!("--monitor-port={monitor}"),
        format!("--data-dir={}", at("data")),
        format!("--config-dir={}", at("config")),
    ];
    args.extend(flags.iter().map(ToString::to_string));
    let log = dir.join("node.log");
    let (port, http) = (free_port()?, free_port()?);
    let shell = Path::new("/bin/sh");
    Ok((NodeProcess::new(shell, args, log, port, http), monitor))
}

/// Those who mean none are served at every listener.
async fn serves(node: &NodeProcess, monitor: u16) -> anyhow::Result<()> {
    let (status, health) = node.health().await?;
    ensure!(status == 200, "{health}");
    let (status, varz) = http_get(monitor, "/varz").await?;
    ensure!(status == 200, "{varz}");
    round_trip(&async_nats::connect(node.url()).await?).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_means_harm_is_in_nobodys_way_and_leaves_nothing_behind() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut node, monitor) = node(dir.path(), None, &["--http-rate=1000"])?;
    node.start()?;
    node.ready(PATIENCE).await?;
    serves(&node, monitor).await?;
    let before = node.resident_bytes()?;
    let listeners = [
        (node.client_port, &NATS[..]),
        (node.http_port, &HTTP[..]),
        (monitor, &HTTP[..]),
    ];
    let mut held = Vec::new();
    for (port, beginnings) in listeners {
        for beginning in beginnings {
            for _ in 0..ROUNDS / beginnings.len() {
                babble(ATTACKER, port, beginning).await?;
                vanish(ATTACKER, port, beginning).await?;
            }
            for _ in 0..HELD {
                held.push(hold(ACCOMPLICE, port, beginning).await?);
            }
        }
    }
    serves(&node, monitor).await?;
    drop(held);
    serves(&node, monitor).await?;
    node.at_rest().await?;
    let grown = node.resident_bytes()?.saturating_sub(before);
    println!("{} KiB more than before", grown / 1024);
    ensure!(grown < GROWTH_BYTES_MAX, "{grown} bytes more than before");
    ensure!(!node.log_text().contains("panicked"), "{}", node.log_text());
    assert_eq!(node.stop(PATIENCE).await?, Some(0));
    Ok(())
}

/// Monitoring tells orchestrators whether the node lives: who takes its connections must not keep it from that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_begins_requests_or_reads_no_answers_does_not_take_monitoring_away()
-> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let flags = [
        "--http-max-connections=8",
        "--http-max-connections-per-address=4",
        "--http-header-timeout-ms=600000",
        "--http-write-timeout-ms=400",
    ];
    let (mut node, monitor) = node(dir.path(), None, &flags)?;
    node.start()?;
    node.ready(PATIENCE).await?;
    let mut held = Vec::new();
    for _ in 0..16 {
        held.push(hold(ATTACKER, monitor, HALF_PROBE).await?);
    }
    let (status, _) = http_get(monitor, "/livez").await?;
    assert_eq!(status, 200);
    drop(held);

    // Far more answers than the kernel takes for a reader that does not read, for all connections.
    let greed = b"GET /status HTTP/1.1\r\nhost: n\r\n\r\n".repeat(2000);
    let mut held = Vec::new();
    for from in READERS.repeat(4) {
        let greedy = timeout(PATIENCE, hold(from, monitor, &greed));
        held.push(greedy.await.context("nobody reads")??);
    }
    let served = eventually("monitoring answers", PATIENCE, || async {
        http_get(monitor, "/livez").await
    });
    assert_eq!(served.await?.0, 200);
    drop(held);
    node.at_rest().await?;
    assert_eq!(node.stop(PATIENCE).await?, Some(0));
    Ok(())
}

/// A byte now and then, of a request or of answers, holds no connection: all of a listener's are free again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_trickles_does_not_keep_its_connections() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let flags = [
        "--http-max-connections=8",
        "--http-max-connections-per-address=4",
        "--http-min-rate=100000",
        "--http-body-grace-ms=500",
        "--http-body-timeout-ms=600000",
        "--http-blob-timeout-ms=600000",
        "--http-write-timeout-ms=2000",
    ];
    let (mut node, monitor) = node(dir.path(), None, &flags)?;
    node.start()?;
    node.ready(PATIENCE).await?;
    let slowly = (1, Duration::from_millis(50));
    let body = [b'x'; 10_000];
    let kind = "content-type: application/json\r\ncontent-length: 10000";
    let head = |path| format!("POST {path} HTTP/1.1\r\nhost: n\r\n{kind}\r\n\r\n");
    for (port, path) in [
        (node.http_port, "/blobs"),
        (node.http_port, "/rooms"),
        (monitor, "/healthz"),
    ] {
        let head = head(path);
        let sending = READERS
            .repeat(4)
            .into_iter()
            .map(|from| drip((from, port), (head.as_bytes(), &body), slowly));
        let cut = timeout(PATIENCE, futures::future::try_join_all(sending)).await;
        let answers = cut.with_context(|| format!("{path} trickles on"))??;
        for answer in answers {
            assert!(answer.starts_with(b"HTTP/1.1 408"), "{path}");
        }
        serves(&node, monitor).await?;
    }
    let greed = b"GET /status HTTP/1.1\r\nhost: n\r\n\r\n".repeat(2000);
    let slowly = (1000, Duration::from_millis(50));
    let reading = READERS
        .repeat(4)
        .into_iter()
        .map(|from| sip((from, monitor), &greed, slowly));
    let cut = timeout(PATIENCE, futures::future::try_join_all(reading)).await;
    cut.context("answers trickle on")??;
    serves(&node, monitor).await?;
    node.at_rest().await?;
    assert_eq!(node.stop(PATIENCE).await?, Some(0));
    Ok(())
}

/// A store that can't open a file has failed, and the node with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_floods_a_node_with_connections_leaves_it_the_files_that_it_needs() -> anyhow::Result<()>
{
    let hard = may_open(5000)?;
    ensure!(hard >= 5000, "5,000 open files are needed, not {hard}");
    let dir = tempfile::tempdir()?;
    let (mut node, monitor) = node(dir.path(), Some(FEW_FILES), &[])?;
    node.start()?;
    node.ready(PATIENCE).await?;
    assert_eq!(node.open_files_max()?, FEW_FILES);
    let client = async_nats::connect(node.url()).await?;
    let streams = jetstream::new(client.clone());

    let mut held = Vec::new();
    for port in [node.client_port, node.http_port, monitor] {
        for _ in 0..2 * FEW_FILES {
            held.push(hold(ATTACKER, port, b"").await?);
        }
    }
    let mut more = TcpStream::connect(("127.0.0.1", node.client_port)).await?;
    let mut said = String::new();
    let reading = timeout(PATIENCE, more.read_to_string(&mut said)).await;
    reading.context("a client too many stays")??;
    ensure!(said.contains("maximum connections exceeded"), "{said}");
    for number in 0..20 {
        let config = jetstream::stream::Config {
            name: format!("s{number}"),
            subjects: vec![format!("s{number}.>")],
            ..jetstream::stream::Config::default()
        };
        let made = streams.create_stream(config).await;
        made.with_context(|| node.log_text())?;
        let stored = streams.publish(format!("s{number}.x"), "kept".into()).await;
        stored?.await.with_context(|| node.log_text())?;
    }
    let open = node.open_files()? as u64;
    println!("{open} of {FEW_FILES} files are open");
    ensure!(open + SPARE_FILES <= FEW_FILES, "{open} files are open");
    assert_eq!(http_get(monitor, "/livez").await?.0, 200);
    node.at_rest().await?;

    drop(held);
    eventually("everybody is served again", PATIENCE, || {
        serves(&node, monitor)
    })
    .await?;
    round_trip(&client).await?;
    assert_eq!(node.stop(PATIENCE).await?, Some(0));
    Ok(())
}

/// What follows where the last file is gone all the same: the node ends, to be started again, and neither spins
/// nor fills the log until it has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_is_told_of_once() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut node, _) = node(dir.path(), None, &[])?;
    node.start()?;
    node.ready(PATIENCE).await?;
    let client = async_nats::connect(node.url()).await?;
    if !node.may_open_no_more()? {
        eprintln!("SKIPPED: prlimit is not on this machine");
        return Ok(());
    }
    let config = jetstream::stream::Config {
        name: "lost".to_owned(),
        ..jetstream::stream::Config::default()
    };
    let streams = jetstream::new(client);
    // Whether it is answered is open: its first message can't be kept.
    let _made = streams.create_stream(config).await;
    let _lost = streams.publish("lost", "never kept".into()).await;
    eventually("the node ends", PATIENCE, || {
        let running = node.is_running();
        async move {
            ensure!(!running, "it runs");
            Ok(())
        }
    })
    .await?;
    let said = node.log_text();
    let lines = said.lines().count();
    ensure!(said.contains("the store has failed"), "{said}");
    ensure!(lines <= FAILING_LINES_MAX, "{lines} lines in the log");
    Ok(())
}
