//! NATS over WebSocket (nats-surface §1.14), spoken frame by frame.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use unibus_broker::{
    ConnectionKind, ConnectionQuery, ListenerSettings, OriginRule, WebSocketSettings,
};

use crate::secure::Authority;
use crate::support::{DEADLINE, Duplex, Node, connect_line, until};

const MASK: [u8; 4] = [0xa1, 0xb2, 0xc3, 0xd4];
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A client that writes frames by hand.
struct Ws {
    stream: Box<dyn Duplex>,
    masks: bool,
    /// Data of the frames read so far.
    data: Vec<u8>,
    /// The first control frame that came.
    control: Option<(u8, Vec<u8>)>,
}

fn settings() -> WebSocketSettings {
    WebSocketSettings {
        host: "ws.example".to_owned(),
        port: 8080,
        handshake_timeout: DEADLINE,
        origins: OriginRule::default(),
    }
}

fn over_ws(websocket: WebSocketSettings) -> ListenerSettings {
    ListenerSettings {
        tls: None,
        websocket: Some(websocket),
    }
}

/// Asks for the upgrade. Returns the answer's head.
async fn upgrade(stream: &mut impl Duplex, more: &str) -> String {
    let request = format!(
        "GET / HTTP/1.1\r\nHost: bus.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(DEADLINE, stream.read_u8()).await.expect("in time");
        head.push(byte.unwrap());
    }
    String::from_utf8(head).unwrap()
}

impl Ws {
    async fn dial(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.unwrap()).await
    }

    async fn over(mut stream: impl Duplex + 'static) -> Self {
        let head = upgrade(&mut stream, "").await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        Self {
            stream: Box::new(stream),
            masks: true,
            data: Vec::new(),
            control: None,
        }
    }

    async fn client(addr: SocketAddr) -> Self {
        let mut ws = Self::dial(addr).await;
        ws.line().await;
        ws.send(connect_line("\"headers\":true").as_bytes()).await;
        assert_eq!(ws.line().await, "PONG");
        ws.line().await;
        ws
    }

    async fn frame(&mut self, first: u8, payload: &[u8]) {
        let masked = if self.masks { 0x80 } else { 0 };
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..126 => frame.push(masked | len as u8),
            len => {
                frame.push(masked | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        if self.masks {
            frame.extend(MASK);
            frame.extend(payload.iter().enumerate().map(|(i, b)| b ^ MASK[i % 4]));
        } else {
            frame.extend(payload);
        }
        let writing = self.stream.write_all(&frame);
        timeout(DEADLINE, writing).await.expect("in time").unwrap();
    }

    /// One binary frame.
    async fn send(&mut self, data: &[u8]) {
        self.frame(0x80 | BINARY, data).await;
    }

    /// Reads one frame. False at the end.
    async fn read(&mut self) -> bool {
        let mut head = [0; 2];
        let reading = self.stream.read_exact(&mut head);
        if timeout(DEADLINE, reading).await.expect("in time").is_err() {
            return false;
        }
        assert_eq!(head[0] & 0x70, 0, "a reserved bit");
        assert_eq!(head[1] & 0x80, 0, "a server masks nothing");
        let length = match head[1] {
            126 => u64::from(self.stream.read_u16().await.unwrap()),
            127 => self.stream.read_u64().await.unwrap(),
            short => u64::from(short),
        };
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        let reading = self.stream.read_exact(&mut payload);
        timeout(DEADLINE, reading).await.expect("in time").unwrap();
        match head[0] & 0xf {
            BINARY => self.data.extend(payload),
            control => self.control = self.control.take().or(Some((control, payload))),
        }
        true
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.data.iter().position(|&b| b == b'\n') {
                let line: Vec<u8> = self.data.drain(..=end).collect();
                return String::from_utf8(line).unwrap().trim_end().to_owned();
            }
            assert!(self.read().await, "closed while a line was expected");
        }
    }

    async fn expect(&mut self, text: &str) {
        while self.data.len() < text.len() {
            assert!(self.read().await, "closed; so far {:?}", self.data);
        }
        let got: Vec<u8> = self.data.drain(..text.len()).collect();
        assert_eq!(String::from_utf8_lossy(&got), text);
    }

    /// The close code, and what was said before the end.
    async fn end(&mut self) -> (Option<u16>, String) {
        while self.read().await {}
        let said = String::from_utf8(std::mem::take(&mut self.data)).unwrap();
        let code = self.control.take().map(|(opcode, payload)| {
            assert_eq!(opcode, CLOSE);
            u16::from_be_bytes([payload[0], payload[1]])
        });
        (code, said)
    }
}

