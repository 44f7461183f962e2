//! Notices: what a node publishes to its own clients when a room or a membership was changed, so that
//! nobody has to poll. A notice is a hint to look, and proves nothing.

use serde::{Deserialize, Serialize};

use super::ids::{EndpointId, RoomId};

/// What is published.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The room that was changed.
    pub room_id: RoomId,
}

/// Where a room's members hear that its record or its members were changed.
#[must_use]
pub fn room_notices(room: &RoomId) -> String {
    format!("$UNIBUS.NOTICE.ROOM.{room}")
}

/// Where somebody hears that its membership of some room was changed, invitations included.
#[must_use]
pub fn member_notices(endpoint: &EndpointId) -> String {
    format!("$UNIBUS.NOTICE.MEMBER.{endpoint}")
}
