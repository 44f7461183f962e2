//! Who gets in under which mode, and how open connections follow what happens to their user.

use std::sync::Arc;

use tokio::sync::watch;
use unibus_broker::{Admission, AuthError, AuthRequest, Authenticator, ConnectionKind, Grant};
use unibus_proto::control::{EndpointId, MemberRecord, MemberRole, Policy, RoomRecord, SignPublic};
use unibus_proto::handshake::ConnectOptions;
use unibus_proto::nkey::UserSeed;

use super::{Book, Change, Directory, Grants, Role, SWEEP_AT_LEAST, UserRecord};
use crate::config::args::BusAuth;

const NONCE: &str = "a-fresh-nonce";

fn seed(byte: u8) -> UserSeed {
    UserSeed::from_bytes([byte; 32])
}

fn connect(seed: &UserSeed) -> ConnectOptions {
    ConnectOptions {
        nkey: Some(seed.public().to_nkey()),
        sig: Some(seed.sign(NONCE.as_bytes())),
        ..ConnectOptions::default()
    }
}

fn ask(directory: &Directory, connect: &ConnectOptions) -> Result<Admission, AuthError> {
    let peer = "127.0.0.1:1".parse().unwrap();
    directory.decide(&AuthRequest {
        connect,
        nonce: NONCE,
        peer,
        tls: false,
        certificate: None,
        kind: ConnectionKind::Nats,
    })
}

fn service(seed: &UserSeed, publish: &[&str]) -> UserRecord {
    let publish = publish.iter().map(|p| (*p).to_owned()).collect();
    let grants = Grants {
        publish,
        ..Grants::default()
    };
    UserRecord::new(&seed.public(), "app", Role::Service, grants).unwrap()
}

fn put(directory: &Directory, record: &UserRecord) {
    write(
        directory,
        Book::Users,
        &record.sign_pub,
        Some(record.encode()),
    );
}

fn write(directory: &Directory, book: Book, key: &str, value: Option<Vec<u8>>) {
    directory.take(vec![Change {
        book,
        anew: false,
        records: vec![(key.to_owned(), value.map(Into::into))],
    }]);
}

fn replace(directory: &Directory, key: &str, value: Vec<u8>) {
    directory.take(vec![Change {
        records: vec![(key.to_owned(), Some(value.into()))],
        ..Change::emptied(Book::Users)
    }]);
}

fn may_publish(grant: &watch::Receiver<Grant>, subject: &str) -> bool {
    match &*grant.borrow() {
        Grant::Active(permissions) => permissions.can_publish(subject.as_bytes()),
        Grant::Revoked | Grant::Anew => false,
    }
}

fn is_revoked(grant: &watch::Receiver<Grant>) -> bool {
    matches!(&*grant.borrow(), Grant::Revoked)
}

#[test]
fn enforce_lets_in_active_users_who_prove_their_key() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let user = seed(1);
    assert_eq!(
        ask(&directory, &connect(&user)).unwrap_err(),
        AuthError::Refused
    );
    put(&directory, &service(&user, &["a"]));
    let admission = ask(&directory, &connect(&user)).unwrap();
    assert_eq!(
        admission.identity.as_deref(),
        Some(user.public().to_nkey().as_str())
    );
    assert!(!admission.internal);
    assert!(may_publish(&admission.grant, "a") && !may_publish(&admission.grant, "b"));
    assert!(directory.is_authorized(&user.public()) && !directory.has_admin());
}

#[test]
fn enforce_refuses_no_key_a_foreign_signature_and_an_old_one() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let (user, thief) = (seed(1), seed(2));
    put(&directory, &service(&user, &["a"]));
    let good = connect(&user);
    let wrong = [
        ConnectOptions::default(),
        ConnectOptions {
            sig: None,
            ..good.clone()
        },
        ConnectOptions {
            sig: Some(thief.sign(NONCE.as_bytes())),
            ..good.clone()
        },
        ConnectOptions {
            sig: Some(user.sign(b"another-nonce")),
            ..good.clone()
        },
        ConnectOptions {
            nkey: Some("UNOKEY".into()),
            ..good.clone()
        },
        ConnectOptions {
            user: Some("u".into()),
            pass: Some("p".into()),
            ..Default::default()
        },
    ];
    for connect in wrong {
        assert_eq!(ask(&directory, &connect).unwrap_err(), AuthError::Refused);
    }
    let peer = "127.0.0.1:1".parse().unwrap();
    let unsigned = ConnectOptions {
        sig: Some(user.sign(b"")),
        ..good
    };
    let request = AuthRequest {
        connect: &unsigned,
        nonce: "",
        peer,
        tls: false,
        certificate: None,
        kind: ConnectionKind::Nats,
    };
    assert_eq!(directory.decide(&request).unwrap_err(), AuthError::Refused);
}

