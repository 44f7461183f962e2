//! One test per rule: the refusal, and the legitimate twin that differs in one thing.

use std::path::PathBuf;

use clap::Parser;

use super::{Rule, report, violations};
use crate::config::args::{BusAuth, RunArgs};
use crate::config::files::FileFact;
use crate::config::settings::Settings;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    run: RunArgs,
}

fn single(flags: &str) -> Settings {
    let line = Line::parse_from(std::iter::once("unibus-node").chain(flags.split_whitespace()));
    Settings::gather(&line.run).unwrap()
}

fn fact(name: &str) -> Option<FileFact> {
    let path = PathBuf::from(name);
    Some(FileFact {
        path,
        present: true,
        open_to_others: false,
        explicit: false,
    })
}

/// A complete cluster node, as `unibus-node --routes …` finds it with its files in place.
fn cluster(flags: &str) -> Settings {
    let empty = tempfile::tempdir().unwrap();
    let dir = empty.path().display().to_string();
    let mut set = single(&format!(
        "--config-dir {dir} --routes n1=10.0.0.1,10.0.0.2 {flags}"
    ));
    set.cert = fact("node.crt");
    set.key = fact("node.key");
    set.ca = fact("ca.crt");
    set.secret_file = fact("route.secret");
    set.certificate_names = vec!["n1".to_owned(), "10.0.0.1".to_owned()];
    if !set.server_name_explicit {
        set.server_name = "n1".to_owned();
    }
    set
}

fn rules(set: &Settings) -> Vec<Rule> {
    violations(set).into_iter().map(|v| v.rule).collect()
}

#[test]
fn a_node_without_flags_and_a_complete_cluster_node_start() {
    assert_eq!(rules(&single("")), []);
    let set = cluster("");
    assert_eq!(rules(&set), []);
    assert_eq!(set.effective_bus_auth(), BusAuth::Enforce);
    assert!(set.bind.is_unspecified() && set.cluster_bind.is_unspecified());
}

#[test]
fn a_public_bind_wants_enforce() {
    assert_eq!(
        rules(&single("--bind 0.0.0.0")),
        [Rule::PublicBindWithoutEnforce]
    );
    assert_eq!(
        rules(&single("--bind :: --bus-auth soft")),
        [Rule::PublicBindWithoutEnforce]
    );
    assert_eq!(rules(&single("--bind 0.0.0.0 --bus-auth enforce")), []);
    assert_eq!(rules(&single("--bind 127.0.0.2 --bus-auth off")), []);
}

#[test]
fn a_cluster_wants_enforce() {
    assert_eq!(
        rules(&cluster("--bind 127.0.0.1 --bus-auth soft")),
        [Rule::ClusterWeakerThanEnforce]
    );
    assert_eq!(
        rules(&single("--cluster-name c --bus-auth off")),
        [Rule::ClusterWeakerThanEnforce]
    );
    assert_eq!(rules(&cluster("--bind 127.0.0.1 --bus-auth enforce")), []);
    assert_eq!(rules(&single("--cluster-name c")), []);
}

#[test]
fn route_certificates_want_enforce() {
    let mut set = single("");
    (set.cert, set.key) = (fact("a.crt"), fact("a.key"));
    assert_eq!(rules(&set), [Rule::TlsWithoutEnforce]);
    set.bus_auth = Some(BusAuth::Enforce);
    assert_eq!(rules(&set), []);
}

#[test]
fn a_certificate_wants_its_key() {
    let mut set = single("--bus-auth enforce");
    set.cert = fact("a.crt");
    assert_eq!(rules(&set), [Rule::CertificateWithoutKey]);
    (set.cert, set.key) = (None, fact("a.key"));
    assert_eq!(rules(&set), [Rule::CertificateWithoutKey]);
    set.cert = fact("a.crt");
    assert_eq!(rules(&set), []);
}

#[test]
fn a_cluster_wants_the_whole_tls_triple() {
    let mut set = cluster("");
    set.ca = None;
    assert_eq!(rules(&set), [Rule::ClusterWithoutTls]);
    assert!(violations(&set)[0].reason.contains("ca.crt"));
    set.ca = fact("ca.crt");
    assert_eq!(rules(&set), []);
}

#[test]
fn a_public_cluster_wants_the_route_secret() {
    let mut set = cluster("");
    set.secret_file = None;
    assert_eq!(rules(&set), [Rule::ClusterWithoutSecret]);
    (set.cluster_user, set.cluster_pass) = (Some("u".into()), Some("p".into()));
    assert_eq!(rules(&set), []);
    let mut loopback = cluster("--cluster-bind 127.0.0.1");
    loopback.secret_file = None;
    assert_eq!(rules(&loopback), []);
}

