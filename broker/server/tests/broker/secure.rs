//! TLS (nats-surface §1.13): who speaks first, who has to prove what, and what a slow peer costs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use unibus_broker::{ConnectionQuery, HandshakeFirst, ListenerSettings, TlsSettings};

use crate::support::{DEADLINE, Node, Raw, until};

/// A certificate authority made for one test.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

/// A certificate and its key.
pub(crate) struct Identity(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "Test CA");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    pub(crate) fn issue(&self, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Identity(vec![certificate.der().clone()], key)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        Arc::new(roots)
    }

    /// What a server needs; `verify` = clients have to have a certificate of this authority.
    pub(crate) fn server(&self, verify: bool) -> Arc<ServerConfig> {
        let Identity(chain, key) = self.issue(|_| {});
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = if verify {
            let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), provider);
            config.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            config.with_no_client_auth()
        };
        Arc::new(config.with_single_cert(chain, key).unwrap())
    }

    pub(crate) fn client(&self, identity: Option<Identity>) -> TlsConnector {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let config = match identity {
            Some(Identity(chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        };
        TlsConnector::from(Arc::new(config))
    }

    pub(crate) fn settings(&self) -> TlsSettings {
        TlsSettings {
            config: self.server(false),
            handshake_first: HandshakeFirst::Never,
            timeout: DEADLINE,
            required: true,
            verify: false,
            map: false,
        }
    }
}

fn over_tls(settings: TlsSettings) -> ListenerSettings {
    ListenerSettings {
        tls: Some(settings),
        websocket: None,
    }
}

pub(crate) async fn encrypt(
    connector: &TlsConnector,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let handshake = connector.connect(name, stream);
    timeout(DEADLINE, handshake).await.expect("in time")
}

/// A client that reads INFO and then encrypts.
async fn upgrade(addr: SocketAddr, connector: &TlsConnector) -> io::Result<(String, Raw)> {
    let mut stream = TcpStream::connect(addr).await?;
    let info = plain_line(&mut stream).await;
    Ok((info, Raw::over(encrypt(connector, stream).await?)))
}

/// A client that encrypts first.
async fn encrypted(addr: SocketAddr, connector: &TlsConnector) -> io::Result<Raw> {
    let stream = TcpStream::connect(addr).await?;
    Ok(Raw::over(encrypt(connector, stream).await?))
}

/// One line, read byte by byte: what follows it belongs to TLS.
async fn plain_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let byte = timeout(DEADLINE, stream.read_u8()).await.expect("in time");
        line.push(byte.unwrap());
    }
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn info_comes_first_and_everything_else_is_encrypted() {
    let (node, ca) = (Node::start().await, Authority::new());
    let (addr, _) = node.listen(over_tls(ca.settings())).await;
    let (info, mut raw) = upgrade(addr, &ca.client(None)).await.unwrap();
    assert!(info.contains("\"tls_required\":true"), "{info}");
    assert!(!info.contains("tls_available") && !info.contains("tls_verify"));
    let again = raw.connect("\"headers\":true").await;
    assert!(again.contains("\"tls_required\":true"), "{again}");
    // The plain listener of the same broker says nothing of it, and messages pass between them.
    let mut plain = node.client().await;
    assert!(!plain.info.contains("tls_"), "{}", plain.info);
    plain.send("SUB from.tls 1\r\n").await;
    plain.flush().await;
    raw.send("PUB from.tls 2\r\nhi\r\n").await;
    plain.expect("MSG from.tls 1 2\r\nhi\r\n").await;
}

#[tokio::test]
async fn a_client_that_does_not_encrypt_is_told_to() {
    let (node, ca) = (Node::start().await, Authority::new());
    let (addr, _) = node.listen(over_tls(ca.settings())).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let _info = plain_line(&mut stream).await;
    stream.write_all(b"CONNECT {}\r\nPING\r\n").await.unwrap();
    assert_eq!(
        plain_line(&mut stream).await,
        "-ERR 'Secure Connection - TLS Required'\r\n"
    );
}

#[tokio::test]
async fn under_tls_first_nothing_is_said_in_plain_text() {
    let (node, ca) = (Node::start().await, Authority::new());
    let mut settings = ca.settings();
    settings.handshake_first = HandshakeFirst::Always;
    let (addr, _) = node.listen(over_tls(settings)).await;
    let mut raw = encrypted(addr, &ca.client(None)).await.unwrap();
    raw.greeted().await;
    assert!(raw.info.contains("\"tls_required\":true"), "{}", raw.info);
    raw.connect("\"headers\":true").await;
}

