//! Live events, pulled one by one. Two callers at a time take turns.

use tokio::sync::Mutex;

use crate::events::{RoomEvent, RoomsChange};

/// Events of a room as they come. The library's queue behind it is bounded: who does not pull makes it
/// wait, and nothing is lost in rooms with a stream.
#[derive(Debug, uniffi::Object)]
pub struct Subscription {
    pub(crate) inner: Mutex<unibus_client::Subscription>,
}

#[uniffi::export(async_runtime = "tokio")]
impl Subscription {
    /// The next event; none when there will be no more.
    pub async fn next(&self) -> Option<RoomEvent> {
        let mut events = self.inner.lock().await;
        loop {
            if let Some(event) = RoomEvent::of(events.next().await?) {
                return Some(event);
            }
        }
    }
}

/// Changes of the rooms that an identity belongs to, as they happen; those of now come first.
#[derive(Debug, uniffi::Object)]
pub struct RoomsWatch {
    pub(crate) inner: Mutex<unibus_client::RoomsWatch>,
}

#[uniffi::export(async_runtime = "tokio")]
impl RoomsWatch {
    /// The next change; none when the session has ended.
    pub async fn next(&self) -> Option<RoomsChange> {
        let mut changes = self.inner.lock().await;
        loop {
            if let Some(change) = RoomsChange::of(changes.next().await?) {
                return Some(change);
            }
        }
    }
}
