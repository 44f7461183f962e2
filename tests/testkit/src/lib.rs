//! Real node processes, clusters and throwaway certificates for tests.
//!
//! Every process listens on loopback ports that were free a moment before, keeps its data in a
//! temporary folder, writes its log to a file there, and is killed by its own process id when its
//! handle is dropped.

mod cluster;
pub mod hostile;
mod node;

pub use cluster::{Cluster, ClusterOptions, issue, make_ca};
pub use node::{NodeProcess, free_port, http_get, voters};

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::StreamExt;

/// How long a condition may take before a test gives up: generous, because CI has two shared cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `condition` until it yields a value, or fails with `what` after `limit`.
///
/// # Errors
/// The text names what was awaited and the last error the condition gave.
pub async fn eventually<T, F, Fut>(
    what: &str,
    limit: Duration,
    mut condition: F,
) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let end = Instant::now() + limit;
    loop {
        match condition().await {
            Ok(value) => return Ok(value),
            Err(e) if Instant::now() >= end => {
                return Err(e.context(format!("gave up after {limit:?} waiting for: {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Waits until the server has processed everything that `client` sent: a word to itself comes back after
/// the effects of all that went before, whoever else listens. (The client's own `flush` only writes.)
///
/// # Errors
/// When it does not come back within [`PATIENCE`].
pub async fn round_trip(client: &async_nats::Client) -> anyhow::Result<()> {
    let inbox = client.new_inbox();
    let mut heard = client.subscribe(inbox.clone()).await?;
    client.publish(inbox, "".into()).await?;
    next(&mut heard).await?;
    Ok(())
}

/// The next item of a subscription or watch.
///
/// # Errors
/// When it ends, or nothing comes within [`PATIENCE`].
pub async fn next<S: futures::Stream + Unpin>(stream: &mut S) -> anyhow::Result<S::Item> {
    let item = tokio::time::timeout(PATIENCE, stream.next()).await;
    item.context("nothing came")?.context("the stream ended")
}
