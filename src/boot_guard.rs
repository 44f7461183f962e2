//! The boot guard: a pure function from what the operator asked for to every reason not to start.
//! It is called before anything listens; it looks at no file and resolves no name itself, and it
//! must never start to "fix" a configuration (control-plane.md, Boot guard).

mod client;

use std::fmt;

use crate::config::args::BusAuth;
use crate::config::files::FileFact;
use crate::config::settings::Settings;

/// The exit status of a process that the guard refuses.
pub const EXIT_STATUS: u8 = 2;

const MINT: &str = "unibus-node pki init --dir pki && unibus-node pki issue --dir pki --name NAME --host HOST, \
     then copy ca.crt, node.crt, node.key and route.secret into ./unibus-config";

/// One rule that a configuration breaks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// What was found and why it is dangerous or useless.
    pub reason: String,
    /// The command, or the flag, that mends it.
    pub mend: String,
}

/// The rules, one each, so that a test or a caller can name the one it means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rule {
    /// Clients on other hosts must prove who they are.
    PublicBindWithoutEnforce,
    /// Route certificates without `enforce` would guard the back door only.
    TlsWithoutEnforce,
    /// A certificate and its key come together.
    CertificateWithoutKey,
    /// A cluster is as secure as its weakest node.
    ClusterWeakerThanEnforce,
    /// A cluster needs certificate, key and CA.
    ClusterWithoutTls,
    /// A cluster that others can reach needs the shared secret.
    ClusterWithoutSecret,
    /// The secret's two halves come together.
    HalfSecret,
    /// A file that a flag names is not there.
    FileMissing,
    /// A key or secret that others on the host can read is none.
    SecretOpenToOthers,
    /// Peers know a node by its certificate's name.
    NameNotInCertificate,
    /// A flag about clients' TLS or WebSocket that would do nothing.
    ClientFlagWithoutEffect,
    /// Certificates of clients come from a named authority.
    VerifyWithoutCa,
    /// Plain `ws` has to be meant.
    WebSocketWithoutTls,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n    mend it: {}", self.reason, self.mend)
    }
}

/// Every violation as the text that the process prints before it exits with [`EXIT_STATUS`].
#[must_use]
pub fn report(violations: &[Violation]) -> String {
    let mut text = format!(
        "this node does not start, for {}:",
        counted(violations.len())
    );
    for (number, violation) in violations.iter().enumerate() {
        text.push_str(&format!("\n {}. {violation}", number + 1));
    }
    text
}

fn counted(reasons: usize) -> String {
    if reasons == 1 {
        "1 reason".to_owned()
    } else {
        format!("{reasons} reasons")
    }
}

/// Every rule that `set` breaks; empty = the node may start.
#[must_use]
pub fn violations(set: &Settings) -> Vec<Violation> {
    let mut found = Vec::new();
    found.extend(public_bind(set));
    found.extend(weak_cluster(set));
    found.extend(tls_without_enforce(set));
    found.extend(unpaired_certificate(set));
    found.extend(cluster_without_tls(set));
    found.extend(secret(set));
    found.extend(missing_files(set));
    found.extend(open_secrets(set));
    found.extend(foreign_name(set));
    found.extend(client::violations(set));
    found
}

fn violation(rule: Rule, reason: String, mend: impl Into<String>) -> Violation {
    Violation {
        rule,
        reason,
        mend: mend.into(),
    }
}

fn public_bind(set: &Settings) -> Option<Violation> {
    let mode = set.effective_bus_auth();
    if set.bind.is_loopback() || mode == BusAuth::Enforce {
        return None;
    }
    let reason = format!(
        "--bind {} lets other hosts connect while --bus-auth is {mode}: anybody there could read and \
         write everything",
        set.bind
    );
    let mend = "add --bus-auth enforce, or bind loopback with --bind 127.0.0.1";
    Some(violation(Rule::PublicBindWithoutEnforce, reason, mend))
}

fn weak_cluster(set: &Settings) -> Option<Violation> {
    let mode = set.bus_auth.filter(|mode| *mode != BusAuth::Enforce)?;
    if !set.is_clustered() {
        return None;
    }
    let flag = if set.routes.is_empty() {
        "--cluster-name"
    } else {
        "--routes"
    };
    let reason = format!(
        "--bus-auth {mode} with {flag}: a cluster is as secure as its weakest node, so this can't be \
         a node of one"
    );
    let mend = format!("leave out --bus-auth {mode}: enforce is the default with {flag}");
    Some(violation(Rule::ClusterWeakerThanEnforce, reason, mend))
}

fn tls_without_enforce(set: &Settings) -> Option<Violation> {
    let mode = set.effective_bus_auth();
    // With routes or a cluster name, `weak_cluster` has said it already.
    if mode == BusAuth::Enforce || set.is_clustered() {
        return None;
    }
    let given = [("cert", &set.cert), ("key", &set.key), ("ca", &set.ca)];
    let (part, _) = given.into_iter().find(|(_, fact)| fact.is_some())?;
    let reason = format!(
        "--route-tls-{part} is given while --bus-auth is {mode}: certificates between nodes guard \
         nothing where any client is let in"
    );
    let mend = "add --bus-auth enforce, or leave the TLS files out";
    Some(violation(Rule::TlsWithoutEnforce, reason, mend))
}

