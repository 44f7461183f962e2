//! Nodes, certificates, and a UDP relay whose target can be set late, changed or cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::time::Instant;
use unibus_proto::NodeId;

use crate::mesh::{
    Mesh, MeshHooks, MeshOptions, MeshTls, PeerClaim, PeerInfo, PeerLocalStatus, Posture,
    RouteAddr, RouteSecret,
};
use crate::pki::{self, NodeFolder};

pub(super) const STRICT: Posture = Posture {
    enforce: true,
    acl: true,
    tls: true,
    cluster: true,
    store: true,
};

/// Waits for `what` with a deadline that only a failure reaches.
pub(super) async fn until(what: &str, mut met: impl FnMut() -> bool) {
    within(Duration::from_secs(15), what, &mut met).await;
}

pub(super) async fn within(limit: Duration, what: &str, met: &mut impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !met() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A route CA with certificates for n1, n2 and n3, which have the ids 1, 2 and 3.
pub(super) struct Authority {
    _dir: TempDir,
    nodes: Vec<NodeFolder>,
}

impl Authority {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let nodes = pki::mint(dir.path(), "east", &["n1", "n2", "n3"], &[]).unwrap();
        Self { _dir: dir, nodes }
    }

    pub(super) fn options(&self, number: u64, routes: Vec<RouteAddr>) -> MeshOptions {
        let node = &self.nodes[usize::try_from(number).unwrap() - 1];
        MeshOptions {
            node_id: NodeId(number),
            server_name: node.name.clone(),
            cluster_name: "east".to_owned(),
            bind: free_addr(),
            routes,
            tls: MeshTls {
                cert: node.cert.clone(),
                key: node.key.clone(),
                ca: node.ca_cert.clone(),
            },
            secret: RouteSecret::from_file(&node.route_secret).unwrap(),
            posture: STRICT,
            learn_routes: false,
            versions: MeshOptions::VERSIONS,
        }
    }

    pub(super) async fn node(&self, number: u64, routes: Vec<RouteAddr>) -> Node {
        Node::start(self.options(number, routes)).await
    }
}

/// An address on loopback that nobody uses, neither on UDP, for the route, nor on TCP, for the lifeline: any
/// connection of a client elsewhere on the machine may have the latter.
fn free_addr() -> SocketAddr {
    for _ in 0..64 {
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let addr = udp.local_addr().unwrap();
        if std::net::TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
    panic!("no port is free on both UDP and TCP");
}

pub(super) fn route_to(addr: SocketAddr) -> RouteAddr {
    RouteAddr {
        name: None,
        host: addr.ip().to_string(),
        port: addr.port(),
    }
}

pub(super) fn named_route(name: &str, addr: SocketAddr) -> RouteAddr {
    RouteAddr {
        name: Some(name.to_owned()),
        ..route_to(addr)
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Event {
    Connected(NodeId),
    Disconnected(NodeId),
}

/// Hooks that remember what they were told.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) events: Mutex<Vec<Event>>,
    pub(super) streams: Mutex<Vec<(NodeId, quinn::RecvStream, quinn::SendStream)>>,
    pub(super) initialized: AtomicBool,
    /// The node's cluster: of other clusters no node is accepted.
    pub(super) cluster_id: Mutex<Option<String>>,
    /// Sending on one says that the node is done with that message stream.
    pub(super) stream_ends: Mutex<Vec<oneshot::Sender<()>>>,
}

impl MeshHooks for Recorder {
    fn connected(
        &self,
        peer: PeerInfo,
        (recv, send): (quinn::RecvStream, quinn::SendStream),
    ) -> futures::future::BoxFuture<'static, ()> {
        self.events.lock().push(Event::Connected(peer.id));
        self.streams.lock().push((peer.id, recv, send));
        let (sender, ended) = oneshot::channel();
        self.stream_ends.lock().push(sender);
        Box::pin(async move {
            if ended.await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    }

    fn disconnected(&self, id: NodeId) {
        self.events.lock().push(Event::Disconnected(id));
    }

    fn accepts(&self, peer: &PeerClaim) -> Result<(), String> {
        match (&*self.cluster_id.lock(), &peer.cluster_id) {
            (Some(own), Some(other)) if own != other => Err(format!("{own} is not {other}")),
            _ => Ok(()),
        }
    }

    fn local_status(&self) -> PeerLocalStatus {
        PeerLocalStatus {
            initialized: self.initialized.load(Ordering::Relaxed),
            cluster_id: self.cluster_id.lock().clone(),
            ..PeerLocalStatus::default()
        }
    }
}

pub(super) struct Node {
    pub(super) mesh: Arc<Mesh>,
    pub(super) hooks: Arc<Recorder>,
}

impl Node {
    pub(super) async fn start(options: MeshOptions) -> Self {
        let hooks = Arc::new(Recorder::default());
        let mesh = Mesh::start(options, Arc::<Recorder>::clone(&hooks))
            .await
            .unwrap();
        Self { mesh, hooks }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.mesh.local_addr()
    }

    pub(super) fn peer_ids(&self) -> Vec<u64> {
        self.mesh.peers().iter().map(|peer| peer.id.0).collect()
    }

    pub(super) async fn has_peers(&self, wanted: &[u64]) {
        until(&format!("{:?} has peers {wanted:?}", self.mesh), || {
            self.peer_ids() == wanted
        })
        .await;
    }

    pub(super) fn take_stream(&self, id: u64) -> (quinn::RecvStream, quinn::SendStream) {
        let mut streams = self.hooks.streams.lock();
        let at = streams.iter().position(|(of, ..)| of.0 == id).unwrap();
        let (_, recv, send) = streams.remove(at);
        (recv, send)
    }
}

/// Forwards UDP between one mesh and whatever its target is at the moment.
pub(super) struct Relay {
    pub(super) addr: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    cut: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub(super) async fn new() -> Self {
        let front = UdpSocket::bind(free_addr()).await.unwrap();
        let back = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = front.local_addr().unwrap();
        let target = Arc::new(Mutex::new(None));
        let cut = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(forward(front, back, Arc::clone(&target), Arc::clone(&cut)));
        Self {
            addr,
            target,
            cut,
            task,
        }
    }

    pub(super) fn lead_to(&self, addr: SocketAddr) {
        *self.target.lock() = Some(addr);
    }

    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub(super) fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(
    front: UdpSocket,
    back: UdpSocket,
    target: Arc<Mutex<Option<SocketAddr>>>,
    cut: Arc<AtomicBool>,
) {
    let (mut out, mut home) = (vec![0; 65_536], vec![0; 65_536]);
    let mut client = None;
    loop {
        let (to, packet, socket) = tokio::select! {
            Ok((length, from)) = front.recv_from(&mut out) => {
                client = Some(from);
                (*target.lock(), &out[..length], &back)
            }
            Ok((length, _)) = back.recv_from(&mut home) => (client, &home[..length], &front),
        };
        if let Some(to) = to.filter(|_| !cut.load(Ordering::Relaxed)) {
            let _lossy = socket.send_to(packet, to).await;
        }
    }
}
