//! What belongs to the control plane: streams, subjects and buckets that only the node itself may
//! use. To everyone else they do not exist.

use unibus_proto::subject::collide;

const STREAM_PREFIXES: [&str; 2] = ["KV_UNIBUS_", "OBJ_UNIBUS_"];
const SUBJECT_PREFIXES: [&[u8]; 2] = [b"$KV.UNIBUS_", b"$O.UNIBUS_"];

/// Subjects that a consumer may not deliver to: the API's own and the system's.
const RESERVED: [&[u8]; 2] = [b"$JS.>", b"$SYS.>"];

/// Whether a stream holds control-plane records.
pub(super) fn is_stream(name: &str) -> bool {
    STREAM_PREFIXES
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Whether a literal subject belongs to a control-plane stream.
pub(super) fn is_subject(subject: &[u8]) -> bool {
    // Nearly every subject is told apart by its first byte.
    subject.first() == Some(&b'$')
        && SUBJECT_PREFIXES
            .iter()
            .any(|prefix| subject.starts_with(prefix))
}

/// Whether a consumer of an ordinary caller may deliver to this subject.
pub(super) fn is_deliverable(subject: &[u8]) -> bool {
    !is_subject(subject) && !RESERVED.iter().any(|reserved| collide(reserved, subject))
}

#[cfg(test)]
mod tests {
    use super::{is_deliverable, is_stream, is_subject};

    #[test]
    fn control_plane_names() {
        assert!(is_stream("KV_UNIBUS_users"));
        assert!(is_stream("OBJ_UNIBUS_x"));
        assert!(!is_stream("KV_users"));
        assert!(is_subject(b"$KV.UNIBUS_users.a"));
        assert!(!is_subject(b"$KV.users.a"));
    }

    #[test]
    fn deliveries_stay_out_of_reserved_subjects() {
        assert!(is_deliverable(b"_INBOX.a.b"));
        assert!(is_deliverable(b"$KV.mine.k"));
        for subject in [&b"$JS.API.INFO"[..], b"$SYS.x", b"$KV.UNIBUS_users.a"] {
            assert!(!is_deliverable(subject));
        }
    }
}
