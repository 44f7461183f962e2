//! Writes an archive. Blocking: belongs on a thread of its own.

use std::io::{self, Write};

use serde::Serialize;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_proto::jetstream::timestamp::Timestamp;
use unibus_state::{Ledger, StoredMessage};

use super::{BLOCKS, CONSUMER_STATE, CONSUMERS, Checksum, META, META_SUM, block, consumer_state};

/// Bytes of messages in one block file; one that is longer by itself has a block of its own.
const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Bytes that are compressed together.
const COMPRESSED_BYTES: usize = 256 << 10;

/// What is archived besides the messages.
#[derive(Debug)]
pub(in crate::jetstream) struct Contents {
    pub(in crate::jetstream) config: StreamConfig,
    pub(in crate::jetstream) created_ns: u64,
    /// Messages above came later.
    pub(in crate::jetstream) last_seq: u64,
    /// Configuration, creation, position.
    pub(in crate::jetstream) consumers: Vec<(ConsumerConfig, u64, Ledger)>,
}

/// Where messages come from.
pub(in crate::jetstream) trait Messages {
    /// The next messages from a sequence on, about so many bytes of them; none = there are no more.
    ///
    /// # Errors
    /// One of them can't be read: an archive without it must not look complete.
    fn next(&mut self, from_seq: u64, bytes_max: usize) -> io::Result<Vec<StoredMessage>>;
}

#[derive(Serialize)]
struct StreamMeta<'a> {
    #[serde(rename = "Created")]
    created: Timestamp,
    #[serde(flatten)]
    config: &'a StreamConfig,
}

#[derive(Serialize)]
struct ConsumerMeta<'a> {
    #[serde(rename = "Created")]
    created: Timestamp,
    #[serde(rename = "Name")]
    called: &'a str,
    #[serde(flatten)]
    config: &'a ConsumerConfig,
}

/// Files in a tar in an S2 stream.
struct Files<W: Write> {
    tar: tar::Builder<minlz::Writer<W>>,
    written_s: u64,
}

impl<W: Write> Files<W> {
    fn add(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(self.written_s);
        self.tar.append_data(&mut header, path, bytes)
    }

    fn add_meta(
        &mut self,
        folder: &str,
        meta: &impl Serialize,
        checksum: &Checksum,
    ) -> io::Result<()> {
        let meta = serde_json::to_vec(meta)?;
        let sum = data_encoding::HEXLOWER.encode(&checksum.sum(&[&meta]));
        self.add(&format!("{folder}{META}"), &meta)?;
        self.add(&format!("{folder}{META_SUM}"), sum.as_bytes())
    }
}

/// Writes everything, and ends the archive.
pub(in crate::jetstream) fn write(
    contents: &Contents,
    messages: &mut impl Messages,
    out: impl Write,
) -> io::Result<()> {
    let stream = contents.config.name.as_str();
    let mut files = Files {
        tar: tar::Builder::new(minlz::Writer::with_block_size(out, COMPRESSED_BYTES)),
        written_s: crate::jetstream::core::Core::now().0 / 1_000_000_000,
    };
    let meta = StreamMeta {
        created: Timestamp(contents.created_ns),
        config: &contents.config,
    };
    files.add_meta("", &meta, &Checksum::of_stream(stream))?;
    add_messages(&mut files, contents, messages)?;
    for (config, created_ns, ledger) in &contents.consumers {
        let folder = format!("{CONSUMERS}/{}/", config.name);
        let meta = ConsumerMeta {
            created: Timestamp(*created_ns),
            called: &config.name,
            config,
        };
        let checksum = Checksum::of_consumer(stream, &config.name);
        files.add_meta(&folder, &meta, &checksum)?;
        let state = consumer_state::encode(ledger);
        files.add(&format!("{folder}{CONSUMER_STATE}"), &state)?;
    }
    files.tar.into_inner()?.flush()
}

fn add_messages<W: Write>(
    files: &mut Files<W>,
    contents: &Contents,
    messages: &mut impl Messages,
) -> io::Result<()> {
    let (mut next, mut bytes) = (0, Vec::new());
    for number in 1.. {
        let some = messages.next(next, BLOCK_BYTES_MAX)?;
        let Some(last) = some.last() else {
            break;
        };
        next = last.seq + 1;
        let checksum = Checksum::of_block(&contents.config.name, number);
        bytes.clear();
        for message in some.iter().filter(|m| m.seq <= contents.last_seq) {
            block::put(&mut bytes, message, &checksum);
        }
        if !bytes.is_empty() {
            files.add(&format!("{BLOCKS}/{number}.blk"), &bytes)?;
        }
        if next > contents.last_seq {
            break;
        }
    }
    Ok(())
}