#[tokio::test]
async fn info_speaks_of_the_websocket_listener() {
    let node = Node::with(|options| {
        options.connect_urls.clients = vec!["nats.example:4222".to_owned()];
        options.connect_urls.websockets = vec!["ws.example:8080".to_owned()];
    })
    .await;
    let (addr, _) = node.listen(over_ws(settings())).await;
    let info = Ws::dial(addr).await.line().await;
    assert!(
        info.contains("\"host\":\"ws.example\",\"port\":8080"),
        "{info}"
    );
    assert!(
        info.contains("\"connect_urls\":[\"ws.example:8080\"]"),
        "{info}"
    );
    assert!(!info.contains("ws_connect_urls"), "{info}");
    let plain = node.dial().await.info;
    assert!(
        plain.contains("\"connect_urls\":[\"nats.example:4222\"]"),
        "{plain}"
    );
    assert!(!plain.contains("ws_connect_urls"), "{plain}");
    // News go to each in its own words.
    let mut ws = Ws::client(addr).await;
    node.broker
        .update_info(|info| info.ws_connect_urls.push("ws2.example:8080".to_owned()));
    let news = ws.line().await;
    assert!(
        news.contains("\"connect_urls\":[\"ws.example:8080\",\"ws2.example:8080\"]"),
        "{news}"
    );
}

#[tokio::test]
async fn operations_cut_across_frames_and_share_them() {
    let node = Node::start().await;
    let (addr, _) = node.listen(over_ws(settings())).await;
    let mut ws = Ws::client(addr).await;
    ws.send(b"SUB a 1\r\nPING\r\nPUB ").await;
    ws.send(b"a 5\r\nhe").await;
    ws.frame(BINARY, b"l").await;
    ws.frame(0x80 | PING, b"?").await;
    ws.frame(0x80, b"lo\r\nPI").await;
    // A text frame: its content is the same.
    ws.frame(0x81, b"NG\r\n").await;
    ws.expect("PONG\r\nMSG a 1 5\r\nhello\r\nPONG\r\n").await;
    assert_eq!(ws.control.take(), Some((PONG, b"?".to_vec())));
    let query = ConnectionQuery::default();
    let kinds: Vec<_> = node.broker.connections(&query).connections;
    assert_eq!(kinds[0].kind, ConnectionKind::WebSocket);
}

#[tokio::test]
async fn large_messages_pass_in_both_directions() {
    let node = Node::start().await;
    let (addr, _) = node.listen(over_ws(settings())).await;
    let (mut one, mut two) = (Ws::client(addr).await, Ws::client(addr).await);
    one.send(b"SUB big 1\r\nPING\r\n").await;
    one.expect("PONG\r\n").await;
    let payload = "z".repeat(900_000);
    let publish = format!("PUB big {}\r\n{payload}\r\n", payload.len());
    for _ in 0..5 {
        two.send(publish.as_bytes()).await;
    }
    for _ in 0..5 {
        one.expect(&format!("MSG big 1 {}\r\n{payload}\r\n", payload.len()))
            .await;
    }
}

#[tokio::test]
async fn limits_and_errors_are_those_of_tcp_with_a_close_code() {
    let node = Node::limited(|limits| limits.payload_bytes_max = 100).await;
    let (addr, _) = node.listen(over_ws(settings())).await;
    let unknown = "-ERR 'Unknown Protocol Operation'\r\n";
    for (sent, code, said) in [
        (
            &b"PUB a 101\r\n"[..],
            1009,
            "-ERR 'Maximum Payload Violation'\r\n",
        ),
        (b"FOO\r\n", 1002, unknown),
        (
            b"CONNECT {\"verbose\":false,\"user\":\"nobody\"}\r\n",
            1008,
            "-ERR 'Authorization Violation'\r\n",
        ),
    ] {
        let mut ws = Ws::client(addr).await;
        ws.send(sent).await;
        assert_eq!(ws.end().await, (Some(code), said.to_owned()));
    }
    let mut ws = Ws::client(addr).await;
    node.broker.shutdown(DEADLINE).await;
    assert_eq!(ws.end().await, (Some(1001), String::new()));
}

