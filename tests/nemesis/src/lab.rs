//! A cluster on hosts of its own: each node in a network namespace with its own disk and clock, all
//! connected by a switch in this process, and one more namespace for the clients.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use unibus_proto::nkey::UserSeed;
use unibus_testkit::{eventually, make_ca};

use crate::disk::{Disk, output, run};
use crate::host::{CLIENT_PORT, HTTP_PORT, Host};
use crate::switch::{Switch, hardware_address};
use crate::sys;

/// How long a cluster may take to be ready, on a machine that does other things as well.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Where namespaces are.
const NETNS: &str = "/run/netns";

/// Somebody's key.
#[derive(Clone, Copy)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn new() -> Self {
        Self(rand::random())
    }

    pub(crate) fn seed(self) -> UserSeed {
        UserSeed::from_bytes(self.0)
    }
}

impl std::fmt::Debug for Key {
    /// Shows the public half.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.seed().public().to_nkey())
    }
}

/// A running cluster.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) hosts: Vec<Host>,
    pub(crate) switch: Arc<Switch>,
    /// Signs as an admin, and uses everything.
    pub(crate) admin: Key,
    pub(crate) user: Key,
    binary: PathBuf,
    // What follows is taken down after the hosts, in this order.
    _images: Images,
    _namespaces: Namespaces,
    _folder: TempDir,
}

/// Why no lab can be made here; `None`: one can.
#[must_use]
pub fn obstacle() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root, for network namespaces and loop devices".into());
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("nsenter", "util-linux"),
        ("fsfreeze", "util-linux"),
        ("mkfs.ext4", "e2fsprogs"),
    ] {
        if run("sh", &["-c", &format!("command -v {program}")]).is_err() {
            return Some(format!(
                "it needs the program {program} (package {package})"
            ));
        }
    }
    for device in ["/dev/net/tun", "/dev/loop-control"] {
        if !Path::new(device).exists() {
            return Some(format!("it needs {device}"));
        }
    }
    None
}

/// The network namespaces of a lab, taken down when dropped.
#[derive(Debug)]
struct Namespaces(Vec<String>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = run("ip", &["netns", "del", name]);
        }
    }
}

/// The memory in which the disks' images lie.
#[derive(Debug)]
struct Images(PathBuf);

impl Drop for Images {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.0.display().to_string()]);
    }
}

/// Namespaces by host, the clients' last.
fn namespaces(nodes: usize) -> anyhow::Result<Namespaces> {
    let mut made = Namespaces(Vec::new());
    let random: [u8; 3] = rand::random();
    let lab = data_encoding::HEXLOWER.encode(&random);
    for host in 0..=nodes {
        let name = format!("unibus-{lab}-{host}");
        run("ip", &["netns", "add", &name])?;
        made.0.push(name);
    }
    Ok(made)
}

/// Address of a host.
fn address(host: usize) -> String {
    format!("10.77.0.{}", 11 + host)
}

/// Gives a host its interface; everybody's hardware address is known to everybody.
fn wire(namespace: &str, host: usize, hosts: usize) -> anyhow::Result<std::fs::File> {
    let tap = sys::open_tap(&Path::new(NETNS).join(namespace), "eth0")?;
    let ip = |args: &[&str]| {
        let all: Vec<&str> = ["-n", namespace].iter().chain(args).copied().collect();
        run("ip", &all)
    };
    let mine = hardware_address(host);
    ip(&["link", "set", "lo", "up"])?;
    ip(&["link", "set", "eth0", "address", &mine])?;
    ip(&[
        "addr",
        "add",
        &format!("{}/24", address(host)),
        "dev",
        "eth0",
    ])?;
    ip(&["link", "set", "eth0", "up"])?;
    for peer in (0..hosts).filter(|peer| *peer != host) {
        let (there, hardware) = (address(peer), hardware_address(peer));
        ip(&[
            "neigh",
            "replace",
            &there,
            "lladdr",
            &hardware,
            "dev",
            "eth0",
            "nud",
            "permanent",
        ])?;
    }
    Ok(tap)
}

/// Enters the clients' namespace of a new lab: the calling thread and those that it starts later.
pub(crate) struct Site {
    namespaces: Namespaces,
    taps: Vec<std::fs::File>,
}

