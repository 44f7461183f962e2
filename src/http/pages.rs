//! Requests that the web page of a stranger makes a browser send. Who needs no login on this host lends
//! it to each page in each of its browsers, so where nobody is asked who they are, requests have to be
//! this node's own pages' or no browser's. A page can't change what a browser says of it: the `Host`
//! that it asked (one that the stranger's name server had point here, when the page is to look like
//! ours), its `Origin`, and how both are related. Pure: looks at a head and nothing else.

use std::net::IpAddr;

use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{StatusCode, Uri};
use thiserror::Error;

/// How a browser says where the page is from that makes a request.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// What JSON may be sent as. Pages can send neither without asking first; the second is what clients of
/// the first versions of this node say.
const JSON: [&str; 2] = ["application/json", "application/octet-stream"];

/// The names by which a node may be asked, besides addresses, `localhost` and names of one label: none of
/// those is a stranger's.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct OwnNames(Vec<String>);

/// Why a request is not answered.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub(crate) enum Foreign {
    /// For a name that may be anybody's.
    #[error(
        "{0:?} is not known as this node's name: ask by an address, by localhost, or by the name that \
         --client-advertise tells clients"
    )]
    Host(String),
    /// From a page that is not ours.
    #[error("web pages of other places may not ask here without a login (--bus-auth enforce)")]
    Page,
    /// As something that any page may send.
    #[error("JSON has to be sent as application/json")]
    Form,
}

impl Foreign {
    /// The status that says so.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Host(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::Page => StatusCode::FORBIDDEN,
            Self::Form => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        }
    }
}

impl OwnNames {
    /// Of a node that tells clients this `host[:port]`.
    #[must_use]
    pub fn new(advertised: Option<&str>) -> Self {
        let authority = advertised.and_then(|text| text.parse::<Authority>().ok());
        Self(authority.iter().map(name).collect())
    }

    /// Looks at which name was asked.
    pub(crate) fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Foreign> {
        let told = headers.get_all(HOST).iter();
        let told = told.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let asked = uri.authority().map(ToString::to_string);
        for text in told.chain(asked) {
            let known = text.parse().is_ok_and(|host| self.has(&host));
            if !known {
                return Err(Foreign::Host(text));
            }
        }
        Ok(())
    }

    /// Looks at the name, and at the page that asks.
    pub(crate) fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Foreign> {
        self.check_host(uri, headers)?;
        let related = |site: &[u8]| matches!(site, b"same-origin" | b"none");
        let mut sites = headers.get_all(SITE).iter();
        let mut origins = headers.get_all(ORIGIN).iter();
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let is_ours = |origin: &str| host.is_some_and(|host| is_same(origin, host));
        let ours = sites.all(|site| related(site.as_bytes()))
            && origins.all(|origin| origin.to_str().is_ok_and(is_ours));
        if ours { Ok(()) } else { Err(Foreign::Page) }
    }

    fn has(&self, host: &Authority) -> bool {
        let name = name(host);
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok()
            || !name.contains('.')
            || name.ends_with(".localhost")
            || self.0.contains(&name)
    }
}

/// Looks at what a body that has to be JSON is sent as.
pub(crate) fn check_json(headers: &HeaderMap) -> Result<(), Foreign> {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let is_json = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        JSON.iter().any(|json| kind.eq_ignore_ascii_case(json))
    };
    match (kinds.next(), kinds.next()) {
        (Some(kind), None) if kind.to_str().is_ok_and(is_json) => Ok(()),
        _ => Err(Foreign::Form),
    }
}

/// The host's name in lower case, without the dot of the root.
fn name(host: &Authority) -> String {
    let name = host.host().to_ascii_lowercase();
    name.strip_suffix('.').map(str::to_owned).unwrap_or(name)
}

/// Whether a page of `origin` is one of the `host` that is asked.
fn is_same(origin: &str, host: &str) -> bool {
    let (default, origin) = match origin.split_once("://") {
        Some(("http", rest)) => (80, rest),
        Some(("https", rest)) => (443, rest),
        _ => return false,
    };
    let place = |text: &str| {
        let authority: Authority = text.parse().ok()?;
        Some((name(&authority), authority.port_u16().unwrap_or(default)))
    };
    place(origin).is_some_and(|page| Some(page) == place(host))
}

#[cfg(test)]
mod tests {
    use super::{Foreign, OwnNames, check_json};
    use hyper::header::{HeaderMap, HeaderName, HeaderValue};

    fn head(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            let name = HeaderName::from_static(name);
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn check(fields: &[(&'static str, &str)]) -> Result<(), Foreign> {
        let names = OwnNames::new(Some("Bus.example:4222"));
        names.check(&"/users".parse().unwrap(), &head(fields))
    }

    #[test]
    fn a_node_is_asked_by_its_names() {
        for own in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "192.0.2.7",
            "localhost",
            "LOCALHOST:1",
            "localhost.",
            "a.localhost:80",
            "node",
            "bus.example",
            "BUS.example.:9",
        ] {
            assert_eq!(check(&[("host", own)]), Ok(()), "{own}");
        }
        for foreign in [
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "a.bus.example",
            "",
            "127.0.0.1@evil.example",
        ] {
            let found = check(&[("host", foreign)]);
            assert_eq!(found, Err(Foreign::Host(foreign.to_owned())), "{foreign}");
        }
        assert!(check(&[("host", "node"), ("host", "evil.example")]).is_err());
        let whole = "http://evil.example/users".parse().unwrap();
        let names = OwnNames::default();
        assert!(names.check(&whole, &head(&[("host", "node")])).is_err());
        // Nothing of a browser's.
        assert_eq!(check(&[]), Ok(()));
    }

    #[test]
    fn only_own_pages_ask() {
        let host = ("host", "localhost:8080");
        for own in [
            &[host, ("origin", "http://localhost:8080")][..],
            &[
                host,
                ("origin", "http://localhost:8080"),
                ("sec-fetch-site", "same-origin"),
            ],
            &[host, ("sec-fetch-site", "none")],
            &[("host", "node"), ("origin", "https://node:443")],
        ] {
            assert_eq!(check(own), Ok(()), "{own:?}");
        }
        for foreign in [
            &[host, ("origin", "https://evil.example")][..],
            &[host, ("origin", "null")],
            &[host, ("origin", "http://localhost:3000")],
            &[host, ("origin", "http://localhost")],
            &[host, ("origin", "file://")],
            &[host, ("origin", "")],
            &[host, ("sec-fetch-site", "cross-site")],
            &[host, ("sec-fetch-site", "same-site")],
            &[
                host,
                ("origin", "http://localhost:8080"),
                ("origin", "https://evil.example"),
            ],
            &[("origin", "http://localhost:8080")],
        ] {
            assert_eq!(check(foreign), Err(Foreign::Page), "{foreign:?}");
        }
    }

    #[test]
    fn json_is_sent_as_no_form_could_be() {
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/octet-stream",
        ] {
            assert_eq!(
                check_json(&head(&[("content-type", good)])),
                Ok(()),
                "{good}"
            );
        }
        for simple in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data",
            "",
        ] {
            assert!(
                check_json(&head(&[("content-type", simple)])).is_err(),
                "{simple}"
            );
        }
        assert!(check_json(&head(&[])).is_err());
        let twice = [
            ("content-type", "application/json"),
            ("content-type", "text/plain"),
        ];
        assert!(check_json(&head(&twice)).is_err());
    }
}
