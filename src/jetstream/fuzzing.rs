//! Entry point for fuzzers: what nodes say to the leader about consumers. A panic is a find.

use bytes::{Bytes, BytesMut};

use super::inputs::{Inputs, Verdict, put, whole_prefix};
use super::leader::ToLeader;

/// Reads any bytes as a frame for the leader, as a batch of inputs and as its verdict.
///
/// # Panics
/// When something that was read is not written again as the same.
pub fn leader_frames(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(frame) = ToLeader::decode(&bytes) {
        assert_eq!(frame.encode(), bytes);
    }
    if let Ok(verdict) = Verdict::decode(bytes.clone()) {
        assert_eq!(verdict.encode(), bytes);
    }
    let mut again = BytesMut::new();
    for input in Inputs::new(&bytes) {
        let Ok(input) = input else { return };
        let written = put(
            &mut again,
            input.kind,
            input.subject,
            input.reply,
            input.body,
        );
        assert!(written.is_ok(), "an input that was read is too large");
    }
    assert_eq!(
        again, bytes,
        "inputs are written otherwise than they were read"
    );
    assert!(whole_prefix(&bytes, usize::MAX) == bytes.len());
}
