//! A state with a clock, blocks in memory and short ways to ask for things.

#![allow(dead_code, reason = "each test crate uses its part")]

pub(crate) mod host;
pub(crate) mod naive;

use bytes::Bytes;
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_state::command::{Command, ConsumerCreate, MessageDelete, StreamPurge, StreamPut};
use unibus_state::{
    Applied, BlockId, BlockSink, CommandBatch, Location, Outcome, Rules, State, StoredMessage,
    Stream, StreamUid, decode_entry, encode_entry,
};

pub(crate) const SECOND: u64 = 1_000_000_000;

/// Keeps records by place and notes what was dropped.
#[derive(Default)]
pub(crate) struct Blocks {
    pub(crate) bytes: std::collections::BTreeMap<(StreamUid, BlockId), Vec<u8>>,
}

impl BlockSink for Blocks {
    fn append(&mut self, at: &Location, record: &[&[u8]]) {
        let block = self.bytes.entry((at.stream, at.block)).or_default();
        assert_eq!(block.len(), at.offset as usize, "records follow each other");
        block.extend(record.concat());
        assert_eq!(block.len(), (at.offset + at.len) as usize);
    }
    fn drop_block(&mut self, stream: StreamUid, block: BlockId) {
        assert!(self.bytes.remove(&(stream, block)).is_some());
    }
    fn drop_stream(&mut self, stream: StreamUid) {
        self.bytes.retain(|(of, _), _| *of != stream);
    }
}

pub(crate) struct Bench {
    pub(crate) state: State,
    pub(crate) blocks: Blocks,
    pub(crate) index: u64,
    pub(crate) now: u64,
    /// Every entry applied.
    pub(crate) log: Vec<Bytes>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let mut bench = Self::of_old();
        assert_eq!(bench.run(&Command::Rules(Rules::NEWEST)), Outcome::Done);
        bench
    }

    /// By the first rules.
    pub(crate) fn of_old() -> Self {
        Self {
            state: State::new(),
            blocks: Blocks::default(),
            index: 0,
            now: 1000 * SECOND,
            log: Vec::new(),
        }
    }

    pub(crate) fn with(config: StreamConfig) -> Self {
        let mut bench = Self::new();
        assert_eq!(bench.create(config), Outcome::Done);
        bench
    }

    pub(crate) fn apply(&mut self, batch: CommandBatch) -> Applied {
        self.index += 1;
        let bytes = encode_entry(self.now, &[batch.freeze()]);
        let entry = decode_entry(&bytes).unwrap();
        self.log.push(bytes);
        self.state.apply(self.index, &entry, &mut self.blocks)
    }

    pub(crate) fn run(&mut self, command: &Command) -> Outcome {
        let mut batch = CommandBatch::new();
        batch.push(command).unwrap();
        self.apply(batch).outcomes.remove(0)
    }

    pub(crate) fn create(&mut self, config: StreamConfig) -> Outcome {
        self.run(&Command::StreamCreate(put(config)))
    }

    pub(crate) fn update(&mut self, config: StreamConfig) -> Outcome {
        self.run(&Command::StreamUpdate(put(config)))
    }

    pub(crate) fn publish(
        &mut self,
        subject: &str,
        headers: &[(&str, &str)],
        payload: &str,
    ) -> Outcome {
        let mut data = String::new();
        if !headers.is_empty() {
            data.push_str("NATS/1.0\r\n");
            for (name, value) in headers {
                data.push_str(&format!("{name}: {value}\r\n"));
            }
            data.push_str("\r\n");
        }
        let header_len = data.len();
        data.push_str(payload);
        let mut batch = CommandBatch::new();
        batch
            .push_append(subject.as_bytes(), header_len, data.as_bytes(), false)
            .unwrap();
        self.apply(batch).outcomes.remove(0)
    }

    pub(crate) fn purge(&mut self, filter: &str, seq: u64, keep: u64) -> Outcome {
        self.run(&Command::StreamPurge(StreamPurge {
            name: "S".into(),
            filter: filter.into(),
            seq,
            keep,
            privileged: false,
        }))
    }

    pub(crate) fn delete(&mut self, seq: u64) -> Outcome {
        self.run(&Command::MessageDelete(MessageDelete {
            stream: "S".into(),
            seq,
            no_erase: false,
            privileged: false,
        }))
    }

    pub(crate) fn consumer(&mut self, config: ConsumerConfig, action: ConsumerAction) -> Outcome {
        self.run(&Command::ConsumerCreate(ConsumerCreate {
            stream: "S".into(),
            config,
            action,
            generated_name: "gen".into(),
            privileged: false,
        }))
    }

    pub(crate) fn stream(&self) -> &Stream {
        self.state.stream("S").unwrap()
    }

    pub(crate) fn message(&self, seq: u64) -> StoredMessage {
        let at = self.stream().get(seq).unwrap();
        let block = &self.blocks.bytes[&(at.stream, at.block)];
        let record = &block[at.offset as usize..(at.offset + at.len) as usize];
        StoredMessage::decode(Bytes::copy_from_slice(record)).unwrap()
    }

    pub(crate) fn live(&self) -> Vec<u64> {
        (0..=self.stream().last_seq())
            .filter(|seq| self.stream().get(*seq).is_some())
            .collect()
    }
}

pub(crate) fn put(config: StreamConfig) -> StreamPut {
    StreamPut {
        config,
        privileged: false,
        replicas_max: 3,
        pedantic: false,
    }
}

pub(crate) fn config(subjects: &[&str]) -> StreamConfig {
    let subjects = subjects.iter().map(ToString::to_string).collect();
    StreamConfig {
        name: "S".into(),
        subjects,
        ..StreamConfig::default()
    }
}

pub(crate) fn seq(outcome: &Outcome) -> u64 {
    match outcome {
        Outcome::Published {
            seq,
            duplicate: false,
            ..
        } => *seq,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn refused(outcome: Outcome) -> (u16, u16, String) {
    match outcome {
        Outcome::Refused(r) => (
            r.error.code,
            r.error.err_code,
            r.error.description.into_owned(),
        ),
        other => panic!("{other:?}"),
    }
}
