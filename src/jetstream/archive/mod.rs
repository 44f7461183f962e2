//! Archives of streams, as `STREAM.SNAPSHOT` writes and `STREAM.RESTORE` reads them: nats-server's format,
//! so that either server restores what the other has written.
//!
//! A tar in an S2 stream: `meta.inf` (configuration and creation) and `meta.sum` (its checksum), then
//! `msgs/<n>.blk` with the messages in ascending order, then `obs/<consumer>/meta.inf`, `meta.sum` and
//! `o.dat` (positions and what is pending) for each consumer. Reading and writing know no client and
//! propose nothing; both hold one block of messages at a time.

mod block;
mod consumer_state;
mod reader;
mod writer;

use highway::{HighwayHash as _, HighwayHasher, Key};
use sha2::{Digest as _, Sha256};

pub(super) use consumer_state::decode as decode_consumer_state;
pub(super) use reader::{ArchiveError, Item, read, read_unpacked};
pub(super) use writer::{Contents, Messages, write};

const META: &str = "meta.inf";
const META_SUM: &str = "meta.sum";
const BLOCKS: &str = "msgs";
const CONSUMERS: &str = "obs";
const CONSUMER_STATE: &str = "o.dat";

/// Checks bytes: a keyed 64-bit HighwayHash, the key made of a name.
#[derive(Clone, Debug)]
struct Checksum(Key);

impl Checksum {
    fn of_stream(stream: &str) -> Self {
        Self::keyed(stream)
    }

    fn of_block(stream: &str, number: u64) -> Self {
        Self::keyed(&format!("{stream}-{number}"))
    }

    fn of_consumer(stream: &str, consumer: &str) -> Self {
        Self::keyed(&format!("{stream}/{consumer}"))
    }

    fn keyed(name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let mut key = [0_u64; 4];
        for (word, bytes) in key.iter_mut().zip(digest.chunks_exact(8)) {
            *word = bytes
                .iter()
                .rev()
                .fold(0, |sum, b| sum << 8 | u64::from(*b));
        }
        Self(Key(key))
    }

