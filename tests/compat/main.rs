//! async-nats as an outside judge of one node: what an application sees.

mod consumers;
mod core;
mod features;
mod kv;
mod objects;
mod secure;
mod streams;

use std::path::Path;

use tempfile::TempDir;
use unibus_testkit::{NodeProcess, PATIENCE};

/// One unsecured node, ready, with its folder.
async fn node() -> anyhow::Result<(NodeProcess, TempDir)> {
    let dir = tempfile::tempdir()?;
    let mut node = NodeProcess::single(Path::new(env!("CARGO_BIN_EXE_unibus-node")), dir.path())?;
    node.start()?;
    node.ready(PATIENCE).await?;
    Ok((node, dir))
}

/// A client of the node.
async fn client(node: &NodeProcess) -> anyhow::Result<async_nats::Client> {
    Ok(async_nats::connect(node.url()).await?)
}
