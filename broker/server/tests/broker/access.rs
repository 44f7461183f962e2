//! Authentication and permissions, also while a connection lives.

use std::sync::Arc;
use std::time::Duration;

use unibus_broker::{AuthError, ConnectionReport, Grant, Publication, UserLimits};
use unibus_proto::permissions::{DeliveryRule, Permissions, SubjectSet};
use unibus_proto::subject::SubjectFilter;

use crate::support::{DEADLINE, Node, until};

fn set(allow: &[&str], deny: &[&str]) -> SubjectSet {
    let filters = |list: &[&str]| -> Vec<SubjectFilter> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    };
    SubjectSet {
        deny: filters(deny).into(),
        ..SubjectSet::allowing(filters(allow))
    }
}

fn active(publish: SubjectSet, subscribe: SubjectSet) -> Grant {
    Grant::Active(Arc::new(Permissions {
        publish,
        subscribe,
        ..Permissions::all()
    }))
}

#[tokio::test]
async fn inboxes_by_literal_rule_work_and_cannot_be_harvested() {
    let mut inboxes = SubjectSet::none();
    inboxes.allow_literal = ["_INBOX.*", "_INBOX.*.>"]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    let node = Node::start().await;
    node.grant.send_replace(active(SubjectSet::all(), inboxes));
    let mut raw = node.client().await;
    for (sid, own) in ["_INBOX.me", "_INBOX.me.*", "_INBOX.me.>"]
        .iter()
        .enumerate()
    {
        raw.send(&format!("SUB {own} {sid}\r\n")).await;
    }
    raw.flush().await;
    for harvest in ["_INBOX.>", "_INBOX.*", "_INBOX.*.>", ">"] {
        raw.send(&format!("SUB {harvest} 9\r\n")).await;
        raw.expect(&format!(
            "-ERR 'Permissions Violation for Subscription to \"{harvest}\"'\r\n"
        ))
        .await;
    }
    raw.send("PUB _INBOX.me 1\r\nx\r\nPUB _INBOX.you 1\r\ny\r\n")
        .await;
    raw.expect("MSG _INBOX.me 0 1\r\nx\r\n").await;
    raw.flush().await;
}

#[tokio::test]
async fn what_a_consumer_delivers_needs_the_right_to_read_at_that_moment() {
    let node = Node::start().await;
    let may = |publish: &[&str]| {
        let named = ["work.*"].iter().map(|text| text.parse().unwrap());
        Grant::Active(Arc::new(Permissions {
            publish: set(publish, &[]),
            subscribe: set(&["_INBOX.a", "work.*"], &[]),
            deliveries: Some(DeliveryRule {
                named: named.collect(),
            }),
            ..Permissions::all()
        }))
    };
    let deliver = |to: &str, subject: &str| {
        node.broker.publish(Publication {
            subject: to.as_bytes(),
            shown: Some(subject.as_bytes()),
            reply: Some(b"$JS.ACK.S.c.1.1.1.1.0"),
            data: b"x",
            ..Publication::default()
        })
    };
    let settled = || node.broker.grants_settled(DEADLINE);
    node.grant
        .send_replace(may(&["$JS.API.CONSUMER.MSG.NEXT.S.>"]));
    let mut raw = node.client().await;
    raw.send("SUB _INBOX.a 1\r\nSUB work.a 2\r\n").await;
    raw.flush().await;
    for _ in 0..2 {
        assert_eq!(deliver("_INBOX.a", "s.1"), 1);
        raw.expect("MSG s.1 1 $JS.ACK.S.c.1.1.1.1.0 1\r\nx\r\n")
            .await;
    }
    node.grant
        .send_replace(may(&["$JS.API.CONSUMER.CREATE.S.*.s.2"]));
    assert!(settled().await);
    assert_eq!(deliver("_INBOX.a", "s.1"), 0);
    assert_eq!(deliver("_INBOX.a", "s.2"), 1);
    raw.expect("MSG s.2 1 $JS.ACK.S.c.1.1.1.1.0 1\r\nx\r\n")
        .await;
    node.grant.send_replace(may(&["$JS.ACK.S.>"]));
    assert!(settled().await);
    assert_eq!(deliver("_INBOX.a", "s.2"), 0);
    // Granted by name, and an answer that is no consumer's delivery.
    assert_eq!(deliver("work.a", "s.1"), 1);
    raw.expect("MSG s.1 2 $JS.ACK.S.c.1.1.1.1.0 1\r\nx\r\n")
        .await;
    let answer = Publication {
        subject: b"_INBOX.a",
        data: b"y",
        ..Publication::default()
    };
    assert_eq!(node.broker.publish(answer), 1);
    raw.expect("MSG _INBOX.a 1 1\r\ny\r\n").await;
    node.grant.send_replace(may(&["$JS.API.>"]));
    assert!(settled().await);
    assert_eq!(deliver("_INBOX.a", "s.1"), 1);
    raw.expect("MSG s.1 1 $JS.ACK.S.c.1.1.1.1.0 1\r\nx\r\n")
        .await;
}

