//! One connected peer: its identity, its status, its calls, and the loop that lives as long as its
//! connection.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use quinn::Connection;
use tokio::sync::watch;
use unibus_proto::NodeId;

use super::control::{
    Control, ControlError, ControlReader, ControlWriter, Hello, Kind, RefusedFrame,
};
use super::lifeline;
use super::limits::{CLIENT_URLS_MAX, MEMBERS_MAX, STATUS_PERIOD};
use super::refusals::{Direction, Refusal, RefusalReason, RefusedBy};
use super::registry::Arbiter;
use super::rpc::{self, Calls};
use super::shared::{CloseCode, Shared};
use super::{PeerClaim, PeerInfo, PeerLocalStatus, PeerStatus};

/// A peer and the connection to it.
pub(crate) struct Peer {
    hello: Hello,
    name: String,
    addr: SocketAddr,
    dialed: bool,
    since: Instant,
    told: Mutex<PeerLocalStatus>,
    connection: Connection,
    calls: Calls,
    /// The highest protocol version that both sides speak.
    protocol: u32,
    /// Resolves when the node is done with the message stream; taken by [`run`].
    stream_end: Mutex<Option<BoxFuture<'static, ()>>>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("name", &self.name)
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl Peer {
    /// With the highest protocol version that this node speaks.
    pub(crate) fn new(
        connection: Connection,
        hello: Hello,
        name: String,
        dialed: bool,
        version_max: u32,
    ) -> Self {
        let addr = connection.remote_address();
        let protocol = hello.protocol_max.min(version_max);
        Self {
            name,
            addr: SocketAddr::new(addr.ip().to_canonical(), addr.port()),
            dialed,
            since: Instant::now(),
            told: Mutex::new(PeerLocalStatus {
                initialized: hello.initialized,
                cluster_id: hello.cluster_id.clone(),
                unidentified: hello.unidentified,
                ..PeerLocalStatus::default()
            }),
            calls: Calls::new(hello.node, protocol),
            protocol,
            hello,
            connection,
            stream_end: Mutex::default(),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.hello.node
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where it is reached, UDP.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Since when it is connected.
    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.hello.incarnation
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(crate) fn protocol(&self) -> u32 {
        self.protocol
    }

    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Sets what resolves when the node is done with the message stream.
    pub(crate) fn set_stream_end(&self, end: BoxFuture<'static, ()>) {
        *self.stream_end.lock() = Some(end);
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        self.connection.close(code.wire(), reason.as_bytes());
    }

    /// Takes what the peer says of itself; whether it is anything new.
    fn is_told(&self, mut status: PeerLocalStatus) -> bool {
        status.client_urls.truncate(CLIENT_URLS_MAX);
        status.websocket_urls.truncate(CLIENT_URLS_MAX);
        status.members.truncate(MEMBERS_MAX);
        let mut told = self.told.lock();
        let is_new = *told != status;
        *told = status;
        is_new
    }

    /// Remembers that this route is refused after it stood; the error that ends it.
    fn refused(&self, shared: &Shared, by: RefusedBy, why: RefusedFrame) -> ControlError {
        let RefusedFrame { reason, detail } = why;
        let text = format!("{reason}: {detail}");
        shared.refused(Refusal {
            addr: self.addr,
            name: Some(self.name.clone()),
            direction: match self.dialed {
                true => Direction::Dialed,
                false => Direction::Accepted,
            },
            by,
            reason,
            detail,
            count: 1,
            last: SystemTime::now(),
        });
        ControlError::Lost(text)
    }

    pub(crate) fn info(&self) -> PeerInfo {
        PeerInfo {
            id: self.id(),
            name: self.name.clone(),
            addr: self.addr,
            posture: self.hello.posture,
            initialized: self.told.lock().initialized,
        }
    }

    pub(crate) fn status(&self) -> PeerStatus {
        let told = self.told.lock().clone();
        PeerStatus {
            id: self.id(),
            name: self.name.clone(),
            addr: self.addr,
            posture: self.hello.posture,
            initialized: told.initialized,
            rejoining: told.rejoining,
            cluster_id: told.cluster_id,
            unidentified: told.unidentified,
            quorum: told.quorum,
            members: told.members,
            protocol: self.protocol,
            client_urls: told.client_urls,
            websocket_urls: told.websocket_urls,
            rtt: self.connection.rtt(),
            connected_for: self.since.elapsed(),
            dialed: self.dialed,
        }
    }
}

/// Serves a registered peer until its connection ends, then withdraws it.
pub(crate) async fn run(shared: &Arc<Shared>, peer: Arc<Peer>, control: Control, arbiter: Arbiter) {
    shared.bump();
    let (id, name, addr) = (peer.id(), peer.name(), peer.addr);
    tracing::info!(%id, name, %addr, dialed = peer.dialed, "route established");
    for lane in peer.calls.lanes() {
        shared
            .tasks
            .spawn(rpc::run_lane(Arc::clone(lane), peer.connection.clone()));
    }
    let Control { writer, reader } = control;
    let stream_end = peer.stream_end.lock().take();
    let stream_end = stream_end.unwrap_or_else(|| futures::future::pending().boxed());
    let broken = tokio::select! {
        error = peer.connection.closed() => error.to_string(),
        error = tell(shared, writer, arbiter) => error.to_string(),
        error = listen(shared, &peer, reader) => error.to_string(),
        error = rpc::serve(shared, &peer) => error.to_string(),
        () = stream_end => "the message stream ended".to_owned(),
        () = lifeline::ended(addr) => "its process has ended".to_owned(),
    };
    // Whichever loop ended first, the route ends as a whole.
    peer.close(CloseCode::Protocol, &broken);
    peer.calls.fail_all();
    shared.registry.withdraw(&peer, shared.hooks.as_ref());
    shared.bump();
    tracing::info!(%id, name, %addr, reason = broken, "route closed");
}

/// Sends READY if this end decided, then a status frame every period and at each change.
async fn tell(shared: &Shared, mut writer: ControlWriter, arbiter: Arbiter) -> ControlError {
    let mut nudge = shared.nudge.subscribe();
    if arbiter == Arbiter::Us
        && let Err(error) = writer.write(Kind::Ready, &[]).await
    {
        return error;
    }
    loop {
        let mut status = shared.hooks.local_status();
        status.routes = shared.known_routes();
        if status.members.len() > MEMBERS_MAX {
            status.members.clear();
        }
        if let Err(error) = writer.write_json(Kind::Status, &status).await {
            return error;
        }
        wait_nudge(&mut nudge).await;
    }
}

async fn wait_nudge(nudge: &mut watch::Receiver<u64>) {
    // Both ways of waking, by time or by change, mean the same: say the status again.
    let _woken = tokio::time::timeout(STATUS_PERIOD, nudge.changed()).await;
}

async fn listen(shared: &Arc<Shared>, peer: &Peer, mut reader: ControlReader) -> ControlError {
    loop {
        let status = match reader.read().await {
            Ok(frame) if frame.kind == Kind::Status => frame.json::<PeerLocalStatus>(),
            // The peer decided after this end did.
            Ok(frame) if frame.kind == Kind::Refused => match frame.json::<RefusedFrame>() {
                Ok(refused) => return peer.refused(shared, RefusedBy::Peer, refused),
                Err(error) => Err(error),
            },
            Ok(_) => Err(ControlError::Malformed("not a status")),
            Err(error) => Err(error),
        };
        match status {
            Ok(mut status) => {
                shared.learn_routes(std::mem::take(&mut status.routes));
                let claim = PeerClaim {
                    id: peer.id(),
                    name: peer.name.clone(),
                    cluster_id: status.cluster_id.clone(),
                    unidentified: status.unidentified,
                };
                if let Err(detail) = shared.hooks.accepts(&claim) {
                    let reason = RefusalReason::ClusterId;
                    return peer.refused(shared, RefusedBy::Us, RefusedFrame { reason, detail });
                }
                if peer.is_told(status) {
                    shared.bump();
                }
            }
            Err(error) => return error,
        }
    }
}
