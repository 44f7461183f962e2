//! What a mesh is started with: addresses, identity files, the route secret and the posture.
//!
//! Parsed values only; it never opens a socket or reads a file.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use unibus_proto::NodeId;

use super::limits::{PROTOCOL_MAX, PROTOCOL_MIN};
use super::secret::RouteSecret;

/// The UDP port of a route entry that names none.
pub const ROUTE_PORT_DEFAULT: u16 = 6222;

/// Everything [`super::Mesh::start`] needs to know.
#[derive(Clone, Debug)]
pub struct MeshOptions {
    /// This node's id, from the UUID in its data folder.
    pub node_id: NodeId,
    /// This node's name: must equal the first DNS name of its certificate.
    pub server_name: String,
    /// Only nodes of the same cluster name form routes.
    pub cluster_name: String,
    /// The UDP address of the one endpoint that dials and accepts. Port 0 picks a free one.
    pub bind: SocketAddr,
    /// Whom to dial, for ever. May include this node.
    pub routes: Vec<RouteAddr>,
    /// Certificate, key and route CA.
    pub tls: MeshTls,
    /// The shared secret that both ends prove and neither sends.
    pub secret: RouteSecret,
    /// How strictly this node is run; weaker peers are refused.
    pub posture: Posture,
    /// Whether routes on loopback that peers tell of are dialed too (nats-server's way to make a full
    /// mesh of one seed).
    pub learn_routes: bool,
    /// The protocol versions that this node speaks: [`MeshOptions::VERSIONS`], but in tests of others.
    pub versions: RangeInclusive<u32>,
}

impl MeshOptions {
    /// The protocol versions that this build speaks on routes.
    pub const VERSIONS: RangeInclusive<u32> = PROTOCOL_MIN..=PROTOCOL_MAX;
}

/// The PEM files of mutual TLS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MeshTls {
    /// This node's certificate chain, leaf first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The route CA that signs every node's certificate.
    pub ca: PathBuf,
}

/// How strictly a node is run. A cluster is as secure as its weakest node, so a peer that lacks
/// anything this node has gets no route (cluster.md, Routes).
#[derive(Copy, Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Posture {
    /// Clients must authenticate (`--bus-auth enforce`).
    pub enforce: bool,
    /// Permissions follow membership.
    pub acl: bool,
    /// Client listeners speak TLS.
    pub tls: bool,
    /// Routes are mutually authenticated.
    pub cluster: bool,
    /// The control plane is kept in the replicated store.
    pub store: bool,
}

impl Posture {
    /// The names of what `required` has and `self` lacks; empty when `self` is strong enough.
    pub fn lacks(&self, required: &Self) -> Vec<&'static str> {
        [
            ("enforce", self.enforce, required.enforce),
            ("acl", self.acl, required.acl),
            ("tls", self.tls, required.tls),
            ("cluster", self.cluster, required.cluster),
            ("store", self.store, required.store),
        ]
        .into_iter()
        .filter(|(_, have, need)| *need && !*have)
        .map(|(name, _, _)| name)
        .collect()
    }
}

/// One entry of `--routes`: `host`, `host:port` or `name=host:port`.
#[derive(Clone, Debug, Eq, PartialEq, Hash)]
pub struct RouteAddr {
    /// The certificate name that must answer there; `None` accepts any name signed by the CA.
    pub name: Option<String>,
    /// A DNS name or an IP address (without brackets), resolved again at each dial.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

/// Why a route entry could not be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RouteAddrError {
    /// Nothing where a host belongs.
    #[error("route {0:?} has no host; write host, host:port or name=host:port")]
    NoHost(String),
    /// The part before `=` is empty.
    #[error("route {0:?} has an empty name before '='; write name=host:port")]
    NoName(String),
    /// The part after the last `:` is no port.
    #[error("route {0:?} has no valid port; write a number from 1 to 65535 after the last ':'")]
    BadPort(String),
}

