//! One node process: start, stop, kill, and ask for its health.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// First of the ports that tests take: below the range from which the kernel gives ports to outgoing
/// connections, so that none of those can take a port between its choice and its use.
const PORTS_FIRST: u16 = 12_000;
/// How many ports tests take turns at.
const PORTS: u32 = 20_000;

/// Largest region of a process's memory that is read, in bytes.
const REGION_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// A port of loopback that nothing listens on, TCP or UDP, and that this process was not given
/// before.
///
/// # Errors
/// When every port is taken.
pub fn free_port() -> anyhow::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Test binaries that run at the same time start at different places.
    let start = std::process::id().wrapping_mul(331);
    for _ in 0..PORTS {
        let offset = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let port = PORTS_FIRST + u16::try_from(offset)?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        if tcp.is_ok() && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free on loopback")
}

/// A plain `GET` to loopback: status and body.
///
/// # Errors
/// When the connection fails or the answer is not HTTP.
pub async fn http_get(port: u16, path: &str) -> anyhow::Result<(u16, String)> {
    let mut socket = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(10), socket.read_to_string(&mut answer)).await??;
    let status = answer
        .split_whitespace()
        .nth(1)
        .and_then(|s| s.parse().ok())
        .with_context(|| format!("not an HTTP answer: {answer:?}"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, b)| b);
    Ok((status, body.to_string()))
}

/// A running (or ended) node process and how to start it again.
#[derive(Debug)]
pub struct NodeProcess {
    binary: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    folder: Option<PathBuf>,
    child: Option<Child>,
    /// Client port (TCP, loopback).
    pub client_port: u16,
    /// Control-plane port (TCP, loopback).
    pub http_port: u16,
    /// Where `/healthz` answers in the clear: the control plane, or monitoring where that has TLS.
    pub health_port: u16,
}

/// How long a process at rest is looked at.
const REST: Duration = Duration::from_millis(500);
/// Processor time that it may use meanwhile: a thread that spins uses all it gets.
const REST_USED_MAX: Duration = Duration::from_millis(100);

/// `USER_HZ` of Linux on every architecture that it is built for here.
const TICKS_PER_SECOND: u64 = 100;

impl NodeProcess {
    /// Describes a process; [`NodeProcess::start`] starts it. `--port` and `--http-port` are added.
    pub fn new(
        binary: &Path,
        args: Vec<String>,
        log: PathBuf,
        client_port: u16,
        http_port: u16,
    ) -> Self {
        let mut all = args;
        all.extend(["--port".into(), client_port.to_string()]);
        all.extend(["--http-port".into(), http_port.to_string()]);
        Self {
            binary: binary.to_path_buf(),
            args: all,
            log,
            folder: None,
            child: None,
            client_port,
            http_port,
            health_port: http_port,
        }
    }

    /// The same process, started in `folder`.
    #[must_use]
    pub fn in_folder(mut self, folder: PathBuf) -> Self {
        self.folder = Some(folder);
        self
    }

    /// The same process with further flags.
    #[must_use]
    pub fn with_args(mut self, args: Vec<String>) -> Self {
        self.args.extend(args);
        self
    }

