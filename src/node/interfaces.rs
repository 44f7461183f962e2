//! The addresses under which other hosts reach this one: what clients are told where a node listens
//! on every address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nix::ifaddrs::getifaddrs;

/// Addresses told to clients at most: a host with more has them for other purposes.
const ADDRESSES_MAX: usize = 64;

/// Where clients on other hosts reach `listener`: itself, or, where it is every address of this host,
/// each that is not loopback.
pub(super) fn reachable(listener: SocketAddr) -> Vec<SocketAddr> {
    if !listener.ip().is_unspecified() {
        return vec![listener];
    }
    let Ok(interfaces) = getifaddrs() else {
        return Vec::new();
    };
    let mut found: Vec<SocketAddr> = interfaces
        .filter_map(|interface| address(&interface.address?))
        .filter(|ip| is_useful(*ip, listener.is_ipv6()))
        .map(|ip| SocketAddr::new(ip, listener.port()))
        .take(ADDRESSES_MAX)
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Where `listener` is reached from this host and from others: itself, or each address of this host,
/// loopback first.
#[must_use]
pub fn every_address(listener: SocketAddr) -> Vec<SocketAddr> {
    if !listener.ip().is_unspecified() {
        return vec![listener];
    }
    let mut every = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.port())];
    every.extend(reachable(listener));
    every
}

fn address(storage: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let four = storage.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
    four.or_else(|| Some(IpAddr::V6(storage.as_sockaddr_in6()?.ip())))
}

/// A link-local address means nothing without its interface's name, which clients do not have.
fn is_useful(ip: IpAddr, six: bool) -> bool {
    match ip {
        _ if ip.is_loopback() || ip.is_unspecified() => false,
        IpAddr::V4(_) => true,
        IpAddr::V6(v6) => six && !v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn a_definite_address_is_itself() {
        let at = "127.0.0.1:4222".parse().unwrap();
        assert_eq!(reachable(at), [at]);
    }

    #[test]
    fn every_address_is_each_but_loopback() {
        let found = reachable("0.0.0.0:4222".parse().unwrap());
        assert!(found.iter().all(|at| {
            !at.ip().is_loopback() && !at.ip().is_unspecified() && at.is_ipv4() && at.port() == 4222
        }));
    }
}
