//! Messages that a stream publishes once more (its `republish`). What another stream captures of them is
//! stored by the entry that stored the original, on every replica; the leader publishes them to
//! subscribers.

use std::sync::Arc;

use bytes::Bytes;
use unibus_proto::jetstream::place::{DirectPlace, republish_headers};

use crate::codec::len_u32;
use crate::command::AppendRef;
use crate::location::Location;
use crate::outcome::Effect;
use crate::state::{State, Step};
use crate::stream::Stream;

/// Streams that a message goes through one after the other, each publishing again what the one before
/// has published.
const HOPS_MAX: usize = 8;

/// A stored message that is to be published once more.
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) to: Bytes,
    pub(crate) seq: u64,
    pub(crate) ts_ns: u64,
    pub(crate) last_seq: u64,
    pub(crate) location: Location,
    pub(crate) subject: Arc<[u8]>,
    pub(crate) header_len: u32,
    /// Header block and payload.
    pub(crate) data: Bytes,
    /// Another stream has it, or has refused it.
    pub(crate) captured: bool,
}

impl Stream {
    /// Remembers that a message is to be published again.
    pub(crate) fn note_again(
        &mut self,
        id: u32,
        header_len: u32,
        data: &[u8],
        location: Location,
        ts_ns: u64,
    ) {
        let republish = self.compiled.republish.as_ref();
        if let Some(to) = republish.and_then(|again| again.apply(self.subjects.name(id))) {
            let last_seq = self.subjects.seqs(id).last().unwrap_or(0);
            self.again.push(Again {
                to: to.into(),
                seq: self.last_seq + 1,
                ts_ns,
                last_seq,
                location,
                subject: self.subjects.shared_name(id),
                header_len,
                data: Bytes::copy_from_slice(data),
                captured: false,
            });
        }
    }

    /// Turns what this entry stored into effects.
    pub(crate) fn tell_again(&mut self, effects: &mut Vec<Effect>) {
        let headers_only = self.headers_only();
        for again in self.again.drain(..) {
            effects.push(Effect::Republish {
                stream: self.name.clone(),
                subject: again.to,
                seq: again.seq,
                last_seq: again.last_seq,
                location: again.location,
                headers_only,
                captured: again.captured,
            });
        }
    }

    fn headers_only(&self) -> bool {
        let republish = self.config.republish.as_ref();
        republish.is_some_and(|republish| republish.headers_only)
    }

    /// The message as it is published, and its header's length.
    fn published(&self, again: &Again) -> (Vec<u8>, u32) {
        let (headers, payload) = again.data.split_at(again.header_len as usize);
        let place = DirectPlace {
            stream: &self.name,
            subject: &again.subject,
            seq: again.seq,
            ts_ns: again.ts_ns,
            batch: None,
        };
        let headers_only = self.headers_only();
        let mut data = Vec::with_capacity(again.data.len() + 256);
        let size = headers_only.then_some(payload.len());
        let header_len = republish_headers(&mut data, headers, &place, again.last_seq, size);
        if !headers_only {
            data.extend_from_slice(payload);
        }
        (data, len_u32(header_len))
    }
}

/// A message that is published again, for the stream that captures it.
struct Captured {
    to: Bytes,
    header_len: u32,
    data: Vec<u8>,
}

impl State {
    /// Stores what streams capture of what this entry's streams publish again.
    pub(crate) fn capture_again(&mut self, step: &mut Step<'_>) {
        for _ in 0..HOPS_MAX {
            let mut found = Vec::new();
            for slot in self.touched_streams(step) {
                self.find_again(slot, &mut found);
            }
            if found.is_empty() {
                return;
            }
            for message in found {
                let append = AppendRef {
                    subject: &message.to,
                    header_len: message.header_len,
                    data: &message.data,
                    privileged: false,
                };
                // Like any publish without a reply: nobody is told that it was refused.
                self.append(append, step);
            }
        }
    }

    fn find_again(&mut self, slot: u32, found: &mut Vec<Captured>) {
        let Some(stream) = self.at(slot).filter(|stream| !stream.again.is_empty()) else {
            return;
        };
        let mut taken = Vec::new();
        for (at, again) in stream.again.iter().enumerate() {
            if !again.captured && self.captures(&again.to) {
                let (data, header_len) = stream.published(again);
                found.push(Captured {
                    to: again.to.clone(),
                    header_len,
                    data,
                });
                taken.push(at);
            }
        }
        if let Some(stream) = self.at_mut(slot) {
            for at in taken {
                stream.again[at].captured = true;
            }
        }
    }
}