    /// Sends the process a signal by its name without `SIG`: `HUP`.
    ///
    /// # Errors
    /// When it does not run.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the node does not run")?;
        let (flag, pid) = (format!("-{name}"), child.id().to_string());
        let status = Command::new("kill").args([&flag, &pid]).status()?;
        anyhow::ensure!(status.success(), "kill {flag} {pid}: {status}");
        Ok(())
    }

    /// A single node with its data in `dir`, nothing secured.
    ///
    /// # Errors
    /// When no port is free.
    pub fn single(binary: &Path, dir: &Path) -> anyhow::Result<Self> {
        let args = ["--bind", "127.0.0.1", "--monitor-port", "0", "--data-dir"];
        let mut args: Vec<String> = args.iter().map(ToString::to_string).collect();
        args.push(dir.join("data").display().to_string());
        args.extend([
            "--config-dir".into(),
            dir.join("config").display().to_string(),
        ]);
        Ok(Self::new(
            binary,
            args,
            dir.join("node.log"),
            free_port()?,
            free_port()?,
        ))
    }

    /// Starts the process; its output goes to the log file.
    ///
    /// # Errors
    /// When it runs already or can't be started.
    pub fn start(&mut self) -> anyhow::Result<()> {
        if self.child.is_some() {
            bail!("the node runs already");
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.binary);
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
        let child = command
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.binary.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends the process the hard way, as a power cut to this process alone would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to stop (SIGTERM) and waits for its exit code, at most `limit`.
    ///
    /// # Errors
    /// When it does not run, or did not end in time (then it is killed).
    pub async fn stop(&mut self, limit: Duration) -> anyhow::Result<Option<i32>> {
        let mut child = self.child.take().context("the node does not run")?;
        let pid = child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()?;
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = child.try_wait()? {
                return Ok(status.code());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = child.kill();
        let _ = child.wait();
        bail!(
            "the node did not stop within {limit:?}; log:\n{}",
            self.log_text()
        );
    }

    /// Whether the process is alive.
    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|c| matches!(c.try_wait(), Ok(None)))
    }

    /// A file of `/proc` about the process.
    fn proc(&self, name: &str) -> anyhow::Result<String> {
        let child = self.child.as_ref().context("the node does not run")?;
        let path = format!("/proc/{}/{name}", child.id());
        std::fs::read_to_string(&path).with_context(|| path)
    }

    /// A line of `/proc/<pid>/status` that tells KiB, in bytes.
    fn status_bytes(&self, key: &str) -> anyhow::Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        let kib = line.and_then(|line| line.split_whitespace().next());
        Ok(kib.context("no such line")?.parse::<u64>()? * 1024)
    }

    /// Bytes of memory that the process had resident at most.
    ///
    /// # Errors
    /// When it does not run.
    pub fn peak_resident_bytes(&self) -> anyhow::Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// Bytes of memory that the process has resident.
    ///
    /// # Errors
    /// When it does not run.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.status_bytes("VmRSS:")
    }

    /// How many files the process may have open: its soft limit.
    ///
    /// # Errors
    /// When it does not run.
    pub fn open_files_max(&self) -> anyhow::Result<u64> {
        let limits = self.proc("limits")?;
        let mut lines = limits.lines();
        let line = lines.find_map(|line| line.strip_prefix("Max open files"));
        let soft = line.and_then(|line| line.split_whitespace().next());
        Ok(soft.context("no limit of open files")?.parse()?)
    }

    /// How many files the process has open.
    ///
    /// # Errors
    /// When it does not run.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        let child = self.child.as_ref().context("the node does not run")?;
        Ok(std::fs::read_dir(format!("/proc/{}/fd", child.id()))?.count())
    }

    /// Lets the process open no more files than it has; false = `prlimit` is not there.
    ///
    /// # Errors
    /// When it does not run, or its limit can't be changed.
    pub fn may_open_no_more(&self) -> anyhow::Result<bool> {
        let child = self.child.as_ref().context("the node does not run")?;
        let pid = child.id().to_string();
        let mut limit = Command::new("prlimit");
        match limit.args(["--nofile=1:", "--pid", &pid]).status() {
            Ok(status) if status.success() => Ok(true),
            Ok(status) => bail!("prlimit: {status}"),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits until the process uses next to no processor time: no thread of it runs on its own account.
    ///
    /// # Errors
    /// When it does not run, or never rests within [`crate::PATIENCE`].
    pub async fn at_rest(&self) -> anyhow::Result<()> {
        crate::eventually("a process at rest", crate::PATIENCE, || async {
            let before = self.cpu_time()?;
            tokio::time::sleep(REST).await;
            let used = self.cpu_time()?.saturating_sub(before);
            anyhow::ensure!(used <= REST_USED_MAX, "{used:?} were used within {REST:?}");
            Ok(())
        })
        .await
    }

    /// Processor time that the process has used, in user and kernel mode.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        let stat = self.proc("stat")?;
        // The name in parentheses may hold blanks; utime and stime are fields 14 and 15 (proc(5)).
        let (_, rest) = stat.rsplit_once(')').context("no name in stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| -> anyhow::Result<u64> {
            Ok(fields.get(at - 3).context("stat is short")?.parse()?)
        };
        Ok(Duration::from_millis(
            (ticks(14)? + ticks(15)?) * 1000 / TICKS_PER_SECOND,
        ))
    }

    /// What the process has in memory that it can write: each mapped region, as root or the same user
    /// may read it. Regions that go away meanwhile are left out.
    ///
    /// # Errors
    /// When it does not run, or its memory can't be read.
    pub fn memory(&self) -> anyhow::Result<Vec<Vec<u8>>> {
        let child = self.child.as_ref().context("the node does not run")?;
        let pid = child.id();
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let mut regions = Vec::new();
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let (Some(range), Some(rights)) = (fields.next(), fields.next()) else {
                continue;
            };
            let Some((from, to)) = range.split_once('-') else {
                continue;
            };
            let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
            if !rights.starts_with("rw") || to - from > REGION_BYTES_MAX {
                continue;
            }
            let mut region = vec![0; usize::try_from(to - from)?];
            if memory.read_exact_at(&mut region, from).is_ok() {
                regions.push(region);
            }
        }
        if regions.is_empty() {
            bail!("the memory of process {pid} can't be read");
        }
        Ok(regions)
    }

    /// Everything the process has printed.
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `GET /healthz` as status and JSON.
    ///
    /// # Errors
    /// When nothing answers or the body is not JSON.
    pub async fn health(&self) -> anyhow::Result<(u16, serde_json::Value)> {
        let (status, body) = http_get(self.health_port, "/healthz").await?;
        Ok((
            status,
            serde_json::from_str(&body).with_context(|| body.clone())?,
        ))
    }

    /// The text of `/metrics`, where the process was given a `--monitor-port`.
    ///
    /// # Errors
    /// When it was given none, or does not answer.
    pub async fn metrics(&self) -> anyhow::Result<String> {
        self.monitor("/metrics").await
    }

    /// What the monitoring port answers, where the process was given a `--monitor-port`.
    ///
    /// # Errors
    /// When it was given none, or does not answer.
    pub async fn monitor(&self, path: &str) -> anyhow::Result<String> {
        let mut flags = self.args.windows(2);
        let port = flags.find_map(|two| (two[0] == "--monitor-port").then(|| two[1].parse()));
        let (status, text) = http_get(port.context("no --monitor-port")??, path).await?;
        anyhow::ensure!(status == 200, "{path} answers {status}");
        Ok(text)
    }

    /// Waits until `/healthz` answers 200.
    ///
    /// # Errors
    /// After `limit`, with the end of the process's log.
    pub async fn ready(&self, limit: Duration) -> anyhow::Result<()> {
        crate::eventually("a healthy node", limit, || async {
            match self.health().await? {
                (200, _) => Ok(()),
                (status, body) => bail!("/healthz answers {status}: {body}"),
            }
        })
        .await
        .with_context(|| format!("log of the node:\n{}", self.log_text()))
    }

    /// `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.client_port)
    }
}

/// How many members vote, as a `/healthz` answer tells.
pub fn voters(health: &serde_json::Value) -> usize {
    let me = matches!(health["role"].as_str(), Some("leader" | "follower"));
    let peers = health["peers"].as_array().map_or(&[][..], Vec::as_slice);
    usize::from(me) + peers.iter().filter(|peer| peer["voter"] == true).count()
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
