//! One server process with its own folder.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;
use unibus_testkit::eventually;

/// How long a server may take to start, stop or do what it was asked.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server on loopback, on free ports, with its log, pid and ports files in a folder.
pub(crate) struct Server {
    child: Child,
    pub(crate) dir: TempDir,
}

/// `unibus-node nats-server …`, not started.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unibus-node"));
    command.arg("nats-server").args(arguments);
    command.stdin(Stdio::null());
    command
}

/// Runs to its end.
pub(crate) fn output(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

impl Server {
    /// Starts it with further arguments and waits until it is ready.
    pub(crate) async fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        Self::start_in(tempfile::tempdir()?, arguments).await
    }

    /// As [`Self::start`], in a folder that may hold a configuration or another server's store.
    pub(crate) async fn start_in(dir: TempDir, arguments: &[&str]) -> anyhow::Result<Self> {
        let path = |name: &str| dir.path().join(name).display().to_string();
        let log = path("log");
        let mut all = vec!["-l", &log];
        all.extend(arguments);
        Self::start_logging(dir, &all).await
    }

    /// The same where the arguments say that the log is the folder's `log`.
    pub(crate) async fn start_logging(dir: TempDir, arguments: &[&str]) -> anyhow::Result<Self> {
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (log, pid, ports) = (path("log"), path("pid"), path(""));
        let _none_yet = std::fs::remove_file(&log);
        let mut all = vec!["-P", &pid, "--ports_file_dir", &ports];
        all.extend(arguments);
        let child = command(&all)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Self { child, dir };
        server.logged("Server is ready").await?;
        Ok(server)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits for words in the log.
    pub(crate) async fn logged(&self, words: &str) -> anyhow::Result<()> {
        eventually(words, PATIENCE, || async {
            if !self.log().contains(words) {
                bail!("not there yet");
            }
            Ok(())
        })
        .await
        .with_context(|| self.log())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn pid_file(&self) -> PathBuf {
        self.dir.path().join("pid")
    }

    pub(crate) fn ports_file(&self) -> PathBuf {
        let name = format!("nats-server_{}.ports", self.pid());
        self.dir.path().join(name)
    }

    /// The URLs of one kind of listener in the ports file.
    pub(crate) fn urls(&self, kind: &str) -> Vec<String> {
        let text = std::fs::read(self.ports_file()).unwrap();
        let ports: serde_json::Value = serde_json::from_slice(&text).unwrap();
        serde_json::from_value(ports[kind].clone()).unwrap()
    }

    pub(crate) fn url(&self) -> String {
        self.urls("nats").remove(0)
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<async_nats::Client> {
        Ok(async_nats::connect(self.url()).await?)
    }

    /// Sends a signal as `kill` names it.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(
            Command::new("kill")
                .args([name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("still running:\n{}", self.log())
    }

    /// Its folder, after it has ended.
    pub(crate) fn into_dir(mut self) -> TempDir {
        let empty = tempfile::tempdir().unwrap();
        std::mem::replace(&mut self.dir, empty)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Writes a configuration file.
pub(crate) fn configuration(dir: &Path, text: &str) -> String {
    let path = dir.join("a.conf");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}
