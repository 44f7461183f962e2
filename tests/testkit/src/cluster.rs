//! A secured cluster of node processes on loopback.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use unibus_proto::nkey::UserSeed;

use crate::node::{NodeProcess, free_port};
use crate::{PATIENCE, eventually};

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Number of nodes.
    pub nodes: usize,
    /// MiB of log after which a node takes a checkpoint and purges its log; `None` keeps the default.
    pub checkpoint_log_mb: Option<u64>,
    /// More flags for every node.
    pub flags: Vec<String>,
    /// TLS on the message plane and the control plane, by the cluster's CA.
    pub tls: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            checkpoint_log_mb: None,
            flags: Vec::new(),
            tls: false,
        }
    }
}

/// A running cluster, its certificates and one service user who may use everything.
#[derive(Debug)]
pub struct Cluster {
    dir: TempDir,
    binary: PathBuf,
    /// The nodes, in the order of their names n0, n1, …
    pub nodes: Vec<NodeProcess>,
    seed: String,
    routes: String,
}

impl Cluster {
    /// Mints certificates, starts every node, waits until all are healthy and adds the user.
    ///
    /// # Errors
    /// When a node does not come up; the text holds its log.
    pub async fn start(binary: &Path, options: ClusterOptions) -> anyhow::Result<Self> {
        let cluster = Self::without_users(binary, options).await?;
        cluster
            .add_user(&["--role", "service", "--pub", ">", "--sub", ">"])
            .await?;
        Ok(cluster)
    }

    /// Mints certificates, starts every node and waits until all are healthy.
    ///
    /// # Errors
    /// When a node does not come up; the text holds its log.
    pub async fn without_users(binary: &Path, options: ClusterOptions) -> anyhow::Result<Self> {
        let mut cluster = Self::prepare(binary, options)?;
        for node in &mut cluster.nodes {
            node.start()?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Mints certificates and describes the nodes without starting any.
    ///
    /// # Errors
    /// When certificates can't be made.
    pub fn prepare(binary: &Path, options: ClusterOptions) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let pki = dir.path().join("pki");
        make_ca(binary, &pki)?;
        let ports: Vec<u16> = (0..options.nodes)
            .map(|_| free_port())
            .collect::<anyhow::Result<_>>()?;
        let routes: Vec<String> = ports
            .iter()
            .enumerate()
            .map(|(i, p)| format!("n{i}=127.0.0.1:{p}"))
            .collect();
        let mut nodes = Vec::new();
        for (i, port) in ports.iter().enumerate() {
            let name = format!("n{i}");
            issue(binary, &pki, &name, &[])?;
            let monitor = free_port()?;
            let mut args = node_args(dir.path(), &name, (*port, monitor), &routes.join(","));
            if let Some(mb) = options.checkpoint_log_mb {
                args.extend(["--checkpoint-log-mb".into(), mb.to_string()]);
            }
            args.extend(options.flags.iter().cloned());
            if options.tls {
                args.extend(tls_args(&pki, &name));
            }
            let log = dir.path().join(format!("{name}.log"));
            let mut node = NodeProcess::new(binary, args, log, free_port()?, free_port()?);
            if options.tls {
                // The control plane answers nothing in the clear; monitoring knows its health too.
                node.health_port = monitor;
            }
            nodes.push(node);
        }
        let seed = UserSeed::from_bytes(rand::random()).to_nkey();
        Ok(Self {
            dir,
            binary: binary.to_path_buf(),
            nodes,
            seed,
            routes: routes.join(","),
        })
    }

    /// Waits until every node answers 200 on `/healthz`.
    ///
    /// # Errors
    /// After [`PATIENCE`], with the log of the node that is not ready.
    pub async fn ready(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            let ready = node.ready(PATIENCE).await;
            // What keeps one node waiting stands in the logs of the others.
            ready.with_context(|| {
                self.nodes
                    .iter()
                    .map(NodeProcess::log_text)
                    .collect::<Vec<_>>()
                    .join("\n----\n")
            })?;
        }
        Ok(())
    }

