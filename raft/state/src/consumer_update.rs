//! What the leader's cursor reports of one consumer: deliveries and settled messages since its last
//! report, in a compact binary form. Built on exactly one earlier state of the row: an update that comes
//! late, from a cursor that is not the truth any more, or for another consumer of the same name, is
//! refused.

use std::sync::Arc;

use crate::codec::{CodecError, Reader, put_blob, put_varint};
use crate::ledger::{Position, Unsettled};

/// A client that a priority group is pinned to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The group.
    pub group: Arc<str>,
    /// What the client shows with its requests (`Nats-Pin-Id`).
    pub id: Arc<str>,
    /// Since when, Unix nanoseconds.
    pub since_ns: u64,
}

/// `ConsumerUpdate`: applied as a whole or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerUpdate {
    /// The stream.
    pub stream: Arc<str>,
    /// The consumer.
    pub name: Arc<str>,
    /// When it was created: tells it from another of the same name.
    pub created_ns: u64,
    /// The stamp of the row that this update changes.
    pub base: u64,
    /// The stamp of the row afterwards.
    pub stamp: u64,
    /// The last delivery.
    pub delivered: Position,
    /// Everything up to here is settled.
    pub ack_floor: Position,
    /// Messages that are unsettled, new or changed, by ascending stream sequence.
    pub pending: Vec<(u64, Unsettled)>,
    /// Messages acknowledged or terminated, ascending. A cursor on a stream that keeps messages leaves
    /// out those whose delivery was not reported either.
    pub settled: Vec<u64>,
    /// Messages nobody waits for any more although they were not acknowledged (they ran out of
    /// deliveries, or are gone), ascending.
    pub dropped: Vec<u64>,
    /// The pin afterwards, if it changed.
    pub pin: Option<Option<Pin>>,
}

impl ConsumerUpdate {
    /// Rows that this update touches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pending.len() + self.settled.len() + self.dropped.len()
    }

    /// Whether it only moves positions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.pin.is_none()
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_blob(out, self.stream.as_bytes());
        put_blob(out, self.name.as_bytes());
        for fixed in [self.created_ns, self.base, self.stamp] {
            out.extend_from_slice(&fixed.to_le_bytes());
        }
        for at in [self.delivered, self.ack_floor] {
            put_varint(out, at.consumer_seq);
            put_varint(out, at.stream_seq);
        }
        put_pending(out, self.pending.iter().map(|(seq, entry)| (*seq, *entry)));
        put_ascending(out, &self.settled);
        put_ascending(out, &self.dropped);
        match &self.pin {
            None => out.push(0),
            Some(None) => out.push(1),
            Some(Some(pin)) => {
                out.push(2);
                put_pin(out, pin);
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(bytes);
        let update = Self {
            stream: reader.text()?.into(),
            name: reader.text()?.into(),
            created_ns: reader.u64()?,
            base: reader.u64()?,
            stamp: reader.u64()?,
            delivered: read_position(&mut reader)?,
            ack_floor: read_position(&mut reader)?,
            pending: read_pending(&mut reader)?,
            settled: read_ascending(&mut reader)?,
            dropped: read_ascending(&mut reader)?,
            pin: match reader.u8()? {
                0 => None,
                1 => Some(None),
                2 => Some(Some(read_pin(&mut reader)?)),
                _ => return Err(CodecError::Malformed),
            },
        };
        reader.finish()?;
        Ok(update)
    }
}

pub(crate) fn read_position(reader: &mut Reader<'_>) -> Result<Position, CodecError> {
    Ok(Position {
        consumer_seq: reader.varint()?,
        stream_seq: reader.varint()?,
    })
}

pub(crate) fn put_pin(out: &mut Vec<u8>, pin: &Pin) {
    put_blob(out, pin.group.as_bytes());
    put_blob(out, pin.id.as_bytes());
    out.extend_from_slice(&pin.since_ns.to_le_bytes());
}

pub(crate) fn read_pin(reader: &mut Reader<'_>) -> Result<Pin, CodecError> {
    Ok(Pin {
        group: reader.text()?.into(),
        id: reader.text()?.into(),
        since_ns: reader.u64()?,
    })
}