#[test]
fn the_internal_identity_gets_in_without_a_record() {
    let node = seed(9);
    for mode in [BusAuth::Off, BusAuth::Soft, BusAuth::Enforce] {
        let directory = Directory::of(mode, Some(node.public()));
        let admission = ask(&directory, &connect(&node)).unwrap();
        assert!(admission.internal);
        assert!(may_publish(&admission.grant, "$KV.UNIBUS_users.abc"));
        let forged = ConnectOptions {
            sig: Some(seed(1).sign(b"x")),
            ..connect(&node)
        };
        assert!(!ask(&directory, &forged).is_ok_and(|admission| admission.internal));
    }
}

#[test]
fn off_asks_nobody_but_still_verifies_a_key() {
    let directory = Directory::of(BusAuth::Off, None);
    let anonymous = ask(&directory, &ConnectOptions::default()).unwrap();
    assert!(anonymous.identity.is_none() && !anonymous.internal);
    assert!(may_publish(&anonymous.grant, "anything"));
    assert!(!may_publish(&anonymous.grant, "$KV.UNIBUS_users.abc"));
    assert!(
        ask(&directory, &connect(&seed(1)))
            .unwrap()
            .identity
            .is_some()
    );
    let forged = ConnectOptions {
        sig: Some("AAAA".into()),
        ..connect(&seed(1))
    };
    assert_eq!(ask(&directory, &forged).unwrap_err(), AuthError::Refused);
}

#[test]
fn soft_lets_everybody_in() {
    let directory = Directory::of(BusAuth::Soft, None);
    let anonymous = ask(&directory, &ConnectOptions::default()).unwrap();
    assert!(anonymous.identity.is_none() && may_publish(&anonymous.grant, "anything"));
    let user = seed(1);
    put(&directory, &service(&user, &["a"]));
    let known = ask(&directory, &connect(&user)).unwrap();
    assert!(known.identity.is_some() && may_publish(&known.grant, "anything"));
    put(&directory, &service(&user, &["a"]).revoked());
    assert!(ask(&directory, &connect(&user)).is_ok());
}

#[test]
fn revoking_reaches_open_connections_and_the_next_connect() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let (user, other) = (seed(1), seed(2));
    let record = service(&user, &["a"]);
    put(&directory, &record);
    put(&directory, &service(&other, &["a"]));
    let mut first = ask(&directory, &connect(&user)).unwrap().grant;
    let second = ask(&directory, &connect(&user)).unwrap().grant;
    let untouched = ask(&directory, &connect(&other)).unwrap().grant;
    put(&directory, &record.revoked());
    assert!(first.has_changed().unwrap() && is_revoked(&second));
    assert!(matches!(&*first.borrow_and_update(), Grant::Revoked));
    assert!(!untouched.has_changed().unwrap() && may_publish(&untouched, "a"));
    assert_eq!(
        ask(&directory, &connect(&user)).unwrap_err(),
        AuthError::Revoked
    );
}

#[test]
fn changed_grants_reach_open_connections_and_the_same_ones_wake_nobody() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let user = seed(1);
    put(&directory, &service(&user, &["a"]));
    let grant = ask(&directory, &connect(&user)).unwrap().grant;
    put(&directory, &service(&user, &["a"]));
    assert!(!grant.has_changed().unwrap());
    put(&directory, &service(&user, &["b"]));
    assert!(grant.has_changed().unwrap());
    assert!(may_publish(&grant, "b") && !may_publish(&grant, "a"));
}

#[test]
fn a_snapshot_replaces_everything_and_tells_those_who_are_gone() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let (kept, gone) = (seed(1), seed(2));
    put(&directory, &service(&kept, &["a"]));
    put(&directory, &service(&gone, &["a"]));
    let stays = ask(&directory, &connect(&kept)).unwrap().grant;
    let goes = ask(&directory, &connect(&gone)).unwrap().grant;
    let record = service(&kept, &["a"]);
    replace(&directory, &record.sign_pub, record.encode());
    assert!(!stays.has_changed().unwrap() && is_revoked(&goes));
    assert_eq!(directory.len(), 1);
}

