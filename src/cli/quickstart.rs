//! `quickstart`: three nodes in this process, on loopback, secured as a cluster on three hosts would
//! be: throwaway CA, mutual TLS between nodes, `enforce`, one identity. It proves itself through a
//! standard client before it says that it works, and leaves nothing behind.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_nats::Client;
use async_nats::jetstream;
use clap::Args;
use futures::StreamExt;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use super::admin::Registry;
use super::link::{Target, client_options};
use super::out::{say, tell};
use super::{FAILED, quiet_logging, tool};
use crate::access::{Grants, InternalIdentity, Role, UserRecord};
use crate::config::NodeConfig;
use crate::config::args::{ClusterArgs, NodeArgs, RunArgs};
use crate::mesh::RouteAddr;
use crate::node::Node;
use crate::open_files;
use crate::pki::{self, NodeFolder};
use crate::shutdown::{self, Shutdown};

/// The nodes' names, which are their certificates' names.
const NAMES: [&str; 3] = ["n1", "n2", "n3"];
/// Ports that clients expect, taken where they are free.
const CLIENT_PORTS: [u16; 3] = [4222, 4223, 4224];
/// How long the cluster has to form.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long each step of the proof may take.
const STEP: Duration = Duration::from_secs(15);
/// Pause between two attempts of a step.
const RETRY: Duration = Duration::from_millis(100);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Flags of `quickstart`.
#[derive(Args, Debug)]
pub struct QuickstartArgs {
    /// Folder for certificates and data, kept afterwards; must be empty or missing [default: a
    /// temporary one, deleted at the end]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// End after the proof instead of waiting for Ctrl-C
    #[arg(long)]
    pub once: bool,
    /// Log what the nodes do
    #[arg(long, short = 'D')]
    pub debug: bool,
}

pub(super) async fn quickstart(args: &QuickstartArgs) -> ExitCode {
    quiet_logging(args.debug);
    match Box::pin(whole(args)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("unibus-node quickstart: {error:#}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn whole(args: &QuickstartArgs) -> Result<()> {
    let mut shutdown = shutdown::on_signals().context("can't listen for signals")?;
    open_files::raise(0);
    let place = Place::make(args.dir.as_deref())?;
    let mut nodes = Vec::with_capacity(NAMES.len());
    let outcome = tokio::select! {
        outcome = Box::pin(show(&place, &mut nodes, args, shutdown.clone())) => outcome,
        () = shutdown.wait() => Ok(()),
    };
    // All at once: a node that stopped first would leave the others looking for it.
    futures::future::join_all(nodes.into_iter().map(Node::shutdown)).await;
    outcome
}

/// Starts, proves, says how to connect, and waits.
async fn show(
    place: &Place,
    nodes: &mut Vec<Node>,
    args: &QuickstartArgs,
    mut shutdown: Shutdown,
) -> Result<()> {
    tell("starting three nodes, each with its own certificate …");
    let internal = start(place.path(), nodes).await?;
    let seed = identity(place.path(), nodes, &internal).await?;
    let proof = Box::pin(prove(nodes, &seed.text)).await?;
    for line in proof.into_iter().chain(instructions(nodes, &seed.file)) {
        say(&line);
    }
    if !args.once {
        shutdown.wait().await;
    }
    Ok(())
}

/// Where everything is written.
enum Place {
    /// Deleted when dropped.
    Temporary(TempDir),
    /// The operator's.
    Kept(PathBuf),
}

impl Place {
    fn make(dir: Option<&Path>) -> Result<Self> {
        let Some(dir) = dir else {
            let made = tempfile::Builder::new()
                .prefix("unibus-quickstart-")
                .tempdir();
            return Ok(Self::Temporary(
                made.context("can't make a temporary folder")?,
            ));
        };
        std::fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
        let mut entries = dir
            .read_dir()
            .with_context(|| format!("can't read {}", dir.display()))?;
        if entries.next().is_some() {
            bail!(
                "{} is not empty; choose another folder with --dir",
                dir.display()
            );
        }
        Ok(Self::Kept(dir.to_owned()))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Kept(dir) => dir,
        }
    }
}

/// Starts the nodes and waits until they are a cluster. Returns the first node's identity file.
async fn start(dir: &Path, nodes: &mut Vec<Node>) -> Result<PathBuf> {
    let folders = pki::mint(
        &dir.join("pki"),
        "quickstart",
        &NAMES,
        &["127.0.0.1".to_owned()],
    )
    .context("can't make certificates")?;
    let routes = routes()?;
    let mut internal = None;
    for (folder, (route, port)) in folders.iter().zip(routes.iter().zip(CLIENT_PORTS)) {
        let data = dir.join(&folder.name);
        let config = config(folder, &routes, route.port, port, data)?;
        internal = internal.or_else(|| config.internal_id_file.clone());
        let node = Box::pin(Node::start(config)).await;
        nodes.push(node.with_context(|| format!("node {} does not start", folder.name))?);
    }
    for node in nodes.iter() {
        node.ready(READY_WITHIN)
            .await
            .context("the cluster does not form")?;
    }
    internal.context("no node was started")
}

/// Routes to UDP ports that are free at the moment; all are held until all are known.
fn routes() -> Result<Vec<RouteAddr>> {
    let bind = |_| UdpSocket::bind((LOOPBACK, 0)).context("no free UDP port");
    let held = NAMES.iter().map(bind).collect::<Result<Vec<_>>>()?;
    let route = |(socket, name): (&UdpSocket, &&str)| {
        let port = socket.local_addr().context("no free UDP port")?.port();
        Ok(RouteAddr {
            name: Some((*name).to_owned()),
            host: LOOPBACK.to_string(),
            port,
        })
    };
    held.iter().zip(&NAMES).map(route).collect()
}

/// A node's configuration, made as the command line makes it, so that the boot guard judges it too.
fn config(
    folder: &NodeFolder,
    routes: &[RouteAddr],
    cluster_port: u16,
    wanted: u16,
    data_dir: PathBuf,
) -> Result<NodeConfig> {
    let free = TcpListener::bind((LOOPBACK, wanted)).is_ok();
    let args = RunArgs {
        node: NodeArgs {
            bind: Some(LOOPBACK),
            port: Some(if free { wanted } else { 0 }),
            http_port: Some(0),
            monitor_port: Some(0),
            data_dir: Some(data_dir),
            ..NodeArgs::default()
        },
        cluster: ClusterArgs {
            routes: routes.to_vec(),
            cluster_port: Some(cluster_port),
            cluster_name: Some("quickstart".to_owned()),
            config_dir: Some(folder.dir.clone()),
            ..ClusterArgs::default()
        },
        ..RunArgs::default()
    };
    Ok(NodeConfig::from_args(&args)?)
}

/// The secret half of the identity that may use the cluster.
struct Seed {
    text: zeroize::Zeroizing<String>,
    file: PathBuf,
}

/// Lets one service identity in, as `user add` does.
async fn identity(dir: &Path, nodes: &[Node], internal: &Path) -> Result<Seed> {
    let user = InternalIdentity::generate()?;
    let all = || vec![">".to_owned()];
    let grants = Grants {
        publish: all(),
        subscribe: all(),
        ..Grants::default()
    };
    let record = UserRecord::new(user.public(), "quickstart", Role::Service, grants)?;
    let url = format!("nats://{}", address(nodes, 0)?);
    let target = Target {
        url,
        ca: None,
        tls_first: false,
        identity: internal.to_owned(),
    };
    let registry = Box::pin(Registry::open(&target)).await?;
    registry.add(&record).await?;
    let file = dir.join("user.nk");
    let text = user.seed_text();
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)?;
    out.write_all(text.as_bytes())?;
    Ok(Seed { text, file })
}

