//! What waits for a peer: the blocks in front of an outbound's buffer, and what became of the rest.
//!
//! Owns the share of it that interest may have, and the notes of what had no room: messages are dropped and
//! counted, interest is owed. Neither ends a route. Must never know what the bytes mean.

use std::collections::VecDeque;

use bytes::{Buf, BytesMut};
use unibus_proto::route;

/// Bytes from which on a buffer is put away as a block. Written blocks are freed one by one, and a long
/// backlog is never copied to make it longer.
const BLOCK_BYTES: usize = 1024 * 1024;

/// Share of the interest's limit that is kept for new interest, in percent: of what is no longer wanted a peer may
/// hear late, while the answer to a request is lost where its inbox is not known.
const NEW_INTEREST_PERCENT: usize = 25;

/// What waits for a peer, beside the buffer of its outbound.
#[derive(Debug)]
pub(crate) struct Backlog {
    blocks: VecDeque<Block>,
    /// Bytes of interest among what waits; and in the buffer alone.
    told: usize,
    told_in_buffer: usize,
    told_max: usize,
    losses: Losses,
}

#[derive(Debug)]
struct Block {
    bytes: BytesMut,
    told: usize,
}

/// What had no room.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Losses {
    /// Messages dropped.
    pub(crate) messages: u64,
    /// There is interest that the peer has to be told anew.
    pub(crate) interest: bool,
}

/// Interest on its way to a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum News {
    /// Something is wanted, or by how many.
    Wanted,
    /// Something is no longer wanted.
    Unwanted,
    /// Told anew, as fast as the peer takes it.
    Again,
}

impl Backlog {
    /// An empty one, with the bytes of interest that may wait.
    pub(crate) fn new(told_max: usize) -> Self {
        Self {
            blocks: VecDeque::new(),
            told: 0,
            told_in_buffer: 0,
            told_max,
            losses: Losses::default(),
        }
    }

    /// Whether this interest may wait too; where not, it is owed.
    pub(crate) fn admits(&mut self, news: News) -> bool {
        let kept = self.told_max / 100 * NEW_INTEREST_PERCENT;
        let most = match news {
            News::Wanted => self.told_max,
            News::Unwanted => self.told_max - kept,
            News::Again => usize::MAX,
        };
        let admitted = self.told <= most;
        self.losses.interest |= !admitted;
        admitted
    }

    /// Bytes of interest that wait.
    pub(crate) const fn told(&self) -> usize {
        self.told
    }

    /// So many bytes of interest have been appended to the buffer.
    pub(crate) const fn tell(&mut self, bytes: usize) {
        self.told += bytes;
        self.told_in_buffer += bytes;
    }

    /// Puts the buffer away when it is long enough.
    pub(crate) fn seal(&mut self, buffer: &mut BytesMut) {
        if buffer.len() >= BLOCK_BYTES {
            self.blocks.push_back(Block {
                bytes: std::mem::take(buffer),
                told: std::mem::take(&mut self.told_in_buffer),
            });
        }
    }

    /// What has waited longest.
    pub(crate) fn take(&mut self, buffer: &mut BytesMut) -> BytesMut {
        let block = self.blocks.pop_front().unwrap_or_else(|| Block {
            bytes: std::mem::take(buffer),
            told: std::mem::take(&mut self.told_in_buffer),
        });
        self.told -= block.told;
        block.bytes
    }

    /// Frees what waits.
    pub(crate) fn clear(&mut self) {
        self.blocks = VecDeque::new();
        self.told = 0;
        self.told_in_buffer = 0;
    }

    /// Counts the frames, which have no room, as dropped messages.
    #[cold]
    pub(crate) fn lose(&mut self, mut frames: &[u8]) {
        while let Some(len) = route::frame_bytes(frames).filter(|len| *len <= frames.len()) {
            frames.advance(len);
            self.losses.messages += 1;
        }
    }

    /// Counts one more, which never was a frame.
    pub(crate) const fn lose_one(&mut self) {
        self.losses.messages += 1;
    }

    pub(crate) const fn owes(&self) -> bool {
        self.losses.interest
    }

    /// What had no room since the last call.
    pub(crate) fn take_losses(&mut self) -> Losses {
        std::mem::take(&mut self.losses)
    }
}