#[tokio::test]
async fn the_first_operation_has_to_be_connect() {
    let node = Node::with(|options| options.auth_required = true).await;
    let mut raw = node.dial().await;
    assert!(raw.info.contains("\"auth_required\":true") && raw.info.contains("\"nonce\":\""));
    raw.send("PING\r\n").await;
    assert_eq!(raw.rest().await, "-ERR 'Authorization Violation'\r\n");
    // Nothing is kept for a stranger until its message is whole.
    let mut raw = node.dial().await;
    raw.send("PUB a 1000000\r\nx").await;
    assert_eq!(raw.rest().await, "-ERR 'Authorization Violation'\r\n");
}

#[tokio::test]
async fn silence_ends_in_a_timeout() {
    let node = Node::with(|options| {
        options.auth_required = true;
        options.limits.auth_timeout = Duration::from_millis(50);
    })
    .await;
    let mut raw = node.dial().await;
    assert_eq!(raw.rest().await, "-ERR 'Authentication Timeout'\r\n");
    node.client().await.flush().await;
}

#[tokio::test]
async fn wrong_credentials_are_told_and_closed() {
    let node = Node::with(|options| options.auth_required = true).await;
    let mut raw = node.dial().await;
    raw.send("CONNECT {\"user\":\"nobody\",\"pass\":\"x\"}\r\nPING\r\n")
        .await;
    assert_eq!(raw.rest().await, "-ERR 'Authorization Violation'\r\n");
    assert_eq!(node.broker.stats().auth_failures, 1);
}

#[tokio::test]
async fn impossible_options_are_told() {
    let node = Node::start().await;
    for (connect, text) in [
        ("{\"protocol\":2}", "-ERR 'invalid client protocol'\r\n"),
        (
            "{\"no_responders\":true}",
            "-ERR 'no responders requires headers support'\r\n",
        ),
        ("{\"account\":\"A\"}", "-ERR 'Authorization Violation'\r\n"),
        ("{nonsense", ""),
    ] {
        let mut raw = node.dial().await;
        raw.send(&format!("CONNECT {connect}\r\n")).await;
        assert_eq!(raw.rest().await, text);
    }
}

#[tokio::test]
async fn violations_are_told_and_not_fatal() {
    let node = Node::start().await;
    node.grant
        .send(active(
            set(&["ok.>"], &[]),
            set(&["ok.>", "_INBOX.>"], &["ok.secret"]),
        ))
        .unwrap();
    let mut raw = node.client().await;
    raw.send("SUB _INBOX.a 1\r\nPUB no _INBOX.a 1\r\nx\r\n")
        .await;
    raw.expect("-ERR 'Permissions Violation for Publish to \"no\"'\r\n")
        .await;
    raw.send("SUB no 2\r\nSUB no q 3\r\nSUB > 4\r\n").await;
    raw.expect("-ERR 'Permissions Violation for Subscription to \"no\"'\r\n")
        .await;
    raw.expect("-ERR 'Permissions Violation for Subscription to \"no\" using queue \"q\"'\r\n")
        .await;
    raw.expect("-ERR 'Permissions Violation for Subscription to \">\"'\r\n")
        .await;
    raw.send("SUB ok.* 5\r\nPUB ok.secret 1\r\nx\r\nPUB ok.open 1\r\ny\r\n")
        .await;
    raw.expect("MSG ok.open 5 1\r\ny\r\n").await;
    raw.flush().await;
}