fn address(nodes: &[Node], number: usize) -> Result<SocketAddr> {
    Ok(nodes
        .get(number)
        .context("a node is missing")?
        .client_addr())
}

/// A message and a key across nodes, through a standard client.
async fn prove(nodes: &[Node], seed: &str) -> Result<Vec<String>> {
    let mut clients = Vec::with_capacity(nodes.len());
    for node in nodes {
        clients.push(connected(node.client_addr(), seed).await?);
    }
    let [one, two, three] = clients.as_slice() else {
        bail!("a node is missing")
    };
    message_across(one, three)
        .await
        .context("no message came from n1 to n3")?;
    key_across(one, two)
        .await
        .context("no key came from n1 to n2")?;
    Ok(vec![
        "a message published at n1 arrived at n3".to_owned(),
        "a key written at n1 was read at n2, synced to disk by a majority before".to_owned(),
    ])
}

/// Connects as the new user; a node that has not applied its record yet refuses it for a moment.
async fn connected(at: SocketAddr, seed: &str) -> Result<Client> {
    let end = Instant::now() + STEP;
    loop {
        let attempt = Box::pin(client_options(seed).connect(format!("nats://{at}"))).await;
        match attempt {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("can't connect to {at}"));
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

/// Publishes until it arrives: the first ones may leave before the subscription is known there.
async fn message_across(from: &Client, to: &Client) -> Result<()> {
    let mut arrivals = to.subscribe("quickstart.hello").await?;
    to.flush().await?;
    let end = Instant::now() + STEP;
    loop {
        from.publish("quickstart.hello", "hello from n1".into())
            .await?;
        from.flush().await?;
        match timeout(RETRY, arrivals.next()).await {
            Ok(Some(message)) if message.payload == "hello from n1" => return Ok(()),
            Ok(Some(_)) => bail!("another message arrived"),
            Ok(None) => bail!("the subscription ended"),
            Err(_) if Instant::now() >= end => bail!("nothing arrived within {STEP:?}"),
            Err(_) => {}
        }
    }
}

async fn key_across(from: &Client, to: &Client) -> Result<()> {
    let config = jetstream::kv::Config {
        bucket: "quickstart".to_owned(),
        num_replicas: NAMES.len(),
        ..jetstream::kv::Config::default()
    };
    let steps = async {
        let here = jetstream::new(from.clone())
            .create_key_value(config)
            .await?;
        here.put("greeting", "hello".into()).await?;
        let there = jetstream::new(to.clone())
            .get_key_value("quickstart")
            .await?;
        let value = there.get("greeting").await?;
        if value.as_deref() == Some(b"hello".as_slice()) {
            return Ok(());
        }
        bail!("n2 has another value");
    };
    timeout(STEP, Box::pin(steps))
        .await
        .context("no answer in time")?
}

/// How to connect, for people who have the `nats` command and for those who have a client library.
fn instructions(nodes: &[Node], seed: &Path) -> Vec<String> {
    let urls: Vec<String> = nodes
        .iter()
        .map(|node| format!("nats://{}", node.client_addr()))
        .collect();
    let (urls, seed) = (urls.join(","), seed.display());
    let health = nodes
        .first()
        .and_then(|node| node.addresses().http)
        .map(|at| format!("http://{at}/healthz"));
    vec![
        format!("urls    {urls}"),
        format!("seed    {seed}  (an nkey seed, for this cluster only)"),
        format!("health  {}", health.unwrap_or_default()),
        format!(
            "try     {} --server {urls} --nkey {seed} sub '>'",
            tool::command()
        ),
        "Ctrl-C ends it".to_owned(),
    ]
}
