//! Every way of logging in, against everything that looks like it, and reloads.

use std::net::SocketAddr;

use proptest::prelude::*;
use unibus_broker::{ConnectionKind, Grant};
use unibus_proto::handshake::ConnectOptions;
use unibus_proto::nkey::UserSeed;

use super::*;
use crate::config::auth::{
    AccountConfig, ConnectionType, PermissionRules, Secret, StaticUser, SubjectRules,
};

const NONCE: &str = "PXoWU7zWAMt75FY";

fn user(name: &str, password: &str) -> StaticUser {
    StaticUser {
        name: Some(name.to_owned()),
        password: Some(password.into()),
        ..StaticUser::default()
    }
}

fn of(users: Vec<StaticUser>) -> StaticAuth {
    StaticAuth {
        users,
        ..StaticAuth::default()
    }
}

fn request_of(connect: &ConnectOptions) -> AuthRequest<'_> {
    AuthRequest {
        connect,
        nonce: NONCE,
        peer: SocketAddr::from(([127, 0, 0, 1], 1)),
        tls: false,
        certificate: None,
        kind: ConnectionKind::Nats,
    }
}

async fn ask(users: &StaticUsers, connect: &ConnectOptions) -> Result<Admission, AuthError> {
    match users.authenticate(&request_of(connect)) {
        Decision::Now(decided) => decided,
        Decision::Later(decided) => decided.await,
    }
}

fn with_password(name: &str, password: &str) -> ConnectOptions {
    ConnectOptions {
        user: Some(name.to_owned()),
        pass: Some(password.to_owned()),
        ..ConnectOptions::default()
    }
}

fn with_token(token: &str) -> ConnectOptions {
    ConnectOptions {
        auth_token: Some(token.to_owned()),
        ..ConnectOptions::default()
    }
}

fn nobody() -> ConnectOptions {
    ConnectOptions::default()
}

fn signed(seed: &UserSeed, nonce: &str) -> ConnectOptions {
    ConnectOptions {
        nkey: Some(seed.public().to_nkey()),
        sig: Some(seed.sign(nonce.as_bytes())),
        ..ConnectOptions::default()
    }
}

#[tokio::test]
async fn a_password_opens_its_own_user_only() {
    let hash = bcrypt::hash("b-pass", 4).unwrap();
    let users = StaticUsers::new(&of(vec![user("a", "a-pass"), user("b", &hash)])).unwrap();
    assert!(users.auth_required());
    for (name, password) in [("a", "a-pass"), ("b", "b-pass")] {
        let admission = ask(&users, &with_password(name, password)).await.unwrap();
        assert_eq!(admission.user.as_deref(), Some(name));
        assert!(admission.account.is_none() && !admission.internal);
    }
    for (name, password) in [
        ("a", "b-pass"),
        ("b", "a-pass"),
        ("b", hash.as_str()),
        ("a", ""),
        ("c", "a-pass"),
        ("", "a-pass"),
    ] {
        let refused = ask(&users, &with_password(name, password)).await;
        assert_eq!(refused.unwrap_err(), AuthError::Refused, "{name}");
    }
    for stranger in [nobody(), with_token("a-pass")] {
        assert!(ask(&users, &stranger).await.is_err());
    }
}

#[tokio::test]
async fn a_token_is_taken_in_either_field() {
    let config = StaticAuth {
        token: Some(Secret::new("s3cr3t")),
        ..StaticAuth::default()
    };
    let users = StaticUsers::new(&config).unwrap();
    assert!(ask(&users, &with_token("s3cr3t")).await.is_ok());
    assert!(ask(&users, &with_password("s3cr3t", "")).await.is_ok());
    for stranger in [nobody(), with_token("s3cr3"), with_token("")] {
        assert!(ask(&users, &stranger).await.is_err());
    }
}

#[tokio::test]
async fn an_nkey_signs_this_connections_nonce() {
    let (seed, other) = (UserSeed::from_bytes([1; 32]), UserSeed::from_bytes([2; 32]));
    let keyed = StaticUser {
        nkey: Some(seed.public().to_nkey()),
        ..StaticUser::default()
    };
    let users = StaticUsers::new(&of(vec![keyed, user("a", "a")])).unwrap();
    let admission = ask(&users, &signed(&seed, NONCE)).await.unwrap();
    assert_eq!(
        admission.identity.as_deref(),
        Some(&*seed.public().to_nkey())
    );
    assert!(ask(&users, &with_password("a", "a")).await.is_ok());
    let mut unsigned = signed(&seed, NONCE);
    unsigned.sig = None;
    let mut forged = signed(&other, NONCE);
    forged.nkey = Some(seed.public().to_nkey());
    for stranger in [
        signed(&other, NONCE),
        signed(&seed, "another"),
        unsigned,
        forged,
    ] {
        assert!(ask(&users, &stranger).await.is_err());
    }
}

