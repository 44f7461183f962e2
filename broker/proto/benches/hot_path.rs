//! What a message costs in the pure half: decode, match, encode. `cargo bench -p unibus-proto`.

use bytes::BytesMut;
use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use unibus_proto::decoder::{Decoder, DecoderLimits};
use unibus_proto::encoder;
use unibus_proto::sublist::{Matches, Sublist};

/// Messages of one read.
const MESSAGES: usize = 256;

fn main() {
    divan::main();
}

/// A read's worth of publishes.
fn publishes(payload: usize) -> Vec<u8> {
    let one = format!(
        "PUB orders.eu.4711 {payload}\r\n{}\r\n",
        "x".repeat(payload)
    );
    one.repeat(MESSAGES).into_bytes()
}

#[divan::bench(args = [16, 128, 1024])]
fn decode(bencher: Bencher<'_, '_>, payload: usize) {
    let bytes = publishes(payload);
    bencher
        .counter(ItemsCount::new(MESSAGES))
        .counter(BytesCount::new(bytes.len()))
        .bench_local(|| {
            let mut decoder = Decoder::new(DecoderLimits {
                control_line_bytes_max: 4096,
                payload_bytes_max: 1024 * 1024,
            });
            let (mut at, mut count) = (0, 0);
            while let Ok(Some((op, used))) = decoder.decode(black_box(&bytes[at..])) {
                black_box(op);
                at += used;
                count += 1;
            }
            assert_eq!(count, MESSAGES);
        });
}

#[divan::bench(args = [16, 128, 1024])]
fn encode(bencher: Bencher<'_, '_>, payload: usize) {
    let data = vec![b'x'; payload];
    let mut out = BytesMut::with_capacity(MESSAGES * (payload + 64));
    bencher.counter(ItemsCount::new(MESSAGES)).bench_local(|| {
        out.clear();
        for _ in 0..MESSAGES {
            encoder::msg(
                &mut out,
                black_box(b"orders.eu.4711"),
                b"17",
                None,
                0,
                &data,
            );
        }
        black_box(out.len())
    });
}

/// One literal among this many subscriptions, beside a wildcard of each kind.
#[divan::bench(args = [1_000, 300_000])]
fn match_subject(bencher: Bencher<'_, '_>, subscriptions: usize) {
    let mut sublist = Sublist::with_seed(7);
    for number in 0..subscriptions {
        sublist.insert(format!("orders.{number}.state").as_bytes(), None, number);
    }
    sublist.insert(b"orders.*.state", None, subscriptions);
    sublist.insert(b"orders.>", Some(b"audit"), subscriptions);
    let subject = format!("orders.{}.state", subscriptions / 2);
    let mut found = Matches::default();
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        sublist.matches(black_box(subject.as_bytes()), &mut found);
        assert_eq!((found.plain.len(), found.queues.len()), (2, 1));
    });
}
