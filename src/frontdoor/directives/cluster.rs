//! `cluster {}`.

use super::field::{Field, Findings, each};
use crate::frontdoor::options::ClusterOptions;

const KNOWN: &[&str] = &[
    "name",
    "listen",
    "port",
    "host",
    "routes",
    "authorization",
    "no_advertise",
    "advertise",
];

/// Settings of nats-server's own routes.
const IGNORED: &[&str] = &[
    "connect_retries",
    "connect_backoff",
    "pool_size",
    "compression",
    "ping_interval",
    "accounts",
    "write_deadline",
    "write_timeout",
    "cluster_advertise",
    "ping_max",
];

/// `None` where the block is wrong.
pub(super) fn read(field: Field<'_>, findings: &mut Findings) -> Option<ClusterOptions> {
    let map = field.map(findings)?;
    let mut cluster = ClusterOptions::default();
    each(map, "cluster", KNOWN, findings, |key, field, findings| {
        match key {
            "name" => cluster.name = field.text(findings),
            "listen" => {
                if let Some((host, port)) = field.listen(findings) {
                    (cluster.host, cluster.port) = (host, port);
                }
            }
            "port" => cluster.port = field.port(findings).flatten(),
            "host" | "net" => cluster.host = field.text(findings),
            "routes" => cluster.routes = field.texts(findings).unwrap_or_default(),
            "authorization" => authorization(field, &mut cluster, findings),
            "no_advertise" => cluster.no_advertise = field.flag(findings).unwrap_or_default(),
            "advertise" => findings.note(&field, "has no effect here"),
            "tls" => findings.refuse(
                &field,
                "routes here always are mutual TLS, with certificates of unibus-node pki: use \
                 unibus-node --routes … --config-dir …",
            ),
            "permissions" => findings.refuse(&field, "every node of a cluster has all messages"),
            _ if IGNORED.contains(&key) => findings.note(&field, "has no effect here"),
            _ => return false,
        }
        true
    });
    Some(cluster)
}

fn authorization(field: Field<'_>, cluster: &mut ClusterOptions, findings: &mut Findings) {
    const KNOWN: &[&str] = &["user", "password", "timeout"];
    let Some(map) = field.map(findings) else {
        return;
    };
    each(
        map,
        "cluster.authorization",
        KNOWN,
        findings,
        |key, field, findings| {
            match key {
                "user" | "username" => cluster.user = field.text(findings),
                "pass" | "password" => cluster.pass = field.secret(findings),
                "timeout" => findings.note(&field, "has no effect here"),
                _ => return false,
            }
            true
        },
    );
}
