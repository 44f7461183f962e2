//! Handshakes that are begun and never ended.

use quinn::{ConnectionError, Endpoint};
use tokio::sync::mpsc;

use super::fixture::{Authority, route_to};
use crate::mesh::limits::{ACCEPTING_MAX, ACCEPTING_PER_ADDRESS_MAX, ACCEPTING_UNVALIDATED_MAX};
use crate::mesh::tls::TlsSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_that_begins_handshakes_leaves_room_for_others() {
    let authority = Authority::new();
    let one = authority.node(1, vec![]).await;
    let tls = TlsSet::load(&authority.options(3, vec![]).tls).unwrap();
    let mut endpoint = Endpoint::client("127.0.0.66:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(tls.client);
    let (refused, mut refusals) = mpsc::channel(2 * ACCEPTING_MAX);
    // Each gets through TLS, or is turned away, and says nothing.
    let connections: Vec<_> = (0..2 * ACCEPTING_MAX)
        .map(|_| {
            let connecting = endpoint.connect(one.addr(), "n1").unwrap();
            let refused = refused.clone();
            tokio::spawn(async move {
                match connecting.await {
                    Ok(silent) => drop(silent.closed().await),
                    Err(error) => drop(refused.try_send(error)),
                }
            })
        })
        .collect();
    let turned_away = refusals.recv().await.unwrap();
    assert!(
        matches!(turned_away, ConnectionError::ConnectionClosed(_)),
        "{turned_away:?}"
    );
    let free = one.mesh.shared.accepting.available_permits();
    let held = ACCEPTING_UNVALIDATED_MAX + ACCEPTING_PER_ADDRESS_MAX;
    assert!(free >= ACCEPTING_MAX - held, "{free} places are free");
    let two = authority.node(2, vec![route_to(one.addr())]).await;
    one.has_peers(&[2]).await;
    two.has_peers(&[1]).await;
    for connection in connections {
        connection.abort();
    }
}
