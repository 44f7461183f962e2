//! The only place that turns a user into subjects: pure functions from a record to
//! [`Permissions`] (control-plane.md, From membership to the message plane).

use std::sync::LazyLock;

use unibus_proto::control::{
    EndpointId, RoomAccess, SERVICE_INFO_SUBJECT, STREAM_USES, member_notices,
};
use unibus_proto::nkey::NkeyPublic;
use unibus_proto::permissions::{DeliveryRule, Filters, Permissions, SubjectSet};
use unibus_proto::subject::SubjectFilter;

use super::users::{Role, UserRecord};

/// The control plane's key-value buckets, without the prefix `KV_` of their streams.
pub const CONTROL_BUCKETS: [&str; 6] = [
    "UNIBUS_users",
    "UNIBUS_rooms",
    "UNIBUS_members",
    "UNIBUS_rooms_by_member",
    "UNIBUS_room_keys",
    "UNIBUS_nonces",
];

/// The control plane's object store, without the prefix `OBJ_` of its stream.
pub const CONTROL_OBJECTS: &str = "UNIBUS_blobs";

/// What anybody may publish to, so that requests can be answered.
const INBOXES: &str = "_INBOX.>";

/// What anybody may subscribe to, with literal tokens for the stars: the inboxes of an id. One that
/// allowed `_INBOX.>` would let its holder harvest everybody's replies.
const OWN_INBOXES: [&str; 2] = ["_INBOX.*", "_INBOX.*.>"];

/// Where one stream is named in the JetStream API; `{}` is its name. A pattern here may refuse a
/// consumer that is called like one of our streams, which nobody needs.
const STREAM_SUBJECTS: [&str; 11] = [
    "$JS.API.STREAM.*.{}",
    "$JS.API.STREAM.*.*.{}",
    "$JS.API.DIRECT.GET.{}",
    "$JS.API.DIRECT.GET.{}.>",
    "$JS.API.CONSUMER.*.{}",
    "$JS.API.CONSUMER.*.{}.>",
    "$JS.API.CONSUMER.*.*.{}.>",
    "$JS.ACK.{}.>",
    "$JS.ACK.*.*.{}.>",
    "$JS.FC.{}.>",
    "$JS.EVENT.ADVISORY.*.*.{}.>",
];

/// What is denied to everybody but the internal identity: the control plane's buckets and object
/// store by every name they have, and the system's own subjects.
#[must_use]
pub fn control_plane() -> Vec<SubjectFilter> {
    let mut texts = vec!["$SYS.>".to_owned(), format!("$O.{CONTROL_OBJECTS}.>")];
    let mut streams = vec![format!("OBJ_{CONTROL_OBJECTS}")];
    for bucket in CONTROL_BUCKETS {
        texts.push(format!("$KV.{bucket}.>"));
        streams.push(format!("KV_{bucket}"));
    }
    for stream in &streams {
        texts.extend(
            STREAM_SUBJECTS
                .iter()
                .map(|pattern| pattern.replace("{}", stream)),
        );
    }
    filters(texts)
}

/// [`control_plane`], compiled once for all users.
static DENIED: LazyLock<Filters> = LazyLock::new(|| control_plane().into());

/// Everything but the control plane: an anonymous client under `off` and `soft`.
#[must_use]
pub fn open() -> Permissions {
    let all = SubjectSet {
        deny: DENIED.clone(),
        ..SubjectSet::all()
    };
    Permissions {
        publish: all.clone(),
        subscribe: all,
        ..Permissions::all()
    }
}

/// What an active user may do. Anybody may answer a request and make one; the rooms it has joined
/// add their subjects. What consumers deliver needs the right to read at that moment, but on subjects
/// that an admin granted by name: a room's subject and an inbox are anybody's own choice.
#[must_use]
pub fn permissions_of(user: &UserRecord, rooms: &[RoomAccess]) -> Permissions {
    let mut publish = vec![INBOXES.to_owned()];
    let mut subscribe = Vec::new();
    // A record's key is checked when it is read; without one nobody is told anything.
    if let Ok(key) = NkeyPublic::parse(&user.sign_pub) {
        subscribe.push(member_notices(&EndpointId::of(&key)));
    }
    let mut named = Filters::default();
    if user.role == Role::Service {
        granted(user, &mut publish, &mut subscribe);
        named = filters(&user.grants.subscribe).into();
    }
    for room in rooms {
        room.open(&mut publish, &mut subscribe);
    }
    Permissions {
        publish: closed(publish),
        subscribe: SubjectSet {
            allow_literal: filters(OWN_INBOXES).into(),
            ..closed(subscribe)
        },
        responses: None,
        deliveries: Some(DeliveryRule { named }),
    }
}

