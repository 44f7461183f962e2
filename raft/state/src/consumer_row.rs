//! The stored form of a consumer. Format 2 is compact: the configuration as JSON, everything that moves
//! as varints, so that a row with a thousand unsettled messages is a few kilobytes. Format 1, all JSON
//! and without acknowledgements, is still read.

use serde::Deserialize;
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};

use crate::codec::{CodecError, Reader, put_blob, put_varint};
use crate::consumer::ConsumerRow;
use crate::consumer_update::{put_pending, put_pin, read_pending, read_pin, read_position};
use crate::ledger::{Ledger, Position};

const FORMAT_JSON: u8 = 1;
const FORMAT: u8 = 2;
/// As 2, of a consumer that acknowledges by flow control: versions that do not know them can't go on.
const FORMAT_FLOW_ACKS: u8 = 3;

/// Format 1.
#[derive(Deserialize)]
struct JsonRow {
    config: ConsumerConfig,
    created_ns: u64,
    start_seq: u64,
    resume_seq: u64,
    consumer_seq: u64,
    stream_seq: u64,
}

impl ConsumerRow {
    /// `2 or 3 | config | times and sequences | delivered, floor | pending… | pin`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let by_flow = self.config.ack_policy == AckPolicy::FlowControl;
        let mut out = vec![if by_flow { FORMAT_FLOW_ACKS } else { FORMAT }];
        // A configuration serializes to JSON without fail: string keys, no custom errors.
        let config = serde_json::to_vec(&*self.config).unwrap_or_default();
        debug_assert!(!config.is_empty(), "a configuration always serializes");
        put_blob(&mut out, &config);
        for fixed in [self.created_ns, self.stamp] {
            out.extend_from_slice(&fixed.to_le_bytes());
        }
        put_varint(&mut out, self.start_seq);
        put_varint(&mut out, self.resume_seq);
        for at in [self.ledger.delivered(), self.ledger.ack_floor()] {
            put_varint(&mut out, at.consumer_seq);
            put_varint(&mut out, at.stream_seq);
        }
        let pending = self.ledger.pending().iter();
        put_pending(&mut out, pending.map(|(seq, entry)| (*seq, *entry)));
        match &self.pin {
            None => out.push(0),
            Some(pin) => {
                out.push(1);
                put_pin(&mut out, pin);
            }
        }
        out
    }

    pub(crate) fn decode(value: &[u8]) -> Result<Self, CodecError> {
        let mut reader = Reader::new(value);
        match reader.u8()? {
            FORMAT_JSON => return Self::of_json(reader.rest()),
            FORMAT | FORMAT_FLOW_ACKS => {}
            other => return Err(CodecError::UnknownFormat(other)),
        }
        let config: ConsumerConfig =
            serde_json::from_slice(reader.blob()?).map_err(|_| CodecError::Malformed)?;
        let (created_ns, stamp) = (reader.u64()?, reader.u64()?);
        let (start_seq, resume_seq) = (reader.varint()?, reader.varint()?);
        let delivered = read_position(&mut reader)?;
        let ack_floor = read_position(&mut reader)?;
        let pending = read_pending(&mut reader)?;
        let pin = if reader.flag()? {
            Some(read_pin(&mut reader)?)
        } else {
            None
        };
        reader.finish()?;
        Ok(Self {
            config: config.into(),
            created_ns,
            start_seq,
            resume_seq,
            stamp,
            ledger: Ledger::restore(delivered, ack_floor, pending),
            pin,
        })
    }

    /// A consumer without acknowledgements: what is delivered is settled.
    fn of_json(body: &[u8]) -> Result<Self, CodecError> {
        let row: JsonRow = serde_json::from_slice(body).map_err(|_| CodecError::Malformed)?;
        let delivered = Position {
            consumer_seq: row.consumer_seq,
            stream_seq: row.stream_seq,
        };
        Ok(Self {
            config: row.config.into(),
            created_ns: row.created_ns,
            start_seq: row.start_seq,
            resume_seq: row.resume_seq,
            stamp: 0,
            ledger: Ledger::restore(delivered, delivered, Vec::new()),
            pin: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consumer_update::Pin;
    use crate::ledger::Unsettled;

    fn sample() -> ConsumerRow {
        let entry = |consumer_seq, since_ns| Unsettled {
            consumer_seq,
            since_ns,
            deliveries: 1,
        };
        let at = |consumer_seq, stream_seq| Position {
            consumer_seq,
            stream_seq,
        };
        let pending = vec![(4, entry(2, 1_000)), (9, entry(3, 900))];
        let config = ConsumerConfig {
            name: "c".into(),
            ..ConsumerConfig::default()
        };
        ConsumerRow {
            config: config.into(),
            created_ns: 7,
            start_seq: 3,
            resume_seq: 8,
            stamp: 99,
            ledger: Ledger::restore(at(5, 9), at(1, 3), pending),
            pin: Some(Pin {
                group: "g".into(),
                id: "i".into(),
                since_ns: 6,
            }),
        }
    }

    #[test]
    fn rows_read_back_and_damage_is_an_error() {
        let row = sample();
        let bytes = row.encode();
        assert_eq!(ConsumerRow::decode(&bytes).unwrap(), row);
        for cut in 0..bytes.len() {
            assert!(ConsumerRow::decode(&bytes[..cut]).is_err(), "{cut}");
        }
        assert!(matches!(
            ConsumerRow::decode(b"\x09"),
            Err(CodecError::UnknownFormat(9))
        ));
    }

    #[test]
    fn rows_of_the_first_format_are_read() {
        let old = br#"{"config":{"name":"c","deliver_policy":"all","ack_policy":"none",
            "replay_policy":"instant","num_replicas":0,"deliver_subject":"d"},
            "created_ns":5,"start_seq":2,"resume_seq":6,"consumer_seq":3,"stream_seq":7}"#;
        let row = ConsumerRow::decode(&[&b"\x01"[..], old].concat()).unwrap();
        assert_eq!((row.created_ns, row.start_seq, row.resume_seq), (5, 2, 6));
        let at = Position {
            consumer_seq: 3,
            stream_seq: 7,
        };
        assert_eq!((row.ledger.delivered(), row.ledger.ack_floor()), (at, at));
        assert_eq!(row.config.deliver_subject, "d");
    }
}
