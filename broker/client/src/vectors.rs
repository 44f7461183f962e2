//! The byte-exact examples under `tests/vectors`, for clients in other languages: everything but the
//! sealing, which is random, is computed anew and held against the files. With
//! `UNIBUS_WRITE_VECTORS=1` the files and the frames of the fuzz corpus are written.

use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use unibus_proto::control::{
    MemberRole, Policy, RoomId, RoomSubject, SealedKey, member_statement, room_statement,
    sealed_key_statement,
};
use unibus_proto::signing::{body_hash, canonical_request, sign_request};

use crate::identity::Identity;
use crate::rooms::blob::{BlobHash, BlobKey, BlobRef, Manifest, PIECE_BYTES};
use crate::rooms::frame::{Frame, FrameId, FrameKind, Header, SignedFrame};
use crate::rooms::message::MessageContext;
use crate::rooms::room_key::{KeySlot, RoomKey};

const NOW_MS: u64 = 1_700_000_000_123;
const SALT: [u8; 24] = [0x5a; 24];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

fn alice() -> Identity {
    Identity::from_secrets([0x11; 32], [0x22; 32]).unwrap()
}

fn bob() -> Identity {
    Identity::from_secrets([0x33; 32], [0x44; 32]).unwrap()
}

fn room() -> RoomId {
    "kitchen-1".parse().unwrap()
}

fn room_key() -> RoomKey {
    RoomKey::from_bytes([0x77; 32])
}

fn writing() -> bool {
    std::env::var_os("UNIBUS_WRITE_VECTORS").is_some()
}

