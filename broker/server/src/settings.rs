//! How one client listener speaks before NATS does: plain, TLS or WebSocket.
//!
//! Owns the settings, which may be replaced while the listener serves, and what INFO says about them.

use std::sync::Arc;

use arc_swap::ArcSwap;
use unibus_proto::handshake::ServerInfo;

use crate::tls::TlsSettings;
use crate::websocket::WebSocketSettings;

/// How one client listener speaks. The default is plain TCP.
#[derive(Clone, Debug, Default)]
pub struct ListenerSettings {
    /// TLS; `None` = plain text.
    pub tls: Option<TlsSettings>,
    /// WebSocket; `None` = NATS directly.
    pub websocket: Option<WebSocketSettings>,
}

/// The settings of a listener that serves. Clones are the same listener.
#[derive(Clone, Debug)]
pub struct ClientListener {
    current: Arc<ArcSwap<Prepared>>,
}

/// Settings with what is derived from them.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) settings: ListenerSettings,
    pub(crate) greeting: Arc<Greeting>,
}

impl ClientListener {
    /// A listener for [`crate::Broker::serve_listener`].
    #[must_use]
    pub fn new(settings: ListenerSettings) -> Self {
        Self {
            current: Arc::new(ArcSwap::from_pointee(Prepared::new(settings))),
        }
    }

    /// Replaces the settings (such as a renewed certificate) for connections accepted from now on. Open
    /// connections keep what they have.
    pub fn replace(&self, settings: ListenerSettings) {
        self.current.store(Arc::new(Prepared::new(settings)));
    }

    pub(crate) fn prepared(&self) -> Arc<Prepared> {
        self.current.load_full()
    }
}

impl Prepared {
    fn new(settings: ListenerSettings) -> Self {
        let greeting = Arc::new(Greeting::of(&settings));
        Self { settings, greeting }
    }
}

/// What INFO says to the clients of one listener and not to others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Greeting {
    tls_required: bool,
    tls_available: bool,
    tls_verify: bool,
    websocket: Option<(String, u16)>,
}

impl Greeting {
    fn of(settings: &ListenerSettings) -> Self {
        let websocket = settings.websocket.as_ref();
        // A WebSocket is inside TLS already where it is: its clients must not begin it again.
        let tls = settings.tls.as_ref().filter(|_| websocket.is_none());
        Self {
            tls_required: tls.is_some_and(|tls| tls.required),
            tls_available: tls.is_some_and(|tls| !tls.required),
            tls_verify: tls.is_some_and(|tls| tls.verify),
            websocket: websocket.map(|ws| (ws.host.clone(), ws.port)),
        }
    }

    /// Makes the common INFO that of this listener (nats-surface §1.13, §1.14).
    pub(crate) fn dress(&self, info: &mut ServerInfo) {
        info.tls_required = self.tls_required;
        info.tls_available = self.tls_available;
        info.tls_verify = self.tls_verify;
        if let Some((host, port)) = &self.websocket {
            info.host.clone_from(host);
            info.port = *port;
            info.connect_urls = std::mem::take(&mut info.ws_connect_urls);
        } else {
            info.ws_connect_urls.clear();
        }
    }
}
