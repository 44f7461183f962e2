//! `unibus-client` for applications in Kotlin, Swift and Python, by UniFFI: a session with its rooms,
//! messages, history, files and live events, over plain records, texts and bytes.
//!
//! Everything is what the client library does and nothing is decided here. Ids are texts, so that a
//! language needs no types of ours for them; what is none is [`BusError::Invalid`]. Live events are pulled
//! (`Subscription.next`), which suits coroutines, Swift's `async` and asyncio alike, and gives
//! backpressure that callbacks do not. `ops/bindings/generate.sh` makes the foreign sources.

mod error;
mod events;
mod identity;
mod options;
mod session;
mod subscription;

pub use error::BusError;
pub use events::{HistoryPage, Message, MyRoom, RoomEvent, RoomsChange};
pub use identity::Identity;
pub use options::{
    ConnectOptions, HistoryPart, Member, RoomInfo, RoomPolicy, Sent, Server, Speech, StartAt,
};
pub use session::Session;
pub use subscription::{RoomsWatch, Subscription};

uniffi::setup_scaffolding!("unibus");
