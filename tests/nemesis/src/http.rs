//! Plain HTTP requests to the control plane, signed where somebody signs them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use unibus_proto::nkey::UserSeed;
use unibus_proto::signing::{body_hash, sign_request};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(8);
/// Largest answer, bytes.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub(crate) fn body(&self) -> &str {
        &self.body
    }
}

/// A request as it goes over the wire; it may be sent more than once.
#[derive(Clone, Debug)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    /// Signed now.
    pub(crate) fn signed(seed: &UserSeed, method: &str, uri: &str, body: &Value) -> Self {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let at_s = now.unwrap_or_default().as_secs();
        let hash = body_hash(body.as_bytes());
        let headers = sign_request(seed, method, uri, at_s, &rand::random(), &hash);
        let mut text = format!("{method} {uri} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n");
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        Self(text.into_bytes())
    }

    /// Sends it to a node.
    ///
    /// # Errors
    /// When nothing answers in time: the request may have been granted all the same.
    pub(crate) async fn send(&self, ip: &str, port: u16) -> anyhow::Result<Answer> {
        let answer = tokio::time::timeout(PATIENCE, exchange(ip, port, &self.0)).await;
        answer.context("no answer in time")?
    }
}

/// A plain GET.
pub(crate) async fn get(ip: &str, port: u16, path: &str) -> anyhow::Result<Answer> {
    let text = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    Request(text.into_bytes()).send(ip, port).await
}

async fn exchange(ip: &str, port: u16, request: &[u8]) -> anyhow::Result<Answer> {
    let mut socket = TcpStream::connect((ip, port)).await?;
    socket.write_all(request).await?;
    let mut text = String::new();
    socket
        .take(ANSWER_BYTES_MAX)
        .read_to_string(&mut text)
        .await?;
    let (head, body) = text.split_once("\r\n\r\n").context("no whole head")?;
    let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok());
    let Some(status) = status else {
        bail!("not an HTTP answer: {head:?}");
    };
    Ok(Answer {
        status,
        body: body.to_owned(),
    })
}
