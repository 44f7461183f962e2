//! Executes the runbook's blocks, in order, on three real nodes. Each node has a folder and the variables
//! that its unit would give it; `systemctl` and `scp` are stand-ins that do the same to these processes.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use unibus_proto::nkey::UserSeed;
use unibus_testkit::free_port;

use crate::text;

const PATH: &str = "ops/runbook.md";
const NODES: [&str; 3] = ["a", "b", "c"];
/// Fewer would mean that blocks are no longer found.
const BLOCKS_MIN: usize = 12;
/// Longest time for the commands of one block on one node.
const BLOCK_SECONDS: &str = "120";

/// Does to this node's process what systemd does.
const SYSTEMCTL: &str = r#"#!/bin/bash
set -euo pipefail
pid() { cat "$UNIBUS_PID_FILE" 2>/dev/null || true; }
stop() {
  local pid; pid=$(pid)
  [ -n "$pid" ] || return 0
  kill -TERM "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
}
start() {
  setsid unibus-node >> node.log 2>&1 < /dev/null &
  while [ ! -s "$UNIBUS_PID_FILE" ]; do
    kill -0 $! || { cat node.log >&2; exit 1; }
    sleep 0.05
  done
}
[ "$2" = unibus-node ] || { echo "no such unit: $2" >&2; exit 1; }
case "$1" in
  start) start ;;
  stop) stop ;;
  restart) stop; start ;;
  reload) kill -HUP "$(pid)" ;;
  *) echo "systemctl $1 is not known here" >&2; exit 1 ;;
esac
"#;

/// Copies to another node's folder.
const SCP: &str = r#"#!/bin/bash
set -euo pipefail
[ "$1" = -r ]
host=${3%%.example:*}
cp -r "$2" "$HOSTS/$host/${3#*:}"
"#;

struct Sandbox {
    dir: tempfile::TempDir,
    environments: BTreeMap<&'static str, Vec<(String, String)>>,
}

/// Commands, and where they run.
struct Block {
    line: usize,
    host: String,
    commands: String,
}

fn blocks(runbook: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(runbook.lines()) {
        match (&mut open, line.strip_prefix("```sh on ")) {
            (None, Some(host)) => {
                open = Some(Block {
                    line: number,
                    host: host.trim().to_owned(),
                    commands: String::new(),
                });
            }
            (Some(_), _) if line == "```" => found.extend(open.take()),
            (Some(block), _) => {
                block.commands.push_str(line);
                block.commands.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block without its end");
    found
}

fn script(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

impl Sandbox {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        symlink(env!("CARGO_BIN_EXE_unibus-node"), bin.join("unibus-node")).unwrap();
        script(&bin.join("systemctl"), SYSTEMCTL);
        script(&bin.join("scp"), SCP);
        let ports: Vec<u16> = NODES.iter().map(|_| free_port().unwrap()).collect();
        let routes = NODES.iter().zip(&ports);
        let routes: Vec<String> = routes
            .map(|(name, port)| format!("{name}=127.0.0.1:{port}"))
            .collect();
        let mut sandbox = Self {
            dir,
            environments: BTreeMap::new(),
        };
        for (name, port) in NODES.into_iter().zip(ports) {
            let environment = sandbox.environment(name, port, &routes.join(","));
            sandbox.environments.insert(name, environment);
        }
        sandbox.environments.insert("admin", Vec::new());
        for host in sandbox.environments.keys() {
            std::fs::create_dir_all(sandbox.folder(host)).unwrap();
        }
        sandbox
    }

    fn folder(&self, host: &str) -> PathBuf {
        self.dir.path().join("hosts").join(host)
    }

    fn environment(&self, name: &str, cluster: u16, routes: &str) -> Vec<(String, String)> {
        let path = |part: &str| self.folder(name).join(part).display().to_string();
        let port = || free_port().unwrap().to_string();
        let clients = port();
        [
            ("BIND", "127.0.0.1".to_owned()),
            ("NATS_URL", format!("nats://127.0.0.1:{clients}")),
            ("INTERNAL_ID_FILE", path("data/internal.json")),
            ("PORT", clients),
            ("HTTP_PORT", port()),
            ("MONITOR_PORT", port()),
            ("CLUSTER_PORT", cluster.to_string()),
            ("ROUTES", routes.to_owned()),
            ("DATA_DIR", path("data")),
            ("CONFIG_DIR", path("config")),
            ("PID_FILE", path("pid")),
        ]
        .into_iter()
        .map(|(name, value)| (format!("UNIBUS_{name}"), value))
        .collect()
    }

    fn bash(&self, host: &str, commands: &str) -> Output {
        let path = std::env::var("PATH").unwrap();
        let bin = self.dir.path().join("bin");
        Command::new("timeout")
            .args([BLOCK_SECONDS, "bash", "-euo", "pipefail", "-c", commands])
            .current_dir(self.folder(host))
            .envs(self.environments[host].iter().cloned())
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("HOSTS", self.dir.path().join("hosts"))
            .env(
                "APPLICATION",
                UserSeed::from_bytes([9; 32]).public().to_nkey(),
            )
            .output()
            .unwrap()
    }

    fn run(&self, host: &str, commands: &str, place: &str) {
        let run = self.bash(host, commands);
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let log = std::fs::read_to_string(self.folder(host).join("node.log"));
        assert!(
            run.status.success(),
            "{place} on {host}: {}\n{commands}\n{}{}\nits log:\n{}",
            run.status,
            said(&run.stdout),
            said(&run.stderr),
            log.unwrap_or_default()
        );
    }

    /// The CA, and a folder of keys for each node, as README.md's three hosts have them.
    fn set_up(&self) {
        let mut commands = "unibus-node pki init --dir pki\n".to_owned();
        for name in NODES {
            let issue =
                format!("unibus-node pki issue --dir pki --name {name} --host {name}.example");
            commands += &format!("{issue} --folder\nscp -r pki/{name} {name}.example:config\n");
        }
        self.run("admin", &commands, "setting up");
        for name in NODES {
            self.run(name, "systemctl start unibus-node", "setting up");
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        for name in NODES {
            let _stopped = self.bash(name, "kill -KILL \"$(cat \"$UNIBUS_PID_FILE\")\"");
        }
    }
}

#[test]
fn every_command_of_the_runbook_works() {
    let runbook = text(PATH);
    let blocks = blocks(&runbook);
    assert!(blocks.len() >= BLOCKS_MIN, "only {} blocks", blocks.len());
    let sandbox = Sandbox::new();
    sandbox.set_up();
    for block in &blocks {
        let place = format!("{PATH}:{}", block.line);
        let hosts: Vec<&str> = match block.host.as_str() {
            "each" => NODES.to_vec(),
            one => vec![one],
        };
        for host in hosts {
            assert!(
                sandbox.environments.contains_key(host),
                "{place}: no {host}"
            );
            sandbox.run(host, &block.commands, &place);
        }
    }
    for name in NODES {
        sandbox.run(name, "unibus-node health --wait 60", "at the end");
    }
}
