//! How long writes fail when the leader is killed: from the kill to the first acknowledgement of a write
//! that was begun after it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use async_nats::jetstream;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use unibus_testkit::eventually;

use crate::campaign::in_lab;
use crate::lab::{Lab, PATIENCE, Site};
use crate::work::log;

/// Time between two writes of one client.
const PACE: Duration = Duration::from_millis(10);
/// How long a write is waited for.
const LONGEST: Duration = Duration::from_secs(30);

/// Kills the leader so many times; the times until writes succeed again, in order.
///
/// # Errors
/// When the cluster does not come back.
pub fn measure(binary: &Path, nodes: usize, kills: usize) -> anyhow::Result<Vec<Duration>> {
    let binary = binary.to_path_buf();
    in_lab(
        nodes,
        move |site| async move { all(&binary, site, kills).await },
    )
}

async fn all(binary: &Path, site: Site, kills: usize) -> anyhow::Result<Vec<Duration>> {
    let mut lab = Lab::start(binary, site, 1).await?;
    let client = lab.client(0).await?;
    eventually("a stream", PATIENCE, || log::make(&client, lab.hosts.len())).await?;
    let mut clients = Vec::new();
    for node in 0..lab.hosts.len() {
        clients.push(jetstream::new(lab.client(node).await?));
    }
    let mut times = Vec::new();
    for _ in 0..kills {
        let leader = eventually("a leader", PATIENCE, || async {
            lab.leader().await.context("nobody leads")
        })
        .await?;
        let survivors = clients
            .iter()
            .enumerate()
            .filter(|(node, _)| *node != leader);
        let survivors: Vec<_> = survivors.map(|(_, context)| context.clone()).collect();
        times.push(one(&mut lab, leader, survivors).await?);
        lab.hosts[leader].start()?;
        lab.ready().await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    lab.switch.stop();
    Ok(times)
}

async fn one(
    lab: &mut Lab,
    leader: usize,
    survivors: Vec<jetstream::Context>,
) -> anyhow::Result<Duration> {
    let killed: Arc<Mutex<Option<Instant>>> = Arc::default();
    let mut writers = JoinSet::new();
    for context in survivors {
        let killed = Arc::clone(&killed);
        writers.spawn(async move { write_until(context, killed).await });
    }
    // The writers are under way before the kill.
    tokio::time::sleep(PACE * 10).await;
    lab.hosts[leader].kill();
    *killed.lock() = Some(Instant::now());
    let first = tokio::time::timeout(LONGEST, writers.join_next()).await;
    let first = first.context("no write succeeds after the kill")?;
    Ok(first.context("no writer")??)
}

/// Writes at a steady pace, waiting for none, until one that was begun after the kill is acknowledged.
async fn write_until(context: jetstream::Context, killed: Arc<Mutex<Option<Instant>>>) -> Duration {
    let mut flights = JoinSet::new();
    let mut pace = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            _ = pace.tick() => {
                let (context, begun) = (context.clone(), Instant::now());
                flights.spawn(async move {
                    let ack = context.publish("log.kill", "x".into()).await.ok()?;
                    ack.await.ok()?;
                    Some(begun)
                });
            }
            Some(landed) = flights.join_next(), if !flights.is_empty() => {
                let (killed, landed) = (*killed.lock(), landed.ok().flatten());
                if let (Some(killed), Some(begun)) = (killed, landed)
                    && begun > killed
                {
                    return killed.elapsed();
                }
            }
        }
    }
}
