//! What an idle connection costs, alone in its process so that nothing else moves the figure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and this one has a figure to tell"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use unibus_broker::{
    Admission, AuthError, AuthRequest, Authenticator, Broker, BrokerOptions, ClientListener,
    Decision, Grant, HandshakeFirst, ListenerSettings, TlsSettings,
};
use unibus_proto::permissions::Permissions;

/// What one idle connection may cost, in bytes: the promise of issue 3.
const PLAIN_BYTES_MAX: usize = 8 * 1024;

/// The same with TLS. rustls keeps a read buffer of 4 KiB and its keys: ARCHITECTURE.md says more.
const TLS_BYTES_MAX: usize = 13 * 1024;

/// After this long a connection has given its buffers back (`connection.rs`, `IDLE_AFTER`, twice).
const IDLE: Duration = Duration::from_millis(2_100);

/// Connections of one kind that are opened at a time.
const CONNECTIONS: usize = 250;

struct Anyone(watch::Receiver<Grant>);

impl Authenticator for Anyone {
    fn authenticate(&self, request: &AuthRequest<'_>) -> Decision {
        let known = request.connect.user.as_deref() != Some("nobody");
        let admission = known.then(|| Admission::new(self.0.clone()));
        Decision::Now(admission.ok_or(AuthError::Refused))
    }
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

fn tls() -> (TlsSettings, TlsConnector) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let settings = TlsSettings {
        config: Arc::new(server),
        handshake_first: HandshakeFirst::Always,
        timeout: Duration::from_secs(10),
        required: true,
        verify: false,
        map: false,
    };
    (settings, TlsConnector::from(Arc::new(client)))
}

/// INFO, CONNECT and the first PONG.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> S {
    let mut stream = BufReader::with_capacity(1024, stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let connect = b"CONNECT {\"verbose\":false,\"protocol\":0}\r\nSUB idle 1\r\nPING\r\n";
    stream.write_all(connect).await.unwrap();
    line.clear();
    stream.read_line(&mut line).await.unwrap();
    assert_eq!(line, "PONG\r\n");
    stream.into_inner()
}

/// Keeps the socket only: the client's own TLS state is not what is measured.
async fn open(addr: SocketAddr, connector: Option<&TlsConnector>) -> TcpStream {
    let stream = TcpStream::connect(addr).await.unwrap();
    match connector {
        None => greet(stream).await,
        Some(connector) => {
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let stream = connector.connect(name, stream).await.unwrap();
            greet(stream).await.into_inner().0
        }
    }
}

/// Bytes that one more connection costs. What the first ones needed for a while serves the next ones.
async fn cost(addr: SocketAddr, connector: Option<&TlsConnector>) -> usize {
    let mut kept = Vec::with_capacity(2 * CONNECTIONS);
    let mut before = 0;
    for _ in 0..2 {
        before = resident();
        for _ in 0..CONNECTIONS {
            kept.push(open(addr, connector).await);
        }
        // Time passes: that is what makes a connection idle.
        tokio::time::sleep(IDLE).await;
    }
    resident().saturating_sub(before) / CONNECTIONS
}

#[tokio::test]
async fn an_idle_connection_costs_little_also_with_tls() {
    let (_keep, grant) = watch::channel(Grant::Active(Arc::new(Permissions::all())));
    let mut options = BrokerOptions::default();
    // A PING would wake them all.
    options.limits.first_ping = Duration::from_secs(60);
    let broker = Broker::new(options, Arc::new(Anyone(grant)));
    let (stop, _) = watch::channel(false);
    let (settings, connector) = tls();
    let mut addresses = Vec::new();
    for tls in [None, Some(settings)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let listening = ClientListener::new(ListenerSettings {
            tls,
            websocket: None,
        });
        let (broker, stopped) = (broker.clone(), stop.subscribe());
        tokio::spawn(async move { broker.serve_listener(listener, &listening, stopped).await });
    }
    let plain = cost(addresses[0], None).await;
    let tls = cost(addresses[1], Some(&connector)).await;
    println!("idle connection: {plain} bytes in plain text, {tls} bytes with TLS");
    assert!(plain <= PLAIN_BYTES_MAX, "{plain} bytes in plain text");
    assert!(tls <= TLS_BYTES_MAX, "{tls} bytes with TLS");
}
