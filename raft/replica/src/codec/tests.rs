//! Golden bytes: a change here is a change of the wire and disk format, and needs a new `FORMAT`.

use openraft::raft::TransferLeaderError;

use super::*;
use crate::types::{AppendEntriesRequest, Batch, Entry, EntryPayload, LeaderId, Peer};

fn log_id(term: u64, node_id: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId { term, node_id },
        index,
    }
}

fn vote(term: u64, node_id: u64, committed: bool) -> Vote {
    Vote {
        leader_id: LeaderId { term, node_id },
        committed,
    }
}

fn membership() -> Membership {
    let peer = |name: &str| Peer {
        name: name.to_owned(),
        cluster: None,
    };
    let nodes = [(1, peer("a")), (2, peer("b")), (300, peer("ce"))];
    let nodes: std::collections::BTreeMap<u64, Peer> = nodes.into();
    Membership::new(vec![[1, 2].into(), [2].into()], nodes).unwrap()
}

/// The bytes are those, and they read back as the same.
fn golden<T: PartialEq + std::fmt::Debug>(
    encoded: Result<Bytes, CodecError>,
    bytes: &[u8],
    value: &T,
    decode: fn(&[u8]) -> Result<T, CodecError>,
) {
    assert_eq!(&encoded.unwrap()[..], bytes);
    assert_eq!(&decode(bytes).unwrap(), value);
    for end in 0..bytes.len() {
        assert!(decode(&bytes[..end]).is_err(), "{end} bytes");
    }
    let longer = [bytes, &[0]].concat();
    assert_eq!(decode(&longer), Err(CodecError::Trailing(1)));
    let newer = [&[3], &bytes[1..]].concat();
    assert_eq!(decode(&newer), Err(CodecError::Format(3)));
}

#[test]
fn small_ones() {
    let value = vote(5, 300, true);
    golden(
        encode_vote(&value),
        &[1, 5, 251, 44, 1, 1],
        &value,
        decode_vote,
    );
    let value = Some(log_id(1, 2, 70_000));
    let bytes = [1, 1, 1, 2, 252, 112, 17, 1, 0];
    golden(encode_log_id(value.as_ref()), &bytes, &value, decode_log_id);
    golden(encode_log_id(None), &[1, 0], &None, decode_log_id);
}

#[test]
fn memberships() {
    let value = membership();
    let body = [
        2, 2, 1, 2, 1, 2, 3, 1, 1, b'a', 2, 1, b'b', 251, 44, 1, 2, b'c', b'e',
    ];
    let bytes = [&[1][..], &body].concat();
    golden(encode_membership(&value), &bytes, &value, decode_membership);
    let stored = StoredMembership::new(Some(log_id(4, 5, 6)), value);
    let bytes = [&[1, 1, 4, 5, 6][..], &body].concat();
    golden(
        encode_stored_membership(&stored),
        &bytes,
        &stored,
        decode_stored_membership,
    );
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(7, 8, 9)),
        last_membership: stored,
    };
    let bytes = [&[1, 1, 7, 8, 9, 1, 4, 5, 6][..], &body].concat();
    golden(
        encode_snapshot_meta(&meta),
        &bytes,
        &meta,
        decode_snapshot_meta,
    );
    golden(
        encode_membership(&Membership::default()),
        &[1, 0, 0],
        &Membership::default(),
        decode_membership,
    );
}

#[test]
fn memberships_with_an_identity() {
    let id = ClusterId([9; 16]);
    let value = identified(membership(), Some(id)).unwrap();
    assert_eq!(cluster_of(&value), Some(id));
    let body = [
        2, 2, 1, 2, 1, 2, 3, 1, 1, b'a', 2, 1, b'b', 251, 44, 1, 2, b'c', b'e',
    ];
    let head = [&[2][..], &[9; 16]].concat();
    let bytes = [&head[..], &body].concat();
    golden(encode_membership(&value), &bytes, &value, decode_membership);
    let stored = StoredMembership::new(Some(log_id(4, 5, 6)), value);
    let bytes = [&head[..], &[1, 4, 5, 6], &body].concat();
    golden(
        encode_stored_membership(&stored),
        &bytes,
        &stored,
        decode_stored_membership,
    );
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(7, 8, 9)),
        last_membership: stored,
    };
    let bytes = [&head[..], &[1, 7, 8, 9, 1, 4, 5, 6], &body].concat();
    golden(
        encode_snapshot_meta(&meta),
        &bytes,
        &meta,
        decode_snapshot_meta,
    );
}

