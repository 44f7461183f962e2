//! A node, a home of its own, and the program run in it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Child;
use unibus_testkit::{Cluster, ClusterOptions, NodeProcess, PATIENCE};

/// The program under test.
pub(crate) const UNIBUS: &str = env!("CARGO_BIN_EXE_unibus");

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// The run, if it worked.
    #[track_caller]
    pub(crate) fn done(self) -> Self {
        assert_eq!(self.status, 0, "{self:?}");
        self
    }

    /// The run, if it failed with this status and said this.
    #[track_caller]
    pub(crate) fn refused(self, status: i32, words: &str) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.err.contains(words), "{words:?} is not in {self:?}");
        self
    }

    /// What it printed, as one JSON document.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let run = self.done();
        serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{error}: {run:?}"))
    }

    /// What it printed, as one JSON document a line.
    #[track_caller]
    pub(crate) fn json_lines(self) -> Vec<Value> {
        let run = self.done();
        run.out
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {run:?}")))
            .collect()
    }
}

/// A folder that is the home of nobody else, perhaps with a node or a cluster.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) node: Option<NodeProcess>,
    pub(crate) cluster: Option<Cluster>,
}

impl World {
    /// Without a node.
    pub(crate) fn alone() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            node: None,
            cluster: None,
        }
    }

    /// With a node that is ready.
    pub(crate) async fn with_node(args: &[&str]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let args = args.iter().map(ToString::to_string).collect();
        let mut node = NodeProcess::single(&node_binary()?, dir.path())?.with_args(args);
        node.start()?;
        node.ready(PATIENCE).await?;
        Ok(Self {
            dir,
            node: Some(node),
            cluster: None,
        })
    }

    /// With three nodes that ask everybody who they are.
    pub(crate) async fn with_cluster() -> anyhow::Result<Self> {
        let cluster = Cluster::start(&node_binary()?, ClusterOptions::default()).await?;
        Ok(Self {
            cluster: Some(cluster),
            ..Self::alone()
        })
    }

    /// The nodes, running or not.
    fn nodes(&self) -> impl Iterator<Item = &NodeProcess> {
        let cluster = self.cluster.iter().flat_map(|cluster| &cluster.nodes);
        self.node.iter().chain(cluster)
    }

    /// With a node that asks everybody who they are.
    pub(crate) async fn enforced() -> anyhow::Result<Self> {
        Self::with_node(&["--bus-auth", "enforce"]).await
    }

    /// Makes an identity in `NAME.json` and lets it in; answers with what `identity new` says of it.
    pub(crate) async fn person(&self, name: &str, flags: &[&str]) -> anyhow::Result<Value> {
        let made = self.run(&format!("identity new {name}.json --json")).await;
        let made = made.json();
        let nkey = made["nkey"].as_str().context("nkey")?;
        let url = self.nodes().next().context("a node")?.url();
        let internal = match &self.cluster {
            Some(cluster) => cluster.data_dir(0).join("internal.json"),
            None => self.path("data/internal.json").into(),
        };
        let added = tokio::process::Command::new(node_binary()?)
            .args(["user", "add", nkey])
            .args(flags)
            .arg("--internal-id-file")
            .arg(internal)
            .args(["--nats-url", &url])
            .output()
            .await?;
        anyhow::ensure!(added.status.success(), "{added:?}");
        Ok(made)
    }

    /// Runs the program as somebody.
    pub(crate) async fn run_as(&self, name: &str, line: &str) -> Run {
        self.run(&format!("{line} --identity {name}.json")).await
    }

    /// Where a file of this home is.
    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs the program to its end; the words of `line` are its arguments.
    pub(crate) async fn run(&self, line: &str) -> Run {
        self.run_args(&line.split_whitespace().collect::<Vec<_>>(), b"")
            .await
    }

    /// Runs the program to its end with these arguments and this on stdin.
    pub(crate) async fn run_args(&self, args: &[&str], stdin: &[u8]) -> Run {
        let mut child = self.start(args);
        let mut pipe = child.stdin.take().unwrap();
        let written = stdin.to_vec();
        tokio::spawn(async move {
            // A program that does not read its stdin closes it.
            let _unread = pipe.write_all(&written).await;
        });
        ended(child).await
    }

    /// The line that the program prints, byte by byte.
    pub(crate) async fn run_bytes(&self, line: &str) -> Vec<u8> {
        let child = self.start(&line.split_whitespace().collect::<Vec<_>>());
        let output = child.wait_with_output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout.strip_suffix(b"\n").unwrap().to_vec()
    }

    /// Starts the program; it is killed when the handle is dropped.
    pub(crate) fn start(&self, args: &[&str]) -> Child {
        let mut command = tokio::process::Command::new(UNIBUS);
        command
            .args(args)
            .env_clear()
            .envs(self.environment())
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.spawn().unwrap()
    }

    /// What the program finds in its environment.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut all = vec![("HOME", self.dir.path().into()), ("PATH", path)];
        // Where a build that counts what is reached writes its counters (`ops/faults/coverage.md`).
        let counters = std::env::var_os("LLVM_PROFILE_FILE");
        all.extend(counters.map(|file| ("LLVM_PROFILE_FILE", file)));
        let listed = |url: fn(&NodeProcess) -> String| self.nodes().map(url).collect::<Vec<_>>();
        let servers = listed(NodeProcess::url).join(",");
        if !servers.is_empty() {
            let control = listed(|node| format!("http://127.0.0.1:{}", node.http_port));
            all.push(("UNIBUS_SERVER", servers.into()));
            all.push(("UNIBUS_CONTROL", control.join(",").into()));
        }
        all
    }

    /// Starts the program and waits until it says on stderr that it is at work.
    pub(crate) async fn listening(&self, line: &str) -> anyhow::Result<Child> {
        self.at_work(&line.split_whitespace().collect::<Vec<_>>())
            .await
    }

    /// As [`World::listening`], with arguments that may hold spaces.
    pub(crate) async fn at_work(&self, args: &[&str]) -> anyhow::Result<Child> {
        let mut child = self.start(args);
        let mut said = self.said(&mut child).await?;
        while said.starts_with("joined") {
            said = self.said(&mut child).await?;
        }
        let at_work = ["listening", "answering", "waiting", "watching"];
        anyhow::ensure!(at_work.iter().any(|word| said.starts_with(word)), "{said}");
        Ok(child)
    }

    /// The next line that a program says on stderr.
    pub(crate) async fn said(&self, child: &mut Child) -> anyhow::Result<String> {
        let err = child.stderr.as_mut().context("stderr")?;
        let (mut line, mut byte) = (Vec::new(), [0]);
        let read = async {
            // Byte by byte: what comes after the line stays for others.
            while err.read_exact(&mut byte).await.is_ok() && byte[0] != b'\n' {
                line.push(byte[0]);
            }
        };
        tokio::time::timeout(PATIENCE, read).await?;
        anyhow::ensure!(!line.is_empty(), "it said nothing");
        Ok(String::from_utf8(line)?)
    }

    /// Waits until so many have joined a room.
    pub(crate) async fn joined(&self, who: &str, room: &str, count: usize) -> anyhow::Result<()> {
        unibus_testkit::eventually("members that have joined", PATIENCE, || async {
            let line = format!("room members {room} --json");
            let members = self.run_as(who, &line).await.json();
            let members = members.as_array().context("a list")?;
            let joined = members.iter().filter(|one| one["joined"] == true).count();
            anyhow::ensure!(joined == count, "{members:?}");
            Ok(())
        })
        .await
    }
}

/// Waits for a program's end.
pub(crate) async fn ended(child: Child) -> Run {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let output = output.await.unwrap().unwrap();
    Run {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The node's program, which lies beside ours; built where only this package was.
pub(crate) fn node_binary() -> anyhow::Result<PathBuf> {
    let beside = Path::new(UNIBUS).with_file_name("unibus-node");
    if beside.exists() {
        return Ok(beside);
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--package", "unibus-node", "--bin", "unibus-node"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    anyhow::ensure!(build.status()?.success(), "unibus-node can't be built");
    Ok(beside)
}
