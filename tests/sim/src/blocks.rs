//! Message bytes of one replica, as a disk keeps them: what was written after the last checkpoint may be
//! gone after a crash, and replay has to write the same bytes to the same places.

use std::collections::BTreeMap;

use bytes::Bytes;
use unibus_state::{BlockId, BlockSink, Location, StoredMessage, StreamUid};

use crate::rng::Rng;

type Files = BTreeMap<(StreamUid, BlockId), Vec<u8>>;

/// The files of one replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    files: Files,
    /// The first thing that was wrong.
    broken: Option<String>,
}

impl Disk {
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    pub(crate) fn read(&self, at: &Location) -> Option<StoredMessage> {
        let file = self.files.get(&(at.stream, at.block))?;
        let record = file.get(at.offset as usize..(at.offset + at.len) as usize)?;
        StoredMessage::decode(Bytes::copy_from_slice(record)).ok()
    }

    /// What a power cut leaves: all that `synced` had, and of later bytes any prefix.
    pub(crate) fn power_cut(&mut self, synced: &Self, rng: &mut Rng) {
        let mut after = synced.files.clone();
        for (key, later) in &self.files {
            let file = after.entry(*key).or_default();
            if let Some(more) = later.get(file.len()..) {
                file.extend_from_slice(&more[..rng.index(more.len() + 1)]);
            }
        }
        after.retain(|_, file| !file.is_empty());
        self.files = after;
    }

    fn complain(&mut self, what: String) {
        self.broken.get_or_insert(what);
    }
}

impl BlockSink for Disk {
    fn append(&mut self, at: &Location, record: &[&[u8]]) {
        let bytes = record.concat();
        let file = self.files.entry((at.stream, at.block)).or_default();
        let (start, end) = (at.offset as usize, (at.offset + at.len) as usize);
        if bytes.len() != at.len as usize {
            self.complain(format!("a record of {} bytes at {at:?}", bytes.len()));
        } else if file.len() < start {
            let len = file.len();
            self.complain(format!("a hole: {len} bytes before {at:?}"));
        } else {
            // A replay meets what it wrote before, or a prefix of it.
            let known = file.len().min(end);
            if file[start..known] == bytes[..known - start] {
                file.extend_from_slice(&bytes[known - start..]);
            } else {
                self.complain(format!("replay writes other bytes at {at:?}"));
            }
        }
    }

    fn drop_block(&mut self, stream: StreamUid, block: BlockId) {
        self.files.remove(&(stream, block));
    }

    fn drop_stream(&mut self, stream: StreamUid) {
        self.files.retain(|(of, _), _| *of != stream);
    }
}