#[test]
fn a_record_that_cannot_be_read_grants_nothing() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let user = seed(1);
    put(&directory, &service(&user, &["a"]));
    let grant = ask(&directory, &connect(&user)).unwrap().grant;
    let hex = user.public().to_hex();
    write(&directory, Book::Users, &hex, Some(b"{ damaged".to_vec()));
    assert!(is_revoked(&grant));
    assert_eq!(
        ask(&directory, &connect(&user)).unwrap_err(),
        AuthError::Refused
    );
    write(
        &directory,
        Book::Users,
        "no key at all",
        Some(b"{}".to_vec()),
    );
    replace(&directory, "no key", b"{}".to_vec());
    assert!(directory.is_empty());
}

#[test]
fn identities_that_nobody_follows_are_forgotten() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let key = |n: usize| {
        let mut bytes = [3u8; 32];
        bytes[..8].copy_from_slice(&(n as u64).to_le_bytes());
        UserSeed::from_bytes(bytes)
    };
    let held = key(0);
    put(&directory, &service(&held, &["a"]));
    let grant = ask(&directory, &connect(&held)).unwrap().grant;
    for n in 1..2 * SWEEP_AT_LEAST {
        let user = key(n);
        put(&directory, &service(&user, &["a"]));
        drop(ask(&directory, &connect(&user)).unwrap());
    }
    assert!(directory.shared.table.lock().followed.len() <= SWEEP_AT_LEAST);
    put(&directory, &service(&held, &["a"]).revoked());
    assert!(is_revoked(&grant), "those who are followed stay");
    let shared: Arc<dyn Authenticator> = Arc::new(directory);
    drop(shared);
}

#[test]
fn a_node_without_authority_admits_nobody_new_but_itself() {
    let (node, user) = (seed(1), seed(2));
    let directory = Directory::of(BusAuth::Enforce, Some(node.public()));
    put(&directory, &service(&user, &["a.>"]));
    let admitted = ask(&directory, &connect(&user)).unwrap();
    directory.set_authority(false);
    assert_eq!(
        ask(&directory, &connect(&user)).unwrap_err(),
        AuthError::Refused
    );
    assert!(ask(&directory, &connect(&node)).unwrap().internal);
    assert!(may_publish(&admitted.grant, "a.b"), "open connections stay");
    directory.set_authority(true);
    assert!(ask(&directory, &connect(&user)).is_ok());
}

/// Puts a user into the directory, and a persisted room it belongs to.
fn room_of(directory: &Directory, user: &UserSeed, joined: bool) -> (String, MemberRecord) {
    put(directory, &service(user, &["app"]));
    let sign_pub = SignPublic(user.public());
    let endpoint = EndpointId::of(&user.public());
    let room = RoomRecord {
        id: "r1".parse().unwrap(),
        subject: "room.one".parse().unwrap(),
        policy: Policy::MATRIX,
        owner: endpoint.clone(),
        epoch: 1,
        created_at: String::new(),
        owner_signature: String::new(),
        needs_rekey: false,
    };
    let json = serde_json::to_vec(&room).unwrap();
    write(directory, Book::Rooms, "r1", Some(json));
    let member = MemberRecord {
        endpoint: endpoint.clone(),
        sign_pub,
        kex_pub: "11".repeat(32).parse().unwrap(),
        role: MemberRole::Member,
        joined_at: joined.then(String::new),
        inviter: endpoint.clone(),
        inviter_signature: String::new(),
    };
    let key = format!("r1.{endpoint}");
    let json = serde_json::to_vec(&member).unwrap();
    write(directory, Book::Members, &key, Some(json));
    (key, member)
}