#[tokio::test]
async fn reserved_replies_and_subjects_are_refused() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    raw.send("SUB > 1\r\n").await;
    for reply in ["$JS.ACK.S.C.1", "_R_.x", "_GR_.x"] {
        raw.send(&format!("PUB foo {reply} 1\r\nx\r\n")).await;
        let text =
            format!("-ERR 'Permissions Violation for Publish with Reply of \"{reply}\"'\r\n");
        raw.expect(&text).await;
    }
    raw.send("PUB $NRG.x 1\r\nx\r\nPUB $JS.ACK.x 1\r\nx\r\n")
        .await;
    raw.expect("-ERR 'Permissions Violation for Publish to \"$NRG.x\"'\r\n")
        .await;
    raw.expect("MSG $JS.ACK.x 1 1\r\nx\r\n").await;
}

#[tokio::test]
async fn a_narrowed_grant_removes_subscriptions_at_once() {
    let node = Node::start().await;
    let (mut sub, mut publisher) = (node.client().await, node.client().await);
    sub.send("SUB room.a 1\r\nSUB room.b q 2\r\nSUB open.* 3\r\n")
        .await;
    sub.flush().await;
    publisher.send("PUB room.a 1\r\nx\r\n").await;
    sub.expect("MSG room.a 1 1\r\nx\r\n").await;
    node.grant
        .send(active(
            SubjectSet::all(),
            set(&["open.>"], &["open.secret"]),
        ))
        .unwrap();
    let mut lines = [sub.line().await, sub.line().await];
    lines.sort();
    assert_eq!(
        lines,
        [
            "-ERR 'Permissions Violation for Subscription to \"room.a\" (sid \"1\")'",
            "-ERR 'Permissions Violation for Subscription to \"room.b\" (sid \"2\")'",
        ]
    );
    let text =
        "PUB room.a 1\r\nx\r\nPUB room.b 1\r\nx\r\nPUB open.secret 1\r\nx\r\nPUB open.y 1\r\ny\r\n";
    publisher.send(text).await;
    sub.expect("MSG open.y 3 1\r\ny\r\n").await;
    sub.flush().await;
    node.grant
        .send(active(SubjectSet::none(), SubjectSet::all()))
        .unwrap();
    assert!(node.broker.grants_settled(DEADLINE).await);
    // The sid is free again, and the wider grant holds for it.
    sub.send("SUB room.a 1\r\n").await;
    sub.flush().await;
}

#[tokio::test]
async fn a_revoked_identity_is_told_and_closed() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    node.grant.send(Grant::Revoked).unwrap();
    assert_eq!(raw.rest().await, "-ERR 'User Authentication Revoked'\r\n");
    let mut late = node.dial().await;
    late.send("CONNECT {}\r\n").await;
    assert_eq!(late.rest().await, "-ERR 'User Authentication Revoked'\r\n");
}

#[tokio::test]
async fn a_second_connect_replaces_the_first() {
    let node = Node::start().await;
    let mut raw = node.client().await;
    raw.send("CONNECT {\"verbose\":true,\"pedantic\":false,\"user\":\"u\"}\r\n")
        .await;
    raw.expect("+OK\r\n").await;
}

