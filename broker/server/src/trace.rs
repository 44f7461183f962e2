//! Protocol traces: what a client says and hears, one TRACE event for each operation, in the form of
//! nats-server's `-V`. Must never show a payload, a header, a password, a token or a signature.

use tracing::Level;
use unibus_proto::decoder::{ClientOp, PubOp};
use unibus_proto::handshake::ConnectOptions;

/// The target of the events: `unibus_broker::protocol`.
macro_rules! event {
    ($cid:expr, $arrow:literal, $($words:tt)+) => {
        tracing::trace!(
            target: "unibus_broker::protocol",
            "cid:{} - {} [{}]",
            $cid,
            $arrow,
            format_args!($($words)+)
        )
    };
}

/// Whether anybody wants to see traces. One atomic load where nobody does.
#[inline]
pub(crate) fn is_on() -> bool {
    tracing::enabled!(target: "unibus_broker::protocol", Level::TRACE)
}

/// An operation of the client.
pub(crate) fn incoming(cid: u64, op: &ClientOp<'_>) {
    match op {
        ClientOp::Connect(json) => event!(cid, "<<-", "CONNECT {}", introduction(json)),
        ClientOp::Pub(message) => event!(cid, "<<-", "{}", publish(message)),
        ClientOp::Sub {
            subject,
            queue,
            sid,
        } => {
            let queue = queue.unwrap_or_default();
            event!(
                cid,
                "<<-",
                "SUB {} {} {}",
                text(subject),
                text(queue),
                text(sid)
            );
        }
        ClientOp::Unsub { sid, max } => match max {
            Some(max) => event!(cid, "<<-", "UNSUB {} {max}", text(sid)),
            None => event!(cid, "<<-", "UNSUB {}", text(sid)),
        },
        ClientOp::Ping => event!(cid, "<<-", "PING"),
        ClientOp::Pong => event!(cid, "<<-", "PONG"),
        ClientOp::Info => event!(cid, "<<-", "INFO"),
        ClientOp::Ok => event!(cid, "<<-", "+OK"),
        ClientOp::Err(_) => event!(cid, "<<-", "-ERR"),
    }
}

/// Whole operations on their way to the client.
pub(crate) fn outgoing(cid: u64, mut operations: &[u8]) {
    while let Some(end) = memchr::memchr(b'\n', operations) {
        let line = operations[..end].trim_ascii();
        operations = &operations[end + 1..];
        if line.starts_with(b"INFO ") {
            // INFO has the nonce, and says nothing that a person needs here.
            event!(cid, "->>", "INFO");
            continue;
        }
        if line.starts_with(b"MSG ") || line.starts_with(b"HMSG ") {
            let size = line.rsplit(|byte| *byte == b' ').next();
            let size: usize = size.and_then(number).unwrap_or_default();
            operations = operations.get(size + b"\r\n".len()..).unwrap_or_default();
        }
        event!(cid, "->>", "{}", text(line));
    }
}

/// CONNECT without what proves who the client is.
fn introduction(json: &[u8]) -> String {
    let Ok(said) = ConnectOptions::parse(json) else {
        return "(malformed)".to_owned();
    };
    let shown = ConnectOptions {
        jwt: hidden(said.jwt),
        sig: hidden(said.sig),
        auth_token: hidden(said.auth_token),
        pass: hidden(said.pass),
        proxy_sig: hidden(said.proxy_sig),
        ..said
    };
    serde_json::to_string(&shown).unwrap_or_default()
}

fn hidden(secret: Option<String>) -> Option<String> {
    secret.map(|_| "[REDACTED]".to_owned())
}

fn publish(op: &PubOp<'_>) -> String {
    let (subject, reply) = (text(op.subject), text(op.reply.unwrap_or_default()));
    let size = op.data.len();
    if op.has_headers {
        format!("HPUB {subject} {reply} {} {size}", op.header_len)
    } else {
        format!("PUB {subject} {reply} {size}")
    }
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

fn number(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::introduction;

    #[test]
    fn secrets_of_connect_are_hidden() {
        let shown = introduction(
            br#"{"user":"ann","pass":"p1","auth_token":"t2","jwt":"j3","sig":"s4","proxy_sig":"x5","name":"app"}"#,
        );
        assert!(
            shown.contains("\"ann\"") && shown.contains("\"app\""),
            "{shown}"
        );
        for secret in ["p1", "t2", "j3", "s4", "x5"] {
            assert!(!shown.contains(&format!("\"{secret}\"")), "{shown}");
        }
        assert_eq!(introduction(b"{\"user\":"), "(malformed)");
    }
}
