//! Clients' lists of servers follow the cluster: INFO's `connect_urls` is this node's own addresses and
//! those that its peers tell. Owns that list only.

use std::sync::Arc;

use unibus_broker::{Broker, ConnectUrls};

use crate::mesh::{Mesh, PeerStatus};
use crate::shutdown::Shutdown;

/// Keeps INFO in step with the peers until shutdown.
pub(super) async fn follow(
    mesh: Arc<Mesh>,
    broker: Broker,
    own: ConnectUrls,
    mut shutdown: Shutdown,
) {
    let mut changes = mesh.changes();
    let mut told = ConnectUrls::default();
    loop {
        let others = peers(&mesh);
        if others != told {
            told = others;
            broker.update_info(|info| {
                // A node that is leaving sends its clients to the others only.
                let all = if info.ldm {
                    told.clone()
                } else {
                    ConnectUrls {
                        clients: with_own(&own.clients, &told.clients),
                        websockets: with_own(&own.websockets, &told.websockets),
                    }
                };
                all.tell(info);
            });
        }
        tokio::select! {
            () = shutdown.wait() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// A node without others tells nothing: its clients know where it is.
fn with_own(own: &[String], others: &[String]) -> Vec<String> {
    if others.is_empty() {
        Vec::new()
    } else {
        [own, others].concat()
    }
}

/// Where clients reach the peers that are connected now.
pub(super) fn peers(mesh: &Mesh) -> ConnectUrls {
    let peers = mesh.peers();
    let sorted = |urls: fn(&PeerStatus) -> &Vec<String>| {
        let mut urls: Vec<String> = peers.iter().flat_map(urls).cloned().collect();
        urls.sort_unstable();
        urls.dedup();
        urls
    };
    ConnectUrls {
        clients: sorted(|peer| &peer.client_urls),
        websockets: sorted(|peer| &peer.websocket_urls),
    }
}