#[tokio::test]
async fn auto_serves_both_who_encrypt_first_and_who_wait_for_info() {
    let (node, ca) = (Node::start().await, Authority::new());
    let mut settings = ca.settings();
    settings.handshake_first = HandshakeFirst::Within(Duration::from_millis(200));
    let (addr, _) = node.listen(over_tls(settings)).await;
    let mut first = encrypted(addr, &ca.client(None)).await.unwrap();
    first.greeted().await;
    first.connect("\"headers\":true").await;
    let (info, mut later) = upgrade(addr, &ca.client(None)).await.unwrap();
    assert!(info.contains("\"tls_required\":true"), "{info}");
    later.connect("\"headers\":true").await;
}

#[tokio::test]
async fn in_mixed_mode_each_client_chooses() {
    let (node, ca) = (Node::start().await, Authority::new());
    for handshake_first in [
        HandshakeFirst::Never,
        HandshakeFirst::Within(Duration::from_millis(20)),
    ] {
        let mut settings = ca.settings();
        settings.required = false;
        settings.handshake_first = handshake_first;
        let (addr, _) = node.listen(over_tls(settings)).await;
        let (info, mut secure) = upgrade(addr, &ca.client(None)).await.unwrap();
        assert!(info.contains("\"tls_available\":true"), "{info}");
        assert!(!info.contains("tls_required"), "{info}");
        secure.connect("\"headers\":true").await;
        let mut plain = Raw::over(TcpStream::connect(addr).await.unwrap());
        plain.greeted().await;
        plain.connect("\"headers\":true").await;
        plain.send("SUB mixed 7\r\n").await;
        plain.flush().await;
        secure.send("PUB mixed 1\r\nx\r\n").await;
        plain.expect("MSG mixed 7 1\r\nx\r\n").await;
    }
}

#[tokio::test]
async fn without_a_certificate_of_the_authority_nobody_gets_in() {
    let (node, ca) = (Node::start().await, Authority::new());
    let mut settings = ca.settings();
    settings.config = ca.server(true);
    settings.verify = true;
    let (addr, _) = node.listen(over_tls(settings)).await;
    let own = ca.issue(|_| {});
    let (info, mut raw) = upgrade(addr, &ca.client(Some(own))).await.unwrap();
    assert!(info.contains("\"tls_verify\":true"), "{info}");
    raw.connect("\"headers\":true").await;
    let stranger = Authority::new().issue(|_| {});
    for identity in [None, Some(stranger)] {
        // With TLS 1.3 the refusal may come after the client believes to be done.
        let Ok((_, mut raw)) = upgrade(addr, &ca.client(identity)).await else {
            continue;
        };
        raw.send("CONNECT {}\r\nPING\r\n").await;
        assert_eq!(raw.rest().await, "");
    }
    until("only one is left", || node.broker.stats().connections == 1).await;
}

#[tokio::test]
async fn a_certificate_names_the_user_where_that_is_asked_for() {
    let (node, ca) = (Node::start().await, Authority::new());
    let mut settings = ca.settings();
    settings.config = ca.server(true);
    (settings.verify, settings.map) = (true, true);
    let (addr, _) = node.listen(over_tls(settings)).await;
    let as_mail = |mail: &str| {
        let mail = SanType::Rfc822Name(Ia5String::try_from(mail).unwrap());
        ca.issue(|params| params.subject_alt_names.push(mail))
    };
    // The test's authenticator admits no certificate that names nobody@example.
    let bob = ca.client(Some(as_mail("bob@example")));
    let (_, mut raw) = upgrade(addr, &bob).await.unwrap();
    raw.connect("\"headers\":true").await;
    let nobody = ca.client(Some(as_mail("nobody@example")));
    let (_, mut raw) = upgrade(addr, &nobody).await.unwrap();
    raw.send("CONNECT {\"verbose\":false}\r\nPING\r\n").await;
    assert_eq!(raw.rest().await, "-ERR 'Authorization Violation'\r\n");
}

