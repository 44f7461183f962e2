//! What the control plane keeps and says (control-plane.md): identifiers, records, request bodies,
//! the statements that people sign, and the subjects that membership opens. Pure data and rules,
//! shared by the node and by clients. JSON field names are stable.

mod access;
mod ids;
mod notices;
mod records;
mod statements;

pub use access::{RoomAccess, SERVICE_INFO_SUBJECT, STREAM_USES, room_stream};
pub use ids::{
    EndpointId, IdError, KexPublic, ROOM_ID_BYTES_MAX, ROOM_SUBJECT_BYTES_MAX, RoomId, RoomSubject,
    SignPublic,
};
pub use notices::{Notice, member_notices, room_notices};
pub use records::{
    CreateRoom, FORMER_PART, FormerMember, History, Invite, KeyReply, MemberRecord, MemberRole,
    MyRoom, Party, Policy, Rekey, ReverseRecord, RoomRecord, SealedFor, SealedForEpoch, SealedKey,
    SealedKeyRecord,
};
pub use statements::{member_statement, room_statement, sealed_key_statement};
