//! How to reach a unibus: the one seam through which both planes are secured. Pure: checks and
//! combines, and opens nothing.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;

use crate::error::Error;

/// How long a call may take before it fails, over all servers and attempts.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one server has to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(4);

/// Where the servers are and how they are trusted.
///
/// A CA file means TLS pinned to that CA on both planes; a plain `http://` URL is then refused. Without
/// one, nothing is encrypted on the way to the servers (what is said in rooms still is).
///
/// ```
/// use std::time::Duration;
/// use unibus_client::Options;
///
/// let options = Options::new()
///     .server("https://n0.example:8470", "tls://n0.example:4222")
///     .server("https://n1.example:8470", "tls://n1.example:4222")
///     .ca("ca.crt")
///     .memory("rooms.json")
///     .name("kitchen display")
///     .caretaker(false)
///     .call_timeout(Duration::from_secs(5));
/// assert!(options.check().is_ok());
/// let open = Options::new().server("http://n0.example:8470", "tls://n0.example:4222").ca("ca.crt");
/// assert!(open.check().is_err());
/// // The planes may be of different hosts.
/// let apart = Options::new().control_plane("http://127.0.0.1:8470").message_plane("nats://127.0.0.1:4222");
/// assert!(apart.check().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) control: Vec<String>,
    pub(crate) nats: Vec<String>,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) memory: Option<PathBuf>,
    pub(crate) name: String,
    pub(crate) caretaker: bool,
    pub(crate) call_timeout: Duration,
    pub(crate) connect_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            control: Vec::new(),
            nats: Vec::new(),
            ca: None,
            memory: None,
            name: "unibus-client".into(),
            caretaker: true,
            call_timeout: CALL_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
        }
    }
}

impl Options {
    /// No servers yet. Example: [`Options`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node: its control plane (`http://` or `https://`) and its message plane (`nats://` or
    /// `tls://`). Example: [`Options`].
    #[must_use]
    pub fn server(mut self, control: impl Into<String>, nats: impl Into<String>) -> Self {
        self.control.push(control.into());
        self.nats.push(nats.into());
        self
    }

    /// Adds a control plane alone (`http://` or `https://`), where the two planes are named apart.
    /// Example: [`Options`].
    #[must_use]
    pub fn control_plane(mut self, url: impl Into<String>) -> Self {
        self.control.push(url.into());
        self
    }

    /// Adds a message plane alone (`nats://` or `tls://`), where the two planes are named apart.
    /// Example: [`Options`].
    #[must_use]
    pub fn message_plane(mut self, url: impl Into<String>) -> Self {
        self.nats.push(url.into());
        self
    }

    /// Trusts the certificates that this CA (a PEM file) has signed, on both planes, and no others.
    /// Example: [`Options`].
    #[must_use]
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// Keeps in this file what the identity must not forget of its rooms: who owns them, the latest epoch
    /// that it has seen, and who has gone. Without it each session believes what the servers say of a room
    /// when it first looks, such as that it is as it was before somebody was removed.
    ///
    /// The file is made where there is none; sessions of one identity may share it, and no other
    /// identity's. One that is damaged is an error of [`Session::connect`](crate::Session::connect).
    /// Example: [`Options`].
    #[must_use]
    pub fn memory(mut self, file: impl Into<PathBuf>) -> Self {
        self.memory = Some(file.into());
        self
    }

    /// The name that servers show for the connection. Example: [`Options`].
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Whether the session rekeys the rooms that it owns by itself when somebody has gone; `true`
    /// unless said otherwise. Example: [`Options`].
    #[must_use]
    pub fn caretaker(mut self, caretaker: bool) -> Self {
        self.caretaker = caretaker;
        self
    }

    /// How long a call may take before it fails, over all servers and attempts: 20 s unless said
    /// otherwise. Example: [`Options`].
    #[must_use]
    pub fn call_timeout(mut self, timeout: Duration) -> Self {
        self.call_timeout = timeout;
        self
    }

    /// Checks the options without connecting. Example: [`Options`].
    ///
    /// # Errors
    /// [`Error::Options`], which names the value that can't be used.
    pub fn check(&self) -> Result<(), Error> {
        for (urls, plane) in [(&self.control, "control"), (&self.nats, "message")] {
            if urls.is_empty() {
                let words = format!("no server is named for the {plane} plane");
                return Err(Error::Options(words));
            }
        }
        for url in &self.control {
            self.check_control(url)?;
        }
        for url in &self.nats {
            self.check_nats(url)?;
        }
        Ok(())
    }

    fn check_control(&self, url: &str) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::Options(format!("control URL {url:?}: {why}")));
        let Ok(uri) = url.parse::<Uri>() else {
            return wrong("it is no URL; wanted https://HOST:PORT");
        };
        if uri.host().is_none() || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return wrong("wanted https://HOST:PORT and nothing behind it");
        }
        match (uri.scheme_str(), &self.ca) {
            (Some("https"), Some(_)) | (Some("http"), None) => Ok(()),
            (Some("https"), None) => {
                wrong("https:// needs the CA file that its certificate is signed by")
            }
            (Some("http"), Some(_)) => {
                wrong("a CA file is given, and a plain http:// URL would go past it; say https://")
            }
            _ => wrong("wanted https:// or http://"),
        }
    }

    fn check_nats(&self, url: &str) -> Result<(), Error> {
        let wrong = |why: &str| Err(Error::Options(format!("NATS URL {url:?}: {why}")));
        match (url.split_once("://").map(|(scheme, _)| scheme), &self.ca) {
            (Some("tls" | "nats"), Some(_)) | (Some("nats"), None) => Ok(()),
            (Some("tls"), None) => {
                wrong("tls:// needs the CA file that its certificate is signed by")
            }
            _ => wrong("wanted tls://HOST:PORT or nats://HOST:PORT"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(control: &str, nats: &str, ca: bool) -> Result<(), String> {
        let mut options = Options::new().server(control, nats);
        if ca {
            options = options.ca("ca.crt");
        }
        options.check().map_err(|error| error.to_string())
    }

    #[test]
    fn a_ca_secures_both_planes_or_the_options_are_refused() {
        assert_eq!(check("https://h:1", "tls://h:2", true), Ok(()));
        assert_eq!(check("https://h:1", "nats://h:2", true), Ok(()));
        assert_eq!(check("http://127.0.0.1:1", "nats://h:2", false), Ok(()));
        for (control, nats, ca, words) in [
            ("http://h:1", "tls://h:2", true, "plain http://"),
            ("https://h:1", "nats://h:2", false, "needs the CA"),
            ("http://h:1", "tls://h:2", false, "needs the CA"),
            ("ftp://h:1", "nats://h:2", false, "wanted https://"),
            ("https://h:1/path", "nats://h:2", true, "nothing behind it"),
            ("not a url", "nats://h:2", false, "it is no URL"),
            ("http://h:1", "http://h:2", false, "wanted tls://"),
        ] {
            let refused = check(control, nats, ca).unwrap_err();
            assert!(refused.contains(words), "{control} {nats}: {refused}");
        }
        assert!(Options::new().check().is_err());
        let half = Options::new().control_plane("http://h:1");
        assert!(half.check().is_err());
        assert!(half.message_plane("nats://h:2").check().is_ok());
    }
}