#[test]
fn votes_and_transfers() {
    let mut request = VoteRequest::new(vote(3, 1, false), Some(log_id(2, 1, 9)));
    request.leadership_transfer = true;
    let bytes = [1, 3, 1, 0, 1, 2, 1, 9, 1];
    golden(
        encode_vote_request(&request),
        &bytes,
        &request,
        decode_vote_request,
    );
    let response = VoteResponse::new(vote(3, 1, false), None, true);
    let bytes = [1, 3, 1, 0, 1, 0];
    golden(
        encode_vote_response(&response),
        &bytes,
        &response,
        decode_vote_response,
    );
    let request = TransferLeaderRequest::new(vote(3, 1, true), 2, Some(log_id(3, 1, 9)));
    let bytes = [1, 3, 1, 1, 2, 1, 3, 1, 9];
    golden(
        encode_transfer_request(&request),
        &bytes,
        &request,
        decode_transfer_request,
    );
    let answers: [(TransferLeaderResponse, &[u8]); 3] = [
        (Ok(()), &[1, 0]),
        (
            Err(TransferLeaderError::VoteChanged {
                expected: vote(1, 2, true),
                actual: vote(3, 4, false),
            }),
            &[1, 1, 1, 2, 1, 3, 4, 0],
        ),
        (
            Err(TransferLeaderError::LogNotFlushed {
                expected: Some(log_id(1, 2, 3)),
                actual: None,
            }),
            &[1, 2, 1, 1, 2, 3, 0],
        ),
    ];
    for (answer, bytes) in answers {
        golden(
            encode_transfer_response(&answer),
            bytes,
            &answer,
            decode_transfer_response,
        );
    }
    let response = SnapshotResponse::new(vote(5, 6, true));
    golden(
        encode_snapshot_response(&response),
        &[1, 5, 6, 1],
        &response,
        decode_snapshot_response,
    );
}

#[test]
fn append_responses() {
    let answers: [(AppendEntriesResponse, &[u8]); 4] = [
        (AppendEntriesResponse::Success, &[1, 0]),
        (
            AppendEntriesResponse::PartialSuccess(Some(log_id(1, 2, 3))),
            &[1, 1, 1, 1, 2, 3],
        ),
        (AppendEntriesResponse::Conflict, &[1, 2]),
        (
            AppendEntriesResponse::HigherVote(vote(9, 1, true)),
            &[1, 3, 9, 1, 1],
        ),
    ];
    for (answer, bytes) in answers {
        golden(
            encode_append_response(&answer),
            bytes,
            &answer,
            decode_append_response,
        );
    }
}

#[test]
fn group_heads() {
    let head = GroupHead {
        vote: Some(vote(1, 2, true)),
        purged: Some(log_id(1, 2, 3)),
        committed: None,
        live: Some((4, 5)),
    };
    let bytes = [1, 1, 1, 2, 1, 1, 1, 2, 3, 0, 1, 4, 5];
    golden(encode_group_head(&head), &bytes, &head, decode_group_head);
}

fn request() -> AppendEntriesRequest {
    let entry = |index, payload| Entry {
        log_id: log_id(2, 1, index),
        payload,
    };
    AppendEntriesRequest {
        vote: vote(2, 1, true),
        prev_log_id: Some(log_id(1, 1, 6)),
        leader_commit: None,
        entries: vec![
            entry(7, EntryPayload::Blank),
            entry(8, EntryPayload::Normal(Batch(Bytes::from_static(b"hello")))),
            entry(9, EntryPayload::Membership(Membership::default())),
        ],
    }
}

#[test]
fn append_requests() {
    let bytes = encode_append_request(&request()).unwrap();
    let mut expected = vec![1, 9, 0, 0, 0, 2, 1, 1, 1, 1, 1, 6, 0, 3];
    for (index, kind, payload) in [(7, 0, &b""[..]), (8, 1, b"hello"), (9, 2, &[1, 0, 0])] {
        expected.extend_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[index, 0, 0, 0, 0, 0, 0, 0, kind]);
        expected.extend_from_slice(&[payload.len() as u8, 0, 0, 0]);
        expected.extend_from_slice(payload);
    }
    assert_eq!(&bytes[..], &expected[..]);
    let decoded = decode_append_request(bytes.clone()).unwrap();
    assert_eq!(decoded.vote, request().vote);
    assert_eq!(decoded.prev_log_id, request().prev_log_id);
    assert_eq!(decoded.leader_commit, None);
    assert_eq!(decoded.entries, request().entries);
    for end in 0..bytes.len() {
        assert!(
            decode_append_request(bytes.slice(..end)).is_err(),
            "{end} bytes"
        );
    }
    let longer = [&bytes[..], &[0]].concat();
    let refused = decode_append_request(longer.into()).map(|_| ());
    assert_eq!(refused, Err(CodecError::Trailing(1)));
}

#[test]
fn received_batches_are_slices_of_the_message() {
    let bytes = encode_append_request(&request()).unwrap();
    let decoded = decode_append_request(bytes.clone()).unwrap();
    let EntryPayload::Normal(Batch(payload)) = &decoded.entries[1].payload else {
        panic!("{:?}", decoded.entries[1]);
    };
    assert!(bytes.as_ptr_range().contains(&payload.as_ptr()));
}

#[test]
fn claims_do_not_allocate() {
    // Four billion entries in a message of 18 bytes; a name of a gigabyte in one of seven.
    let huge = [1, 8, 0, 0, 0, 2, 1, 1, 0, 0, 252, 255, 255, 0, 0];
    let refused = decode_append_request(Bytes::copy_from_slice(&huge)).map(|_| ());
    assert!(refused.is_err());
    let name = [1, 0, 1, 1, 252, 0, 0, 0, 64];
    assert!(matches!(
        decode_membership(&name),
        Err(CodecError::Malformed { .. })
    ));
}