impl Site {
    /// Makes namespaces and interfaces for so many nodes, and moves the calling thread to the clients.
    ///
    /// # Errors
    /// Without the right to.
    pub(crate) fn enter(nodes: usize) -> anyhow::Result<Self> {
        let namespaces = namespaces(nodes)?;
        let mut taps = Vec::new();
        for (host, name) in namespaces.0.iter().enumerate() {
            taps.push(wire(name, host, nodes + 1)?);
        }
        let clients = namespaces.0.last().context("no namespace")?;
        sys::enter_netns(&Path::new(NETNS).join(clients))?;
        Ok(Self { namespaces, taps })
    }
}

impl Lab {
    /// Starts a cluster and waits until it serves.
    ///
    /// # Errors
    /// When a node does not come up; the text holds its log.
    pub(crate) async fn start(binary: &Path, site: Site, seed: u64) -> anyhow::Result<Self> {
        let nodes = site.namespaces.0.len() - 1;
        let folder = tempfile::tempdir()?;
        let images = Images(folder.path().join("disks"));
        std::fs::create_dir(&images.0)?;
        let at = images.0.display().to_string();
        run("mount", &["-t", "tmpfs", "-o", "size=8g", "none", &at])?;
        let pki = folder.path().join("pki");
        make_ca(binary, &pki)?;
        let mut hosts = Vec::new();
        for node in 0..nodes {
            let name = format!("n{node}");
            let disk = Disk::make(&images.0, &name)?;
            issue(binary, &pki, &name, &address(node))?;
            let args = node_args(&pki, &name, nodes, node, disk.folder());
            let netns = Path::new(NETNS).join(&site.namespaces.0[node]);
            let who = (name.as_str(), address(node));
            hosts.push(Host::new(who, netns, disk, folder.path(), (binary, args))?);
        }
        let switch = Switch::start(site.taps, seed)?;
        let mut lab = Self {
            hosts,
            switch,
            admin: Key::new(),
            user: Key::new(),
            binary: binary.to_path_buf(),
            _images: images,
            _namespaces: site.namespaces,
            _folder: folder,
        };
        for host in &mut lab.hosts {
            host.start()?;
        }
        lab.ready().await?;
        lab.add_users().await?;
        Ok(lab)
    }

    /// Waits until every node says that it is well.
    ///
    /// # Errors
    /// After [`PATIENCE`], with the logs.
    pub(crate) async fn ready(&self) -> anyhow::Result<()> {
        for host in &self.hosts {
            let ready = eventually("a healthy node", PATIENCE, || async {
                match host.health().await? {
                    (200, _) => Ok(()),
                    (status, body) => bail!("{} answers {status}: {body}", host.name),
                }
            });
            ready.await.with_context(|| {
                let tails = self.hosts.iter().map(|host| host.log_tail(4));
                tails.collect::<Vec<_>>().join("\n----\n")
            })?;
        }
        Ok(())
    }

    async fn add_users(&self) -> anyhow::Result<()> {
        let host = self.hosts.first().context("no node")?;
        let url = format!("nats://127.0.0.1:{CLIENT_PORT}");
        let (enter, identity) = (host.enter(), host.data_dir().join("internal.json"));
        for (key, flags) in [
            (self.admin, &["--role", "admin"][..]),
            (
                self.user,
                &["--role", "service", "--pub", ">", "--sub", ">"],
            ),
        ] {
            let key = key.seed().public().to_nkey();
            let program = self.binary.display().to_string();
            let identity = identity.display().to_string();
            let mut args = vec![enter.as_str(), &program, "user", "add", &key];
            args.extend(flags);
            args.extend(["--nats-url", &url, "--internal-id-file", &identity]);
            let add = || async { output("nsenter", &args) };
            eventually("user add", PATIENCE, add).await?;
        }
        Ok(())
    }

