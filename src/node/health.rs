//! What `/healthz` and `/varz` say, gathered from the parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::watch;
use unibus_broker::Broker;
use unibus_proto::NodeId;
use unibus_raft::{Replica, ReplicaStatus};

use crate::http::{
    Document, HealthReport, HealthSource, NodeRole, PeerReport, PostureReport, RefusedRoute,
};
use crate::mesh::{Mesh, PeerStatus, Posture, Refusal};
use crate::monitor::{Monitor, standing};

/// What the listeners ask.
pub(super) struct Health {
    pub(super) monitor: Monitor,
    pub(super) id: NodeId,
    pub(super) server_name: String,
    pub(super) server_id: String,
    pub(super) cluster_name: Option<String>,
    pub(super) posture: Posture,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) payload_bytes_max: usize,
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
    pub(super) broker: Broker,
    /// `None` where JetStream is off.
    pub(super) replica: Option<Replica>,
    pub(super) mesh: Option<Arc<Mesh>>,
    /// `None` where there is nothing to catch up with.
    pub(super) caught_up: Option<watch::Receiver<bool>>,
}

impl HealthSource for Health {
    fn health(&self) -> HealthReport {
        let connected = self
            .mesh
            .as_ref()
            .map(|mesh| mesh.peers())
            .unwrap_or_default();
        let refused = self
            .mesh
            .as_ref()
            .map(|mesh| mesh.refused())
            .unwrap_or_default();
        let report = HealthReport {
            posture: report(self.posture),
            node: self.id.to_string(),
            server_name: self.server_name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster_name: self.cluster_name.clone(),
            refused_routes: refused.iter().rev().map(refusal).collect(),
            ..HealthReport::default()
        };
        match &self.replica {
            Some(replica) => self.with_store(report, replica, &connected),
            None => HealthReport {
                role: NodeRole::Storeless,
                quorum: true,
                store_open: true,
                caught_up: true,
                peers: peers(&ReplicaStatus::default(), &connected),
                ..report
            },
        }
    }

    fn document(&self, path: &str, query: &str) -> Option<Document> {
        self.monitor.document(path, query, || self.health())
    }

    fn varz(&self) -> serde_json::Value {
        let stats = self.broker.stats();
        let uptime = self.started.elapsed().as_secs();
        json!({
            "server_id": self.server_id,
            "server_name": self.server_name,
            "version": super::ADVERTISED_VERSION,
            "git_commit": concat!("unibus-", env!("CARGO_PKG_VERSION")),
            "proto": 1,
            "host": self.host,
            "port": self.port,
            "max_payload": self.payload_bytes_max,
            "auth_required": self.posture.enforce,
            "start": timestamp(self.started_at),
            "now": timestamp(SystemTime::now()),
            "uptime": format!("{}h{}m{}s", uptime / 3600, uptime / 60 % 60, uptime % 60),
            "cluster": { "name": self.cluster_name },
            "routes": self.mesh.as_ref().map_or(0, |mesh| mesh.peers().len()),
            "connections": stats.connections,
            "total_connections": stats.connections_total,
            "subscriptions": stats.subscriptions,
            "slow_consumers": stats.slow_consumers,
            "stale_connections": stats.stale_connections,
            "in_msgs": stats.in_msgs,
            "in_bytes": stats.in_bytes,
            "out_msgs": stats.out_msgs,
            "out_bytes": stats.out_bytes,
        })
    }
}

impl Health {
    fn with_store(
        &self,
        report: HealthReport,
        replica: &Replica,
        connected: &[PeerStatus],
    ) -> HealthReport {
        let status = replica.status();
        HealthReport {
            role: role(&status),
            leader: status.leader.map(|id| self.name_of(id, &status)),
            term: status.term,
            // The watch is what proposals go by; the status may be a moment ahead of it.
            quorum: status.has_quorum && replica.leadership().borrow().leader.is_some(),
            store_open: status.fatal.is_none(),
            caught_up: self.caught_up.as_ref().is_none_or(|done| *done.borrow()),
            applied_index: status.applied_index,
            cluster_id: status.cluster_id.map(|id| id.to_string()),
            outside: standing::is_outside(&status, connected),
            peers: peers(&status, connected),
            ..report
        }
    }

    fn name_of(&self, id: NodeId, status: &ReplicaStatus) -> String {
        let member = status.voters.get(&id).or_else(|| status.learners.get(&id));
        member.cloned().unwrap_or_else(|| id.to_string())
    }
}

fn role(status: &ReplicaStatus) -> NodeRole {
    let id = NodeId(status.node_id);
    match () {
        () if !status.initialized => NodeRole::Joining,
        () if status.leader == Some(id) => NodeRole::Leader,
        () if status.voters.contains_key(&id) => NodeRole::Follower,
        () => NodeRole::Learner,
    }
}

/// Every other member, connected or not, and whoever else is connected.
fn peers(status: &ReplicaStatus, connected: &[PeerStatus]) -> Vec<PeerReport> {
    let mut all: BTreeMap<NodeId, PeerReport> = BTreeMap::new();
    let members = status.voters.iter().chain(&status.learners);
    for (id, name) in members.filter(|(id, _)| id.0 != status.node_id) {
        let voter = status.voters.contains_key(id);
        let (node, server_name) = (id.to_string(), name.clone());
        all.insert(
            *id,
            PeerReport {
                node,
                server_name,
                voter,
                ..PeerReport::default()
            },
        );
    }
    for peer in connected {
        let entry = all.entry(peer.id).or_default();
        entry.node = peer.id.to_string();
        entry.server_name.clone_from(&peer.name);
        entry.address = Some(peer.addr.to_string());
        entry.connected = true;
        entry.posture = Some(report(peer.posture));
        entry.rtt_us = u64::try_from(peer.rtt.as_micros()).ok();
    }
    for stranger in standing::strangers(status, connected) {
        let entry = all.get_mut(&stranger.id);
        entry
            .into_iter()
            .for_each(|entry| entry.trouble = Some(standing::STRANGER));
    }
    all.into_values().collect()
}

fn report(posture: Posture) -> PostureReport {
    let Posture {
        enforce,
        acl,
        tls,
        cluster,
        store,
    } = posture;
    PostureReport {
        enforce,
        acl,
        tls,
        cluster,
        store,
    }
}

fn refusal(refusal: &Refusal) -> RefusedRoute {
    let peer = match &refusal.name {
        Some(name) => format!("{name} ({})", refusal.addr),
        None => refusal.addr.to_string(),
    };
    let reason = format!("{}: {}", refusal.reason, refusal.detail);
    RefusedRoute {
        peer,
        reason,
        at: timestamp(refusal.last),
    }
}

fn timestamp(at: SystemTime) -> String {
    OffsetDateTime::from(at)
        .format(&Rfc3339)
        .unwrap_or_default()
}
