//! The five lines that a started node prints: what listens where, and what to type next. Text only.

use std::net::SocketAddr;
use std::path::Path;

use crate::config::NodeConfig;
use crate::config::args::BusAuth;
use crate::node::Addresses;

/// The five lines. `addresses` are those really bound, `tool` is a client's command as it may be typed here:
/// `unibus`, or `nats`, which takes the same words.
#[must_use]
pub fn lines(config: &NodeConfig, addresses: &Addresses, tool: &str) -> [String; 5] {
    let version = env!("CARGO_PKG_VERSION");
    let data = config.data_dir.display();
    let shape = match (&config.cluster, addresses.cluster) {
        (Some(cluster), Some(at)) => {
            format!(
                "node {} of cluster {}, routes on {at}/udp",
                config.server_name, cluster.name
            )
        }
        _ => format!("single node {}", config.server_name),
    };
    let monitor = addresses.monitor.map_or_else(
        || "off (--monitor-port 0)".to_owned(),
        |at| format!("http://{}/varz", local(at)),
    );
    let control = addresses.http.map_or_else(
        || "off".to_owned(),
        |at| format!("http://{}/healthz", local(at)),
    );
    [
        format!("unibus-node {version}: {shape}, data in {data}"),
        format!(
            "  NATS clients   {}://{}{}  (bus-auth {})",
            if config.client_tls.is_some() {
                "tls"
            } else {
                "nats"
            },
            addresses.client,
            websocket(config, addresses),
            config.auth.bus().map_or("static", |mode| mode.as_str())
        ),
        format!("  control plane  {control}"),
        format!("  monitoring     {monitor}"),
        format!("  next           {}", next(config, addresses, tool)),
    ]
}

fn websocket(config: &NodeConfig, addresses: &Addresses) -> String {
    let scheme = match &config.websocket {
        Some(ws) if ws.no_tls => "ws",
        _ => "wss",
    };
    addresses
        .websocket
        .map_or_else(String::new, |at| format!(", {scheme}://{at}"))
}

/// An address as somebody on this host can reach it.
fn local(at: SocketAddr) -> SocketAddr {
    let ip = match at {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        _ => at.ip(),
    };
    SocketAddr::new(ip, at.port())
}

fn next(config: &NodeConfig, addresses: &Addresses, tool: &str) -> String {
    let url = format!("nats://{}", local(addresses.client));
    if config.auth.bus() == Some(BusAuth::Enforce) {
        let id = config
            .internal_id_file
            .as_deref()
            .unwrap_or_else(|| Path::new("FILE"));
        let id = id.display();
        return format!(
            "unibus-node user add UKEY --role service --pub '>' --sub '>' --internal-id-file {id} \
             --nats-url {url}"
        );
    }
    format!("{tool} --server {url} sub '>'   or a secured cluster of three: unibus-node quickstart")
}