#[test]
fn the_secret_has_two_halves() {
    assert_eq!(rules(&cluster("--cluster-user u")), [Rule::HalfSecret]);
    assert_eq!(rules(&cluster("--cluster-pass p")), [Rule::HalfSecret]);
    assert_eq!(rules(&cluster("--cluster-user u --cluster-pass p")), []);
}

#[test]
fn files_that_are_named_must_be_there() {
    let mut set = cluster("");
    set.key = Some(FileFact::look(PathBuf::from("/nowhere/node.key"), true));
    assert_eq!(rules(&set), [Rule::FileMissing]);
    let here = tempfile::NamedTempFile::new().unwrap();
    set.key = Some(FileFact::look(here.path().to_owned(), true));
    assert_eq!(rules(&set), []);
}

#[test]
fn secrets_are_their_owners_alone() {
    let mut set = cluster("");
    if let Some(key) = set.key.as_mut() {
        key.open_to_others = true;
    }
    assert_eq!(rules(&set), [Rule::SecretOpenToOthers]);
    assert_eq!(violations(&set)[0].mend, "chmod 600 node.key");
    // The certificate is public: who may read it does not matter.
    let mut set = cluster("");
    if let Some(cert) = set.cert.as_mut() {
        cert.open_to_others = true;
    }
    assert_eq!(rules(&set), []);
}

#[test]
fn the_name_is_the_certificates() {
    assert_eq!(
        rules(&cluster("--server-name n2")),
        [Rule::NameNotInCertificate]
    );
    assert_eq!(rules(&cluster("--server-name n1")), []);
}

#[test]
fn every_reason_is_told_at_once_with_its_mend() {
    let empty = tempfile::tempdir().unwrap();
    let dir = empty.path().display().to_string();
    let set = single(&format!(
        "--config-dir {dir} --routes 10.0.0.1 --bind 0.0.0.0 --bus-auth off"
    ));
    let found = violations(&set);
    let wanted = [
        Rule::PublicBindWithoutEnforce,
        Rule::ClusterWeakerThanEnforce,
        Rule::ClusterWithoutTls,
        Rule::ClusterWithoutSecret,
    ];
    assert_eq!(found.iter().map(|v| v.rule).collect::<Vec<_>>(), wanted);
    let text = report(&found);
    assert!(
        text.contains("4 reasons") && text.contains("pki init"),
        "{text}"
    );
    assert!(
        found
            .iter()
            .all(|v| text.contains(&v.reason) && text.contains(&v.mend))
    );
}

/// Flags with a certificate and key that stand and are private.
fn with_tls(flags: &str) -> Settings {
    let mut set = single(&format!("--tls-cert c.pem --tls-key k.pem {flags}"));
    (set.client.cert, set.client.key) = (fact("c.pem"), fact("k.pem"));
    if set.client.ca.is_some() {
        set.client.ca = fact("ca.pem");
    }
    set
}

#[test]
fn clients_tls_needs_certificate_and_key() {
    assert_eq!(rules(&with_tls("")), []);
    let mut half = with_tls("");
    half.client.key = None;
    assert_eq!(rules(&half), [Rule::CertificateWithoutKey]);
    let absent = single("--tls-cert /nowhere/c.pem --tls-key /nowhere/k.pem");
    assert_eq!(rules(&absent), [Rule::FileMissing, Rule::FileMissing]);
    let mut open = with_tls("");
    open.client.key.as_mut().unwrap().open_to_others = true;
    assert_eq!(rules(&open), [Rule::SecretOpenToOthers]);
}

#[test]
fn a_flag_about_clients_that_would_do_nothing_is_refused() {
    for flags in [
        "--tls-verify",
        "--tls-first",
        "--allow-non-tls",
        "--ws-no-tls",
        "--ws-same-origin",
    ] {
        assert_eq!(
            rules(&single(flags)),
            [Rule::ClientFlagWithoutEffect],
            "{flags}"
        );
    }
    assert_eq!(rules(&with_tls("--tls-first auto --allow-non-tls")), []);
    assert_eq!(rules(&with_tls("--tls-verify")), [Rule::VerifyWithoutCa]);
    assert_eq!(rules(&with_tls("--tls-verify --tls-ca ca.pem")), []);
}

#[test]
fn a_websocket_listener_wants_tls_or_words_that_it_needs_none() {
    assert_eq!(
        rules(&single("--ws-listen 9222")),
        [Rule::WebSocketWithoutTls]
    );
    assert_eq!(rules(&single("--ws-listen 9222 --ws-no-tls")), []);
    assert_eq!(rules(&with_tls("--ws-listen 9222")), []);
    assert_eq!(
        rules(&with_tls("--ws-listen 0.0.0.0:9222")),
        [Rule::PublicBindWithoutEnforce]
    );
    assert_eq!(
        rules(&with_tls("--ws-listen 0.0.0.0:9222 --bus-auth enforce")),
        []
    );
}
