//! What the operator asked for about clients' TLS and WebSocket, with files looked at, not yet judged.

use std::net::{IpAddr, SocketAddr};

use super::client_args::ClientArgs;
use super::files::FileFact;
use super::tls::{ClientTls, HandshakeFirst};
use super::websocket::WebSocket;

/// Clients' TLS and the WebSocket listener as flags give them. The default is neither.
#[derive(Clone, Debug, Default)]
pub struct ClientSettings {
    /// The certificate that clients see.
    pub cert: Option<FileFact>,
    /// Its key.
    pub key: Option<FileFact>,
    /// Authorities of clients' certificates.
    pub ca: Option<FileFact>,
    /// Clients need a certificate.
    pub verify: bool,
    /// Who speaks first, where a flag says it.
    pub first: Option<HandshakeFirst>,
    /// Clients may go on without TLS.
    pub allow_non_tls: bool,
    /// The WebSocket listener, without its TLS.
    pub websocket: Option<WebSocket>,
    /// The first `--ws-…` flag that is given although there is no listener.
    pub stray_ws_flag: Option<&'static str>,
}

impl ClientSettings {
    /// Looks at the files. `bind` is where the NATS listener is.
    #[must_use]
    pub fn gather(args: &ClientArgs, bind: IpAddr) -> Self {
        let look = |path: &Option<std::path::PathBuf>| {
            let path = path.as_ref()?;
            Some(FileFact::look(path.clone(), true))
        };
        Self {
            cert: look(&args.tls_cert),
            key: look(&args.tls_key),
            ca: look(&args.tls_ca),
            verify: args.tls_verify,
            first: args.tls_first,
            allow_non_tls: args.allow_non_tls,
            websocket: websocket(args, bind),
            stray_ws_flag: stray(args),
        }
    }

    /// TLS of the NATS listener.
    #[must_use]
    pub fn tls(&self) -> Option<ClientTls> {
        let (cert, key) = (self.cert.as_ref()?, self.key.as_ref()?);
        let mut tls = ClientTls::new(cert.path.clone(), key.path.clone());
        tls.ca = self.ca.as_ref().map(|fact| fact.path.clone());
        tls.verify = self.verify;
        tls.handshake_first = self.first.unwrap_or_default();
        tls.allow_non_tls = self.allow_non_tls;
        Some(tls)
    }

    /// The WebSocket listener, with the NATS listener's TLS unless plain `ws` is meant.
    #[must_use]
    pub fn websocket(&self) -> Option<WebSocket> {
        let mut ws = self.websocket.clone()?;
        ws.tls = self.tls().filter(|_| !ws.no_tls);
        Some(ws)
    }

    /// The first flag about TLS that has no meaning without a certificate.
    #[must_use]
    pub fn stray_tls_flag(&self) -> Option<&'static str> {
        let given = [
            (self.ca.is_some(), "--tls-ca"),
            (self.verify, "--tls-verify"),
            (self.first.is_some(), "--tls-first"),
            (self.allow_non_tls, "--allow-non-tls"),
        ];
        let none = self.cert.is_none() && self.key.is_none();
        let stray = given.into_iter().find(|(given, _)| *given && none);
        stray.map(|(_, flag)| flag)
    }
}

fn websocket(args: &ClientArgs, bind: IpAddr) -> Option<WebSocket> {
    let listen = args.ws_listen?;
    let at = SocketAddr::new(listen.ip.unwrap_or(bind), listen.port);
    Some(WebSocket {
        no_tls: args.ws_no_tls,
        same_origin: args.ws_same_origin,
        allowed_origins: args.ws_allowed_origins.clone(),
        advertise: args.ws_advertise.clone(),
        ..WebSocket::new(at)
    })
}

fn stray(args: &ClientArgs) -> Option<&'static str> {
    let given = [
        (args.ws_no_tls, "--ws-no-tls"),
        (args.ws_same_origin, "--ws-same-origin"),
        (!args.ws_allowed_origins.is_empty(), "--ws-allowed-origins"),
        (args.ws_advertise.is_some(), "--ws-advertise"),
    ];
    let stray = given
        .into_iter()
        .find(|(given, _)| *given && args.ws_listen.is_none());
    stray.map(|(_, flag)| flag)
}