#[tokio::test]
async fn a_new_certificate_serves_newcomers_and_disturbs_nobody() {
    let (node, old, new) = (Node::start().await, Authority::new(), Authority::new());
    let (addr, listener) = node.listen(over_tls(old.settings())).await;
    let (_, mut early) = upgrade(addr, &old.client(None)).await.unwrap();
    early.connect("\"headers\":true").await;
    listener.replace(over_tls(new.settings()));
    assert!(upgrade(addr, &old.client(None)).await.is_err());
    let (_, mut late) = upgrade(addr, &new.client(None)).await.unwrap();
    late.connect("\"headers\":true").await;
    early.send("SUB still.here 1\r\n").await;
    early.flush().await;
    late.send("PUB still.here 0\r\n\r\n").await;
    early.expect("MSG still.here 1 0\r\n\r\n").await;
}

#[tokio::test]
async fn half_open_handshakes_end_in_time_and_leave_nothing() {
    let (node, ca) = (Node::start().await, Authority::new());
    let mut settings = ca.settings();
    settings.timeout = Duration::from_millis(200);
    let (addr, _) = node.listen(over_tls(settings.clone())).await;
    settings.handshake_first = HandshakeFirst::Always;
    let (first, _) = node.listen(over_tls(settings)).await;
    let begun = Instant::now();
    let mut open = Vec::new();
    // A handshake record of which nothing but the header ever comes, and silence.
    for sent in [&[0x16, 3, 1, 2, 0][..], &[]] {
        for addr in [addr, first] {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            stream.write_all(sent).await.unwrap();
            open.push(stream);
        }
    }
    until("they are served", || node.broker.stats().connections == 4).await;
    for stream in &mut open {
        let mut rest = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut rest))
            .await
            .unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(3));
    until("all are gone", || node.broker.stats().connections == 0).await;
}

/// A subscriber that reads nothing, over sockets with small buffers. Returns its connection's number.
async fn subscriber(addr: SocketAddr, ca: &Authority) -> (u64, Raw) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(SOCKET_BYTES).unwrap();
    let mut stream = socket.connect(addr).await.unwrap();
    let info = plain_line(&mut stream).await;
    let (_, id) = info.split_once("\"client_id\":").unwrap();
    let id = id.split(',').next().unwrap().parse().unwrap();
    let mut raw = Raw::over(encrypt(&ca.client(None), stream).await.unwrap());
    raw.connect("\"headers\":true").await;
    raw.send("SUB tail 1\r\n").await;
    raw.flush().await;
    (id, raw)
}

const SOCKET_BYTES: u32 = 16 * 1024;

#[tokio::test]
async fn the_tail_of_a_delivery_arrives_although_nothing_follows_it() {
    // No PING of the server comes to the rescue.
    let node = Node::limited(|limits| limits.first_ping = Duration::from_secs(60)).await;
    let ca = Authority::new();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(SOCKET_BYTES).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let (addr, _) = node.listen_on(listener, over_tls(ca.settings()));
    let mut publisher = node.client().await;
    let publish = format!("PUB tail 4000\r\n{}\r\n", "x".repeat(4000));
    let pending = |cid| {
        let query = ConnectionQuery {
            cid: Some(cid),
            ..ConnectionQuery::default()
        };
        node.broker.connections(&query).connections[0].pending_bytes
    };

    // How much the sockets and TLS take together. The last 64 KiB of it are inside TLS.
    let (id, first) = subscriber(addr, &ca).await;
    let mut taken = 0;
    while pending(id) == 0 {
        publisher.send(&publish).await;
        publisher.flush().await;
        // The subscriber's task gets its turn, or what is pending would say nothing.
        tokio::time::sleep(Duration::from_millis(2)).await;
        taken += 1;
        assert!(taken < 1000, "the buffers of the sockets are not small");
    }
    drop(first);
    until("the first is gone", || {
        node.broker.stats().subscriptions == 0
    })
    .await;

    // A little less: nothing is pending any more, and the last bytes have not been written.
    let (id, mut raw) = subscriber(addr, &ca).await;
    for _ in 0..taken - 8 {
        publisher.send(&publish).await;
    }
    publisher.flush().await;
    until("TLS has taken it", || pending(id) == 0).await;
    for _ in 0..taken - 8 {
        assert_eq!(raw.line().await, "MSG tail 1 4000");
        raw.skip(4002).await;
    }
}
