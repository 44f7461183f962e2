//! A node or a cluster under `enforce` with one admin, and a plain HTTP client that can say
//! anything: its requests are written by hand so that they can be wrong.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use unibus_testkit::{Cluster, ClusterOptions, NodeProcess, PATIENCE, eventually, free_port};

use crate::binary;
use crate::people::Person;

/// Where requests go, and who may make them.
pub(crate) struct World {
    /// Keeps the processes of a cluster.
    pub(crate) cluster: Option<Cluster>,
    /// Keeps the process of a single node, and its folder.
    single: Option<(NodeProcess, TempDir)>,
    /// Control-plane ports.
    pub(crate) http: Vec<u16>,
    /// NATS URLs.
    pub(crate) nats: Vec<String>,
    pub(crate) admin: Person,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The error's words.
    pub(crate) fn words(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts the status; answers with itself.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{} {}",
            self.head,
            String::from_utf8_lossy(&self.body)
        );
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// How many nodes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Size {
    One,
    Three,
}

/// Worlds without flags of their own, shared by the tests that run at the same time: the last one
/// ends them.
static SHARED: [Mutex<Weak<World>>; 2] =
    [Mutex::const_new(Weak::new()), Mutex::const_new(Weak::new())];

impl World {
    /// One or three nodes; shared with other tests where there are no flags.
    pub(crate) async fn get(size: Size, flags: &[&str]) -> anyhow::Result<Arc<Self>> {
        if !flags.is_empty() {
            return Ok(Arc::new(Self::make(size, flags).await?));
        }
        let place = &SHARED[usize::from(size == Size::Three)];
        let mut shared = place.lock().await;
        if let Some(world) = shared.upgrade() {
            return Ok(world);
        }
        let world = Arc::new(Self::make(size, &[]).await?);
        *shared = Arc::downgrade(&world);
        Ok(world)
    }

    async fn make(size: Size, flags: &[&str]) -> anyhow::Result<Self> {
        match size {
            Size::One => Self::single_with(flags).await,
            Size::Three => Self::cluster_with(flags).await,
        }
    }

    /// One node, with more flags.
    pub(crate) async fn single_with(flags: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let data = dir.path().join("data");
        let mut args: Vec<String> = ["--bind", "127.0.0.1", "--bus-auth", "enforce", "--data-dir"]
            .iter()
            .map(ToString::to_string)
            .collect();
        args.push(data.display().to_string());
        args.extend(["--monitor-port".to_owned(), free_port()?.to_string()]);
        args.extend(flags.iter().map(ToString::to_string));
        let log = dir.path().join("node.log");
        let mut node = NodeProcess::new(binary(), args, log, free_port()?, free_port()?);
        node.start()?;
        let admin = Person::new();
        let (url, http) = (node.url(), node.http_port);
        add_admin(&admin, &url, &data.join("internal.json"))
            .await
            .with_context(|| node.log_text())?;
        Ok(Self {
            cluster: None,
            single: Some((node, dir)),
            http: vec![http],
            nats: vec![url],
            admin,
        })
    }

    pub(crate) async fn single() -> anyhow::Result<Self> {
        Self::single_with(&[]).await
    }

    /// Three nodes.
    pub(crate) async fn cluster() -> anyhow::Result<Self> {
        Self::cluster_with(&[]).await
    }

    /// Three nodes, with more flags.
    pub(crate) async fn cluster_with(flags: &[&str]) -> anyhow::Result<Self> {
        let options = ClusterOptions {
            flags: flags.iter().map(ToString::to_string).collect(),
            ..ClusterOptions::default()
        };
        let cluster = Cluster::without_users(binary(), options).await?;
        let admin = Person::new();
        let url = cluster.nodes[0].url();
        add_admin(&admin, &url, &cluster.data_dir(0).join("internal.json")).await?;
        Ok(Self {
            http: cluster.nodes.iter().map(|node| node.http_port).collect(),
            nats: cluster.nodes.iter().map(NodeProcess::url).collect(),
            cluster: Some(cluster),
            single: None,
            admin,
        })
    }

    /// The process of node `at`.
    pub(crate) fn node(&mut self, at: usize) -> &mut NodeProcess {
        match (&mut self.cluster, &mut self.single) {
            (Some(cluster), _) => &mut cluster.nodes[at],
            (None, Some((node, _))) => node,
            (None, None) => unreachable!("a world has nodes"),
        }
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.single
            .as_ref()
            .expect("a single node")
            .1
            .path()
            .to_owned()
    }

