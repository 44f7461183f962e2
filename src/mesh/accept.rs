//! Incoming connections: a bounded number in handshake at once; under load, strangers first prove
//! their address.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use quinn::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::handshake::{self, Failure, Outcome};
use super::limits::{ACCEPTING_MAX, ACCEPTING_UNVALIDATED_MAX, HANDSHAKE_TIMEOUT};
use super::peer;
use super::refusals::{Direction, Refusal};
use super::shared::Shared;
use super::tls;
use crate::seats::Seat;

/// Accepts until the mesh stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    loop {
        let incoming = tokio::select! {
            incoming = shared.endpoint.accept() => incoming,
            () = shared.stop.cancelled() => None,
        };
        let Some(incoming) = incoming else {
            return;
        };
        admit(&shared, incoming);
    }
}

fn admit(shared: &Arc<Shared>, incoming: Incoming) {
    let in_handshake = ACCEPTING_MAX - shared.accepting.available_permits();
    if in_handshake >= ACCEPTING_UNVALIDATED_MAX
        && !incoming.remote_address_validated()
        && incoming.may_retry()
    {
        // It comes back with a token if its address is real.
        let _sent = incoming.retry();
        return;
    }
    let Some(slot) = slot(shared, &incoming) else {
        tracing::debug!(addr = %incoming.remote_address(), "too many handshakes, turned away");
        incoming.refuse();
        return;
    };
    let shared = Arc::clone(shared);
    let tasks = shared.tasks.clone();
    tasks.spawn(async move {
        let established = greet(&shared, incoming).await;
        drop(slot);
        if let Some(Outcome::Established {
            peer,
            control,
            arbiter,
        }) = established
        {
            peer::run(&shared, peer, control, arbiter).await;
        }
    });
}

/// A place among those in handshake. An address that was not proven may be anybody's: it has no seats to
/// use up.
fn slot(shared: &Shared, incoming: &Incoming) -> Option<(OwnedSemaphorePermit, Option<Seat>)> {
    let seat = if incoming.remote_address_validated() {
        Some(
            shared
                .accepting_seats
                .take(incoming.remote_address().ip())?,
        )
    } else {
        None
    };
    let slot = Arc::clone(&shared.accepting).try_acquire_owned().ok()?;
    Some((slot, seat))
}

async fn greet(shared: &Arc<Shared>, incoming: Incoming) -> Option<Outcome> {
    let addr = incoming.remote_address();
    let connection = match timeout(HANDSHAKE_TIMEOUT, incoming.into_future()).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            note(shared, addr, None, handshake::classify(&error));
            return None;
        }
        Err(_) => {
            tracing::debug!(%addr, "TLS handshake took too long");
            return None;
        }
    };
    match handshake::accept(shared, &connection).await {
        Ok(outcome) => Some(outcome),
        Err(failure) => {
            note(shared, addr, tls::peer_identity(&connection), failure);
            None
        }
    }
}

fn note(shared: &Shared, addr: SocketAddr, name: Option<String>, failure: Failure) {
    match failure {
        Failure::Refused { by, reason, detail } => shared.refused(Refusal {
            addr,
            name,
            direction: Direction::Accepted,
            by,
            reason,
            detail,
            count: 1,
            last: SystemTime::now(),
        }),
        Failure::Lost(text) => tracing::debug!(%addr, "incoming route lost in handshake: {text}"),
    }
}
