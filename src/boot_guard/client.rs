//! The rules about clients' TLS and WebSocket.
//!
//! Clients prove who they are by signatures under `enforce`, so a public listener without TLS starts:
//! what passes over it can be read, not forged into somebody else's, and the node says so in its log.
//! What these rules refuse is a flag that would do nothing, and a WebSocket port that is open by mistake.

use super::{Rule, Violation, violation};
use crate::config::args::BusAuth;
use crate::config::settings::Settings;

pub(super) fn violations(set: &Settings) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(unpaired(set));
    found.extend(stray_flags(set));
    found.extend(verify_without_ca(set));
    found.extend(websocket(set));
    found.extend(files(set));
    found
}

fn unpaired(set: &Settings) -> Option<Violation> {
    let (have, want) = match (&set.client.cert, &set.client.key) {
        (Some(_), None) => ("--tls-cert", "--tls-key"),
        (None, Some(_)) => ("--tls-key", "--tls-cert"),
        _ => return None,
    };
    let reason = format!("{have} is given without {want}: clients' TLS needs both");
    let mend = format!("add {want} FILE, or leave {have} out");
    Some(violation(Rule::CertificateWithoutKey, reason, mend))
}

fn stray_flags(set: &Settings) -> Vec<Violation> {
    let tls = set.client.stray_tls_flag().map(|flag| {
        let reason = format!("{flag} is given without a certificate: clients would not use TLS");
        let mend = format!("add --tls-cert FILE and --tls-key FILE, or leave {flag} out");
        violation(Rule::ClientFlagWithoutEffect, reason, mend)
    });
    let ws = set.client.stray_ws_flag.map(|flag| {
        let reason = format!("{flag} is given and there is no WebSocket listener");
        let mend = format!("add --ws-listen PORT, or leave {flag} out");
        violation(Rule::ClientFlagWithoutEffect, reason, mend)
    });
    tls.into_iter().chain(ws).collect()
}

fn verify_without_ca(set: &Settings) -> Option<Violation> {
    if !set.client.verify || set.client.ca.is_some() || set.client.stray_tls_flag().is_some() {
        return None;
    }
    let reason = "--tls-verify is given without --tls-ca: nothing says whose certificates count";
    let mend = "add --tls-ca FILE with the authority that signs clients' certificates";
    Some(violation(Rule::VerifyWithoutCa, reason.to_owned(), mend))
}

fn websocket(set: &Settings) -> Vec<Violation> {
    let Some(ws) = set.client.websocket() else {
        return Vec::new();
    };
    let mut found = Vec::new();
    if ws.tls.is_none() && !ws.no_tls {
        let reason = format!("--ws-listen {} is given without a certificate", ws.listen);
        let mend = "add --tls-cert FILE and --tls-key FILE; or --ws-no-tls, where something in front of it \
                    ends TLS";
        found.push(violation(Rule::WebSocketWithoutTls, reason, mend));
    }
    let mode = set.effective_bus_auth();
    if !ws.listen.ip().is_loopback() && set.bind.is_loopback() && mode != BusAuth::Enforce {
        let reason = format!(
            "--ws-listen {} lets other hosts connect while --bus-auth is {mode}: anybody there could \
             read and write everything",
            ws.listen
        );
        let mend = "add --bus-auth enforce, or listen on loopback: --ws-listen 127.0.0.1:PORT";
        found.push(violation(Rule::PublicBindWithoutEnforce, reason, mend));
    }
    found
}

fn files(set: &Settings) -> Vec<Violation> {
    let client = &set.client;
    let named = [
        ("--tls-cert", &client.cert),
        ("--tls-key", &client.key),
        ("--tls-ca", &client.ca),
    ];
    let absent = named
        .into_iter()
        .filter_map(|(flag, fact)| Some((flag, fact.as_ref()?)))
        .filter(|(_, fact)| !fact.present)
        .map(|(flag, fact)| {
            let reason = format!("{flag} {:?} is no file that can be read", fact.path);
            violation(Rule::FileMissing, reason, "correct the path")
        });
    let open = client
        .key
        .iter()
        .filter(|key| key.open_to_others)
        .map(|key| {
            let reason = format!(
                "the TLS key {:?} can be read or written by others on this host",
                key.path
            );
            let mend = format!("chmod 600 {}", key.path.display());
            violation(Rule::SecretOpenToOthers, reason, mend)
        });
    absent.chain(open).collect()
}
