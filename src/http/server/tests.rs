//! Raw requests over real sockets: what is answered, and what is refused before it costs anything.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use unibus_testkit::hostile::{drip, sip};

use super::{HttpServer, Surface};
use crate::config::limits::HttpLimits;
use crate::http::health::{Document, HealthReport, HealthSource, NodeRole, PostureReport};
use crate::shutdown::{self, Trigger};

const HOME: [u8; 4] = [127, 0, 0, 1];
const DEADLINE: Duration = Duration::from_secs(10);
/// A document that is far larger than what the kernel takes for a reader that does not read.
const LARGE_BYTES: usize = 48 * 1024 * 1024;

struct Source(Mutex<HealthReport>);

impl HealthSource for Source {
    fn health(&self) -> HealthReport {
        self.0.lock().clone()
    }

    fn varz(&self) -> Value {
        json!({ "server_id": "N1", "connections": 3 })
    }

    fn document(&self, path: &str, _query: &str) -> Option<Document> {
        (path == "/large").then(|| Document {
            status: 200,
            content_type: "text/plain",
            policy: Document::INERT,
            body: vec![b'x'; LARGE_BYTES],
        })
    }
}

struct Running {
    address: std::net::SocketAddr,
    source: Arc<Source>,
    trigger: Trigger,
    task: tokio::task::JoinHandle<()>,
}

async fn running(surface: Surface, limits: HttpLimits) -> Running {
    let report = HealthReport {
        posture: PostureReport {
            enforce: true,
            ..PostureReport::default()
        },
        server_name: "n1".into(),
        role: NodeRole::Leader,
        leader: Some("n1".into()),
        quorum: true,
        store_open: true,
        caught_up: true,
        ..HealthReport::default()
    };
    let source = Arc::new(Source(Mutex::new(report)));
    let any = "127.0.0.1:0".parse().unwrap();
    let server = HttpServer::bind(any, surface, limits).await.unwrap();
    let address = server.local_addr().unwrap();
    let (trigger, shutdown) = shutdown::channel();
    let task = tokio::spawn(server.run(Arc::clone(&source) as Arc<dyn HealthSource>, shutdown));
    Running {
        address,
        source,
        trigger,
        task,
    }
}

/// Sends `request` and reads to the end of the connection.
async fn exchange(address: std::net::SocketAddr, request: &[u8]) -> String {
    let talk = async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // The server may refuse and close before it has read everything.
        let _refused_early = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    tokio::time::timeout(DEADLINE, talk).await.unwrap()
}

async fn get(address: std::net::SocketAddr, path: &str) -> (u16, Value) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap())
}

#[tokio::test]
async fn healthz_tells_the_posture_and_503_when_it_cannot_serve() {
    let node = running(Surface::Control, HttpLimits::default()).await;
    let (status, body) = get(node.address, "/healthz").await;
    assert_eq!((status, &body["status"]), (200, &json!("ok")));
    assert_eq!(body["posture"]["enforce"], json!(true));
    assert_eq!(body["posture"]["tls"], json!(false));
    assert_eq!(
        (&body["leader"], &body["role"]),
        (&json!("n1"), &json!("leader"))
    );
    assert_eq!(
        (&body["quorum"], &body["peers"]),
        (&json!(true), &json!([]))
    );

    node.source.0.lock().quorum = false;
    let (status, body) = get(node.address, "/healthz").await;
    assert_eq!((status, &body["status"]), (503, &json!("unavailable")));
    assert!(body["error"].as_str().unwrap().contains("quorum"));

    node.source.0.lock().quorum = true;
    node.source.0.lock().store_open = false;
    assert_eq!(get(node.address, "/healthz?x=1").await.0, 503);
    // The process is alive whatever its store does.
    assert_eq!(get(node.address, "/livez").await.0, 200);
}

#[tokio::test]
async fn varz_is_for_monitoring_only() {
    let control = running(Surface::Control, HttpLimits::default()).await;
    let monitor = running(Surface::Monitor, HttpLimits::default()).await;
    let (status, body) = get(control.address, "/varz").await;
    assert_eq!((status, body), (404, json!({ "error": "nothing is here" })));
    let (status, body) = get(monitor.address, "/varz").await;
    assert_eq!((status, &body["connections"]), (200, &json!(3)));
    assert_eq!(get(monitor.address, "/healthz").await.0, 200);
}

