//! Positions of a consumer and what it waits for: `o.dat`. Variable-length integers behind a magic byte
//! and a version; sequences count from the ack floor, times in seconds back from a common one.

use unibus_state::command::RestoredConsumer;
use unibus_state::{Ledger, Position, Unsettled};

const MAGIC: u8 = 22;
const VERSION: u8 = 2;
const SECOND_NS: u64 = 1_000_000_000;

pub(super) fn encode(ledger: &Ledger) -> Vec<u8> {
    let mut out = vec![MAGIC, VERSION];
    let (delivered, floor) = (ledger.delivered(), ledger.ack_floor());
    for position in [floor, delivered] {
        put(&mut out, position.consumer_seq);
        put(&mut out, position.stream_seq);
    }
    let pending = ledger.pending();
    put(&mut out, pending.len() as u64);
    if !pending.is_empty() {
        let newest = pending.values().map(|entry| entry.since_ns).max();
        let base = (newest.unwrap_or(0) / SECOND_NS).cast_signed();
        put_signed(&mut out, base);
        for (seq, entry) in pending {
            put(&mut out, seq.wrapping_sub(floor.stream_seq));
            put(
                &mut out,
                entry.consumer_seq.wrapping_sub(floor.consumer_seq),
            );
            put_signed(&mut out, base - (entry.since_ns / SECOND_NS).cast_signed());
        }
    }
    let again = pending.iter().filter(|(_, entry)| entry.deliveries > 1);
    put(&mut out, again.clone().count() as u64);
    for (seq, entry) in again {
        put(&mut out, seq.wrapping_sub(floor.stream_seq));
        put(&mut out, u64::from(entry.deliveries - 1));
    }
    out
}

/// How many messages a consumer waits for; `None` when that does not read.
pub(super) fn pending_of(bytes: &[u8]) -> Option<u64> {
    let mut rest = bytes.strip_prefix(&[MAGIC, VERSION])?;
    // The two positions come before.
    for _ in 0..4 {
        take(&mut rest)?;
    }
    take(&mut rest)
}

/// Fills in what `bytes` say; `None` when they are damaged.
pub(in crate::jetstream) fn decode(bytes: &[u8], consumer: &mut RestoredConsumer) -> Option<()> {
    let mut rest = bytes.strip_prefix(&[MAGIC, VERSION])?;
    let position = |rest: &mut &[u8]| {
        Some(Position {
            consumer_seq: take(rest)?,
            stream_seq: take(rest)?,
        })
    };
    let floor = position(&mut rest)?;
    let delivered = position(&mut rest)?;
    let mut pending = Vec::new();
    let count = take(&mut rest)?;
    if count > 0 {
        let base = take_signed(&mut rest)?;
        for _ in 0..count {
            let seq = take(&mut rest)?.wrapping_add(floor.stream_seq);
            let consumer_seq = take(&mut rest)?.wrapping_add(floor.consumer_seq);
            let seconds = base.checked_sub(take_signed(&mut rest)?)?;
            let since_ns = u64::try_from(seconds).ok()?.checked_mul(SECOND_NS)?;
            pending.push((
                seq,
                Unsettled {
                    consumer_seq,
                    since_ns,
                    deliveries: 1,
                },
            ));
        }
    }
    pending.sort_unstable_by_key(|(seq, _)| *seq);
    for _ in 0..take(&mut rest)? {
        let seq = take(&mut rest)?.wrapping_add(floor.stream_seq);
        let more = u32::try_from(take(&mut rest)?).ok()?;
        if let Ok(at) = pending.binary_search_by_key(&seq, |(seq, _)| *seq) {
            pending[at].1.deliveries = more.saturating_add(1);
        }
    }
    consumer.delivered = delivered;
    consumer.ack_floor = floor;
    consumer.pending = pending;
    Some(())
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value << 1 ^ value >> 63).cast_unsigned());
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take_signed(rest: &mut &[u8]) -> Option<i64> {
    let value = take(rest)?;
    Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
}
