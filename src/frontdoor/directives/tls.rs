//! `tls {}` of clients, and of the WebSocket listener.

use std::time::Duration;

use super::field::{Field, Findings, each};
use super::units;
use crate::config::tls::{ClientTls, FALLBACK_DELAY_DEFAULT, HandshakeFirst, TlsVersion};
use crate::frontdoor::conf::Value;

const KNOWN: &[&str] = &[
    "cert_file",
    "key_file",
    "ca_file",
    "verify",
    "verify_and_map",
    "handshake_first",
    "timeout",
    "min_version",
];

/// Where a certificate revocation, a store of the operating system or a list of pinned certificates
/// is asked for, going on without it would let people in who should not be.
const REFUSED: &[&str] = &[
    "pinned_certs",
    "cert_store",
    "cert_match",
    "cert_match_by",
    "verify_cert_and_check_known_urls",
    "ocsp_peer",
    "certs",
];

/// `None` where the block is wrong.
pub(super) fn read(field: Field<'_>, findings: &mut Findings) -> Option<ClientTls> {
    let map = field.map(findings)?;
    let section = field.name();
    let (mut cert, mut key_file) = (None, None);
    let mut tls = ClientTls::new("".into(), "".into());
    each(map, &section, KNOWN, findings, |key, field, findings| {
        match key {
            "cert_file" => cert = field.path(findings),
            "key_file" => key_file = field.path(findings),
            "ca_file" => tls.ca = field.path(findings),
            "verify" => tls.verify = field.flag(findings).unwrap_or_default(),
            "verify_and_map" => tls.verify_and_map = field.flag(findings).unwrap_or_default(),
            "handshake_first" | "first" | "immediate" => {
                tls.handshake_first = handshake_first(&field, findings).unwrap_or_default();
            }
            "timeout" => tls.timeout = field.duration(findings).unwrap_or(tls.timeout),
            "min_version" => tls.min_version = min_version(&field, findings).unwrap_or_default(),
            "cipher_suites"
            | "curve_preferences"
            | "insecure_cipher_suites"
            | "connection_rate_limit"
            | "insecure" => findings.note(&field, "has no effect here"),
            _ if REFUSED.contains(&key) => {
                findings.refuse(
                    &field,
                    "leave it out where certificates of ca_file are enough",
                );
            }
            _ => return false,
        }
        true
    });
    let (Some(cert), Some(key_file)) = (cert, key_file) else {
        findings.problem(
            field.at,
            format!("{section} needs both cert_file and key_file"),
        );
        return None;
    };
    if (tls.verify || tls.verify_and_map) && tls.ca.is_none() {
        findings.problem(
            field.at,
            format!("{section} verifies clients and names no ca_file"),
        );
    }
    (tls.cert, tls.key) = (cert, key_file);
    Some(tls)
}

/// `true`, `false`, `auto`, or how long a client is waited for.
fn handshake_first(field: &Field<'_>, findings: &mut Findings) -> Option<HandshakeFirst> {
    match &field.node.value {
        Value::Bool(true) => Some(HandshakeFirst::Always),
        Value::Bool(false) => Some(HandshakeFirst::Off),
        Value::String(text) if text.eq_ignore_ascii_case("auto") => {
            Some(HandshakeFirst::Auto(FALLBACK_DELAY_DEFAULT))
        }
        Value::String(text) => match units::duration(text) {
            Some(delay) if delay > Duration::ZERO => Some(HandshakeFirst::Auto(delay)),
            _ => field.duration(findings).map(|_| HandshakeFirst::Off),
        },
        _ => field.flag(findings).map(|_| HandshakeFirst::Off),
    }
}

fn min_version(field: &Field<'_>, findings: &mut Findings) -> Option<TlsVersion> {
    match field.text(findings)?.as_str() {
        "1.2" => Some(TlsVersion::V12),
        "1.3" => Some(TlsVersion::V13),
        other => {
            let words = format!("{} is {other:?}; wanted 1.2 or 1.3", field.name());
            findings.problem(&field.node.at, words);
            None
        }
    }
}
