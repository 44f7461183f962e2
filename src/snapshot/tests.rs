//! Snapshots: what is no whole, what is written, what is held back, and that a file is read as it was
//! written or not at all.

use super::file::{self, SnapshotFileError, Writer};
use super::{Held, Place, Record, Snapshot, room_of};
use crate::access::{Grants, Role, UserRecord};
use crate::control::buckets::Bucket;
use unibus_proto::control::{
    EndpointId, MemberRecord, MemberRole, Policy, RoomId, RoomRecord, SealedKeyRecord, SignPublic,
};
use unibus_proto::nkey::UserSeed;

fn key(n: u8) -> SignPublic {
    SignPublic(UserSeed::from_bytes([n; 32]).public())
}

fn user(n: u8) -> UserRecord {
    UserRecord {
        created_at: "2026-01-01T00:00:00Z".into(),
        ..UserRecord::new(&key(n).0, "", Role::Member, Grants::default()).unwrap()
    }
}

fn put_user(snapshot: &mut Snapshot, user: UserRecord) {
    snapshot.put(Bucket::Users, user.sign_pub.clone(), Record::User(user));
}

fn member(n: u8, role: MemberRole) -> MemberRecord {
    MemberRecord {
        endpoint: key(n).endpoint(),
        sign_pub: key(n),
        kex_pub: key(n).to_string().parse().unwrap(),
        role,
        joined_at: Some("2026-01-01T00:00:00Z".into()),
        inviter: key(1).endpoint(),
        inviter_signature: "AA==".into(),
    }
}

fn room(id: &str, subject: &str, epoch: u64) -> RoomRecord {
    RoomRecord {
        id: id.parse().unwrap(),
        subject: subject.parse().unwrap(),
        policy: Policy::MATRIX,
        owner: key(1).endpoint(),
        epoch,
        created_at: "2026-01-01T00:00:00Z".into(),
        owner_signature: "AA==".into(),
        needs_rekey: false,
    }
}

fn put_room(snapshot: &mut Snapshot, record: RoomRecord) {
    let id: RoomId = record.id.clone();
    for epoch in 1..=record.epoch {
        let owner: EndpointId = record.owner.clone();
        let sealed = SealedKeyRecord {
            sealed_key: "AA==".into(),
            sealer: owner.clone(),
            sealer_signature: "AA==".into(),
        };
        let key = format!("{id}.{epoch}.{owner}");
        snapshot.put(Bucket::RoomKeys, key, Record::Key(sealed));
    }
    snapshot.put_member(&id, member(1, MemberRole::Owner));
    snapshot.put_member(&id, member(2, MemberRole::Member));
    snapshot.put(Bucket::Rooms, id.to_string(), Record::Room(record));
}

/// Two users and a room of theirs at epoch 3.
fn sample() -> Snapshot {
    let mut snapshot = Snapshot::default();
    put_user(&mut snapshot, user(1));
    put_user(&mut snapshot, user(2).revoked());
    put_room(&mut snapshot, room("r1", "room.one", 3));
    snapshot
}

fn held(snapshot: Snapshot) -> Held {
    let places = snapshot.records().map(|(place, _)| place.clone());
    let revisions = places.zip(1..).collect();
    Held {
        snapshot,
        revisions,
    }
}

fn written(snapshot: &Snapshot) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).unwrap();
    writer.records(snapshot).unwrap();
    writer.blob_part("ab", b"one ", true).unwrap();
    writer.blob_part("ab", b"blob", false).unwrap();
    writer.finish().unwrap()
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let text = written(&sample());
    let mut blob = Vec::new();
    let read = file::read(&text[..], |part| {
        assert_eq!((part.hash.as_str(), part.more), ("ab", blob.is_empty()));
        blob.extend(part.bytes);
        Ok(())
    });
    assert_eq!(read.unwrap(), sample());
    assert_eq!(blob, b"one blob");
}

