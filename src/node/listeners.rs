//! The sockets of a node: bound before anything starts, so that a port in use is said at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use unibus_broker::{Broker, ClientListener};

use super::NodeError;
use super::client_tls::ClientListeners;
use crate::config::NodeConfig;
use crate::config::args::BusAuth;
use crate::control::{ControlServer, PreparedTls};
use crate::http::{HttpServer, Surface};
use crate::mesh::Mesh;
use crate::open_files;

/// Under `enforce`, how long a node lets clients wait that come before it has caught up.
const ADMISSION_WAIT: Duration = Duration::from_secs(10);

/// Where a node listens, with the ports really bound.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// NATS clients, TCP.
    pub client: SocketAddr,
    /// The control plane, TCP; `None` is off.
    pub http: Option<SocketAddr>,
    /// Monitoring, TCP; `None` is off.
    pub monitor: Option<SocketAddr>,
    /// NATS over WebSocket, TCP; `None` is off.
    pub websocket: Option<SocketAddr>,
    /// Routes, UDP; `None` for a single node.
    pub cluster: Option<SocketAddr>,
}

/// What is bound before anything starts, so that a port in use is said at once.
pub(super) struct Listeners {
    pub(super) client: TcpListener,
    pub(super) websocket: Option<TcpListener>,
    /// How the two speak.
    pub(super) settings: ClientListeners,
    /// The control plane of a node that keeps its records.
    pub(super) control: Option<ControlServer>,
    /// What is left of it on a node that does not: health.
    pub(super) http: Option<HttpServer>,
    pub(super) monitor: Option<HttpServer>,
}

impl Listeners {
    pub(super) async fn bind(config: &NodeConfig) -> Result<Self, NodeError> {
        let failed = |flag, address| {
            move |source| NodeError::Listen {
                flag,
                address,
                source,
            }
        };
        let limits = open_files::http(&config.limits.http);
        let address = config.client_listen;
        let client = TcpListener::bind(address)
            .await
            .map_err(failed("--port", address))?;
        let websocket = match &config.websocket {
            None => None,
            Some(ws) => Some(
                TcpListener::bind(ws.listen)
                    .await
                    .map_err(failed("--ws-listen", ws.listen))?,
            ),
        };
        let at = websocket.as_ref().and_then(|ws| ws.local_addr().ok());
        let settings = ClientListeners::load(config, at)?;
        let open = async |address: Option<SocketAddr>, surface, flag| match address {
            None => Ok(None),
            Some(address) => HttpServer::bind(address, surface, limits.clone())
                .await
                .map(Some)
                .map_err(failed(flag, address)),
        };
        let keeps_records = config.auth.bus().is_some() && config.jetstream.is_some();
        let (control, health) = match config.http_listen {
            Some(address) if keeps_records => (Some(address), None),
            address => (None, address),
        };
        let control = match control {
            None => None,
            Some(address) => Some(
                ControlServer::bind(address, control_tls(config)?, limits.clone())
                    .await
                    .map_err(failed("--http-port", address))?,
            ),
        };
        let http = open(health, Surface::Control, "--http-port").await?;
        let monitor = open(config.monitor_listen, Surface::Monitor, "--monitor-port").await?;
        let monitor = monitor.map(|server| server.known_as(config.own_names()));
        Ok(Self {
            client,
            websocket,
            settings,
            control,
            http,
            monitor,
        })
    }

    pub(super) fn addresses(&self, client: SocketAddr, mesh: Option<&Mesh>) -> Addresses {
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let at = |server: &Option<HttpServer>| {
            let server = server.as_ref()?;
            Some(server.local_addr().unwrap_or(unknown))
        };
        Addresses {
            client,
            websocket: self.websocket_addr(),
            http: at(&self.http).or_else(|| {
                let server = self.control.as_ref()?;
                Some(server.local_addr().unwrap_or(unknown))
            }),
            monitor: at(&self.monitor),
            cluster: mesh.map(Mesh::local_addr),
        }
    }

    /// Where clients connect over WebSocket, with the port really bound.
    pub(super) fn websocket_addr(&self) -> Option<SocketAddr> {
        self.settings.websocket.as_ref().map(|(_, at)| *at)
    }

    /// Where clients connect, with the port really bound.
    pub(super) fn client_addr(&self, config: &NodeConfig) -> Result<SocketAddr, NodeError> {
        let address = config.client_listen;
        let failed = |source| NodeError::Listen {
            flag: "--port",
            address,
            source,
        };
        self.client.local_addr().map_err(failed)
    }
}

fn control_tls(config: &NodeConfig) -> Result<Option<Arc<PreparedTls>>, NodeError> {
    let Some(files) = config.http_tls.clone() else {
        return Ok(None);
    };
    Ok(Some(Arc::new(PreparedTls::load(files)?)))
}

/// Accepts clients. Under `enforce` a node that does not know the users yet would refuse people it
/// should admit, and clients take that refusal for final: so it lets them wait, for a while.
pub(super) async fn serve_clients(
    broker: Broker,
    (listener, settings): (TcpListener, ClientListener),
    caught_up: Option<watch::Receiver<bool>>,
    bus_auth: Option<BusAuth>,
    stop: watch::Receiver<bool>,
) {
    if let Some(mut caught_up) = caught_up.filter(|_| bus_auth == Some(BusAuth::Enforce)) {
        let waiting = caught_up.wait_for(|done| *done);
        // Without a quorum only the node's own identity is admitted: others are told so.
        let _waited = tokio::time::timeout(ADMISSION_WAIT, waiting).await;
    }
    broker.serve_listener(listener, &settings, stop).await;
}
