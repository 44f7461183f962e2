//! Entry points for fuzzers, also replayed as ordinary tests: arbitrary bytes in, a panic is a find.

#![allow(
    clippy::expect_used,
    reason = "a fuzz target ends with a panic where a promise is broken"
)]

use bytes::Bytes;

pub use crate::log::fuzzing::log_recovery;

use crate::codec::{self, PayloadKind};
use crate::manifest::Manifest;
use crate::rpc;

/// Everything that a peer sends as a request or answer of the group: the first byte chooses what.
pub fn group_frames(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(body);
    match kind % 20 {
        0 => {
            if let Ok(parts) = rpc::decode_propose(bytes.clone()) {
                assert_eq!(rpc::encode_propose(&parts), bytes);
            }
        }
        1 => {
            if let Ok(answer) = rpc::decode_propose_answer(bytes) {
                let again = rpc::encode_propose_answer(&answer);
                assert_eq!(rpc::decode_propose_answer(again), Ok(answer));
            }
        }
        2 => drop(rpc::decode_read(bytes)),
        3 => drop(rpc::decode_index(bytes)),
        4 => drop(rpc::decode_barrier(bytes)),
        5 => drop(rpc::decode_join(bytes)),
        6 => drop(rpc::decode_join_answer(bytes)),
        7 => drop(codec::decode_vote(body)),
        8 => drop(codec::decode_log_id(body)),
        9 => drop(codec::decode_membership(body)),
        10 => drop(codec::decode_stored_membership(body)),
        11 => drop(codec::decode_snapshot_meta(body)),
        12 => drop(codec::decode_append_response(body)),
        13 => drop(codec::decode_vote_request(body)),
        14 => drop(codec::decode_vote_response(body)),
        15 => drop(codec::decode_transfer_request(body)),
        16 => drop(codec::decode_snapshot_response(body)),
        17 => drop(codec::decode_group_head(body)),
        18 => append_request(bytes),
        _ => drop(Manifest::decode(&bytes)),
    }
}

fn append_request(bytes: Bytes) {
    if let Ok(request) = codec::decode_append_request(bytes.clone()) {
        let again = codec::encode_append_request(&request).expect("what was read can be written");
        let read = codec::decode_append_request(again).expect("and read again");
        assert_eq!(read.entries, request.entries);
    }
    if let Some((kind, body)) = bytes.split_first()
        && let Some(kind) = PayloadKind::from_byte(*kind)
    {
        drop(codec::decode_payload(kind, Bytes::copy_from_slice(body)));
    }
}
