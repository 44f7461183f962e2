//! Frames and file references: what is read is written back byte for byte, a signature by nobody is
//! refused, and nothing panics.

use unibus_client::rooms::blob::BlobRef;
use unibus_client::rooms::frame::{FrameError, SignedFrame};
use unibus_client::rooms::room_key::RoomKey;
use unibus_proto::control::SignPublic;
use unibus_proto::nkey::UserSeed;

/// All bytes are one frame, and one reference.
pub fn frames(data: &[u8]) {
    if let Ok(read) = SignedFrame::decode(data) {
        assert_eq!(read.encode(), data, "a frame has one encoding");
        let stranger = SignPublic(UserSeed::from_bytes([0x5a; 32]).public());
        assert_eq!(read.verify(&stranger), Err(FrameError::Signature));
        let again = SignedFrame::decode(&read.encode());
        assert_eq!(again.as_ref(), Ok(&read));
        let frame = read.unverified();
        let opened = frame.open(&RoomKey::from_bytes([0; 32]));
        assert!(opened.is_err(), "a key that nobody used opens nothing");
    }
    if let Ok(reference) = BlobRef::decode(data) {
        let written = reference.encode();
        assert_eq!(BlobRef::decode(&written).as_ref(), Ok(&reference));
        assert_eq!(BlobRef::from_text(&reference.to_text()), Ok(reference));
    }
}
