//! Who gets no route, with the reason on both sides; each with its legitimate twin, that does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use unibus_proto::NodeId;

use super::fixture::{Authority, Node, STRICT, named_route, route_to, until, within};
use crate::mesh::{
    Direction, MeshOptions, Posture, Refusal, RefusalReason, RefusedBy, RouteSecret, RouteState,
};
use crate::pki;

async fn refusal(node: &Node, reason: RefusalReason, by: RefusedBy) -> Refusal {
    let find = || {
        node.mesh
            .refused()
            .into_iter()
            .find(|r| r.reason == reason && r.by == by)
    };
    until(&format!("{:?} has {reason:?} by {by:?}", node.mesh), || {
        find().is_some()
    })
    .await;
    find().unwrap()
}

/// Starts node 1 and the `bad` node that dials it, checks the refusal on both sides, then lets the
/// `good` twin connect to the same node 1.
async fn refused_but_twin_connects(
    reason: RefusalReason,
    accepting: MeshOptions,
    bad: impl FnOnce(SocketAddr) -> MeshOptions,
    good: impl FnOnce(SocketAddr) -> MeshOptions,
) {
    let one = Node::start(accepting).await;
    let two = Node::start(bad(one.addr())).await;
    // One of the two refuses, the other learns why.
    until("both know the reason", || {
        [&one, &two]
            .iter()
            .all(|n| n.mesh.refused().iter().any(|r| r.reason == reason))
    })
    .await;
    let entry = |node: &Node| {
        node.mesh
            .refused()
            .into_iter()
            .find(|r| r.reason == reason)
            .unwrap()
    };
    assert_eq!(entry(&one).direction, Direction::Accepted);
    assert_eq!(entry(&two).direction, Direction::Dialed);
    assert!([&one, &two].iter().any(|n| entry(n).by == RefusedBy::Us));
    until("the route entry says why", || {
        matches!(&two.mesh.routes()[0].state,
            RouteState::Pending { last_error: Some(text) } if text.contains(&reason.to_string()))
    })
    .await;
    assert!(one.peer_ids().is_empty() && two.peer_ids().is_empty());
    assert!(one.hooks.events.lock().is_empty() && two.hooks.events.lock().is_empty());
    two.mesh.shutdown().await;

    let twin = Node::start(good(one.addr())).await;
    one.has_peers(&[2]).await;
    twin.has_peers(&[1]).await;
    assert!(twin.mesh.refused().is_empty());
}

#[tokio::test]
async fn a_certificate_of_another_authority_gets_no_route() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let one = Node::start(ours.options(1, vec![])).await;
    // It trusts our CA, so that only its own certificate is wrong, and knows the secret.
    let mut options = theirs.options(2, vec![route_to(one.addr())]);
    let right = ours.options(2, vec![route_to(one.addr())]);
    options.tls.ca.clone_from(&right.tls.ca);
    options.secret = right.secret.clone();
    let two = Node::start(options).await;
    let seen = refusal(&one, RefusalReason::Tls, RefusedBy::Us).await;
    assert_eq!(seen.direction, Direction::Accepted);
    assert!(
        seen.detail.contains("invalid peer certificate"),
        "{}",
        seen.detail
    );
    refusal(&two, RefusalReason::Tls, RefusedBy::Peer).await;
    assert!(one.hooks.events.lock().is_empty() && two.hooks.events.lock().is_empty());
    two.mesh.shutdown().await;

    let twin = Node::start(right).await;
    one.has_peers(&[2]).await;
    twin.has_peers(&[1]).await;
}

#[tokio::test]
async fn a_server_of_another_authority_gets_no_route() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let mut options = theirs.options(1, vec![]);
    options.tls.ca = ours.options(1, vec![]).tls.ca;
    let one = Node::start(options).await;
    let two = Node::start(ours.options(2, vec![route_to(one.addr())])).await;
    let seen = refusal(&two, RefusalReason::Tls, RefusedBy::Us).await;
    assert!(
        seen.detail.contains("invalid peer certificate"),
        "{}",
        seen.detail
    );
    refusal(&one, RefusalReason::Tls, RefusedBy::Peer).await;
    assert!(one.hooks.events.lock().is_empty() && two.hooks.events.lock().is_empty());
}

/// Signs a certificate for n1 with the right CA but other particulars.
fn odd_certificate(
    authority: &Authority,
    change: impl FnOnce(&mut rcgen::CertificateParams),
) -> MeshOptions {
    let mut options = authority.options(1, vec![]);
    let ca = options
        .tls
        .ca
        .parent()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned();
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let ca_key = rcgen::KeyPair::from_pem(&read(&ca.join(pki::CA_KEY))).unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(&read(&ca.join(pki::CA_CERT)), ca_key).unwrap();
    let mut params = rcgen::CertificateParams::new(["n1".to_owned()]).unwrap();
    change(&mut params);
    let key = rcgen::KeyPair::generate().unwrap();
    options.tls.cert = ca.join("odd.crt");
    options.tls.key = ca.join("odd.key");
    std::fs::write(
        &options.tls.cert,
        params.signed_by(&key, &issuer).unwrap().pem(),
    )
    .unwrap();
    std::fs::write(&options.tls.key, key.serialize_pem()).unwrap();
    options
}

