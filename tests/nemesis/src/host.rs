//! One node of a lab: its process, and what can be done to it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::disk::Disk;
use crate::http;

/// The shared library that tells a process another time.
const FAKETIME: [&str; 2] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
];

/// Where libfaketime is, if it is installed.
pub(crate) fn faketime() -> Option<&'static str> {
    FAKETIME.into_iter().find(|path| Path::new(path).exists())
}

/// One node.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) ip: String,
    netns: PathBuf,
    pub(crate) disk: Disk,
    /// Read by libfaketime: how far the clock is off.
    clock: PathBuf,
    log: PathBuf,
    /// What the next start runs.
    pub(crate) binary: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

/// Client port of every node.
pub(crate) const CLIENT_PORT: u16 = 4222;
/// Control-plane port of every node.
pub(crate) const HTTP_PORT: u16 = 8470;

impl Host {
    pub(crate) fn new(
        (name, ip): (&str, String),
        netns: PathBuf,
        disk: Disk,
        folder: &Path,
        (binary, args): (&Path, Vec<String>),
    ) -> anyhow::Result<Self> {
        let clock = folder.join(format!("{name}.clock"));
        std::fs::write(&clock, "+0\n")?;
        Ok(Self {
            name: name.to_owned(),
            ip,
            netns,
            disk,
            clock,
            log: folder.join(format!("{name}.log")),
            binary: binary.to_path_buf(),
            args,
            child: None,
        })
    }

    /// `nats://IP:PORT`.
    pub(crate) fn url(&self) -> String {
        format!("nats://{}:{CLIENT_PORT}", self.ip)
    }

    /// What `nsenter` is told to run something on this host.
    pub(crate) fn enter(&self) -> String {
        format!("--net={}", self.netns.display())
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.disk.folder().join("data")
    }

    /// Starts the process in its network namespace; its output goes to its log.
    pub(crate) fn start(&mut self) -> anyhow::Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("nsenter");
        command.arg(self.enter());
        command.arg(&self.binary).args(&self.args);
        if let Some(library) = faketime() {
            command
                .env("LD_PRELOAD", library)
                .env("FAKETIME_TIMESTAMP_FILE", &self.clock)
                .env("FAKETIME_CACHE_DURATION", "1")
                .env("DONT_FAKE_MONOTONIC", "1");
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting nsenter")?;
        self.child = Some(child);
        Ok(())
    }

    pub(crate) fn is_running(&mut self) -> bool {
        let running = self
            .child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !running {
            self.child = None;
        }
        running
    }

    /// Sends the process a signal, if it runs. `nsenter` has become the node.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        if let Some(child) = &self.child {
            kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        }
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end; a process that does not end is killed and reported.
    pub(crate) async fn stop(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let end = tokio::time::Instant::now() + limit;
        while self.is_running() {
            if tokio::time::Instant::now() > end {
                self.kill();
                bail!("{} did not stop within {limit:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The process stops at once and everything that was not synced is gone.
    pub(crate) fn lose_power(&mut self) -> anyhow::Result<()> {
        // Stopped first, so that it can't say anything about a disk that is no more.
        self.signal(Signal::SIGSTOP)?;
        self.disk.cut_power()?;
        self.kill();
        self.disk.restore_power()
    }

    /// Sets the clock of the process: seconds from the true time.
    pub(crate) fn set_clock(&self, seconds: i64) -> anyhow::Result<()> {
        std::fs::write(&self.clock, format!("{seconds:+}\n"))?;
        Ok(())
    }

    /// `/healthz`: status and JSON.
    pub(crate) async fn health(&self) -> anyhow::Result<(u16, serde_json::Value)> {
        let answer = http::get(&self.ip, HTTP_PORT, "/healthz").await?;
        Ok((answer.status, answer.json()))
    }

    /// The last lines that the process printed.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.disk.thaw();
        self.kill();
    }
}
