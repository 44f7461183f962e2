//! What `/healthz` says (control-plane.md, HTTP API), and the port through which a listener asks
//! for it. Shapes only.

use serde::Serialize;

use crate::monitor::standing;

/// Where the listeners learn about the node. Both calls run on a connection's task and must not
/// block: they read what the node keeps up to date anyway.
pub trait HealthSource: Send + Sync + 'static {
    /// The answer of `/healthz`.
    fn health(&self) -> HealthReport;

    /// The answer of `/varz`: the fields that nats-server's monitoring has, as far as they mean
    /// something here (nats-surface §4).
    fn varz(&self) -> serde_json::Value;

    /// One of monitoring's documents, with what follows the `?`; `None` where nothing is there. May
    /// walk every connection and stream: it is called on a blocking thread, few at a time.
    fn document(&self, path: &str, query: &str) -> Option<Document> {
        let _ = (path, query);
        None
    }
}

/// A document of the monitoring port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Document {
    /// HTTP status.
    pub status: u16,
    /// Its type.
    pub content_type: &'static str,
    /// What it may do where a browser shows it (Content Security Policy).
    pub policy: &'static str,
    /// The whole text.
    pub body: Vec<u8>,
}

impl Document {
    /// The policy of what is no page: nothing is loaded, run or framed.
    pub const INERT: &'static str = "default-src 'none'; frame-ancestors 'none'";
}

/// Whether this node can serve, how securely it is run, and whom it sees.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HealthReport {
    /// How this node is run.
    pub posture: PostureReport,
    /// The node's id, 16 hex digits.
    pub node: String,
    /// The node's name.
    pub server_name: String,
    /// Version of this program.
    pub version: String,
    /// The cluster's name; absent for a single node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_name: Option<String>,
    /// The cluster's identity, 32 hex digits; absent where there is none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
    /// This node is no member of its cluster any more: the members go on without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub outside: bool,
    /// What this node is in its group.
    pub role: NodeRole,
    /// Name of the leader; `null` while there is none.
    pub leader: Option<String>,
    /// The term that the leader was elected in.
    pub term: u64,
    /// A majority of voters answers, so that writes can be acknowledged.
    pub quorum: bool,
    /// The store takes writes; false once it failed or is being closed.
    pub store_open: bool,
    /// Since its start this node has once held everything that was acknowledged anywhere.
    pub caught_up: bool,
    /// Index of the last entry that this node applied.
    pub applied_index: u64,
    /// Every other member, and every peer that is connected without being one yet.
    pub peers: Vec<PeerReport>,
    /// Peers that were refused a route lately, newest first, each with its reason.
    pub refused_routes: Vec<RefusedRoute>,
}

impl HealthReport {
    /// Why this node can't serve; empty = it can.
    #[must_use]
    pub fn ailments(&self) -> Vec<&'static str> {
        let mut found = Vec::new();
        if !self.store_open {
            found.push("the store is closed");
        }
        if self.outside {
            found.push(standing::OUTSIDE);
        } else if !self.quorum {
            found.push("no quorum: a majority of the nodes is not reachable");
        }
        if self.quorum && !self.caught_up {
            found.push("still catching up with the cluster");
        }
        found
    }
}

/// How a node is run. A cluster is as secure as its weakest node, so peers compare these.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct PostureReport {
    /// Only active users get in.
    pub enforce: bool,
    /// Permissions follow the users' grants.
    pub acl: bool,
    /// Routes between nodes are mutual TLS; on a single node, clients' connections are TLS.
    pub tls: bool,
    /// This is a node of a cluster.
    pub cluster: bool,
    /// Records live in the replicated store.
    pub store: bool,
}

/// What a node is in its group.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// It decides.
    Leader,
    /// It votes and follows.
    Follower,
    /// It follows and does not vote yet.
    Learner,
    /// It stores nothing (JetStream is off), so there is no group to be in.
    Storeless,
    /// It belongs to no group yet.
    #[default]
    Joining,
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PeerReport {
    /// Its id, 16 hex digits.
    pub node: String,
    /// Its name.
    pub server_name: String,
    /// Where it is connected from or to; absent while it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// A route stands.
    pub connected: bool,
    /// It votes.
    pub voter: bool,
    /// How it is run, as it said in its handshake; absent while it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub posture: Option<PostureReport>,
    /// What is wrong with it; absent if nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<&'static str>,
    /// Round-trip time of its route in microseconds; absent while it is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
}

/// A peer that got no route.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RefusedRoute {
    /// Who: the address, and the certificate's name where it got that far.
    pub peer: String,
    /// Why, in words.
    pub reason: String,
    /// When the last time was, RFC 3339 UTC.
    pub at: String,
}
