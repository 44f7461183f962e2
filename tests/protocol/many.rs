//! Ten thousand idle clients of a node that is a process of its own: what they cost it, that it serves others
//! meanwhile, and that a client more than it may have is turned away while those that it has stay.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use unibus_testkit::{NodeProcess, PATIENCE, eventually, free_port, next, round_trip};

/// What the product promises.
const IDLE: usize = 10_000;
/// Resident memory of the node for each of them, in bytes.
const EACH_BYTES_MAX: u64 = 8 * 1024;
/// Clients that are there before memory is looked at, so that what is allocated once is no part of it.
const EARLY: usize = 100;
/// Clients that open their connections side by side.
const ABREAST: usize = 50;
/// Files of either process beside those sockets: what the node keeps for everything else.
const OTHER_FILES: u64 = 3 * 1024 + 100;
/// The soft limit of open files that the node is started with: what most systems give.
const SOFT_FILES: u64 = 1024;
/// Messages of the busy client while all others are idle.
const MESSAGES: usize = 1000;

/// A client that says nothing unless it is asked to.
struct Idle(BufReader<TcpStream>);

impl Idle {
    async fn open(port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        // Room for INFO; ten thousand buffers of the usual size would be most of this process.
        let mut idle = Self(BufReader::with_capacity(1024, stream));
        let info = idle.line().await?;
        ensure!(info.starts_with("INFO {"), "{info}");
        idle.0.write_all(b"CONNECT {\"verbose\":false}\r\n").await?;
        idle.pinged().await?;
        Ok(idle)
    }

    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.0.read_line(&mut line)).await??;
        ensure!(read > 0, "the node has closed the connection");
        Ok(line)
    }

    /// The node answers this client's PING; its own, which may come before, is answered too.
    async fn pinged(&mut self) -> anyhow::Result<()> {
        self.0.write_all(b"PING\r\n").await?;
        loop {
            match self.line().await?.trim_end() {
                "PONG" => return Ok(()),
                "PING" => self.0.write_all(b"PONG\r\n").await?,
                other => ensure!(other.starts_with("INFO "), "{other}"),
            }
        }
    }
}

/// Opens so many connections; after every [`EARLY`] of them the busy client hears itself.
async fn open(port: u16, count: usize, busy: &mut Busy) -> anyhow::Result<Vec<Idle>> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        let more = EARLY.min(count - all.len());
        let opening = futures::stream::iter(0..more).map(|_| Idle::open(port));
        let opened: Vec<Idle> = opening.buffer_unordered(ABREAST).try_collect().await?;
        all.extend(opened);
        busy.speaks(1).await?;
    }
    Ok(all)
}

/// A client of the ordinary kind that publishes and subscribes.
struct Busy {
    client: async_nats::Client,
    heard: async_nats::Subscriber,
    said: usize,
}

impl Busy {
    async fn connect(node: &NodeProcess) -> anyhow::Result<Self> {
        let client = async_nats::connect(node.url()).await?;
        let heard = client.subscribe("busy").await?;
        Ok(Self {
            client,
            heard,
            said: 0,
        })
    }

    /// Publishes so many messages and hears all of them, in order.
    async fn speaks(&mut self, count: usize) -> anyhow::Result<()> {
        let words = self.said..self.said + count;
        for word in words.clone() {
            self.client.publish("busy", word.to_string().into()).await?;
        }
        for word in words {
            let message = next(&mut self.heard).await?;
            ensure!(message.payload == word.to_string(), "{message:?}");
        }
        self.said += count;
        Ok(())
    }
}

/// A node that is started with the usual soft limit of open files.
fn node(dir: &Path, connections_max: usize) -> anyhow::Result<NodeProcess> {
    let script = format!("ulimit -S -n {SOFT_FILES} && exec \"$0\" \"$@\"");
    let at = |name: &str| dir.join(name).display().to_string();
    let args = [
        "-c".to_owned(),
        script,
        env!("CARGO_BIN_EXE_unibus-node").to_owned(),
        "--bind=127.0.0.1".to_owned(),
        "--monitor-port=0".to_owned(),
        "--debug".to_owned(),
        format!("--max-connections={connections_max}"),
        format!("--data-dir={}", at("data")),
        format!("--config-dir={}", at("config")),
    ];
    let shell = Path::new("/bin/sh");
    Ok(NodeProcess::new(
        shell,
        args.to_vec(),
        dir.join("node.log"),
        free_port()?,
        free_port()?,
    ))
}

/// Lets this process open so many files, and answers with the most it might.
pub(crate) fn may_open(files: u64) -> anyhow::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < files && files <= hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_clients_hold_and_one_too_many_is_turned_away() -> anyhow::Result<()> {
    let files = IDLE as u64 + OTHER_FILES;
    let hard = may_open(files)?;
    if hard < files {
        eprintln!("SKIPPED: {files} open files are needed, the hard limit (ulimit -Hn) is {hard}");
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    // One more for the busy client.
    let mut node = node(dir.path(), IDLE + 1)?;
    node.start()?;
    node.ready(PATIENCE).await?;
    ensure!(
        node.open_files_max()? == hard,
        "the node did not raise its limit of {SOFT_FILES} open files:\n{}",
        node.log_text()
    );
    let said = node.log_text();
    ensure!(
        said.contains("open files") && said.contains(&hard.to_string()),
        "{said}"
    );

    let port = node.client_port;
    let mut busy = Busy::connect(&node).await?;
    let mut idle = open(port, EARLY, &mut busy).await?;
    let before = node.resident_bytes()?;
    let rest = IDLE - EARLY;
    idle.extend(open(port, rest, &mut busy).await?);
    let each = node.resident_bytes()?.saturating_sub(before) / rest as u64;
    println!("{each} bytes for each of {rest} idle clients");
    ensure!(each <= EACH_BYTES_MAX, "an idle client takes {each} bytes");

    turned_away(port).await?;
    busy.speaks(MESSAGES).await?;
    let pings = futures::stream::iter(idle.iter_mut()).map(Idle::pinged);
    let pinged: Vec<()> = pings.buffer_unordered(ABREAST).try_collect().await?;
    assert_eq!(pinged.len(), IDLE);

    // A place that one leaves is the next one's.
    drop(idle.pop());
    let next = eventually("a place", PATIENCE, || Idle::open(port)).await?;
    turned_away(port).await?;
    idle.push(next);
    drop(idle);
    round_trip(&busy.client).await?;
    assert_eq!(node.stop(PATIENCE).await?, Some(0));
    Ok(())
}

/// Another client is told why, and that is all.
async fn turned_away(port: u16) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut said = String::new();
    let reading = stream.read_to_string(&mut said);
    timeout(Duration::from_secs(10), reading)
        .await
        .context("the connection stays open")??;
    let (info, rest) = said.split_once("\r\n").context("one line")?;
    ensure!(info.starts_with("INFO {"), "{said}");
    ensure!(rest == "-ERR 'maximum connections exceeded'\r\n", "{said}");
    Ok(())
}