    fn sum(&self, parts: &[&[u8]]) -> [u8; 8] {
        let mut hasher = HighwayHasher::new(self.0);
        for part in parts {
            hasher.append(part);
        }
        hasher.finalize64().to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use unibus_proto::jetstream::config::StreamConfig;
    use unibus_proto::jetstream::consumer::ConsumerConfig;
    use unibus_state::command::CopiedMessage;
    use unibus_state::{Ledger, Position, StoredMessage, Unsettled};

    use super::reader::{Item, read};
    use super::writer::{Contents, Messages, write};

    struct Fixed(Vec<StoredMessage>);

    impl Messages for Fixed {
        fn next(
            &mut self,
            from_seq: u64,
            _bytes_max: usize,
        ) -> std::io::Result<Vec<StoredMessage>> {
            let rest = self.0.iter().filter(|message| message.seq >= from_seq);
            Ok(rest.take(2).cloned().collect())
        }
    }

    fn message(seq: u64, headers: &'static str) -> StoredMessage {
        StoredMessage {
            seq,
            ts_ns: seq * 1_000,
            subject: "a.b".into(),
            headers: headers.into(),
            payload: format!("payload {seq}").into(),
        }
    }

    fn contents() -> Contents {
        let config = StreamConfig {
            name: "S".into(),
            subjects: vec!["a.>".into()],
            ..StreamConfig::default()
        };
        let pending = Unsettled {
            consumer_seq: 3,
            since_ns: 5_000_000_000,
            deliveries: 2,
        };
        let at = |consumer_seq, stream_seq| Position {
            consumer_seq,
            stream_seq,
        };
        let consumer = ConsumerConfig {
            name: "c".into(),
            durable_name: "c".into(),
            ..ConsumerConfig::default()
        };
        Contents {
            config,
            created_ns: 7,
            last_seq: 9,
            consumers: vec![(
                consumer,
                8,
                Ledger::of(at(4, 6), at(2, 3), vec![(5, pending)]),
            )],
        }
    }

    fn archive() -> Vec<u8> {
        let messages = vec![
            message(2, ""),
            message(5, "NATS/1.0\r\nA: b\r\n\r\n"),
            message(6, ""),
            message(12, ""),
        ];
        let mut bytes = Vec::new();
        write(&contents(), &mut Fixed(messages), &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let mut items = Vec::new();
        read(&archive()[..], 0, &mut |item| {
            items.push(item);
            Ok(())
        })
        .unwrap();
        let [
            Item::Meta { config, created_ns },
            Item::Messages { messages, removed },
            Item::Consumer(consumer),
        ] = &items[..]
        else {
            panic!("{items:?}");
        };
        assert_eq!((config.name.as_str(), *created_ns), ("S", 7));
        let seqs: Vec<u64> = messages.iter().map(|m: &CopiedMessage| m.seq).collect();
        assert_eq!((&seqs[..], removed.len()), (&[2, 5, 6][..], 0));
        assert_eq!(&messages[1].data[..], b"NATS/1.0\r\nA: b\r\n\r\npayload 5");
        assert_eq!((messages[1].header_len, messages[1].ts_ns), (18, 5_000));
        let (_, _, ledger) = &contents().consumers[0];
        assert_eq!(consumer.config.name, "c");
        assert_eq!(
            (consumer.delivered, consumer.ack_floor),
            (ledger.delivered(), ledger.ack_floor())
        );
        let pending: Vec<_> = ledger.pending().iter().map(|(s, e)| (*s, *e)).collect();
        assert_eq!(consumer.pending, pending);
    }

    /// Made by nats-server 2.14.0: six messages of which the fourth was deleted, and a consumer that
    /// settled the first of five deliveries and got the second twice.
    const FOREIGN: &[u8] = include_bytes!("nats-server-2.14.0.tar.s2");

    #[test]
    fn archives_of_nats_server_are_read() {
        let (mut messages, mut gone, mut consumers) = (Vec::new(), Vec::new(), Vec::new());
        read(FOREIGN, 1, &mut |item| {
            match item {
                Item::Meta { config, .. } => assert_eq!(config.subjects, ["g.>"]),
                Item::Messages {
                    messages: some,
                    removed,
                } => {
                    messages.extend(some);
                    gone.extend(removed);
                }
                Item::Consumer(consumer) => consumers.push(consumer),
            }
            Ok(())
        })
        .unwrap();
        messages.retain(|message| !gone.contains(&message.seq));
        let seqs: Vec<u64> = messages.iter().map(|message| message.seq).collect();
        assert_eq!(seqs, [1, 2, 3, 5, 6]);
        assert_eq!(&messages[1].subject[..], b"g.1");
        assert_eq!(&messages[1].data[..], b"NATS/1.0\r\nN: 1\r\n\r\npayload 1");
        let [consumer] = &consumers[..] else {
            panic!("{consumers:?}");
        };
        assert_eq!(
            (
                consumer.config.name.as_str(),
                consumer.delivered.consumer_seq
            ),
            ("d", 5)
        );
        let pending = consumer.pending.iter().map(|(seq, e)| (*seq, e.deliveries));
        assert_eq!(pending.collect::<Vec<_>>(), [(2, 2), (3, 1), (5, 1)]);
    }

    #[test]
    fn what_consumers_wait_for_has_a_bound() {
        let waiting = |count: u64| {
            let at = |seq| Position {
                consumer_seq: seq,
                stream_seq: seq,
            };
            let pending = |seq| {
                let entry = Unsettled {
                    consumer_seq: seq,
                    since_ns: 5_000_000_000,
                    deliveries: 1,
                };
                (seq, entry)
            };
            Ledger::of(at(count), at(0), (1..=count).map(pending).collect())
        };
        let read_with = |ledgers: &[u64]| {
            let mut contents = contents();
            let (config, created_ns, _) = contents.consumers.remove(0);
            for count in ledgers {
                let one = (config.clone(), created_ns, waiting(*count));
                contents.consumers.push(one);
            }
            let mut bytes = Vec::new();
            write(&contents, &mut Fixed(Vec::new()), &mut bytes).unwrap();
            let mut most = 0;
            let done = read(&bytes[..], 0, &mut |item| {
                if let Item::Consumer(consumer) = item {
                    most = most.max(consumer.pending.len());
                }
                Ok(())
            });
            (most, done.map_err(|error| error.to_string()))
        };
        assert_eq!(read_with(&[400_000, 400_000]), (400_000, Ok(())));
        let (most, refused) = read_with(&[10, 400_001]);
        assert!(most <= 10 && refused.unwrap_err().contains("400001"));
        let (_, refused) = read_with(&[400_000; 11]);
        assert!(refused.unwrap_err().contains("4400000"));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        let good = archive();
        let mut sink = |_| Ok(());
        for cut in 0..good.len() {
            // What is missing at the very end of a tar is only its end mark.
            let _ = read(&good[..cut], 0, &mut sink);
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x20;
            let _ = read(&bad[..], 0, &mut sink);
        }
        assert!(read(&b"no archive"[..], 0, &mut sink).is_err());
    }
}
