//! Many at once, and those who mean harm, at the sizes that the product promises. Ten thousand idle
//! connections want a process of their own for the node: `tests/protocol/many.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use unibus_broker::{HandshakeFirst, ListenerSettings, OriginRule, TlsSettings, WebSocketSettings};

use crate::secure::{Authority, encrypt};
use crate::support::{DEADLINE, Node, until};

/// Clients that send random bytes, of each kind.
const NOISY: usize = 2_000;

/// Clients that vanish, of each kind.
const VANISHING: usize = 500;

/// What a WebSocket client begins with.
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn websocket() -> WebSocketSettings {
    WebSocketSettings {
        host: "127.0.0.1".to_owned(),
        port: 1,
        handshake_timeout: Duration::from_secs(2),
        origins: OriginRule::default(),
    }
}

/// A node that sends no PING while a test runs, which may be longer than its first interval.
async fn patient() -> Node {
    Node::limited(|limits| {
        limits.first_ping = Duration::from_secs(3600);
        limits.ping_interval = Duration::from_secs(3600);
    })
    .await
}

#[tokio::test]
async fn idle_connections_hold() {
    let node = patient().await;
    let mut clients = Vec::new();
    for _ in 0..300 {
        clients.push(node.client().await);
    }
    assert_eq!(node.broker.stats().connections, clients.len());
    for client in &mut clients {
        client.flush().await;
    }
}

#[tokio::test]
async fn many_clients_with_many_subscriptions_hold() {
    let node = patient().await;
    let (count, each) = (1_000, 1_000);
    let mut clients = Vec::new();
    for number in 0..count {
        let mut client = node.client().await;
        let subscribe: String = (0..each)
            .map(|sid| format!("SUB own.{number}.{sid} {sid}\r\n"))
            .collect();
        client.send(&subscribe).await;
        client.flush().await;
        clients.push(client);
    }
    assert_eq!(node.broker.stats().subscriptions, count * each);
    let mut publisher = node.client().await;
    for number in 0..count {
        publisher
            .send(&format!("PUB own.{number}.{} 1\r\nx\r\n", each - 1))
            .await;
    }
    for client in &mut clients {
        let line = client.line().await;
        assert!(line.ends_with(&format!(" {} 1", each - 1)), "{line}");
        client.skip(3).await;
    }
    drop(clients);
    until("nothing is left of them", || {
        node.broker.stats().subscriptions == 0
    })
    .await;
}

/// Sends random bytes and reads until the node closes.
async fn babble(addr: SocketAddr, first: &[u8]) {
    let noise: [u8; 4096] = rand::random();
    let Ok(mut stream) = TcpStream::connect(addr).await else {
        return;
    };
    let talking = async {
        // Whether the node still reads is its own choice.
        let _ = stream.write_all(first).await;
        let _ = stream.write_all(&noise).await;
        let _ = stream.shutdown().await;
        let mut sink = Vec::new();
        let _ = stream.read_to_end(&mut sink).await;
    };
    timeout(DEADLINE, talking).await.expect("the node lets go");
}

#[tokio::test]
async fn random_bytes_end_their_own_connection_only() {
    let (node, ca) = (patient().await, Authority::new());
    let tls = ListenerSettings {
        tls: Some(ca.settings()),
        websocket: None,
    };
    let ws = ListenerSettings {
        tls: None,
        websocket: Some(websocket()),
    };
    let (tls, ws) = (node.listen(tls).await.0, node.listen(ws).await.0);
    let mut witness = node.client().await;
    for _ in 0..NOISY {
        for (addr, first) in [
            (node.addr, &b""[..]),
            (node.addr, b"CONNECT {}\r\nSUB > 1\r\n"),
            (tls, b""),
            (tls, &[0x16, 3, 1]),
            (ws, b""),
        ] {
            babble(addr, first).await;
        }
        // Frames of random bytes, after an upgrade that succeeds.
        let mut stream = TcpStream::connect(ws).await.unwrap();
        stream.write_all(UPGRADE.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert_eq!(&head, b"HTTP/1.1 101");
        let noise: [u8; 2048] = rand::random();
        let _ = stream.write_all(&noise).await;
    }
    until("only the witness is left", || {
        node.broker.stats().connections == 1
    })
    .await;
    witness.flush().await;
}

/// Greets the node, is greeted, breaks the protocol and is gone: what the node says to it then can't be
/// written.
async fn vanish(mut stream: impl AsyncRead + AsyncWrite + Unpin, framed: bool) {
    const NOISE: &[u8] = b"CONNECT {}\r\nNOISE\r\n";
    let mut words = Vec::new();
    if framed {
        stream.write_all(UPGRADE.as_bytes()).await.unwrap();
        // A binary frame, and a mask that changes nothing.
        words.extend([0x82, 0x80 | NOISE.len() as u8, 0, 0, 0, 0]);
    }
    words.extend(NOISE);
    let mut heard = Vec::new();
    while !heard.windows(6).any(|six| six == b"INFO {") {
        let read = timeout(DEADLINE, stream.read_buf(&mut heard)).await;
        assert!(read.expect("in time").unwrap() > 0, "{heard:?}");
    }
    stream.write_all(&words).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test]
async fn who_breaks_the_protocol_and_vanishes_is_forgotten() {
    let (node, ca) = (patient().await, Authority::new());
    let mut witness = node.client().await;
    let connector = ca.client(None);
    for (encrypted, framed) in [(false, false), (true, false), (false, true), (true, true)] {
        let tls = TlsSettings {
            handshake_first: HandshakeFirst::Always,
            ..ca.settings()
        };
        let settings = ListenerSettings {
            tls: encrypted.then_some(tls),
            websocket: framed.then(websocket),
        };
        let addr = node.listen(settings).await.0;
        for _ in 0..VANISHING {
            let stream = TcpStream::connect(addr).await.unwrap();
            // Closing it resets it.
            stream.set_zero_linger().unwrap();
            match encrypted {
                true => vanish(encrypt(&connector, stream).await.unwrap(), framed).await,
                false => vanish(stream, framed).await,
            }
        }
        until("only the witness is left", || {
            node.broker.stats().connections == 1
        })
        .await;
        witness.flush().await;
    }
}