/// `count | (step of the sequence, zigzag step of the delivery, zigzag step of the time, deliveries)…`:
/// neighbours differ little, so a message costs a few bytes.
pub(crate) fn put_pending(
    out: &mut Vec<u8>,
    pending: impl ExactSizeIterator<Item = (u64, Unsettled)>,
) {
    put_varint(out, pending.len() as u64);
    let (mut seq, mut consumer_seq, mut since_ns) = (0u64, 0u64, 0u64);
    for (at, entry) in pending {
        put_varint(out, at.wrapping_sub(seq));
        put_varint(out, zigzag(entry.consumer_seq.wrapping_sub(consumer_seq)));
        put_varint(out, zigzag(entry.since_ns.wrapping_sub(since_ns)));
        put_varint(out, u64::from(entry.deliveries));
        (seq, consumer_seq, since_ns) = (at, entry.consumer_seq, entry.since_ns);
    }
}

pub(crate) fn read_pending(reader: &mut Reader<'_>) -> Result<Vec<(u64, Unsettled)>, CodecError> {
    let count = reader.varint_count(4)?;
    let mut pending = Vec::with_capacity(count);
    let (mut seq, mut consumer_seq, mut since_ns) = (0u64, 0u64, 0u64);
    for at in 0..count {
        seq = next_ascending(seq, reader.varint()?, at == 0)?;
        consumer_seq = consumer_seq.wrapping_add(unzigzag(reader.varint()?));
        since_ns = since_ns.wrapping_add(unzigzag(reader.varint()?));
        let deliveries = u32::try_from(reader.varint()?).map_err(|_| CodecError::Malformed)?;
        let entry = Unsettled {
            consumer_seq,
            since_ns,
            deliveries,
        };
        pending.push((seq, entry));
    }
    Ok(pending)
}

fn put_ascending(out: &mut Vec<u8>, seqs: &[u64]) {
    put_varint(out, seqs.len() as u64);
    let mut before = 0;
    for seq in seqs {
        put_varint(out, seq.wrapping_sub(before));
        before = *seq;
    }
}

fn read_ascending(reader: &mut Reader<'_>) -> Result<Vec<u64>, CodecError> {
    let count = reader.varint_count(1)?;
    let mut seqs = Vec::with_capacity(count);
    let mut seq = 0u64;
    for at in 0..count {
        seq = next_ascending(seq, reader.varint()?, at == 0)?;
        seqs.push(seq);
    }
    Ok(seqs)
}

fn next_ascending(before: u64, step: u64, is_first: bool) -> Result<u64, CodecError> {
    if step == 0 && !is_first {
        return Err(CodecError::Malformed);
    }
    before.checked_add(step).ok_or(CodecError::Malformed)
}

fn zigzag(difference: u64) -> u64 {
    let signed = difference.cast_signed();
    ((signed << 1) ^ (signed >> 63)).cast_unsigned()
}

fn unzigzag(coded: u64) -> u64 {
    (coded >> 1) ^ (coded & 1).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> ConsumerUpdate {
        let entry = |consumer_seq, since_ns, deliveries| Unsettled {
            consumer_seq,
            since_ns,
            deliveries,
        };
        ConsumerUpdate {
            stream: "S".into(),
            name: "C".into(),
            created_ns: 5,
            base: 6,
            stamp: 7,
            delivered: Position {
                consumer_seq: 300,
                stream_seq: 900,
            },
            ack_floor: Position::default(),
            pending: vec![(3, entry(9, 1000, 2)), (900, entry(2, 10, 1))],
            settled: vec![1, 2, u64::MAX],
            dropped: vec![0, 8],
            pin: Some(Some(Pin {
                group: "g".into(),
                id: "i".into(),
                since_ns: 4,
            })),
        }
    }

    #[test]
    fn updates_read_back() {
        let mut update = sample();
        for pin in [None, Some(None), update.pin.clone()] {
            update.pin = pin;
            let mut bytes = Vec::new();
            update.encode(&mut bytes);
            assert_eq!(ConsumerUpdate::decode(&bytes).unwrap(), update);
            for cut in 0..bytes.len() {
                assert!(ConsumerUpdate::decode(&bytes[..cut]).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn update_bytes_are_golden() {
        let update = ConsumerUpdate {
            pending: vec![sample().pending[0]],
            settled: vec![1, 3],
            dropped: Vec::new(),
            pin: None,
            ..sample()
        };
        let mut bytes = Vec::new();
        update.encode(&mut bytes);
        let golden: &[u8] =
            b"\x01\0\0\0S\x01\0\0\0C\x05\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\
            \xac\x02\x84\x07\0\0\x01\x03\x12\xd0\x0f\x02\x02\x01\x02\0\0";
        assert_eq!(bytes, golden);
    }
}