#[test]
fn a_file_that_was_cut_or_changed_is_refused() {
    let text = written(&sample());
    let read = |text: &[u8]| file::read(text, |_| Ok(()));
    for cut in [0, 1, text.len() / 2, text.len() - 2] {
        assert!(read(&text[..cut]).is_err(), "cut at {cut}");
    }
    let last = text[..text.len() - 1]
        .iter()
        .rposition(|b| *b == b'\n')
        .unwrap();
    assert!(matches!(
        read(&text[..=last]),
        Err(SnapshotFileError::Cut(_))
    ));
    // One record less, and everything else as it was.
    let lines: Vec<&[u8]> = text.split_inclusive(|b| *b == b'\n').collect();
    let without: Vec<u8> = [&lines[..1], &lines[2..]].concat().concat();
    assert!(matches!(read(&without), Err(SnapshotFileError::Digest)));
    let changed = String::from_utf8(text.clone())
        .unwrap()
        .replace("revoked\"", "active\"");
    assert!(matches!(
        read(changed.as_bytes()),
        Err(SnapshotFileError::Digest)
    ));
    assert!(matches!(
        read(&[&text[..], b"{}\n"].concat()),
        Err(SnapshotFileError::Digest)
    ));
}

#[test]
fn what_is_no_whole_is_told_at_once() {
    assert!(sample().check().is_ok());
    let mut broken = sample();
    put_room(&mut broken, room("r2", "room.one", 1));
    let stranger = Record::Key(SealedKeyRecord {
        sealed_key: "AA==".into(),
        sealer: key(1).endpoint(),
        sealer_signature: "AA==".into(),
    });
    broken.put(
        Bucket::RoomKeys,
        format!("r1.1.{}", key(9).endpoint()),
        stranger,
    );
    broken.put_member(&"gone".parse().unwrap(), member(3, MemberRole::Member));
    let problems = broken.check().unwrap_err().0;
    for word in ["same subject", "is no member", "no room gone"] {
        let told = problems.iter().any(|problem| problem.contains(word));
        assert!(told, "{word}: {problems:?}");
    }
}

#[test]
fn a_record_under_another_key_is_refused() {
    let record = Record::Room(room("r1", "room.one", 1));
    let at = |bucket, key: &str| {
        let place = Place {
            bucket,
            key: key.into(),
        };
        Record::decode(&place, &record.encode())
    };
    assert!(at(Bucket::Rooms, "r1").is_ok());
    for (bucket, key) in [
        (Bucket::Rooms, "r2"),
        (Bucket::Rooms, "r1.x"),
        (Bucket::Members, "r1"),
        (Bucket::Nonces, "r1"),
    ] {
        assert!(at(bucket, key).is_err(), "{bucket:?} {key}");
    }
}

#[test]
fn an_import_writes_what_differs_and_a_second_one_nothing() {
    let source = sample();
    let plan = source.plan(&Held::default(), false);
    assert_eq!((plan.writes.len(), plan.unchanged), (source.len(), 0));
    assert!(plan.writes.iter().all(|write| write.revision == 0));
    let order: Vec<Bucket> = plan.writes.iter().map(|write| write.place.bucket).collect();
    assert_eq!(order.last(), Some(&Bucket::Rooms), "a room comes last");
    let again = source.plan(&held(source.clone()), false);
    assert_eq!((again.writes.len(), again.unchanged), (0, source.len()));
    let mut other = source.clone();
    put_user(
        &mut other,
        UserRecord {
            name: "new".into(),
            ..user(1)
        },
    );
    let plan = source.plan(&held(other.clone()), false);
    assert_eq!((plan.writes.len(), plan.held_back.len()), (0, 1));
    let plan = source.plan(&held(other), true);
    assert_eq!((plan.writes.len(), plan.held_back.len()), (1, 0));
    assert!(plan.writes[0].revision > 0);
}

/// What a cluster holds after somebody's records were removed from a room.
fn without(snapshot: &Snapshot, endpoint: &EndpointId) -> Held {
    let mut held = held(snapshot.clone());
    let theirs = |place: &Place| place.key.split('.').any(|part| part == endpoint.as_str());
    held.snapshot.records.retain(|place, _| !theirs(place));
    held
}