#[tokio::test]
async fn without_credentials_one_is_the_no_auth_user_and_with_wrong_ones_nobody() {
    let config = StaticAuth {
        no_auth_user: Some("guest".to_owned()),
        ..of(vec![user("guest", "g"), user("a", "a")])
    };
    let users = StaticUsers::new(&config).unwrap();
    assert!(!users.auth_required());
    let admission = ask(&users, &nobody()).await.unwrap();
    assert_eq!(admission.user.as_deref(), Some("guest"));
    assert!(ask(&users, &with_password("a", "a")).await.is_ok());
    assert!(ask(&users, &with_password("guest", "x")).await.is_err());
    assert!(ask(&users, &with_token("x")).await.is_err());
}

#[tokio::test]
async fn clients_over_websocket_may_have_a_no_auth_user_of_their_own() {
    let mut config = StaticAuth {
        websocket_no_auth_user: Some("web".to_owned()),
        ..of(vec![user("guest", "g"), user("web", "w")])
    };
    let users = StaticUsers::new(&config).unwrap();
    let who = |users: &StaticUsers, kind| {
        let connect = nobody();
        let request = AuthRequest {
            kind,
            ..request_of(&connect)
        };
        match users.authenticate(&request) {
            Decision::Now(Ok(admission)) => admission.user.map(|name| name.to_string()),
            _ => None,
        }
    };
    assert!(users.auth_required(), "elsewhere");
    assert_eq!(who(&users, ConnectionKind::Nats), None);
    assert_eq!(
        who(&users, ConnectionKind::WebSocket).as_deref(),
        Some("web")
    );
    config.no_auth_user = Some("guest".to_owned());
    users.reload(&config).unwrap();
    assert_eq!(who(&users, ConnectionKind::Nats).as_deref(), Some("guest"));
    assert_eq!(
        who(&users, ConnectionKind::WebSocket).as_deref(),
        Some("web")
    );
    config.websocket_no_auth_user = None;
    users.reload(&config).unwrap();
    assert_eq!(
        who(&users, ConnectionKind::WebSocket).as_deref(),
        Some("guest")
    );
    config.websocket_no_auth_user = Some("ghost".to_owned());
    assert!(users.reload(&config).is_err());
}

#[tokio::test]
async fn where_nothing_is_configured_everybody_is_let_in() {
    let users = StaticUsers::new(&StaticAuth::default()).unwrap();
    assert!(!users.auth_required());
    assert!(ask(&users, &nobody()).await.is_ok());
    assert!(ask(&users, &with_password("x", "y")).await.is_ok());
}

#[tokio::test]
async fn a_connection_type_that_is_not_allowed_is_refused() {
    let only_websocket = StaticUser {
        allowed_connection_types: Some(vec![ConnectionType::Websocket]),
        ..user("a", "a")
    };
    let users = StaticUsers::new(&of(vec![only_websocket])).unwrap();
    let connect = with_password("a", "a");
    assert!(ask(&users, &connect).await.is_err());
    let request = AuthRequest {
        kind: ConnectionKind::WebSocket,
        ..request_of(&connect)
    };
    assert!(matches!(users.authenticate(&request), Decision::Now(Ok(_))));
}

#[test]
fn what_is_of_no_use_is_named() {
    let wrong = |config: &StaticAuth| StaticUsers::new(config).unwrap_err().to_string();
    let twice = wrong(&of(vec![user("a", "a"), user("a", "b")]));
    assert!(twice.contains("\"a\" is configured twice"), "{twice}");
    assert!(wrong(&of(vec![StaticUser::default()])).contains("user number 1 has neither"));
    let mut no_password = user("a", "a");
    no_password.password = None;
    assert!(wrong(&of(vec![no_password])).contains("\"a\" has no password"));
    let mut stranger = user("a", "a");
    stranger.account = Some("NOPE".to_owned());
    assert!(wrong(&of(vec![stranger])).contains("account \"NOPE\""));
    let keyed = StaticUser {
        nkey: Some("UNOKEY".to_owned()),
        ..StaticUser::default()
    };
    assert!(wrong(&of(vec![keyed])).contains("\"UNOKEY\""));
    let both = StaticAuth {
        token: Some("t".into()),
        ..of(vec![user("a", "a")])
    };
    assert!(wrong(&both).contains("users and a token"));
    let ghost = StaticAuth {
        no_auth_user: Some("ghost".to_owned()),
        ..of(vec![user("a", "a")])
    };
    assert!(wrong(&ghost).contains("\"ghost\""));
}