fn granted(user: &UserRecord, publish: &mut Vec<String>, subscribe: &mut Vec<String>) {
    let grants = &user.grants;
    publish.extend(grants.publish.iter().cloned());
    subscribe.extend(grants.subscribe.iter().cloned());
    let mut streams = grants.streams.clone();
    for bucket in &grants.buckets {
        publish.push(format!("$KV.{bucket}.>"));
        subscribe.push(format!("$KV.{bucket}.>"));
        streams.push(format!("KV_{bucket}"));
    }
    if !streams.is_empty() {
        publish.push(SERVICE_INFO_SUBJECT.to_owned());
    }
    for stream in &streams {
        publish.extend(
            STREAM_USES
                .iter()
                .map(|pattern| pattern.replace("{}", stream)),
        );
    }
}

/// A closed set: these and nothing else, and never the control plane. `>` is written as "all", which
/// costs nothing to decide.
fn closed(allow: Vec<String>) -> SubjectSet {
    let all = allow.iter().any(|pattern| pattern == ">");
    SubjectSet {
        allow: (!all).then(|| filters(allow).into()),
        deny: DENIED.clone(),
        ..SubjectSet::default()
    }
}

/// Parses patterns; one that is none selects nothing and is left out (records are checked when they
/// are read, and the constants here by a test).
fn filters<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Vec<SubjectFilter> {
    texts
        .into_iter()
        .filter_map(|text| text.as_ref().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{CONTROL_BUCKETS, STREAM_SUBJECTS, control_plane, open, permissions_of};
    use crate::access::users::{Grants, Role, UserRecord};
    use unibus_proto::nkey::UserSeed;
    use unibus_proto::permissions::Permissions;

    fn user(role: Role, publish: &[&str], subscribe: &[&str]) -> Permissions {
        let list = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect();
        let grants = Grants {
            publish: list(publish),
            subscribe: list(subscribe),
            ..Grants::default()
        };
        let key = UserSeed::from_bytes([7; 32]).public();
        permissions_of(&UserRecord::new(&key, "", role, grants).unwrap(), &[])
    }

    fn publishes(p: &Permissions, subject: &str) -> bool {
        p.can_publish(subject.as_bytes())
    }

    fn subscribes(p: &Permissions, filter: &str) -> bool {
        p.can_subscribe(filter.as_bytes(), None)
    }

    #[test]
    fn every_pattern_of_the_deny_list_parses() {
        let streams = CONTROL_BUCKETS.len() + 1;
        let wanted = 2 + CONTROL_BUCKETS.len() + streams * STREAM_SUBJECTS.len();
        assert_eq!(control_plane().len(), wanted);
    }

    #[test]
    fn a_service_with_everything_has_everything_but_the_control_plane() {
        for p in [user(Role::Service, &[">"], &[">"]), open()] {
            for subject in [
                "a",
                "$KV.config.x",
                "$JS.API.STREAM.CREATE.S",
                "$JS.ACK.S.c.1",
                "_INBOX.a.b",
            ] {
                assert!(publishes(&p, subject), "{subject}");
                assert!(subscribes(&p, subject), "{subject}");
            }
            for subject in [
                "$KV.UNIBUS_users.abc",
                "$KV.UNIBUS_rooms_by_member.a.b",
                "$O.UNIBUS_blobs.C.x",
                "$SYS.REQ.SERVER.PING",
                "$JS.API.STREAM.INFO.KV_UNIBUS_users",
                "$JS.API.STREAM.DELETE.OBJ_UNIBUS_blobs",
                "$JS.API.STREAM.MSG.GET.KV_UNIBUS_room_keys",
                "$JS.API.STREAM.PURGE.KV_UNIBUS_nonces",
                "$JS.API.DIRECT.GET.KV_UNIBUS_users",
                "$JS.API.DIRECT.GET.KV_UNIBUS_users.$KV.UNIBUS_users.abc",
                "$JS.API.CONSUMER.CREATE.KV_UNIBUS_users",
                "$JS.API.CONSUMER.CREATE.KV_UNIBUS_users.c.$KV.UNIBUS_users.>",
                "$JS.API.CONSUMER.DURABLE.CREATE.KV_UNIBUS_users.c",
                "$JS.API.CONSUMER.MSG.NEXT.KV_UNIBUS_members.c",
                "$JS.ACK.KV_UNIBUS_users.c.1.1.1.1.0",
            ] {
                assert!(!publishes(&p, subject), "{subject}");
                assert!(!subscribes(&p, subject), "{subject}");
            }
            // A wildcard gets through, and its deliveries are filtered.
            assert!(subscribes(&p, ">") && p.needs_delivery_check(b">"));
            assert!(p.delivery_denied(b"$KV.UNIBUS_users.abc"));
            assert!(!p.delivery_denied(b"$KV.config.abc"));
        }
    }

    #[test]
    fn a_service_has_what_it_was_granted_and_its_inboxes() {
        let p = user(Role::Service, &["orders.*"], &["orders.>", "audit"]);
        assert!(publishes(&p, "orders.new") && !publishes(&p, "orders.new.x"));
        assert!(!publishes(&p, "audit") && subscribes(&p, "audit"));
        assert!(subscribes(&p, "orders.>") && !subscribes(&p, ">"));
        assert!(publishes(&p, "_INBOX.somebody.1"));
        assert!(!publishes(&p, "$JS.API.INFO"));
    }

    #[test]
    fn replies_of_others_cannot_be_harvested() {
        let users = [
            user(Role::Member, &[], &[]),
            user(Role::Admin, &[], &[]),
            user(Role::Service, &["a"], &["a"]),
        ];
        for p in users {
            for inbox in [
                "_INBOX.id",
                "_INBOX.id.*",
                "_INBOX.id.>",
                "_INBOX.id.1",
                "_INBOX.id.1.2",
            ] {
                assert!(subscribes(&p, inbox), "{inbox}");
            }
            for harvest in [
                ">",
                "_INBOX.>",
                "_INBOX.*",
                "_INBOX.*.>",
                "_INBOX.*.1",
                "_INBOX.*.*",
                "_INBOX",
                "*.abc",
                "*.abc.>",
                "*.>",
                "$KV.UNIBUS_users.>",
            ] {
                assert!(!subscribes(&p, harvest), "{harvest}");
            }
        }
    }

    #[test]
    fn members_and_admins_only_answer_until_rooms_add_theirs() {
        for p in [user(Role::Member, &[], &[]), user(Role::Admin, &[], &[])] {
            assert!(publishes(&p, "_INBOX.x.1") && !publishes(&p, "a"));
            assert!(!subscribes(&p, "a") && !subscribes(&p, "$SYS.>"));
        }
    }

    #[test]
    fn a_granted_bucket_is_readable_and_writable_and_no_other_is() {
        let grants = Grants {
            buckets: vec!["config".into()],
            ..Grants::default()
        };
        let key = UserSeed::from_bytes([7; 32]).public();
        let p = permissions_of(
            &UserRecord::new(&key, "", Role::Service, grants).unwrap(),
            &[],
        );
        for subject in [
            "$KV.config.a.b",
            "$JS.API.INFO",
            "$JS.API.STREAM.INFO.KV_config",
            "$JS.API.DIRECT.GET.KV_config.$KV.config.a",
            "$JS.API.CONSUMER.CREATE.KV_config.c.$KV.config.>",
        ] {
            assert!(publishes(&p, subject), "{subject}");
        }
        assert!(subscribes(&p, "$KV.config.>"));
        assert!(!publishes(&p, "$KV.other.a") && !publishes(&p, "$JS.API.STREAM.INFO.KV_other"));
        assert!(!publishes(&p, "$JS.API.STREAM.DELETE.KV_config"));
    }

    #[test]
    fn a_granted_stream_is_no_key_to_another_with_a_consumer_of_its_name() {
        let key = UserSeed::from_bytes([7; 32]).public();
        let grants = Grants {
            streams: vec!["S".to_owned()],
            ..Grants::default()
        };
        let p = permissions_of(
            &UserRecord::new(&key, "", Role::Service, grants).unwrap(),
            &[],
        );
        for legitimate in [
            "$JS.API.CONSUMER.CREATE.S.c.a.>",
            "$JS.API.CONSUMER.DURABLE.CREATE.S.c",
            "$JS.API.CONSUMER.MSG.NEXT.S.c",
            "$JS.API.CONSUMER.INFO.S.c",
            "$JS.FC.S.c.token",
        ] {
            assert!(publishes(&p, legitimate), "{legitimate}");
        }
        for attack in [
            "$JS.API.CONSUMER.CREATE.OTHER.S.a.>",
            "$JS.API.CONSUMER.DURABLE.CREATE.OTHER.S",
            "$JS.API.CONSUMER.MSG.NEXT.OTHER.S",
            "$JS.API.CONSUMER.DELETE.OTHER.S",
            "$JS.FC.OTHER.S.token",
        ] {
            assert!(!publishes(&p, attack), "{attack}");
        }
    }
}