#[test]
fn who_was_removed_does_not_come_back() {
    let source = sample();
    let gone = key(2).endpoint();
    // In a room in cleartext nothing else changes; in an encrypted one a rekey was due at the export too.
    let cluster = without(&source, &gone);
    let plan = source.plan(&cluster, false);
    assert!(plan.writes.is_empty(), "{:?}", plan.writes);
    assert_eq!(plan.held_back.len(), 2, "{:?}", plan.held_back);
    assert_eq!(source.plan(&cluster, true).writes.len(), 2);
    // Neither does what a user was allowed before.
    let allowed = |grants: Grants| UserRecord::new(&key(1).0, "", Role::Service, grants).unwrap();
    let (mut generous, mut narrowed) = (sample(), sample());
    let grants = Grants {
        publish: vec![">".into()],
        ..Grants::default()
    };
    put_user(&mut generous, allowed(grants));
    put_user(&mut narrowed, allowed(Grants::default()));
    let plan = generous.plan(&held(narrowed), false);
    assert_eq!((plan.writes.len(), plan.held_back.len()), (0, 1));
    // A revocation is always carried over.
    let mut source = sample();
    put_user(&mut source, user(1).revoked());
    assert_eq!(source.plan(&held(sample()), false).writes.len(), 1);
    // A room that the cluster has deleted stays deleted.
    let mut cluster = held(sample());
    cluster
        .snapshot
        .records
        .retain(|place, _| room_of(place).is_none());
    assert!(sample().plan(&cluster, false).writes.is_empty());
}

#[test]
fn a_later_room_takes_its_members_along() {
    let mut source = without(&sample(), &key(2).endpoint()).snapshot;
    put_user(&mut source, user(2).revoked());
    let later = source.clone();
    source.put(Bucket::Rooms, "r1", Record::Room(room("r1", "room.one", 4)));
    let plan = source.plan(&held(sample()), false);
    let removed = plan.writes.iter().filter(|write| write.value.is_none());
    assert_eq!(
        removed.count(),
        2,
        "a member and the index: {:?}",
        plan.writes
    );
    // Where nobody can tell who is right, it is told.
    let plan = later.plan(&held(sample()), false);
    assert!(plan.writes.is_empty(), "{:?}", plan.writes);
    assert_eq!(plan.more_members.len(), 1);
    assert_eq!(later.plan(&held(sample()), true).writes.len(), 2);
}

#[test]
fn nothing_goes_back_behind_the_cluster_unless_asked() {
    let source = sample();
    let mut cluster = sample();
    put_user(&mut cluster, user(1).revoked());
    put_room(&mut cluster, room("r1", "room.one", 4));
    let plan = source.plan(&held(cluster.clone()), false);
    assert!(plan.writes.is_empty(), "{:?}", plan.writes);
    assert_eq!(plan.held_back.len(), 2, "{:?}", plan.held_back);
    // With the user and the room, the key of the epoch that is no more.
    let plan = source.plan(&held(cluster), true);
    assert_eq!((plan.writes.len(), plan.held_back.len()), (3, 0));
    // Somebody was removed since: the member that is gone does not come back.
    let mut cluster = sample();
    let due = RoomRecord {
        needs_rekey: true,
        ..room("r1", "room.one", 3)
    };
    put_room(&mut cluster, due);
    let plan = source.plan(&held(cluster), false);
    assert_eq!((plan.writes.len(), plan.held_back.len()), (0, 1));
}

#[test]
fn differences_and_conflicts_are_named() {
    let source = sample();
    let mut cluster = sample();
    put_user(&mut cluster, user(7));
    assert!(source.missing_in(&cluster).is_empty());
    assert_eq!(source.more_in(&cluster), 1);
    assert_eq!(cluster.missing_in(&source).len(), 1);
    let mut elsewhere = Snapshot::default();
    put_room(&mut elsewhere, room("other", "room.one", 1));
    assert_eq!(source.conflicts(&elsewhere).len(), 1);
    assert!(source.conflicts(&cluster).is_empty());
}