fn unpaired_certificate(set: &Settings) -> Option<Violation> {
    let (have, want) = match (&set.cert, &set.key) {
        (Some(_), None) => ("--route-tls-cert", "--route-tls-key"),
        (None, Some(_)) => ("--route-tls-key", "--route-tls-cert"),
        _ => return None,
    };
    let reason = format!("{have} is given without {want}: one is of no use without the other");
    let mend = format!("add {want} FILE; pki issue wrote both");
    Some(violation(Rule::CertificateWithoutKey, reason, mend))
}

fn cluster_without_tls(set: &Settings) -> Option<Violation> {
    if set.routes.is_empty() {
        return None;
    }
    let triple = [
        (&set.cert, "--route-tls-cert (node.crt)"),
        (&set.key, "--route-tls-key (node.key)"),
        (&set.ca, "--route-tls-ca (ca.crt)"),
    ];
    let missing: Vec<&str> = triple
        .into_iter()
        .filter(|(fact, _)| fact.is_none())
        .map(|(_, flag)| flag)
        .collect();
    if missing.is_empty() {
        return None;
    }
    let reason = format!(
        "--routes is given without {}: nodes know each other by certificates only",
        missing.join(", ")
    );
    Some(violation(Rule::ClusterWithoutTls, reason, MINT))
}

fn secret(set: &Settings) -> Option<Violation> {
    match (&set.cluster_user, &set.cluster_pass) {
        (Some(_), Some(_)) => return None,
        (Some(_), None) | (None, Some(_)) => {
            let reason = "one of --cluster-user and --cluster-pass is given without the other";
            let mend =
                "give both, on every node alike, or neither and put route.secret beside node.crt";
            return Some(violation(Rule::HalfSecret, reason.to_owned(), mend));
        }
        (None, None) => {}
    }
    if set.routes.is_empty() || set.secret_file.is_some() || set.cluster_bind.is_loopback() {
        return None;
    }
    let reason = format!(
        "other hosts can reach the cluster port ({}:{}/udp) and there is no route secret: a stolen \
         certificate would be enough to join",
        set.cluster_bind, set.cluster_port
    );
    let mend = "copy route.secret (pki init wrote it) into ./unibus-config, or give --cluster-user and \
                --cluster-pass";
    Some(violation(Rule::ClusterWithoutSecret, reason, mend))
}

fn missing_files(set: &Settings) -> Vec<Violation> {
    let absent = |flag: &str, fact: &FileFact| {
        let reason = format!("{flag} {:?} is no file that can be read", fact.path);
        violation(
            Rule::FileMissing,
            reason,
            format!("correct the path, or mint it: {MINT}"),
        )
    };
    [
        ("--route-tls-cert", &set.cert),
        ("--route-tls-key", &set.key),
        ("--route-tls-ca", &set.ca),
    ]
    .into_iter()
    .filter_map(|(flag, fact)| Some((flag, fact.as_ref()?)))
    .filter(|(_, fact)| !fact.present)
    .map(|(flag, fact)| absent(flag, fact))
    .collect()
}

fn open_secrets(set: &Settings) -> Vec<Violation> {
    let open = |what: &str, fact: &FileFact| {
        let reason = format!(
            "the {what} {:?} can be read or written by others on this host",
            fact.path
        );
        let mend = format!("chmod 600 {}", fact.path.display());
        violation(Rule::SecretOpenToOthers, reason, mend)
    };
    [("route key", &set.key), ("route secret", &set.secret_file)]
        .into_iter()
        .filter_map(|(what, fact)| Some((what, fact.as_ref()?)))
        .filter(|(_, fact)| fact.open_to_others)
        .map(|(what, fact)| open(what, fact))
        .collect()
}

fn foreign_name(set: &Settings) -> Option<Violation> {
    let cert = set
        .cert
        .as_ref()
        .filter(|fact| fact.present && !set.routes.is_empty())?;
    // The first name is the one that peers hear; the others are where the node can be reached.
    if set.certificate_names.first() == Some(&set.server_name) {
        return None;
    }
    let reason = match set.certificate_names.first() {
        Some(name) => format!(
            "--server-name {} is not the name in {:?}, which is {name}: peers would know this node \
             under another name than its clients",
            set.server_name, cert.path
        ),
        None => format!(
            "{:?} carries no DNS name, so peers can't tell which node it is",
            cert.path
        ),
    };
    let mend = format!(
        "leave out --server-name, or: unibus-node pki issue --dir pki --name {} --host HOST",
        set.server_name
    );
    Some(violation(Rule::NameNotInCertificate, reason, mend))
}

#[cfg(test)]
mod tests;
