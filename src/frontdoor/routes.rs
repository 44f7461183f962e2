//! nats-server's clusters: `cluster {}` and `--cluster`, `--routes`, `--cluster_name`. Their routes are
//! ours (QUIC, mutual TLS), and what proves a node is derived from what nats-server's nodes share: the
//! cluster's name, and user and password where they are given. That is as open as nats-server's own
//! routes without TLS, so it is for one machine only: everything else is refused.

use std::net::{IpAddr, SocketAddr};

use tempfile::TempDir;
use thiserror::Error;

use super::options::{ClusterOptions, Port, RouteUrl};
use crate::config::{ClusterConfig, RouteSecret, RouteTls};
use crate::mesh::RouteAddr;
use crate::pki;

/// The name of a cluster that is given none.
const NAME_DEFAULT: &str = "nats";
/// Most entries of `routes`.
const ROUTES_MAX: usize = 64;
const ELSEWHERE: &str = "routes to other hosts need certificates, which nats-server's settings have \
    no place for here: unibus-node --routes A,B,C --config-dir DIR (see unibus-node pki)";

/// Why there is no cluster.
#[derive(Debug, Error)]
pub enum RoutesError {
    /// Routes that others could reach.
    #[error("the cluster would listen on {0}, not on loopback; {ELSEWHERE}")]
    Listen(IpAddr),
    /// A route to elsewhere.
    #[error("the route {0:?} leads to another host; {ELSEWHERE}")]
    Route(String),
    /// A route that is none.
    #[error("the route {0:?} is none; wanted nats://HOST:PORT")]
    NoRoute(String),
    /// Too many of them.
    #[error("{0} routes are given; wanted at most 64")]
    Many(usize),
    /// No certificate.
    #[error("no certificate for the routes: {0}")]
    Pki(#[from] pki::PkiError),
    /// No folder for it.
    #[error("no folder for the certificates of the routes: {0}")]
    Folder(std::io::Error),
}

/// The cluster's configuration, and the folder with the keys that it names: to be dropped once they
/// have been read.
pub(super) fn cluster(
    asked: &ClusterOptions,
    host: IpAddr,
    server_name: &str,
) -> Result<(ClusterConfig, TempDir), RoutesError> {
    if !host.is_loopback() {
        return Err(RoutesError::Listen(host));
    }
    if asked.routes.len() > ROUTES_MAX {
        return Err(RoutesError::Many(asked.routes.len()));
    }
    let urls = asked.routes.iter().map(|url| read(url));
    let urls: Vec<RouteUrl> = urls.collect::<Result<_, _>>()?;
    let name = asked
        .name
        .clone()
        .unwrap_or_else(|| NAME_DEFAULT.to_owned());
    let seed = seed(asked, &urls, &name);
    let folder = TempDir::with_prefix("unibus-routes-").map_err(RoutesError::Folder)?;
    pki::init_derived(folder.path(), &name, &seed)?;
    let node = pki::issue_folder(folder.path(), server_name, &[])?;
    let routes = urls.into_iter().map(route).collect::<Result<_, _>>()?;
    let config = ClusterConfig {
        name,
        listen: SocketAddr::new(host, asked.port.map_or(0, Port::bind)),
        routes,
        tls: RouteTls {
            cert: node.cert,
            key: node.key,
            ca: node.ca_cert,
        },
        secret: RouteSecret::File(node.route_secret),
        learn_routes: true,
    };
    Ok((config, folder))
}

fn read(url: &str) -> Result<RouteUrl, RoutesError> {
    let parsed = RouteUrl::parse(url).ok_or_else(|| RoutesError::NoRoute(url.to_owned()))?;
    let address = parsed.host.parse::<IpAddr>();
    let is_here = parsed.host.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.is_loopback());
    if is_here {
        Ok(parsed)
    } else {
        Err(RoutesError::Route(parsed.host))
    }
}

fn route(url: RouteUrl) -> Result<RouteAddr, RoutesError> {
    let port = u16::try_from(url.port).ok().filter(|port| *port > 0);
    Ok(RouteAddr {
        name: None,
        port: port.ok_or_else(|| RoutesError::NoRoute(format!("{}:{}", url.host, url.port)))?,
        host: url.host,
    })
}

/// What every node of the cluster can say alike: its name, user and password. These may stand in
/// `authorization`, in the URL it listens on, or in the URLs of the others.
fn seed(asked: &ClusterOptions, urls: &[RouteUrl], name: &str) -> [u8; 32] {
    let of_urls = urls.iter().find(|url| url.user.is_some());
    let user = asked.user.as_ref().or_else(|| of_urls?.user.as_ref());
    let pass = asked.pass.as_ref().or_else(|| of_urls?.pass.as_ref());
    let mut hasher = blake3::Hasher::new_derive_key("unibus 2026-11 nats-server cluster");
    let parts = [
        name,
        user.map_or("", |user| user.as_str()),
        pass.map_or("", |pass| pass.expose()),
    ];
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::{RoutesError, cluster};
    use crate::frontdoor::options::{ClusterOptions, Port};

    fn asked(routes: &[&str]) -> ClusterOptions {
        ClusterOptions {
            port: Some(Port::Free),
            routes: routes.iter().map(ToString::to_string).collect(),
            ..ClusterOptions::default()
        }
    }

    #[test]
    fn a_cluster_of_this_machine_is_a_complete_configuration() {
        let here = "127.0.0.1".parse().unwrap();
        let routes = asked(&["nats://u:p@127.0.0.1:6223", "nats-route://localhost:6224/"]);
        let (config, folder) = cluster(&routes, here, "n1").unwrap();
        let ports: Vec<u16> = config.routes.iter().map(|route| route.port).collect();
        assert_eq!(ports, [6223, 6224]);
        assert!(config.tls.cert.starts_with(folder.path()) && config.tls.key.exists());
        let (again, _folder) = cluster(&routes, here, "n2").unwrap();
        let key = |path: &std::path::Path| std::fs::read(path.parent().unwrap().join("../ca.key"));
        assert_eq!(key(&config.tls.ca).unwrap(), key(&again.tls.ca).unwrap());
        let (other, _folder) = cluster(&asked(&["nats://127.0.0.1:1"]), here, "n2").unwrap();
        assert_ne!(key(&config.tls.ca).unwrap(), key(&other.tls.ca).unwrap());
    }

    #[test]
    fn other_hosts_are_refused_with_the_way_that_works() {
        let here = "127.0.0.1".parse().unwrap();
        let error = cluster(&asked(&["nats://10.0.0.1:6222"]), here, "n1").unwrap_err();
        assert!(
            error.to_string().contains("unibus-node --routes"),
            "{error}"
        );
        let error = cluster(&asked(&[]), "0.0.0.0".parse().unwrap(), "n1").unwrap_err();
        assert!(matches!(error, RoutesError::Listen(_)));
        let error = cluster(&asked(&["nats://127.0.0.1:-1"]), here, "n1").unwrap_err();
        assert!(matches!(error, RoutesError::NoRoute(_)));
    }
}