#[tokio::test]
async fn other_methods_are_refused_and_head_has_no_body() {
    let node = running(Surface::Control, HttpLimits::default()).await;
    let post =
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
    let answer = exchange(node.address, post).await;
    assert!(
        answer.starts_with("HTTP/1.1 405") && answer.contains("allow: GET, HEAD"),
        "{answer}"
    );
    let head = b"HEAD /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = exchange(node.address, head).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_body_over_the_ceiling_is_refused_declared_or_not() {
    let limits = HttpLimits {
        body_bytes_max: 1000,
        ..HttpLimits::default()
    };
    let node = running(Surface::Control, limits).await;
    // Declared: refused although not one byte of it was sent.
    let declared = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n";
    assert!(
        exchange(node.address, declared)
            .await
            .starts_with("HTTP/1.1 413")
    );
    let mut chunked =
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    chunked.extend_from_slice(b"3e9\r\n");
    chunked.extend_from_slice(&[b'x'; 1001]);
    chunked.extend_from_slice(b"\r\n");
    assert!(
        exchange(node.address, &chunked)
            .await
            .starts_with("HTTP/1.1 413")
    );
}

#[tokio::test]
async fn slow_and_oversized_headers_end_the_connection() {
    let limits = HttpLimits {
        header_read_timeout: Duration::from_millis(200),
        header_bytes_max: 8 * 1024,
        ..HttpLimits::default()
    };
    let node = running(Surface::Control, limits).await;
    // `exchange` returns because the server gives up: nothing ends these headers.
    let answer = exchange(node.address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await;
    assert!(!answer.contains("200 OK"), "{answer}");
    let mut long = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ".to_vec();
    long.extend_from_slice(&[b'x'; 20_000]);
    long.extend_from_slice(b"\r\n\r\n");
    assert!(!exchange(node.address, &long).await.contains("200 OK"));
}

#[tokio::test]
async fn more_connections_than_allowed_wait_for_their_turn() {
    let limits = HttpLimits {
        connections_max: 1,
        ..HttpLimits::default()
    };
    let node = running(Surface::Control, limits).await;
    let mut first = TcpStream::connect(node.address).await.unwrap();
    first
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    // The first connection is open; the second one is answered only after it ends.
    let second = tokio::spawn(async move { get(node.address, "/livez").await.0 });
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(
        tokio::time::timeout(DEADLINE, second)
            .await
            .unwrap()
            .unwrap(),
        200
    );
}

/// Who asks now and then keeps its connection, but not from others.
#[tokio::test]
async fn a_connection_is_kept_only_while_there_are_others() {
    let limits = |connections_max| HttpLimits {
        connections_max,
        header_read_timeout: Duration::from_secs(3600),
        ..HttpLimits::default()
    };
    let probe = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    for surface in [Surface::Control, Surface::Monitor] {
        let full = running(surface, limits(1)).await;
        // `exchange` returns because the server closes: the client would keep it.
        let answer = exchange(full.address, probe).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("connection: close"), "{answer}");
        // The accept loop holds one, the connection the second.
        let roomy = running(surface, limits(3)).await;
        let mut kept = TcpStream::connect(roomy.address).await.unwrap();
        for _ in 0..2 {
            kept.write_all(probe).await.unwrap();
            let mut answer = vec![0; 4096];
            let read = kept.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..read]);
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(!answer.contains("connection: close"), "{answer}");
        }
    }
}

#[tokio::test]
async fn shutdown_ends_the_listener_and_open_connections() {
    let node = running(Surface::Control, HttpLimits::default()).await;
    let mut open = TcpStream::connect(node.address).await.unwrap();
    open.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0u8; 1];
    open.read_exact(&mut byte).await.unwrap();
    node.trigger.fire();
    tokio::time::timeout(DEADLINE, node.task)
        .await
        .unwrap()
        .unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(DEADLINE, open.read_to_end(&mut rest))
        .await
        .unwrap();
    assert!(ended.is_ok() || ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset));
}