impl FromStr for RouteAddr {
    type Err = RouteAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, address) = match text.split_once('=') {
            Some(("", _)) => return Err(RouteAddrError::NoName(text.to_owned())),
            Some((name, address)) => (Some(name.to_owned()), address),
            None => (None, text),
        };
        let (host, port) = split_host_port(text, address)?;
        if host.is_empty() {
            return Err(RouteAddrError::NoHost(text.to_owned()));
        }
        Ok(Self {
            name,
            host: host.to_owned(),
            port,
        })
    }
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
fn split_host_port<'a>(whole: &str, address: &'a str) -> Result<(&'a str, u16), RouteAddrError> {
    let port = |digits: &str| match digits.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(RouteAddrError::BadPort(whole.to_owned())),
    };
    if let Some(rest) = address.strip_prefix('[') {
        let Some((host, tail)) = rest.split_once(']') else {
            return Err(RouteAddrError::NoHost(whole.to_owned()));
        };
        return match tail.strip_prefix(':') {
            Some(digits) => Ok((host, port(digits)?)),
            None if tail.is_empty() => Ok((host, ROUTE_PORT_DEFAULT)),
            None => Err(RouteAddrError::BadPort(whole.to_owned())),
        };
    }
    match address.rsplit_once(':') {
        // More than one colon without brackets is a bare IPv6 address.
        Some((head, _)) if head.contains(':') => Ok((address, ROUTE_PORT_DEFAULT)),
        Some((host, digits)) => Ok((host, port(digits)?)),
        None => Ok((address, ROUTE_PORT_DEFAULT)),
    }
}

impl fmt::Display for RouteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Posture, RouteAddr, RouteAddrError};

    fn route(name: Option<&str>, host: &str, port: u16) -> RouteAddr {
        RouteAddr {
            name: name.map(str::to_owned),
            host: host.to_owned(),
            port,
        }
    }

    #[test]
    fn every_form_of_route_is_read() {
        for (text, wanted) in [
            ("alpha", route(None, "alpha", 6222)),
            ("alpha:7000", route(None, "alpha", 7000)),
            ("n1=alpha:7000", route(Some("n1"), "alpha", 7000)),
            ("n1=10.0.0.1", route(Some("n1"), "10.0.0.1", 6222)),
            ("[::1]:7000", route(None, "::1", 7000)),
            ("[fe80::2]", route(None, "fe80::2", 6222)),
            ("::1", route(None, "::1", 6222)),
        ] {
            let parsed: RouteAddr = text.parse().unwrap();
            assert_eq!(parsed, wanted, "{text}");
            assert_eq!(
                parsed.to_string().parse::<RouteAddr>().unwrap(),
                wanted,
                "{text}"
            );
        }
    }

    #[test]
    fn wrong_routes_say_what_is_wrong() {
        let error = |text: &str| text.parse::<RouteAddr>().unwrap_err();
        assert_eq!(error(""), RouteAddrError::NoHost(String::new()));
        assert_eq!(error("=a:1"), RouteAddrError::NoName("=a:1".to_owned()));
        assert_eq!(error("a:0"), RouteAddrError::BadPort("a:0".to_owned()));
        assert_eq!(
            error("a:70000"),
            RouteAddrError::BadPort("a:70000".to_owned())
        );
        assert_eq!(
            error("[::1]7"),
            RouteAddrError::BadPort("[::1]7".to_owned())
        );
        assert_eq!(
            error("n1=:6222"),
            RouteAddrError::NoHost("n1=:6222".to_owned())
        );
    }

    #[test]
    fn a_posture_lacks_only_what_is_required() {
        let strict = Posture {
            enforce: true,
            acl: true,
            tls: true,
            cluster: true,
            store: true,
        };
        let weak = Posture {
            acl: false,
            ..strict
        };
        assert_eq!(weak.lacks(&strict), ["acl"]);
        assert!(strict.lacks(&weak).is_empty());
        assert!(strict.lacks(&strict).is_empty());
    }
}