    /// The CA of the cluster's certificates.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("pki/ca.crt")
    }

    /// The folder that holds everything of this cluster.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The `--routes` value that every node was given.
    pub fn routes(&self) -> &str {
        &self.routes
    }

    /// The data folder of node `i`.
    pub fn data_dir(&self, i: usize) -> PathBuf {
        self.dir.path().join(format!("n{i}"))
    }

    /// Runs `user add` for the cluster's own key against node 0, retrying while the node elects.
    ///
    /// # Errors
    /// What the command printed.
    pub async fn add_user(&self, flags: &[&str]) -> anyhow::Result<()> {
        eventually("user add", PATIENCE, || async {
            self.user(&["add"], flags)
        })
        .await
    }

    /// Runs a `user` command about the cluster's own key against node 0.
    ///
    /// # Errors
    /// What the command printed.
    pub fn user(&self, verb: &[&str], flags: &[&str]) -> anyhow::Result<()> {
        let public = UserSeed::parse(&self.seed)?.public().to_nkey();
        let node = self.nodes.first().context("no node")?;
        checked(
            Command::new(&self.binary)
                .arg("user")
                .args(verb)
                .arg(public)
                .args(flags)
                .args(["--nats-url", &node.url(), "--internal-id-file"])
                .arg(self.data_dir(0).join("internal.json")),
        )
        .map(drop)
    }

    /// Runs the program with `args` and the flags by which it reaches node `i`; what it printed, on both
    /// streams, and whether it says that it worked.
    ///
    /// # Errors
    /// When it can't be run.
    pub fn operate(&self, i: usize, args: &[&str]) -> anyhow::Result<(bool, String)> {
        let node = self.nodes.get(i).context("no such node")?;
        let output = Command::new(&self.binary)
            .args(args)
            .args(["--nats-url", &node.url(), "--internal-id-file"])
            .arg(self.data_dir(i).join("internal.json"))
            .output()?;
        let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
        printed.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), printed))
    }

    /// Makes the user of another cluster this one's: for a cluster that has the other's state.
    pub fn take_user(&mut self, other: &Self) {
        self.seed.clone_from(&other.seed);
    }

    /// Starts one more node, the next n…, with the routes of the others; it joins by itself.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn grow(&mut self) -> anyhow::Result<usize> {
        let i = self.nodes.len();
        let name = format!("n{i}");
        issue(&self.binary, &self.dir.path().join("pki"), &name, &[])?;
        let port = free_port()?;
        let routes = format!("{},{name}=127.0.0.1:{port}", self.routes);
        let args = node_args(self.dir.path(), &name, (port, free_port()?), &routes);
        let log = self.dir.path().join(format!("{name}.log"));
        let mut node = NodeProcess::new(&self.binary, args, log, free_port()?, free_port()?);
        node.start()?;
        self.nodes.push(node);
        self.routes = routes;
        Ok(i)
    }

    /// A client of node `i`, authenticated as the cluster's user.
    ///
    /// # Errors
    /// When the node refuses or does not answer.
    pub async fn client(&self, i: usize) -> anyhow::Result<async_nats::Client> {
        let node = self.nodes.get(i).context("no such node")?;
        async_nats::ConnectOptions::with_nkey(self.seed.clone())
            .connection_timeout(Duration::from_secs(10))
            .request_timeout(Some(Duration::from_secs(15)))
            .connect(node.url())
            .await
            .with_context(|| format!("node {i}; its log:\n{}", node.log_text()))
    }

    /// The index of the node that leads, as `/healthz` of node `asked` tells.
    ///
    /// # Errors
    /// When no leader is known within [`PATIENCE`].
    pub async fn leader(&self, asked: usize) -> anyhow::Result<usize> {
        let node = self.nodes.get(asked).context("no such node")?;
        eventually("a leader", PATIENCE, || async {
            let (_, health) = node.health().await?;
            let name = health["leader"].as_str().context("no leader")?;
            let index = name.strip_prefix('n').and_then(|i| i.parse().ok());
            index.with_context(|| format!("strange leader name {name:?}"))
        })
        .await
    }
}

/// `pki init`: a new CA and route secret in `folder`.
///
/// # Errors
/// What the command printed.
pub fn make_ca(binary: &Path, folder: &Path) -> anyhow::Result<()> {
    checked(
        Command::new(binary)
            .args(["pki", "init", "--dir"])
            .arg(folder),
    )
    .map(drop)
}

/// `pki issue`: a certificate for the node `name` on loopback, by the CA in `folder`.
///
/// # Errors
/// What the command printed.
pub fn issue(binary: &Path, folder: &Path, name: &str, flags: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new(binary);
    command.args(["pki", "issue", "--name", name, "--host", "127.0.0.1"]);
    checked(command.args(flags).arg("--dir").arg(folder)).map(drop)
}

fn node_args(dir: &Path, name: &str, (port, monitor): (u16, u16), routes: &str) -> Vec<String> {
    let at = |path: PathBuf| path.display().to_string();
    let data = dir.join(name);
    let pki = dir.join("pki");
    let pairs = [
        ("--bind", "127.0.0.1".to_string()),
        ("--server-name", name.to_string()),
        ("--cluster-name", "test".into()),
        ("--bus-auth", "enforce".into()),
        ("--monitor-port", monitor.to_string()),
        ("--data-dir", at(data.clone())),
        ("--internal-id-file", at(data.join("internal.json"))),
        ("--cluster-port", port.to_string()),
        ("--routes", routes.to_string()),
        ("--route-tls-cert", at(pki.join(format!("{name}.crt")))),
        ("--route-tls-key", at(pki.join(format!("{name}.key")))),
        ("--route-tls-ca", at(pki.join("ca.crt"))),
        ("--cluster-user", "route".into()),
        ("--cluster-pass", "secret".into()),
    ];
    pairs
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_string(), value])
        .collect()
}

/// Encrypts clients' connections and the control plane with the node's own certificate.
fn tls_args(pki: &Path, name: &str) -> Vec<String> {
    let file = |end: &str| pki.join(format!("{name}.{end}")).display().to_string();
    let flags = [
        ("--tls-cert", "crt"),
        ("--tls-key", "key"),
        ("--http-tls-cert", "crt"),
        ("--http-tls-key", "key"),
    ];
    let pairs = flags.map(|(flag, end)| [flag.to_owned(), file(end)]);
    pairs.into_iter().flatten().collect()
}

/// Runs a command to its end; anything but success is an error with what it printed.
fn checked(command: &mut Command) -> anyhow::Result<Output> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        let printed = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} ended with {}: {printed}", output.status);
    }
    Ok(output)
}