/// Holds what is computed against a file, or writes it.
fn hold(name: &str, computed: &Value) {
    let path = root().join("tests/vectors").join(name);
    if writing() {
        let text = serde_json::to_string_pretty(computed).unwrap();
        std::fs::write(&path, text + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kept: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(&kept, computed, "{name}");
}

#[test]
fn identities() {
    let of = |identity: &Identity, sign: u8, kex: u8| {
        json!({
            "sign_secret": hex([sign; 32]),
            "kex_secret": hex([kex; 32]),
            "sign_pub": identity.party().sign_pub.to_string(),
            "kex_pub": identity.party().kex_pub.as_str(),
            "nkey_seed": identity.signing().to_nkey(),
            "nkey": identity.nkey(),
            "endpoint": identity.endpoint().as_str(),
        })
    };
    hold(
        "identity.json",
        &json!({ "alice": of(&alice(), 0x11, 0x22), "bob": of(&bob(), 0x33, 0x44) }),
    );
}

#[test]
fn requests() {
    let alice = alice();
    let of = |method: &str, uri: &str, body: &[u8]| {
        let (timestamp, nonce) = (NOW_MS / 1000, [0x99; 16]);
        let hash = body_hash(body);
        let headers = sign_request(alice.signing(), method, uri, timestamp, &nonce, &hash);
        let nonce = data_encoding::BASE64.encode(&nonce);
        json!({
            "method": method,
            "uri": uri,
            "body": String::from_utf8_lossy(body),
            "timestamp": timestamp,
            "nonce": nonce,
            "canonical": canonical_request(method, uri, timestamp, &nonce, &hash),
            "headers": headers.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        })
    };
    let cases = [
        of("GET", "/rooms/kitchen-1/key?endpoint=x&epoch=1", b""),
        of("POST", "/rooms/kitchen-1/join", b"{}"),
    ];
    hold(
        "request.json",
        &json!({ "signer": "alice", "cases": cases }),
    );
}

#[test]
fn statements() {
    let (alice, bob, room) = (alice(), bob(), room());
    let subject: RoomSubject = "room.kitchen".parse().unwrap();
    let of_room = room_statement(&room, &subject, &Policy::MATRIX, alice.party());
    let of_member = member_statement(&room, bob.party(), MemberRole::Member);
    hold(
        "statements.json",
        &json!({
            "signer": "alice",
            "room": { "statement": of_room, "signature": alice.sign_text(&of_room) },
            "member": { "statement": of_member, "signature": alice.sign_text(&of_member) },
        }),
    );
}

/// Sealing is random: the file's own example is opened, and everything around it computed.
#[test]
fn room_keys() {
    let (alice, bob, room) = (alice(), bob(), room());
    let slot = KeySlot {
        room: &room,
        epoch: 3,
        recipient: bob.endpoint(),
    };
    let path = root().join("tests/vectors/room_key.json");
    let sealed = if writing() {
        let mut rng = StdRng::seed_from_u64(7);
        let to = &bob.party().kex_pub;
        slot.seal(&room_key(), to, alice.signing(), &mut rng)
            .unwrap()
    } else {
        let kept: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        SealedKey {
            sealed_key: kept["sealed_key"].as_str().unwrap().to_owned(),
            signature: kept["signature"].as_str().unwrap().to_owned(),
        }
    };
    let opened = slot.open(&sealed, bob.agreement(), &alice.party().sign_pub);
    assert_eq!(opened, Ok(room_key()));
    let bytes = data_encoding::BASE64.decode(sealed.sealed_key.as_bytes());
    let statement = sealed_key_statement(&room, 3, bob.endpoint(), &bytes.unwrap());
    hold(
        "room_key.json",
        &json!({
            "room": room.as_str(),
            "epoch": 3,
            "sealer": "alice",
            "recipient": "bob",
            "info": format!("UNIBUS-ROOM-KEY-1\nkitchen-1\n3\n{}", bob.endpoint()),
            "room_key": hex(room_key().reveal()),
            "sealed_key": sealed.sealed_key,
            "statement": statement,
            "signature": sealed.signature,
        }),
    );
}

#[test]
fn message_keys() {
    let alice = alice();
    let kind = FrameKind::message();
    let context = MessageContext {
        room: &room(),
        epoch: 3,
        from: alice.endpoint(),
        kind: &kind,
    };
    let key = context.key(&room_key(), &SALT);
    hold(
        "message_key.json",
        &json!({
            "room_key": hex(room_key().reveal()),
            "salt": hex(SALT),
            "info": format!("UNIBUS-MESSAGE-1\nkitchen-1\n3\n{}\nMSG", alice.endpoint()),
            "key": hex(key.as_slice()),
        }),
    );
}

fn header(kind: FrameKind) -> Header {
    Header {
        id: FrameId::new(NOW_MS, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        room: room(),
        epoch: 3,
        from: alice().endpoint().clone(),
        kind,
        sent_ms: NOW_MS,
        thread: None,
        reply_to: None,
    }
}

fn frame_case(name: &str, frame: &Frame, plaintext: &[u8]) -> Value {
    let encoded = frame.sign(alice().signing());
    if writing() {
        std::fs::create_dir_all(root().join("fuzz/corpora/frames")).unwrap();
        std::fs::write(root().join("fuzz/corpora/frames").join(name), &encoded).unwrap();
    }
    let read = SignedFrame::decode(&encoded).unwrap();
    assert_eq!(read.verify(&alice().party().sign_pub), Ok(frame));
    json!({
        "name": name,
        "plaintext": hex(plaintext),
        "associated": hex(frame.associated()),
        "signed": hex(frame.signed_bytes()),
        "frame": hex(encoded),
    })
}

#[test]
fn frames() {
    let root_id = FrameId::new(NOW_MS - 1000, [0xaa; 10]);
    let other_id = FrameId::new(NOW_MS - 500, [0xbb; 10]);
    let encrypted = |name: &str, header: Header, plaintext: &[u8]| {
        let frame = header.encrypted(&room_key(), SALT, plaintext);
        frame_case(name, &frame, plaintext)
    };
    let threaded = Header {
        thread: Some(root_id),
        reply_to: Some(other_id),
        ..header(FrameKind::message())
    };
    let reaction = Header {
        reply_to: Some(root_id),
        ..header(FrameKind::reaction())
    };
    let clear = header(FrameKind::message()).plain(b"hello, everybody".to_vec());
    let cases = [
        encrypted("message", header(FrameKind::message()), b"hello, kitchen"),
        encrypted("empty_message", header(FrameKind::message()), b""),
        encrypted("reply_in_thread", threaded, "tea \u{2615}?".as_bytes()),
        encrypted("reaction", reaction, "\u{1f44d}".as_bytes()),
        encrypted("file", header(FrameKind::file()), &reference().encode()),
        encrypted(
            "unknown_kind",
            header("X_GAME_MOVE".parse().unwrap()),
            b"e4",
        ),
        frame_case("cleartext", &clear, b"hello, everybody"),
    ];
    let good = clear.sign(alice().signing());
    let garbage: Vec<Value> = [
        ("truncated", good[..good.len() - 1].to_vec()),
        ("trailing", [&good[..], b"\0"].concat()),
        ("indefinite", [b"\xbf", &good[1..], b"\xff"].concat()),
        (
            "long_head",
            [b"\xb8", &[good[0] & 0x1f], &good[1..]].concat(),
        ),
        ("not_a_map", b"\x81\x01".to_vec()),
        ("duplicate", b"\xa2\x61v\x01\x61v\x01".to_vec()),
        ("empty", Vec::new()),
    ]
    .into_iter()
    .map(|(name, bytes)| {
        assert!(SignedFrame::decode(&bytes).is_err(), "{name}");
        json!({ "name": name, "frame": hex(bytes) })
    })
    .collect();
    hold(
        "frames.json",
        &json!({
            "sender": "alice",
            "room_key": hex(room_key().reveal()),
            "cases": cases,
            "garbage": garbage,
        }),
    );
}

fn reference() -> BlobRef {
    BlobRef {
        hash: BlobHash::of(b"ciphertext"),
        key: BlobKey::from_bytes([0x66; 32]),
        size: PIECE_BYTES as u64 + 1,
        name: Some("cat.png".into()),
        media_type: Some("image/png".into()),
    }
}

#[test]
fn blobs() {
    let key = BlobKey::from_bytes([0x66; 32]);
    let pieces = [b"one", b"two"].map(|piece| BlobHash::of(piece)).to_vec();
    let manifest = Manifest {
        size: PIECE_BYTES as u64 + 1,
        pieces,
    };
    hold(
        "blob.json",
        &json!({
            "key": hex([0x66; 32]),
            "piece_bytes": PIECE_BYTES,
            "piece": { "index": 2, "last": true, "plaintext": hex(b"the end"), "sealed": hex(key.seal_piece(2, true, b"the end")) },
            "manifest": {
                "size": manifest.size,
                "pieces": manifest.pieces.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "sealed": hex(key.seal_manifest(&manifest)),
            },
            "reference": { "encoded": hex(reference().encode()), "text": reference().to_text() },
        }),
    );
}
