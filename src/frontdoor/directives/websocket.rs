//! `websocket {}`.

use super::field::{Field, Findings, each};
use super::tls;
use crate::frontdoor::options::WebSocketOptions;

const KNOWN: &[&str] = &[
    "listen",
    "port",
    "host",
    "advertise",
    "tls",
    "no_tls",
    "same_origin",
    "allowed_origins",
    "compression",
    "handshake_timeout",
    "no_auth_user",
];

/// `None` where the block is wrong, or names no port: then there is no listener.
pub(super) fn read(field: Field<'_>, findings: &mut Findings) -> Option<WebSocketOptions> {
    let map = field.map(findings)?;
    let mut ws = WebSocketOptions::default();
    each(map, "websocket", KNOWN, findings, |key, field, findings| {
        match key {
            "listen" => {
                if let Some((host, port)) = field.listen(findings) {
                    (ws.host, ws.port) = (host, port);
                }
            }
            "port" => ws.port = field.port(findings).flatten(),
            "host" | "net" => ws.host = field.text(findings),
            "advertise" => ws.advertise = field.text(findings),
            "tls" => ws.tls = tls::read(field, findings),
            "no_tls" => ws.no_tls = field.flag(findings).unwrap_or_default(),
            "same_origin" => ws.same_origin = field.flag(findings).unwrap_or_default(),
            "allowed_origins" | "allowed_origin" | "allow_origins" | "allow_origin" | "origins"
            | "origin" => ws.allowed_origins = field.texts(findings).unwrap_or_default(),
            "compression" => ws.compression = field.flag(findings).unwrap_or_default(),
            "handshake_timeout" => ws.handshake_timeout = field.duration(findings),
            "no_auth_user" => ws.no_auth_user = field.text(findings),
            "ping_interval" => findings.note(&field, "has no effect here: the server's own counts"),
            "headers" => findings.note(&field, "has no effect here"),
            "authorization" | "authentication" => {
                findings.refuse(
                    &field,
                    "the server's own authorization counts for every listener",
                );
            }
            "jwt_cookie" | "user_cookie" | "pass_cookie" | "token_cookie" => {
                findings.refuse(&field, "credentials come in CONNECT only");
            }
            _ => return false,
        }
        true
    });
    if ws.port.is_some() && ws.tls.is_none() && !ws.no_tls {
        let words = "websocket needs tls {}, or no_tls: true where TLS is ended in front of it";
        findings.problem(field.at, words);
    }
    ws.port.is_some().then_some(ws)
}
