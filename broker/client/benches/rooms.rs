//! What rooms cost a client's processor: making and reading a frame, and sealing a new key to everybody.
//! `cargo bench -p unibus-client`.

#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use divan::Bencher;
use divan::counter::ItemsCount;
use unibus_client::Identity;
use unibus_client::rooms::frame::{FrameId, FrameKind, Header, SignedFrame};
use unibus_client::rooms::room_key::{KeySlot, RoomKey};

fn main() {
    divan::main();
}

fn me() -> Identity {
    Identity::from_secrets([1; 32], [2; 32]).unwrap()
}

fn header(me: &Identity) -> Header {
    Header {
        id: FrameId::new(1, [0; 10]),
        room: "r1".parse().unwrap(),
        epoch: 1,
        from: me.endpoint().clone(),
        kind: FrameKind::message(),
        sent_ms: 1,
        thread: None,
        reply_to: None,
    }
}

/// Encrypts, encodes and signs one message of so many bytes.
#[divan::bench(args = [128, 16 * 1024])]
fn make_frame(bencher: Bencher<'_, '_>, bytes: usize) {
    let (me, key, text) = (me(), RoomKey::from_bytes([3; 32]), vec![7; bytes]);
    bencher
        .counter(ItemsCount::new(1usize))
        .with_inputs(|| header(&me))
        .bench_values(|header| {
            header
                .encrypted(&key, rand::random(), &text)
                .sign(me.signing())
        });
}

/// Decodes, verifies and decrypts one.
#[divan::bench(args = [128, 16 * 1024])]
fn read_frame(bencher: Bencher<'_, '_>, bytes: usize) {
    let (me, key, text) = (me(), RoomKey::from_bytes([3; 32]), vec![7; bytes]);
    let frame = header(&me)
        .encrypted(&key, [4; 24], &text)
        .sign(me.signing());
    let sender = me.party().sign_pub;
    bencher.counter(ItemsCount::new(1usize)).bench(|| {
        let read = SignedFrame::decode(&frame).unwrap();
        read.verify(&sender).unwrap().open(&key).unwrap()
    });
}

/// Seals a new key to every member of a room.
#[divan::bench(args = [2, 100, 5000], sample_count = 10, sample_size = 1)]
fn rekey(bencher: Bencher<'_, '_>, members: usize) {
    let (me, room) = (me(), "r1".parse().unwrap());
    let to: Vec<Identity> = (0..members)
        .map(|_| Identity::generate().unwrap())
        .collect();
    let mut rng = rand::rng();
    bencher.counter(ItemsCount::new(members)).bench_local(|| {
        let key = RoomKey::random(&mut rng);
        for member in &to {
            let slot = KeySlot {
                room: &room,
                epoch: 2,
                recipient: member.endpoint(),
            };
            let kex_pub = &member.party().kex_pub;
            divan::black_box(slot.seal(&key, kex_pub, me.signing(), &mut rng).unwrap());
        }
    });
}