#[tokio::test]
async fn a_grant_that_settled_holds_for_everyone_and_everything() {
    let node = Node::start().await;
    let (mut sub, mut publisher) = (node.client().await, node.client().await);
    sub.send("SUB room 1\r\nSUB open 2\r\n").await;
    sub.flush().await;
    node.grant
        .send(active(set(&["open"], &[]), set(&["open"], &[])))
        .unwrap();
    assert!(node.broker.grants_settled(DEADLINE).await);
    node.broker.publish(Publication {
        subject: b"room",
        ..Publication::default()
    });
    publisher.send("PUB room 0\r\n\r\nPUB open 0\r\n\r\n").await;
    publisher
        .expect("-ERR 'Permissions Violation for Publish to \"room\"'\r\n")
        .await;
    sub.expect("-ERR 'Permissions Violation for Subscription to \"room\" (sid \"1\")'\r\n")
        .await;
    sub.expect("MSG open 2 0\r\n\r\n").await;
    sub.flush().await;
}

#[tokio::test]
async fn a_user_has_limits_of_its_own() {
    let own = UserLimits {
        subscriptions_max: Some(1),
        payload_bytes_max: Some(10),
        connections_max: Some(1),
    };
    let node = Node::for_users(own, None, |_| {}).await;
    let mut raw = node.client_with("\"user\":\"ada\"").await;
    raw.send("SUB a 1\r\nSUB b 2\r\n").await;
    raw.expect("-ERR 'maximum subscriptions exceeded'\r\n")
        .await;
    let mut second = node.dial().await;
    second.send("CONNECT {\"user\":\"ada\"}\r\n").await;
    assert_eq!(
        second.rest().await,
        "-ERR 'maximum account active connections exceeded'\r\n"
    );
    node.client_with("\"user\":\"bob\"").await.flush().await;
    raw.send("PUB a 11\r\n").await;
    assert_eq!(raw.rest().await, "-ERR 'Maximum Payload Violation'\r\n");
    until("ada's place is free", || {
        node.broker.stats().connections == 0
    })
    .await;
    node.client_with("\"user\":\"ada\"").await.flush().await;
}

#[tokio::test]
async fn credentials_end_when_their_time_is_over() {
    let lifetime = Some(Duration::from_millis(50));
    let node = Node::for_users(UserLimits::default(), lifetime, |_| {}).await;
    let mut raw = node.client().await;
    assert_eq!(raw.rest().await, "-ERR 'User Authentication Expired'\r\n");
}

#[tokio::test]
async fn a_reload_closes_whom_it_no_longer_admits() {
    let node = Node::start().await;
    let mut ada = node.client_with("\"user\":\"ada\"").await;
    let mut bob = node.client_with("\"user\":\"bob\"").await;
    let judge = |report: &ConnectionReport| match report.client.user.as_deref() {
        Some("bob") => Err(AuthError::Refused),
        _ => Ok(()),
    };
    assert_eq!(node.broker.recheck(judge), 1);
    assert_eq!(bob.rest().await, "-ERR 'Authorization Violation'\r\n");
    ada.flush().await;
    node.broker.set_auth_required(true);
    let info = ada.line().await;
    assert!(info.contains("\"auth_required\":true"), "{info}");
    let mut late = node.dial().await;
    late.send("PING\r\n").await;
    assert_eq!(late.rest().await, "-ERR 'Authorization Violation'\r\n");
}

#[tokio::test]
async fn a_decision_may_take_time_and_holds_up_nobody_else() {
    let node = Node::start().await;
    let mut slow = node.dial().await;
    slow.send(
        "CONNECT {\"verbose\":false,\"user\":\"slow\"}\r\nSUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n",
    )
    .await;
    let mut other = node.client().await;
    other.flush().await;
    assert_eq!(
        node.broker.stats().subscriptions,
        0,
        "nothing was looked at"
    );
    node.gate.add_permits(1);
    slow.expect("MSG a 1 1\r\nx\r\nPONG\r\n").await;
    slow.flush().await;
}

#[tokio::test]
async fn a_decision_that_takes_too_long_is_a_timeout() {
    let node = Node::with(|options| {
        options.auth_required = true;
        options.limits.auth_timeout = Duration::from_millis(50);
    })
    .await;
    let mut slow = node.dial().await;
    slow.send("CONNECT {\"verbose\":false,\"user\":\"slow\"}\r\nPING\r\n")
        .await;
    slow.expect("-ERR 'Authentication Timeout'\r\n").await;
    assert_eq!(slow.rest().await, "");
}
