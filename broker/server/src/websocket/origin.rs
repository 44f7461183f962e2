//! Which web pages may connect (RFC 6455 §10.2).
//!
//! A browser says where a page came from, and nothing else does: a request without an Origin is not a
//! browser's and always passes.

/// A rule about Origin headers. The default allows every page.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OriginRule {
    same: bool,
    /// Whether the listener itself speaks TLS: decides the Host header's default port.
    tls: bool,
    allowed: Vec<Origin>,
}

/// An origin can't be read.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no origin; wanted for example https://app.example or http://localhost:3000")]
pub struct OriginError(pub String);

#[derive(Clone, Debug, Eq, PartialEq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl OriginRule {
    /// `same` = the page has to come from the host and port that it connects to; `tls` = that is
    /// `https`. `allowed` = the pages that may connect; empty = any. Both rules hold together.
    ///
    /// # Errors
    /// [`OriginError`] for an allowed origin that can't be read.
    pub fn new(same: bool, tls: bool, allowed: &[String]) -> Result<Self, OriginError> {
        let allowed = allowed
            .iter()
            .map(|text| Origin::parse(text).ok_or_else(|| OriginError(text.clone())))
            .collect::<Result<_, _>>()?;
        Ok(Self { same, tls, allowed })
    }

    /// Whether no Origin is refused.
    pub(crate) const fn allows_any(&self) -> bool {
        !self.same && self.allowed.is_empty()
    }

    /// Whether a page of `origin` may connect to `host`, the Host header.
    pub(crate) fn allows(&self, origin: &str, host: &str) -> bool {
        if self.allows_any() {
            return true;
        }
        let Some(origin) = Origin::parse(origin) else {
            return false;
        };
        let default = if self.tls { 443 } else { 80 };
        let here = || authority(host, default);
        (!self.same || here().is_some_and(|(h, p)| h == origin.host && p == origin.port))
            && (self.allowed.is_empty() || self.allowed.contains(&origin))
    }
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let default = match scheme.as_str() {
            "https" | "wss" => 443,
            "http" | "ws" => 80,
            _ => return None,
        };
        let (host, port) = authority(rest.strip_suffix('/').unwrap_or(rest), default)?;
        Some(Self { scheme, host, port })
    }
}

/// Host in lower case and port of `host[:port]`.
fn authority(text: &str, default: u16) -> Option<(String, u16)> {
    // An IPv6 address stands in brackets, and colons are its own.
    let port_at = text.rfind(':').filter(|at| !text[*at..].contains(']'));
    let (host, port) = match port_at {
        Some(at) => (&text[..at], text[at + 1..].parse().ok()?),
        None => (text, default),
    };
    let legal = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
    legal.then(|| (host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::{OriginError, OriginRule};

    #[test]
    fn the_same_origin_is_host_and_port() {
        let rule = OriginRule::new(true, true, &[]).unwrap();
        assert!(rule.allows("https://Bus.example", "bus.example"));
        assert!(rule.allows("https://bus.example:443", "bus.example"));
        assert!(rule.allows("https://bus.example:8443", "bus.example:8443"));
        assert!(rule.allows("https://[::1]:8443", "[::1]:8443"));
        for origin in [
            "https://bus.example:8443",
            "https://evil.example",
            "https://bus.example.evil.example",
            "http://bus.example",
            "null",
            "",
        ] {
            assert!(!rule.allows(origin, "bus.example"), "{origin}");
        }
        assert!(!rule.allows("https://bus.example", ""));
    }

    #[test]
    fn allowed_origins_are_compared_whole() {
        let allowed = [
            "https://app.example".to_owned(),
            "http://localhost:3000/".to_owned(),
        ];
        let rule = OriginRule::new(false, false, &allowed).unwrap();
        assert!(rule.allows("https://app.example:443", "other"));
        assert!(rule.allows("http://localhost:3000", "other"));
        assert!(!rule.allows("http://app.example", "app.example"));
        assert!(!rule.allows("http://localhost:3001", "other"));
        assert!(OriginRule::default().allows("null", ""));
        let wrong = OriginRule::new(false, false, &["app.example".to_owned()]);
        assert_eq!(wrong, Err(OriginError("app.example".to_owned())));
    }
}
