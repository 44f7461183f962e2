//! Addresses in `--routes`: parsing and printing, nothing else. Never resolves a name and never
//! opens a socket.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// Port of the cluster's QUIC endpoint (UDP) where a route names none.
pub const CLUSTER_PORT_DEFAULT: u16 = 6222;

/// Longest host or node name that is accepted, in bytes (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// One entry of `--routes`: `host`, `host:port` or `name=host:port`; IPv6 hosts stand in brackets
/// where a port follows.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RouteAddress {
    /// The certificate name that this address must present, where the operator gave one.
    pub name: Option<String>,
    /// Host name or IP address, without brackets.
    pub host: String,
    /// UDP port.
    pub port: u16,
}

/// Why a route was not understood. Each message says what was found and what is wanted.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum RouteError {
    /// Nothing stands where a host is wanted.
    #[error("route {0:?} has no host; wanted host, host:port or name=host:port")]
    NoHost(String),
    /// The port is not a number from 1 to 65535.
    #[error("route {0:?} has a port that is not a number from 1 to 65535")]
    Port(String),
    /// A bracket without its twin, or something other than an IPv6 address in brackets.
    #[error("route {0:?} wants an IPv6 address in brackets, as in [::1]:6222")]
    Brackets(String),
    /// A name with characters that no host or certificate name has.
    #[error("route {0:?} has a name with characters other than letters, digits, '.', '-' and '_'")]
    Name(String),
}

impl RouteAddress {
    /// True when the address is on this machine only. A host name counts only if it is
    /// `localhost`: nothing is resolved here.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
            || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The address as `host:port`, with brackets around an IPv6 host.
    #[must_use]
    pub fn host_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for RouteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        f.write_str(&self.host_port())
    }
}

impl FromStr for RouteAddress {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let whole = text.trim();
        let (name, address) = match whole.split_once('=') {
            Some((name, address)) => (Some(checked_name(name, whole)?), address),
            None => (None, whole),
        };
        let (host, port) = split_port(address, whole)?;
        let port = match port {
            None => CLUSTER_PORT_DEFAULT,
            Some(digits) => parse_port(digits, whole)?,
        };
        Ok(Self { name, host, port })
    }
}

/// Splits `host[:port]`. An IPv6 address without brackets is a host without a port.
fn split_port<'a>(
    address: &'a str,
    whole: &str,
) -> Result<(String, Option<&'a str>), RouteError> {
    if let Some(rest) = address.strip_prefix('[') {
        let brackets = || RouteError::Brackets(whole.to_owned());
        let (host, after) = rest.split_once(']').ok_or_else(brackets)?;
        host.parse::<Ipv6Addr>().map_err(|_| brackets())?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host.to_owned(), Some(port))),
            None if after.is_empty() => Ok((host.to_owned(), None)),
            None => Err(brackets()),
        };
    }
    if address.parse::<Ipv6Addr>().is_ok() {
        return Ok((address.to_owned(), None));
    }
    let (host, port) = match address.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (address, None),
    };
    Ok((checked_name(host, whole)?, port))
}

fn parse_port(digits: &str, whole: &str) -> Result<u16, RouteError> {
    match digits.parse::<u16>() {
        Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(RouteError::Port(whole.to_owned())),
    }
}

fn checked_name(name: &str, whole: &str) -> Result<String, RouteError> {
    if name.is_empty() {
        return Err(RouteError::NoHost(whole.to_owned()));
    }
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if name.len() > NAME_BYTES_MAX || !name.bytes().all(legal) {
        return Err(RouteError::Name(whole.to_owned()));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{RouteAddress, RouteError};

    fn parsed(text: &str) -> (Option<String>, String, u16) {
        let r: RouteAddress = text.parse().unwrap();
        (r.name, r.host, r.port)
    }

    #[test]
    fn every_form_of_a_route_is_understood() {
        assert_eq!(parsed("a"), (None, "a".into(), 6222));
        assert_eq!(parsed(" a.b:7000 "), (None, "a.b".into(), 7000));
        assert_eq!(parsed("n1=10.0.0.1:7001"), (Some("n1".into()), "10.0.0.1".into(), 7001));
        assert_eq!(parsed("n1=host"), (Some("n1".into()), "host".into(), 6222));
        assert_eq!(parsed("[::1]:7000"), (None, "::1".into(), 7000));
        assert_eq!(parsed("[fe80::2]"), (None, "fe80::2".into(), 6222));
        assert_eq!(parsed("x=fe80::2"), (Some("x".into()), "fe80::2".into(), 6222));
    }

    #[test]
    fn what_is_no_route_is_refused_with_its_reason() {
        for text in ["", "=a", "n=", ":7000"] {
            assert!(matches!(text.parse::<RouteAddress>(), Err(RouteError::NoHost(_))), "{text}");
        }
        for text in ["a:", "a:0", "a:65536", "a:7x", "a:+7", "[::1]:", "a:1:2"] {
            assert!(matches!(text.parse::<RouteAddress>(), Err(RouteError::Port(_))), "{text}");
        }
        for text in ["[::1", "[host]:1", "[::1]7000"] {
            assert!(matches!(text.parse::<RouteAddress>(), Err(RouteError::Brackets(_))), "{text}");
        }
        for text in ["a b:1", "a/b", "n n=a", "nats://a"] {
            assert!(text.parse::<RouteAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn printing_a_route_gives_back_what_parses_to_it() {
        for text in ["n1=[::1]:7000", "a:6222", "n=10.0.0.1:1"] {
            let route: RouteAddress = text.parse().unwrap();
            assert_eq!(route.to_string(), text);
        }
    }

    #[test]
    fn loopback_is_an_address_or_localhost_by_name() {
        for text in ["127.0.0.1:1", "127.9.9.9", "[::1]:4", "localhost", "n=LOCALHOST:5"] {
            assert!(text.parse::<RouteAddress>().unwrap().is_loopback(), "{text}");
        }
        for text in ["10.0.0.1", "localhost.example", "n1"] {
            assert!(!text.parse::<RouteAddress>().unwrap().is_loopback(), "{text}");
        }
    }
}
