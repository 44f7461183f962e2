//! Weak boot shapes are refused with exit code 2; peers that don't belong get no route.

use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use unibus_testkit::{
    Cluster, ClusterOptions, NodeProcess, PATIENCE, eventually, free_port, issue, make_ca, voters,
};

use crate::binary;

/// Runs the node with `flags` in an empty folder; its exit code and what it printed on stderr.
fn boot(flags: &[&str]) -> anyhow::Result<(Option<i32>, String)> {
    let dir = tempfile::tempdir()?;
    let output = Command::new(binary())
        .current_dir(dir.path())
        .args(["--config-dir", "."])
        .args(flags)
        .output()?;
    Ok((
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    ))
}

#[test]
fn weak_shapes_exit_2_with_every_reason() -> anyhow::Result<()> {
    let shapes: [&[&str]; 5] = [
        &["--bind", "0.0.0.0"],
        &["--bind", "0.0.0.0", "--bus-auth", "soft"],
        &["--routes", "a,b,c"],
        &["--routes", "a,b,c", "--bus-auth", "off"],
        &["--cluster-name", "c", "--bus-auth", "soft"],
    ];
    for shape in shapes {
        let (code, text) = boot(shape)?;
        assert_eq!(code, Some(2), "{shape:?}: {text}");
        assert!(!text.trim().is_empty(), "{shape:?} gives no reason");
    }
    // Two rules broken at once are both named.
    let (_, text) = boot(&["--routes", "a,b,c", "--bus-auth", "off"])?;
    assert!(
        text.contains("--bus-auth") && text.contains("--route-tls"),
        "{text}"
    );
    Ok(())
}

/// Node 3 of a cluster whose certificates come from elsewhere, or whose secret is another.
fn stranger(cluster: &Cluster, change: &[(&str, String)]) -> anyhow::Result<NodeProcess> {
    let mut args = Vec::new();
    let port = free_port()?.to_string();
    let routes = cluster.routes().to_string();
    let pki = cluster.dir().join("pki");
    issue(binary(), &pki, "n9", &[])?;
    let at = |name: &str| pki.join(name).display().to_string();
    let mut flags = vec![
        ("--bind", "127.0.0.1".to_string()),
        ("--server-name", "n9".into()),
        ("--cluster-name", "test".into()),
        ("--monitor-port", "0".into()),
        ("--data-dir", cluster.dir().join("n9").display().to_string()),
        ("--cluster-port", port),
        ("--routes", routes),
        ("--route-tls-cert", at("n9.crt")),
        ("--route-tls-key", at("n9.key")),
        ("--route-tls-ca", at("ca.crt")),
        ("--cluster-user", "route".into()),
        ("--cluster-pass", "secret".into()),
    ];
    for (flag, value) in change {
        for entry in flags.iter_mut().filter(|(f, _)| f == flag) {
            entry.1.clone_from(value);
        }
    }
    for (flag, value) in flags {
        args.extend([flag.to_string(), value]);
    }
    let log = cluster.dir().join("n9.log");
    let mut node = NodeProcess::new(binary(), args, log, free_port()?, free_port()?);
    node.start()?;
    Ok(node)
}

/// Removes everything a stranger left, so that the next one starts as new.
fn forget(cluster: &Cluster) -> anyhow::Result<()> {
    std::fs::remove_dir_all(cluster.dir().join("n9"))?;
    for file in ["pki/n9.crt", "pki/n9.key", "n9.log"] {
        std::fs::remove_file(cluster.dir().join(file))?;
    }
    Ok(())
}

#[tokio::test]
async fn strangers_get_no_route_and_the_log_says_why() -> anyhow::Result<()> {
    let cluster = Cluster::start(binary(), ClusterOptions::default()).await?;
    let foreign = cluster.dir().join("foreign");
    make_ca(binary(), &foreign)?;
    issue(binary(), &foreign, "n9", &[])?;
    let at = |name: &str| foreign.join(name).display().to_string();
    let unsigned = [
        ("--route-tls-cert", at("n9.crt")),
        ("--route-tls-key", at("n9.key")),
    ];
    let secret = [("--cluster-pass", "other".to_string())];
    let name = [("--cluster-name", "elsewhere".to_string())];
    for (change, word) in [
        (&unsigned[..], "certificate"),
        (&secret[..], "secret"),
        (&name[..], "cluster name"),
    ] {
        let mut node = stranger(&cluster, change)?;
        eventually("the refusal in the stranger's log", PATIENCE, || async {
            if node.log_text().to_lowercase().contains(word) {
                return Ok(());
            }
            bail!("no {word:?} in:\n{}", node.log_text())
        })
        .await?;
        assert_ne!(
            node.health().await?.0,
            200,
            "a stranger can't be part of the cluster"
        );
        let (_, health) = cluster.nodes[0].health().await?;
        let peers = health["peers"].to_string();
        assert!(!peers.contains("n9"), "{peers}");
        assert!(
            health["refused_routes"]
                .as_array()
                .is_some_and(|r| !r.is_empty()),
            "{health}"
        );
        node.kill();
        forget(&cluster)?;
    }
    // The legitimate twin: the same process with nothing changed is admitted.
    let twin = stranger(&cluster, &[])?;
    twin.ready(PATIENCE).await?;
    eventually("a fourth voter", Duration::from_secs(60), || async {
        let (_, health) = cluster.nodes[0].health().await?;
        if voters(&health) == 4 {
            return Ok(());
        }
        bail!("{health}")
    })
    .await
}

#[test]
fn the_quickstart_proves_a_message_and_a_key_and_cleans_up() -> anyhow::Result<()> {
    let output = Command::new(binary())
        .args(["quickstart", "--once"])
        .output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{told}");
    assert!(printed.contains("nats://127.0.0.1:"), "{printed}");
    Ok(())
}

#[tokio::test]
async fn routes_alone_make_a_cluster_where_the_files_are_in_place() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let pki = dir.path().join("pki");
    make_ca(binary(), &pki)?;
    let ports = [free_port()?, free_port()?, free_port()?];
    let routes = ports.map(|port| format!("127.0.0.1:{port}")).join(",");
    let mut nodes = Vec::new();
    for (name, port) in ["alpha", "beta", "gamma"].into_iter().zip(ports) {
        issue(binary(), &pki, name, &["--folder"])?;
        let host = dir.path().join(name);
        std::fs::create_dir(&host)?;
        std::fs::rename(pki.join(name), host.join("unibus-config"))?;
        // Three nodes on one host need ports of their own; on three hosts these flags go.
        let flags = ["--cluster-port", &port.to_string(), "--monitor-port", "0"];
        let flags = flags
            .into_iter()
            .chain(["--routes", &routes])
            .map(str::to_owned)
            .collect();
        let log = host.join("log");
        let node = NodeProcess::new(binary(), flags, log, free_port()?, free_port()?);
        nodes.push(node.in_folder(host));
    }
    // The last may come late: the first two wait for it.
    for node in &mut nodes {
        node.start()?;
    }
    for (node, name) in nodes.iter().zip(["alpha", "beta", "gamma"]) {
        node.ready(PATIENCE).await?;
        let (_, health) = node.health().await?;
        assert_eq!(health["server_name"], name);
        assert_eq!(health["posture"]["enforce"], true);
        assert_eq!(voters(&health), 3);
    }
    Ok(())
}
