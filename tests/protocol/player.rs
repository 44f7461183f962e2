//! Plays a script against a broker of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::pattern::{Met, bytes, meet};
use crate::script::{Action, Script, Step};
use crate::server::Server;

/// Longest wait for expected bytes, unless the script says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server asks a client that has been there for two seconds.
const PING: &[u8] = b"PING\r\n";

/// A raw connection to the broker.
pub(crate) struct Client {
    stream: TcpStream,
    patience: Duration,
    received: Vec<u8>,
    ended: bool,
    /// Answers the server's PING instead of taking it for what was expected: a whole node sends its own.
    answers_pings: bool,
}

pub(crate) async fn play(script: &Script) -> Result<(), String> {
    let server = Server::start(script).await;
    let mut clients = BTreeMap::new();
    for step in &script.steps {
        take(step, script, &server, &mut clients)
            .await
            .map_err(|problem| format!("line {}: {problem}", step.line))?;
    }
    for (name, client) in &mut clients {
        let fence = async {
            client.send(b"PING\r\n").await?;
            client.expect("PONG⏎").await
        };
        fence
            .await
            .map_err(|problem| format!("C{name} at the end: {problem}"))?;
    }
    Ok(())
}

async fn take(
    step: &Step,
    script: &Script,
    server: &Server,
    clients: &mut BTreeMap<String, Client>,
) -> Result<(), String> {
    if matches!(step.action, Action::Open) {
        let mut client = Client::connect(server.address).await?;
        if let Some(patience) = script.number("patience_ms") {
            client.patience = Duration::from_millis(patience);
        }
        client.answers_pings = script.has("jetstream");
        client.expect("INFO {…} ⏎").await?;
        clients.insert(step.client.clone(), client);
        return Ok(());
    }
    let client = clients.get_mut(&step.client).ok_or("no such client")?;
    match &step.action {
        Action::Open => Ok(()),
        Action::Hello(json) => client.hello(json).await,
        Action::Send(text) => client.send(&bytes(text)?).await,
        Action::Expect(pattern) => client.expect(pattern).await,
        Action::Closed => {
            client.expect_closed().await?;
            clients.remove(&step.client);
            Ok(())
        }
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|e| e.to_string())?;
        Ok(Self {
            stream,
            patience: PATIENCE,
            received: Vec::new(),
            ended: false,
            answers_pings: false,
        })
    }

    async fn hello(&mut self, json: &str) -> Result<(), String> {
        self.send(format!("CONNECT {json}\r\nPING\r\n").as_bytes())
            .await?;
        self.expect("PONG⏎").await?;
        if json.contains("\"protocol\":1") {
            self.expect("INFO {…\"connect_info\":true…} ⏎").await?;
        }
        Ok(())
    }

    /// Sends without waiting for answers. A peer that has closed meanwhile is no error here.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let _ = self.stream.write_all(bytes).await;
        Ok(())
    }

    pub(crate) async fn expect(&mut self, pattern: &str) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        loop {
            if self.answers_pings && self.received.starts_with(PING) {
                self.received.drain(..PING.len());
                self.send(b"PONG\r\n").await?;
            }
            match meet(pattern, &self.received)? {
                Met::Whole(length) => {
                    self.received.drain(..length);
                    return Ok(());
                }
                Met::Not => return Err(self.complaint(pattern, "other bytes came")),
                Met::Partly if self.ended => return Err(self.complaint(pattern, "it ended")),
                Met::Partly => {
                    if !self.read(deadline).await {
                        return Err(self.complaint(pattern, "nothing more came"));
                    }
                }
            }
        }
    }

    pub(crate) async fn expect_closed(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.patience;
        while self.received.is_empty() && !self.ended {
            if !self.read(deadline).await {
                return Err("it stays open".into());
            }
        }
        if self.received.is_empty() {
            Ok(())
        } else {
            Err(self.complaint("∎", "bytes came"))
        }
    }

    /// Reads INFO and returns one of its texts.
    pub(crate) async fn info_text(&mut self, field: &str) -> Result<String, String> {
        let deadline = Instant::now() + self.patience;
        while !self.received.contains(&b'\n') && self.read(deadline).await {}
        let line = String::from_utf8_lossy(&self.received).into_owned();
        self.expect("INFO {…} ⏎").await?;
        let json = line.trim_start_matches("INFO ").trim_end();
        let info: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        Ok(info[field]
            .as_str()
            .ok_or_else(|| format!("no {field} in {line}"))?
            .to_owned())
    }

    /// Takes what has come; false when the deadline has passed.
    async fn read(&mut self, deadline: Instant) -> bool {
        match timeout_at(deadline, self.stream.read_buf(&mut self.received)).await {
            Err(_) => return false,
            // A reset counts as an end: the broker may close with unread bytes before it.
            Ok(Ok(0) | Err(_)) => self.ended = true,
            Ok(Ok(_)) => {}
        }
        true
    }

    fn complaint(&self, pattern: &str, what: &str) -> String {
        let shown = String::from_utf8_lossy(&self.received).replace("\r\n", "⏎");
        format!("{what}\n  expected {pattern}\n  received {shown}")
    }
}