    /// A node's process.
    pub(crate) fn process(&self, at: usize) -> &NodeProcess {
        match (&self.cluster, &self.single) {
            (Some(cluster), _) => &cluster.nodes[at],
            (None, Some((node, _))) => node,
            (None, None) => unreachable!("a world has nodes"),
        }
    }

    /// A number of the first node's /metrics.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<u64> {
        let text = self.process(0).metrics().await?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value: f64 = line.with_context(|| format!("no {name}"))?.trim().parse()?;
        Ok(value as u64)
    }

    /// The first node's own identity.
    pub(crate) fn identity(&self) -> PathBuf {
        match &self.cluster {
            Some(cluster) => cluster.data_dir(0).join("internal.json"),
            None => self.dir().join("data/internal.json"),
        }
    }

    /// A client of the first node as that node itself.
    pub(crate) async fn internal(&self) -> anyhow::Result<async_nats::Client> {
        self.internal_at(0).await
    }

    /// A client of node `at` as that node itself.
    pub(crate) async fn internal_at(&self, at: usize) -> anyhow::Result<async_nats::Client> {
        let at = at % self.nats.len();
        let file = match &self.cluster {
            Some(cluster) => cluster.data_dir(at).join("internal.json"),
            None => self.identity(),
        };
        let file: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
        let seed = file["seed"].as_str().context("a seed")?.to_owned();
        Ok(async_nats::ConnectOptions::with_nkey(seed)
            .connect(&self.nats[at])
            .await?)
    }

    /// The control plane of the last node: for a cluster, not the one that others are asked.
    pub(crate) fn other(&self) -> u16 {
        *self.http.last().expect("a node")
    }

    /// A new active user.
    pub(crate) async fn person(&self) -> anyhow::Result<Person> {
        let person = Person::new();
        let body = json!({ "sign_pub": person.sign_pub(), "name": "somebody" });
        let added = self.admin.post(self.http[0], "/users", &body).await?;
        added.expect(201);
        Ok(person)
    }

    /// A client of node `at`, connected as a person.
    pub(crate) async fn client(
        &self,
        at: usize,
        person: &Person,
    ) -> anyhow::Result<async_nats::Client> {
        let options = async_nats::ConnectOptions::with_nkey(person.seed().to_nkey())
            .connection_timeout(Duration::from_secs(10))
            .max_reconnects(1);
        let url = self.nats.get(at % self.nats.len()).context("a node")?;
        options.connect(url).await.context("connecting")
    }
}

async fn add_admin(admin: &Person, url: &str, identity: &std::path::Path) -> anyhow::Result<()> {
    let key = admin.sign_pub();
    eventually("user add", PATIENCE, || async {
        // Before the node has made its identity it counts as never started.
        anyhow::ensure!(identity.exists(), "the node has not started");
        let output = Command::new(binary())
            .args(["user", "add", &key, "--role", "admin", "--nats-url", url])
            .arg("--internal-id-file")
            .arg(identity)
            .output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    })
    .await
}

/// Sends bytes from an address of loopback and reads the answer to its end.
pub(crate) async fn raw(port: u16, from: [u8; 4], request: &[u8]) -> anyhow::Result<Answer> {
    let mut stream = connect(port, from).await?;
    // The node may refuse and close before it has read everything.
    let _cut = stream.write_all(request).await;
    read_answer(&mut stream, false).await
}

pub(crate) async fn connect(port: u16, from: [u8; 4]) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::from(from), 0))?;
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    Ok(socket.connect(to).await?)
}

/// Reads one answer, by its Content-Length, or its head only.
pub(crate) async fn read_answer<S>(stream: &mut S, head_only: bool) -> anyhow::Result<Answer>
where
    S: tokio::io::AsyncRead + Unpin,
{
    let reading = async {
        let mut bytes = Vec::new();
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                bail!("closed: {:?}", String::from_utf8_lossy(&bytes));
            }
        };
        let mut answer = Answer {
            status: 0,
            head: String::from_utf8_lossy(&bytes[..head_end]).into_owned(),
            body: bytes.split_off(head_end),
        };
        let status = answer.head.split_whitespace().nth(1);
        answer.status = status
            .and_then(|text| text.parse().ok())
            .context("no status")?;
        let length = answer
            .header("content-length")
            .and_then(|text| text.parse().ok());
        let length = if head_only {
            0
        } else {
            length.unwrap_or(usize::MAX)
        };
        while answer.body.len() < length {
            if stream.read_buf(&mut answer.body).await? == 0 {
                break;
            }
        }
        if length != usize::MAX && answer.body.len() < length {
            bail!("the body was cut at {}", answer.body.len());
        }
        Ok(answer)
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .context("no answer in time")?
}