#[test]
fn joining_opens_a_room_and_leaving_closes_it_on_an_open_connection() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let user = seed(1);
    put(&directory, &service(&user, &["app"]));
    let grant = ask(&directory, &connect(&user)).unwrap().grant;
    let (key, mut member) = room_of(&directory, &user, false);
    assert!(
        !may_publish(&grant, "room.one"),
        "an invitation is no membership"
    );
    member.joined_at = Some(String::new());
    let json = |member: &MemberRecord| Some(serde_json::to_vec(member).unwrap());
    write(&directory, Book::Members, &key, json(&member));
    assert!(may_publish(&grant, "room.one") && may_publish(&grant, "app"));
    assert!(may_publish(&grant, "$JS.API.STREAM.INFO.UNIBUS_r1"));
    assert!(!may_publish(&grant, "room.two"));
    let stranger = ask(&directory, &connect(&seed(2)));
    assert_eq!(stranger.unwrap_err(), AuthError::Refused);
    write(&directory, Book::Members, &key, None);
    assert!(!may_publish(&grant, "room.one") && may_publish(&grant, "app"));
    write(&directory, Book::Members, &key, json(&member));
    write(&directory, Book::Rooms, "r1", Some(b"damaged".to_vec()));
    assert!(
        !may_publish(&grant, "room.one"),
        "a damaged room opens nothing"
    );
}

#[test]
fn who_belongs_to_a_room_is_counted_once_until_they_go() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let room = "r1".parse().unwrap();
    let (joined, joined_record) = room_of(&directory, &seed(1), true);
    let (invited, mut invited_record) = room_of(&directory, &seed(2), false);
    let put = |key: &str, record: Option<&MemberRecord>| {
        let json = record.map(|record| serde_json::to_vec(record).unwrap());
        write(&directory, Book::Members, key, json);
        directory.members_of(&room)
    };
    assert_eq!(directory.members_of(&room), 2);
    assert_eq!(put(&joined, Some(&joined_record)), 2);
    invited_record.joined_at = joined_record.joined_at.clone();
    assert_eq!(put(&invited, Some(&invited_record)), 2);
    assert_eq!(put(&format!("{joined}.former"), Some(&joined_record)), 2);
    assert_eq!(put(&joined, None), 1);
    assert_eq!(put(&invited, None), 0);
    assert_eq!(put(&joined, Some(&joined_record)), 1);
    directory.take(vec![Change::emptied(Book::Members)]);
    assert_eq!(directory.members_of(&room), 0);
}

#[test]
fn a_member_record_of_another_key_opens_nothing() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let (user, thief) = (seed(1), seed(2));
    let (_, member) = room_of(&directory, &user, true);
    put(&directory, &service(&thief, &["app"]));
    let key = format!("r1.{}", EndpointId::of(&thief.public()));
    let json = Some(serde_json::to_vec(&member).unwrap());
    write(&directory, Book::Members, &key, json);
    let grant = ask(&directory, &connect(&thief)).unwrap().grant;
    assert!(!may_publish(&grant, "room.one"));
    let grant = ask(&directory, &connect(&user)).unwrap().grant;
    assert!(may_publish(&grant, "room.one"));
}

#[test]
fn suspended_rooms_open_nothing_until_the_node_is_certain_again() {
    let directory = Directory::of(BusAuth::Enforce, None);
    let user = seed(1);
    room_of(&directory, &user, true);
    let grant = ask(&directory, &connect(&user)).unwrap().grant;
    assert!(may_publish(&grant, "room.one"));
    directory.suspend_rooms(true);
    assert!(!may_publish(&grant, "room.one") && may_publish(&grant, "app"));
    let stranger = seed(2);
    put(&directory, &service(&stranger, &["app"]));
    let other = ask(&directory, &connect(&stranger)).unwrap().grant;
    directory.suspend_rooms(false);
    // Whose subscriptions were dropped connects anew, and what comes after does not keep it from that.
    assert!(matches!(*grant.borrow(), Grant::Anew));
    put(&directory, &service(&user, &["app", "more"]));
    assert!(matches!(*grant.borrow(), Grant::Anew));
    assert!(may_publish(&other, "app"));
    let again = ask(&directory, &connect(&user)).unwrap().grant;
    assert!(may_publish(&again, "room.one") && may_publish(&again, "more"));
    put(&directory, &service(&user, &["app"]));
    assert!(!may_publish(&again, "more"));
}

#[test]
fn a_subject_is_known_to_be_taken() {
    let directory = Directory::of(BusAuth::Enforce, None);
    room_of(&directory, &seed(1), true);
    put(&directory, &service(&seed(2), &["orders.>"]));
    put(&directory, &service(&seed(3), &[">"]));
    assert_eq!(directory.room_on("room.one").as_deref(), Some("r1"));
    assert_eq!(directory.room_on("room.two"), None);
    assert!(directory.is_granted("orders.new"));
    assert!(!directory.is_granted("room.two"));
}
