//! The HTTP request that opens a WebSocket (RFC 6455 §4.2, nats-surface §1.14).
//!
//! Owns the bounds of the request and the rules about Origin. Must never read past the request: what
//! follows it belongs to the frames.

use std::io;

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tungstenite::error::ProtocolError;
use tungstenite::handshake::machine::TryParse;
use tungstenite::handshake::server::{Request, create_response, write_response};

use super::origin::OriginRule;

/// Longest request line and headers.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// First read; most requests fit.
const REQUEST_BYTES_USUAL: usize = 1024;

/// By this header client and server agree that a client's frames carry no mask (nats-surface §1.14).
const NO_MASKING: &str = "Nats-No-Masking";

/// Why a request opens no WebSocket. Except for [`UpgradeError::Io`] the client is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    #[error("the request is longer than {REQUEST_BYTES_MAX} bytes")]
    TooLong,
    #[error("bytes came before the answer to the request")]
    Early,
    #[error("not a WebSocket request: {0}")]
    Request(Box<tungstenite::Error>),
    #[error("the origin {0:?} is not allowed")]
    Origin(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl UpgradeError {
    /// The status line and body for the client.
    const fn status(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::TooLong => Some(("431 Request Header Fields Too Large", "request too long\n")),
            Self::Early | Self::Request(_) => Some((
                "400 Bad Request",
                "this port speaks NATS over WebSocket, version 13\n",
            )),
            Self::Origin(_) => Some(("403 Forbidden", "origin not allowed\n")),
            Self::Io(_) => None,
        }
    }
}

/// Reads the request and answers it. Returns whether the client has to mask its frames.
///
/// # Errors
/// [`UpgradeError`], told to the client.
pub(crate) async fn accept<S>(stream: &mut S, rule: &OriginRule) -> Result<bool, UpgradeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let answer = read_request(stream)
        .await
        .and_then(|request| answer(&request, rule));
    match answer {
        Ok((text, masked)) => {
            stream.write_all(&text).await?;
            stream.flush().await?;
            Ok(masked)
        }
        Err(error) => {
            if let Some((status, body)) = error.status() {
                let text = refusal(status, body);
                // The refusal is what counts, not whether the client reads it.
                let _ = stream.write_all(text.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
            Err(error)
        }
    }
}

/// What a client is told that can't be served at all.
pub(crate) fn refusal(status: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nSec-WebSocket-Version: 13\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

async fn read_request<S>(stream: &mut S) -> Result<Request, UpgradeError>
where
    S: AsyncRead + Unpin,
{
    let mut request = Vec::with_capacity(REQUEST_BYTES_USUAL);
    loop {
        let seen = request.len();
        let room = (REQUEST_BYTES_MAX - seen) as u64;
        if room == 0 {
            return Err(UpgradeError::TooLong);
        }
        if (&mut *stream).take(room).read_buf(&mut request).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // Parsing waits for the end, so that a byte at a time costs no more than the bytes.
        let from = seen.saturating_sub(3);
        let Some(end) = memmem::find(&request[from..], b"\r\n\r\n") else {
            continue;
        };
        if from + end + 4 != request.len() {
            return Err(UpgradeError::Early);
        }
        let parsed = Request::try_parse(&request).map_err(wrong)?;
        let incomplete = || wrong(ProtocolError::HandshakeIncomplete.into());
        return parsed.map(|(_, request)| request).ok_or_else(incomplete);
    }
}

fn wrong(error: tungstenite::Error) -> UpgradeError {
    UpgradeError::Request(Box::new(error))
}

fn answer(request: &Request, rule: &OriginRule) -> Result<(Vec<u8>, bool), UpgradeError> {
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
    if let Some(origin) = header("Origin").or_else(|| header("Sec-WebSocket-Origin")) {
        let host = header("Host").unwrap_or_default();
        if !rule.allows(origin, host) {
            return Err(UpgradeError::Origin(origin.to_owned()));
        }
    } else if request.headers().contains_key("Origin") && !rule.allows_any() {
        return Err(UpgradeError::Origin("(not text)".to_owned()));
    }
    let response = create_response(request).map_err(wrong)?;
    let mut text = Vec::with_capacity(256);
    write_response(&mut text, &response).map_err(wrong)?;
    let masked = header(NO_MASKING) != Some("true");
    if !masked {
        text.truncate(text.len() - 2);
        text.extend_from_slice(NO_MASKING.as_bytes());
        text.extend_from_slice(b": true\r\n\r\n");
    }
    Ok((text, masked))
}

#[cfg(test)]
mod tests {
    use super::{OriginRule, UpgradeError, accept};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    async fn ask(request: &str) -> (Result<bool, UpgradeError>, String) {
        let (mut server, mut client) = duplex(64 * 1024);
        client.write_all(request.as_bytes()).await.unwrap();
        let result = accept(&mut server, &OriginRule::default()).await;
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        (result, answer)
    }

    fn request(more: &str) -> String {
        format!(
            "GET /any HTTP/1.1\r\nHost: a:1\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
        )
    }

    #[tokio::test]
    async fn a_request_is_answered_with_the_key_of_the_rfc() {
        let (result, answer) = ask(&request("")).await;
        assert!(result.unwrap());
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let accept = "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=";
        assert!(answer.to_ascii_lowercase().contains(accept), "{answer}");
        assert!(answer.ends_with("\r\n\r\n") && !answer.contains("Masking"));
        assert!(!answer.contains("xtensions"), "{answer}");
    }

    #[tokio::test]
    async fn a_client_may_ask_to_leave_the_masks_out() {
        let (result, answer) = ask(&request("Nats-No-Masking: true\r\n")).await;
        assert!(!result.unwrap());
        assert!(
            answer.ends_with("\r\nNats-No-Masking: true\r\n\r\n"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn what_is_no_websocket_request_is_told_so() {
        let plain = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let post = request("").replacen("GET", "POST", 1);
        let old = request("").replacen("Version: 13", "Version: 8", 1);
        let early = format!("{}\u{2}", request(""));
        for text in [plain, &post, &old, &early, "\r\n\r\n", "CONNECT {}\r\n\r\n"] {
            let (result, answer) = ask(text).await;
            assert!(result.is_err(), "{text}");
            assert!(
                answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
                "{text}: {answer}"
            );
        }
    }

    #[tokio::test]
    async fn a_request_without_end_is_refused_at_its_bound() {
        let (result, answer) = ask(&request(&format!("X: {}\r\n", "x".repeat(20_000)))).await;
        assert!(matches!(result, Err(UpgradeError::TooLong)));
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}
