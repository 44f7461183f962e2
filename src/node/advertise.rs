//! Clients' lists of servers follow the cluster: INFO's `connect_urls` is this node's own address and
//! those that its peers tell. Owns that list only.

use std::sync::Arc;

use unibus_broker::Broker;

use crate::mesh::Mesh;
use crate::shutdown::Shutdown;

/// Keeps INFO in step with the peers until shutdown.
pub(super) async fn follow(
    mesh: Arc<Mesh>,
    broker: Broker,
    own: Vec<String>,
    mut shutdown: Shutdown,
) {
    let mut changes = mesh.changes();
    let mut told: Vec<String> = Vec::new();
    loop {
        let others = peers(&mesh);
        if others != told {
            told = others;
            broker.update_info(|info| {
                // A node that is leaving sends its clients to the others only, and one without others
                // tells nothing: its clients know where it is.
                let own = own.iter().filter(|_| !info.ldm && !told.is_empty());
                info.connect_urls = own.chain(&told).cloned().collect();
            });
        }
        tokio::select! {
            () = shutdown.wait() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Where clients reach the peers that are connected now.
pub(super) fn peers(mesh: &Mesh) -> Vec<String> {
    let mut urls: Vec<String> = mesh
        .peers()
        .into_iter()
        .flat_map(|peer| peer.client_urls)
        .collect();
    urls.sort_unstable();
    urls.dedup();
    urls
}