#[tokio::test]
async fn a_close_is_answered_in_kind() {
    let node = Node::start().await;
    let (addr, _) = node.listen(over_ws(settings())).await;
    let mut ws = Ws::client(addr).await;
    ws.frame(0x80 | CLOSE, b"\x03\xe8bye").await;
    while ws.read().await {}
    assert_eq!(ws.control, Some((CLOSE, b"\x03\xe8bye".to_vec())));
    until("it is gone", || node.broker.stats().connections == 0).await;
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection() {
    let node = Node::start().await;
    let (addr, _) = node.listen(over_ws(settings())).await;
    let mut unmasked = Ws::client(addr).await;
    unmasked.masks = false;
    unmasked.send(b"PING\r\n").await;
    assert_eq!(unmasked.end().await, (Some(1002), String::new()));
    let mut compressed = Ws::client(addr).await;
    compressed.frame(0xc0 | BINARY, b"x").await;
    assert_eq!(compressed.end().await, (Some(1002), String::new()));
    // Where it was agreed upon, masks may be left out.
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = upgrade(&mut stream, "Nats-No-Masking: true\r\n").await;
    assert!(head.contains("\r\nNats-No-Masking: true\r\n"), "{head}");
    let mut agreed = Ws {
        stream: Box::new(stream),
        masks: false,
        data: Vec::new(),
        control: None,
    };
    agreed.line().await;
    agreed
        .send(connect_line("\"headers\":true").as_bytes())
        .await;
    assert_eq!(agreed.line().await, "PONG");
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused() {
    let node = Node::start().await;
    let mut own = settings();
    own.origins = OriginRule::new(true, false, &[]).unwrap();
    let (addr, _) = node.listen(over_ws(own)).await;
    for (origin, status) in [
        ("", "101"),
        ("Origin: http://bus.example\r\n", "101"),
        ("Origin: http://evil.example\r\n", "403"),
        ("Origin: null\r\n", "403"),
    ] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = upgrade(&mut stream, origin).await;
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{origin}: {head}"
        );
    }
}

#[tokio::test]
async fn no_extension_is_agreed_upon() {
    let node = Node::start().await;
    let (addr, _) = node.listen(over_ws(settings())).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
    let head = upgrade(&mut stream, offer).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(!head.to_ascii_lowercase().contains("extensions"), "{head}");
}

#[tokio::test]
async fn inside_tls_it_is_the_same() {
    let (node, ca) = (Node::start().await, Authority::new());
    let both = ListenerSettings {
        tls: Some(ca.settings()),
        websocket: Some(settings()),
    };
    let (addr, _) = node.listen(both).await;
    let stream = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = ca.client(None).connect(name, stream).await.unwrap();
    let mut ws = Ws::over(stream).await;
    let info = ws.line().await;
    // The client is inside TLS already and must not begin it again.
    assert!(!info.contains("tls_required"), "{info}");
    ws.send(connect_line("\"headers\":true").as_bytes()).await;
    assert_eq!(ws.line().await, "PONG");
    ws.line().await;
    ws.send(b"SUB a 1\r\nPUB a 1\r\nx\r\n").await;
    ws.expect("MSG a 1 1\r\nx\r\n").await;
    node.broker.shutdown(DEADLINE).await;
    assert_eq!(ws.end().await.0, Some(1001));
}

#[tokio::test]
async fn slow_upgrades_end_in_time_and_leave_nothing() {
    let (node, ca) = (Node::start().await, Authority::new());
    let mut short = settings();
    short.handshake_timeout = Duration::from_millis(200);
    let (plain, _) = node.listen(over_ws(short.clone())).await;
    let mut tls = ca.settings();
    tls.timeout = Duration::from_millis(200);
    let both = ListenerSettings {
        tls: Some(tls),
        websocket: Some(short),
    };
    let (secure, _) = node.listen(both).await;
    let begun = Instant::now();
    let mut open = Vec::new();
    for (addr, sent) in [(plain, "GET / HTTP/1.1\r\nX: "), (plain, ""), (secure, "")] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        open.push(stream);
    }
    until("they are served", || node.broker.stats().connections == 3).await;
    for stream in &mut open {
        let mut rest = Vec::new();
        let _ = timeout(DEADLINE, stream.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(rest, b"");
    }
    assert!(begun.elapsed() < Duration::from_secs(3));
    until("all are gone", || node.broker.stats().connections == 0).await;
}

#[tokio::test]
async fn a_ping_is_answered_while_the_client_takes_no_messages() {
    let node = Node::start().await;
    let (addr, _) = node.listen(over_ws(settings())).await;
    let mut ws = Ws::client(addr).await;
    ws.send(b"SUB flood 1\r\nPING\r\n").await;
    ws.expect("PONG\r\n").await;
    let mut publisher = node.client().await;
    let payload = "x".repeat(1_000_000);
    for _ in 0..8 {
        publisher
            .send(&format!("PUB flood 1000000\r\n{payload}\r\n"))
            .await;
    }
    publisher.flush().await;
    ws.frame(0x80 | PING, b"between").await;
    for _ in 0..8 {
        ws.expect(&format!("MSG flood 1 1000000\r\n{payload}\r\n"))
            .await;
    }
    while ws.control.is_none() {
        assert!(ws.read().await, "closed without a pong");
    }
    assert_eq!(ws.control.take(), Some((PONG, b"between".to_vec())));
}