#[tokio::test]
async fn a_server_certificate_of_another_use_or_time_gets_no_route() {
    let authority = Authority::new();
    // All stand in the same two files, so each is loaded before the next is written.
    let expired = odd_certificate(&authority, |params| {
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let one = Node::start(expired).await;
    let two = Node::start(authority.options(2, vec![route_to(one.addr())])).await;
    let seen = refusal(&two, RefusalReason::Tls, RefusedBy::Us).await;
    assert!(seen.detail.contains("expired"), "{}", seen.detail);

    let client_only = odd_certificate(&authority, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    });
    let one = Node::start(client_only).await;
    let two = Node::start(authority.options(2, vec![route_to(one.addr())])).await;
    let seen = refusal(&two, RefusalReason::Tls, RefusedBy::Us).await;
    assert!(
        seen.detail.contains("server authentication"),
        "{}",
        seen.detail
    );

    let both = odd_certificate(&authority, |_| {});
    let one = Node::start(both).await;
    let two = Node::start(authority.options(2, vec![route_to(one.addr())])).await;
    two.has_peers(&[1]).await;
    assert!(two.mesh.refused().is_empty());
}

#[tokio::test]
async fn a_wrong_secret_gets_no_route() {
    let authority = Authority::new();
    refused_but_twin_connects(
        RefusalReason::Secret,
        authority.options(1, vec![]),
        |addr| MeshOptions {
            secret: RouteSecret::new(b"guessed"),
            ..authority.options(2, vec![route_to(addr)])
        },
        |addr| authority.options(2, vec![route_to(addr)]),
    )
    .await;
}

#[tokio::test]
async fn a_user_and_password_must_be_the_same() {
    let authority = Authority::new();
    let with = |pass: &str, options| MeshOptions {
        secret: RouteSecret::from_user_pass("route", pass),
        ..options
    };
    refused_but_twin_connects(
        RefusalReason::Secret,
        with("one", authority.options(1, vec![])),
        |addr| with("two", authority.options(2, vec![route_to(addr)])),
        |addr| with("one", authority.options(2, vec![route_to(addr)])),
    )
    .await;
}

#[tokio::test]
async fn another_cluster_gets_no_route() {
    let authority = Authority::new();
    refused_but_twin_connects(
        RefusalReason::Cluster,
        authority.options(1, vec![]),
        |addr| MeshOptions {
            cluster_name: "west".to_owned(),
            ..authority.options(2, vec![route_to(addr)])
        },
        |addr| authority.options(2, vec![route_to(addr)]),
    )
    .await;
}

#[tokio::test]
async fn a_weaker_posture_gets_no_route_whoever_dials() {
    let authority = Authority::new();
    let weak = Posture {
        acl: false,
        ..STRICT
    };
    let weakened = |options| MeshOptions {
        posture: weak,
        ..options
    };
    refused_but_twin_connects(
        RefusalReason::Posture,
        authority.options(1, vec![]),
        |addr| weakened(authority.options(2, vec![route_to(addr)])),
        |addr| authority.options(2, vec![route_to(addr)]),
    )
    .await;
    // The stricter one dials; the twin is as weak as the acceptor.
    refused_but_twin_connects(
        RefusalReason::Posture,
        weakened(authority.options(1, vec![])),
        |addr| authority.options(2, vec![route_to(addr)]),
        |addr| weakened(authority.options(2, vec![route_to(addr)])),
    )
    .await;
}

#[tokio::test]
async fn another_name_than_the_expected_gets_no_route() {
    let authority = Authority::new();
    refused_but_twin_connects(
        RefusalReason::Name,
        authority.options(1, vec![]),
        |addr| authority.options(2, vec![named_route("n3", addr)]),
        |addr| authority.options(2, vec![named_route("n1", addr)]),
    )
    .await;
}

#[tokio::test]
async fn a_copy_of_a_data_folder_gets_no_route() {
    let authority = Authority::new();
    refused_but_twin_connects(
        RefusalReason::NodeId,
        authority.options(1, vec![]),
        |addr| MeshOptions {
            node_id: NodeId(1),
            ..authority.options(2, vec![route_to(addr)])
        },
        |addr| authority.options(2, vec![route_to(addr)]),
    )
    .await;
}

#[tokio::test]
async fn a_third_node_with_a_connected_nodes_id_gets_no_route() {
    let authority = Authority::new();
    let one = Node::start(authority.options(1, vec![])).await;
    let two = Node::start(authority.options(2, vec![route_to(one.addr())])).await;
    one.has_peers(&[2]).await;
    two.has_peers(&[1]).await;
    let copy = Node::start(MeshOptions {
        node_id: NodeId(2),
        ..authority.options(3, vec![route_to(one.addr())])
    })
    .await;
    let seen = refusal(&one, RefusalReason::NodeId, RefusedBy::Us).await;
    assert_eq!(seen.name.as_deref(), Some("n3"));
    refusal(&copy, RefusalReason::NodeId, RefusedBy::Peer).await;
    assert_eq!(one.mesh.peers()[0].name, "n2");
    assert_eq!(one.hooks.events.lock().len(), 1);
}

#[tokio::test]
async fn a_repeated_refusal_is_one_entry_that_counts() {
    let authority = Authority::new();
    let one = Node::start(authority.options(1, vec![])).await;
    let mut options = authority.options(2, vec![route_to(one.addr())]);
    options.cluster_name = "west".to_owned();
    let two = Node::start(options).await;
    for node in [&one, &two] {
        until("it was tried again", || {
            node.mesh.refused().iter().any(|r| r.count >= 3)
        })
        .await;
        assert_eq!(node.mesh.refused().len(), 1);
    }
}

#[tokio::test]
async fn a_peer_without_a_common_version_gets_no_route_and_one_of_the_release_before_or_after_does()
{
    let authority = Authority::new();
    let (oldest, newest) = (*MeshOptions::VERSIONS.start(), *MeshOptions::VERSIONS.end());
    // The release after this one speaks this version too; the one after that need not.
    for (other, too_far) in [
        (newest..=newest + 1, newest + 1..=newest + 2),
        (oldest - 1..=oldest, oldest - 1..=oldest - 1),
    ] {
        let authority = &authority;
        let speaking = |versions| {
            move |addr| MeshOptions {
                versions,
                ..authority.options(2, vec![route_to(addr)])
            }
        };
        refused_but_twin_connects(
            RefusalReason::Protocol,
            authority.options(1, vec![]),
            speaking(too_far),
            speaking(other),
        )
        .await;
    }
}

#[tokio::test]
async fn a_node_of_another_cluster_of_the_name_loses_its_route_and_gets_no_other() {
    let authority = Authority::new();
    let one = Node::start(authority.options(1, vec![])).await;
    let two = Node::start(authority.options(2, vec![route_to(one.addr())])).await;
    one.has_peers(&[2]).await;
    let is = |node: &Node, id: &str| {
        *node.hooks.cluster_id.lock() = Some(id.to_owned());
        node.mesh.status_changed();
    };
    is(&one, "aa");
    // Who has none may become a member.
    until("it is told", || {
        let peers = two.mesh.peers();
        peers.iter().any(|peer| peer.cluster_id.is_some())
    })
    .await;
    is(&two, "bb");
    one.has_peers(&[]).await;
    two.has_peers(&[]).await;
    // Refused when it stood, and again in the handshake.
    for node in [&one, &two] {
        until("both say why", || {
            let refused = node.mesh.refused();
            refused
                .iter()
                .any(|r| r.reason == RefusalReason::ClusterId && r.detail.contains(" is not "))
        })
        .await;
    }
    until("the route entry says why", || {
        let reason = RefusalReason::ClusterId.to_string();
        matches!(&two.mesh.routes()[0].state,
            RouteState::Pending { last_error: Some(text) } if text.contains(&reason))
    })
    .await;
    is(&two, "aa");
    one.has_peers(&[2]).await;
}

#[tokio::test]
async fn two_processes_on_copies_of_a_folder_get_no_route_while_both_are_there() {
    let authority = Authority::new();
    let one = Node::start(authority.options(1, vec![])).await;
    let first = Node::start(authority.options(2, vec![route_to(one.addr())])).await;
    one.has_peers(&[2]).await;
    let copy = Node::start(authority.options(2, vec![route_to(one.addr())])).await;
    refusal(&one, RefusalReason::NodeId, RefusedBy::Us).await;
    for node in [&first, &copy] {
        let seen = refusal(node, RefusalReason::NodeId, RefusedBy::Peer).await;
        assert!(seen.detail.contains("copy"), "{}", seen.detail);
    }
    one.has_peers(&[]).await;
    let changes = one.hooks.events.lock().len();
    assert!(changes <= 6, "{changes} comings and goings");
    copy.mesh.shutdown().await;
    within(
        Duration::from_secs(60),
        "the one that is left is let in",
        &mut || one.peer_ids() == [2],
    )
    .await;
}
