//! Dialing: one task per route entry, for ever, with backoff while nobody answers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};
use unibus_proto::NodeId;

use super::RouteState;
use super::handshake::{self, Failure, Outcome};
use super::limits::{
    ADDRESSES_MAX, BACKOFF_MAX, BACKOFF_MIN, DIAL_TIMEOUT, OWN_RECHECK, RESOLVE_TIMEOUT,
    STEADY_AFTER,
};
use super::options::RouteAddr;
use super::peer;
use super::refusals::{Direction, Refusal};
use super::shared::Shared;

/// What an attempt found.
enum Found {
    Peer(NodeId),
    Own,
}

/// Exponential, with jitter so that nodes that lost each other do not dial in step.
struct Backoff {
    next: Duration,
}

impl Backoff {
    fn new() -> Self {
        Self { next: BACKOFF_MIN }
    }

    fn step(&mut self) -> Duration {
        let ceiling = self.next;
        self.next = (self.next * 2).min(BACKOFF_MAX);
        ceiling
            .mul_f64(0.5 + rand::random::<f64>() * 0.5)
            .max(BACKOFF_MIN)
    }
}

/// Keeps the entry with this index connected until the mesh stops.
pub(crate) async fn run(shared: Arc<Shared>, index: usize) {
    let stop = shared.stop.clone();
    // Dropping the loop at a stop is safe: it holds nothing but its own attempt.
    stop.run_until_cancelled(keep(&shared, index)).await;
}

async fn keep(shared: &Arc<Shared>, index: usize) {
    let Some(route) = shared.routes.route(index) else {
        return;
    };
    let mut backoff = Backoff::new();
    let mut leads_to: Option<NodeId> = None;
    loop {
        if let Some(id) = connected(shared, &route, leads_to) {
            leads_to = Some(id);
            shared.route_is(index, RouteState::Connected(id));
            let since = Instant::now();
            wait_gone(shared, id).await;
            let last_error = Some("the connection was lost".to_owned());
            shared.route_is(index, RouteState::Pending { last_error });
            if since.elapsed() >= STEADY_AFTER {
                backoff = Backoff::new();
            } else {
                pause(shared, &route, leads_to, backoff.step()).await;
            }
            continue;
        }
        match attempt(shared, &route).await {
            Ok(Found::Own) => {
                shared.route_is(index, RouteState::Own);
                leads_to = None;
                tokio::time::sleep(OWN_RECHECK).await;
            }
            Ok(Found::Peer(id)) => {
                leads_to = Some(id);
                if shared.registry.find(id).is_none() {
                    // The peer says that the pair is connected; this end is about to hear of it.
                    pause(shared, &route, leads_to, backoff.step()).await;
                }
            }
            Err(text) => {
                tracing::debug!(%route, "route not reached: {text}");
                shared.route_is(
                    index,
                    RouteState::Pending {
                        last_error: Some(text),
                    },
                );
                pause(shared, &route, leads_to, backoff.step()).await;
            }
        }
    }
}

/// The connected peer that this entry is known to lead to: by its name, or by an earlier answer.
fn connected(shared: &Shared, route: &RouteAddr, leads_to: Option<NodeId>) -> Option<NodeId> {
    match &route.name {
        Some(name) => shared.registry.named(name),
        None => leads_to.filter(|id| shared.registry.find(*id).is_some()),
    }
}

async fn wait_gone(shared: &Shared, id: NodeId) {
    let mut changes = shared.changed.subscribe();
    while shared.registry.find(id).is_some() {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Sleeps, but not through the arrival of the peer that is being dialed.
async fn pause(shared: &Shared, route: &RouteAddr, leads_to: Option<NodeId>, length: Duration) {
    let until = Instant::now() + length;
    let mut changes = shared.changed.subscribe();
    while connected(shared, route, leads_to).is_none() {
        match tokio::time::timeout_at(until, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Tries each address of the route once.
async fn attempt(shared: &Arc<Shared>, route: &RouteAddr) -> Result<Found, String> {
    if route.name.as_ref() == Some(&shared.own.name) {
        return Ok(Found::Own);
    }
    let mut last = format!("{} has no address of this node's family", route.host);
    for addr in resolve(shared, route).await? {
        match try_address(shared, route, addr).await {
            Ok(found) => return Ok(found),
            Err(text) => last = format!("{addr}: {text}"),
        }
    }
    Err(last)
}

async fn resolve(shared: &Shared, route: &RouteAddr) -> Result<Vec<SocketAddr>, String> {
    let lookup = lookup_host((route.host.as_str(), route.port));
    let found = timeout(RESOLVE_TIMEOUT, lookup)
        .await
        .map_err(|_| format!("{} was not resolved within {RESOLVE_TIMEOUT:?}", route.host))?
        .map_err(|e| format!("{} was not resolved: {e}", route.host))?;
    let v6 = shared.local_addr.is_ipv6();
    Ok(found
        .filter(|addr| v6 || addr.is_ipv4())
        .take(ADDRESSES_MAX)
        .collect())
}

async fn try_address(
    shared: &Arc<Shared>,
    route: &RouteAddr,
    addr: SocketAddr,
) -> Result<Found, String> {
    // Only a label for TLS's SNI: the verifier checks the chain, the handshake the name.
    let label = route.name.as_deref().unwrap_or("unibus-route");
    let connecting = shared
        .endpoint
        .connect(addr, label)
        .map_err(|e| e.to_string())?;
    let connection = match timeout(DIAL_TIMEOUT, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            return Err(note(
                shared,
                addr,
                route.name.clone(),
                handshake::classify(&error),
            ));
        }
        Err(_) => return Err(format!("no answer within {DIAL_TIMEOUT:?}")),
    };
    match handshake::dial(shared, &connection, route.name.as_deref()).await {
        Ok(Outcome::Established {
            peer,
            control,
            arbiter,
        }) => {
            let id = peer.id();
            let shared = Arc::clone(shared);
            let tasks = shared.tasks.clone();
            tasks.spawn(async move { peer::run(&shared, peer, control, arbiter).await });
            Ok(Found::Peer(id))
        }
        Ok(Outcome::Duplicate(id)) => Ok(Found::Peer(id)),
        Ok(Outcome::Own) => Ok(Found::Own),
        Err(failure) => {
            let name = super::tls::peer_identity(&connection);
            Err(note(shared, addr, name, failure))
        }
    }
}

/// Records a refusal; the text for the entry's state.
fn note(shared: &Shared, addr: SocketAddr, name: Option<String>, failure: Failure) -> String {
    match failure {
        Failure::Refused { by, reason, detail } => {
            let text = format!("{reason}: {detail}");
            shared.refused(Refusal {
                addr,
                name,
                direction: Direction::Dialed,
                by,
                reason,
                detail,
                count: 1,
                last: SystemTime::now(),
            });
            text
        }
        Failure::Lost(text) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::Backoff;
    use crate::mesh::limits::{BACKOFF_MAX, BACKOFF_MIN};

    #[test]
    fn backoff_grows_within_its_bounds() {
        let mut backoff = Backoff::new();
        let steps: Vec<_> = (0..20).map(|_| backoff.step()).collect();
        assert!(
            steps
                .iter()
                .all(|step| (BACKOFF_MIN..=BACKOFF_MAX).contains(step))
        );
        assert!(steps[19] >= BACKOFF_MAX / 2);
        assert!(steps[0] <= BACKOFF_MIN);
    }
}