const LARGE: &[u8] = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

/// What was asked for and is not read is bounded, and health is told all the same.
#[tokio::test]
async fn documents_that_nobody_reads_have_a_budget() {
    let limits = HttpLimits {
        bodies_bytes_max: LARGE_BYTES as u64,
        ..HttpLimits::default()
    };
    let node = running(Surface::Monitor, limits).await;
    let mut reader = TcpStream::connect(node.address).await.unwrap();
    reader.write_all(LARGE).await.unwrap();
    let mut byte = [0];
    reader.read_exact(&mut byte).await.unwrap();
    let refused = exchange(node.address, LARGE).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert_eq!(get(node.address, "/livez").await.0, 200);
    // Once it is read, the next one has its turn.
    let mut rest = Vec::new();
    let reading = reader.read_to_end(&mut rest);
    tokio::time::timeout(DEADLINE, reading)
        .await
        .unwrap()
        .unwrap();
    assert!(rest.len() > LARGE_BYTES);
    let answer = exchange(node.address, LARGE).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.len() > LARGE_BYTES);
}

#[tokio::test]
async fn who_does_not_read_is_cut() {
    let limits = HttpLimits {
        connections_max: 1,
        write_timeout: Duration::from_millis(200),
        ..HttpLimits::default()
    };
    let node = running(Surface::Monitor, limits).await;
    let mut silent = TcpStream::connect(node.address).await.unwrap();
    silent.write_all(LARGE).await.unwrap();
    // The only place there is: this is answered once the other one is cut.
    assert_eq!(get(node.address, "/livez").await.0, 200);
}

/// Reads far less than it has to, but enough for the kernel to tell of it again and again.
#[tokio::test]
async fn who_reads_hardly_anything_is_cut_and_who_reads_slowly_is_not() {
    let limits = HttpLimits {
        connections_max: 1,
        write_timeout: Duration::from_secs(2),
        client_bytes_per_second_min: NonZeroU32::new(500_000).unwrap(),
        ..HttpLimits::default()
    };
    let node = running(Surface::Monitor, limits).await;
    let port = node.address.port();
    let every = Duration::from_millis(50);
    let trickling = sip((HOME, port), LARGE, (2048, every));
    let read = tokio::time::timeout(DEADLINE, trickling).await.unwrap();
    assert!(read.unwrap() < LARGE_BYTES as u64 / 10);
    assert_eq!(get(node.address, "/livez").await.0, 200);
    // The twin keeps the rate and takes longer than who is behind may.
    let steady = sip((HOME, port), LARGE, (512 * 1024, every));
    let read = tokio::time::timeout(2 * DEADLINE, steady).await.unwrap();
    assert!(read.unwrap() > LARGE_BYTES as u64);
}

#[tokio::test]
async fn who_hardly_sends_its_body_is_cut() {
    let limits = HttpLimits {
        body_grace: Duration::from_millis(400),
        request_timeout: Duration::from_secs(3600),
        ..HttpLimits::default()
    };
    let node = running(Surface::Monitor, limits).await;
    let to = (HOME, node.address.port());
    let head = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n";
    let (body, every) = ([b'x'; 40_000], Duration::from_millis(20));
    let trickling = drip(to, (head, &body), (1, every));
    let answer = tokio::time::timeout(DEADLINE, trickling).await.unwrap();
    assert!(answer.unwrap().starts_with(b"HTTP/1.1 408"));
    // The twin keeps the rate, and is answered when it is done.
    let steady = drip(to, (head, &body), (1000, every));
    let answer = tokio::time::timeout(DEADLINE, steady).await.unwrap();
    assert!(answer.unwrap().starts_with(b"HTTP/1.1 405"));
}

#[tokio::test]
async fn one_address_does_not_take_all_connections() {
    let limits = HttpLimits {
        connections_per_address_max: 1,
        header_read_timeout: Duration::from_secs(3600),
        ..HttpLimits::default()
    };
    let node = running(Surface::Monitor, limits).await;
    let mut first = TcpStream::connect(node.address).await.unwrap();
    first
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    first.read_exact(&mut [0]).await.unwrap();
    let second = exchange(node.address, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(second, "");
}