#[tokio::test]
async fn accounts_and_the_control_plane_are_kept_apart() {
    let in_account = |name: &str, account: &str| StaticUser {
        account: Some(account.to_owned()),
        ..user(name, name)
    };
    let config = StaticAuth {
        accounts: vec![AccountConfig {
            name: "A".to_owned(),
            ..AccountConfig::default()
        }],
        system_account: Some("SYS".to_owned()),
        ..of(vec![
            in_account("a", "A"),
            in_account("s", "SYS"),
            in_account("g", "$G"),
        ])
    };
    let users = StaticUsers::new(&config).unwrap();
    assert_eq!(&*users.system_account(), "SYS");
    for (name, account, system) in [
        ("a", Some("A"), false),
        ("s", Some("SYS"), true),
        ("g", None, false),
    ] {
        let admission = ask(&users, &with_password(name, name)).await.unwrap();
        assert_eq!(admission.account.as_deref(), account);
        let Grant::Active(permissions) = admission.grant.borrow().clone() else {
            panic!("{name} is revoked");
        };
        assert_eq!(permissions.can_subscribe(b"$SYS.>", None), system, "{name}");
        assert!(!permissions.can_publish(b"$KV.UNIBUS_users.x"), "{name}");
        assert!(permissions.can_publish(b"$SYS.REQ.USER.INFO"), "{name}");
    }
}

#[tokio::test]
async fn a_reload_keeps_changes_and_ends_connections() {
    let before = of(vec![
        user("stays", "a"),
        user("limited", "b"),
        user("changed", "c"),
        user("gone", "d"),
    ]);
    let users = StaticUsers::new(&before).unwrap();
    let mut grants = Vec::new();
    for (name, password) in [
        ("stays", "a"),
        ("limited", "b"),
        ("changed", "c"),
        ("gone", "d"),
    ] {
        grants.push(
            ask(&users, &with_password(name, password))
                .await
                .unwrap()
                .grant,
        );
    }
    let limited = StaticUser {
        permissions: Some(PermissionRules {
            publish: SubjectRules {
                allow: Some(vec!["x".to_owned()]),
                deny: Vec::new(),
            },
            ..PermissionRules::default()
        }),
        ..user("limited", "b")
    };
    let after = of(vec![user("stays", "a"), limited, user("changed", "z")]);
    users.reload(&after).unwrap();
    assert!(
        !grants[0].has_changed().unwrap(),
        "nothing changed for this one"
    );
    assert!(matches!(&*grants[1].borrow(), Grant::Active(p) if !p.can_publish(b"y")));
    for ended in [&grants[2], &grants[3]] {
        assert!(matches!(&*ended.borrow(), Grant::Revoked));
    }
    assert!(ask(&users, &with_password("changed", "c")).await.is_err());
    assert!(ask(&users, &with_password("changed", "z")).await.is_ok());
    let broken = of(vec![user("x", "")]);
    assert!(users.reload(&broken).is_err());
    assert!(
        ask(&users, &with_password("stays", "a")).await.is_ok(),
        "a broken reload changes nothing"
    );
}

#[tokio::test]
async fn asking_for_credentials_ends_those_who_had_none() {
    let users = StaticUsers::new(&StaticAuth::default()).unwrap();
    let open = ask(&users, &nobody()).await.unwrap().grant;
    let guest = StaticAuth {
        no_auth_user: Some("a".to_owned()),
        ..of(vec![user("a", "a")])
    };
    users.reload(&guest).unwrap();
    assert!(matches!(&*open.borrow(), Grant::Revoked));
    let guest = ask(&users, &nobody()).await.unwrap().grant;
    let named = ask(&users, &with_password("a", "a")).await.unwrap().grant;
    users.reload(&of(vec![user("a", "a")])).unwrap();
    assert!(matches!(&*guest.borrow(), Grant::Revoked));
    assert!(matches!(&*named.borrow(), Grant::Active(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Only the very password is the password.
    #[test]
    fn no_other_text_is_the_password(password in "[ -~]{1,24}", tried in "[ -~]{0,24}") {
        prop_assume!(!password.starts_with("$2"));
        let users = StaticUsers::new(&of(vec![user("a", &password)])).unwrap();
        let connect = with_password("a", &tried);
        let Decision::Now(decided) = users.authenticate(&request_of(&connect)) else {
            return Err(TestCaseError::fail("a plain password needs no time"));
        };
        prop_assert_eq!(decided.is_ok(), tried == password);
    }
}