    /// Runs an operator's command of the node's program on its host, as the node's own identity.
    ///
    /// # Errors
    /// What it printed, when it did not work.
    pub(crate) fn operate(&self, node: usize, command: &[&str]) -> anyhow::Result<()> {
        let host = &self.hosts[node];
        let (enter, program) = (host.enter(), host.binary.display().to_string());
        let identity = host.data_dir().join("internal.json").display().to_string();
        let url = format!("nats://127.0.0.1:{CLIENT_PORT}");
        let mut args = vec![enter.as_str(), &program];
        args.extend(command);
        args.extend(["--nats-url", &url, "--internal-id-file", &identity]);
        args.extend(["--wait", "20"]);
        run("nsenter", &args)
    }

    /// The place of the node that leads, as the first node that says so tells.
    pub(crate) async fn leader(&self) -> Option<usize> {
        for host in &self.hosts {
            let asked = tokio::time::timeout(Duration::from_millis(500), host.health()).await;
            let Ok(Ok((200, health))) = asked else {
                continue;
            };
            let place = health["leader"]
                .as_str()
                .and_then(|name| name.strip_prefix('n'));
            if let Some(place) = place.and_then(|place| place.parse().ok()) {
                return Some(place);
            }
        }
        None
    }

    /// A client of one node, and of no other. A node may hear of the user a moment after the others.
    ///
    /// # Errors
    /// When the node does not take it in time.
    pub(crate) async fn client(&self, node: usize) -> anyhow::Result<async_nats::Client> {
        let host = &self.hosts[node];
        let url = host.url();
        let login = || connect(&url, self.user);
        let client = eventually("a client's login", PATIENCE, login).await;
        client.with_context(|| format!("{}\n{}", host.name, host.log_tail(6)))
    }

    /// Addresses of the nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.hosts.iter().map(|host| host.ip.clone()).collect()
    }
}

/// Connects as somebody, and stays: a node that is gone is waited for.
pub(crate) async fn connect(url: &str, key: Key) -> anyhow::Result<async_nats::Client> {
    let options = async_nats::ConnectOptions::with_nkey(key.seed().to_nkey())
        .connection_timeout(Duration::from_secs(5))
        .request_timeout(Some(Duration::from_secs(5)))
        .ping_interval(Duration::from_secs(2))
        .reconnect_delay_callback(|_| Duration::from_millis(200))
        .subscription_capacity(65_536);
    Ok(options.connect(url).await?)
}

fn issue(binary: &Path, pki: &Path, name: &str, host: &str) -> anyhow::Result<()> {
    let (program, folder) = (binary.display().to_string(), pki.display().to_string());
    let args = [
        "pki", "issue", "--name", name, "--host", host, "--dir", &folder,
    ];
    run(&program, &args)
}

fn node_args(pki: &Path, name: &str, nodes: usize, node: usize, disk: &Path) -> Vec<String> {
    let at = |path: PathBuf| path.display().to_string();
    let data = disk.join("data");
    let routes: Vec<String> = (0..nodes)
        .map(|peer| format!("n{peer}={}:6222", address(peer)))
        .collect();
    let pairs = [
        ("--bind", "0.0.0.0".to_owned()),
        ("--port", CLIENT_PORT.to_string()),
        ("--http-port", HTTP_PORT.to_string()),
        ("--server-name", name.to_owned()),
        ("--cluster-name", "nemesis".into()),
        ("--bus-auth", "enforce".into()),
        ("--monitor-port", "0".into()),
        ("--data-dir", at(data.clone())),
        ("--internal-id-file", at(data.join("internal.json"))),
        ("--cluster-bind", address(node)),
        ("--cluster-port", "6222".into()),
        ("--routes", routes.join(",")),
        ("--route-tls-cert", at(pki.join(format!("{name}.crt")))),
        ("--route-tls-key", at(pki.join(format!("{name}.key")))),
        ("--route-tls-ca", at(pki.join("ca.crt"))),
        ("--cluster-user", "route".into()),
        ("--cluster-pass", "secret".into()),
        ("--access-staleness", STALENESS_S.to_string()),
        // Small, so that a run sees checkpoints, purges and snapshots.
        ("--checkpoint-log-mb", "2".into()),
    ];
    let mut args: Vec<String> = pairs
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
    args.push("--no-advertise".into());
    args
}

/// Seconds after which a node without a leader suspends rooms.
pub(crate) const STALENESS_S: u64 = 3;
