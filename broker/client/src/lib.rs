//! Client of a unibus: end-to-end encrypted rooms, their members, history and files.
//!
//! The servers route, store and count; they never have a room's key and can't add a reader. From nothing
//! to an encrypted message: `unibus-node --bus-auth enforce` starts a node on this host, and
//! `unibus-node user add U…` adds the key that this program prints when it first runs.
//!
//! ```no_run
//! use unibus_client::{Event, Identity, NewRoom, Options, Session, Start};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let me = Identity::load_or_create("me.json".as_ref())?;
//!     println!("my key, for an admin: {}", me.nkey());
//!     println!("my contact, for friends: {}", me.contact());
//!
//!     let options = Options::new().server("http://127.0.0.1:8470", "nats://127.0.0.1:4222");
//!     let session = Session::connect(me, options).await?;
//!     let room = session.create_room(NewRoom::new("team.kitchen".parse()?)).await?;
//!     session.publish(&room, "tea is ready").await?;
//!
//!     let mut events = session.subscribe(&room, Start::Beginning).await?;
//!     while let Some(event) = events.next().await {
//!         if let Event::Message(message) = event {
//!             println!("{}: {}", message.from(), message.text());
//!         }
//!     }
//!     Ok(())
//! }
//! ```
//!
//! In twenty lines more a friend answers: [`Identity::parse_contact`] reads the contact that the friend's
//! program has printed, [`Session::invite`] invites them, [`Session::join`] is what they do. Servers on other
//! hosts are named with `https://`, `tls://` and their CA's file ([`Options::ca`]).
//!
//! # What is where
//! - [`Identity`]: keys and the file that keeps them. [`Options`]: where servers are and how they are
//!   trusted; a CA file is the one seam that secures both planes.
//! - [`Session`]: everything that is done, one method for each thing. It reconnects, fails over between the
//!   nodes it was given, sends again what was not acknowledged, and loses nothing of a room with a stream.
//! - [`Event`]: what is told. [`Error`]: what went wrong, in the server's words where it has any.
//! - [`rooms`]: the rules, without I/O: frames, keys, membership, encrypted files.
//!
//! # What is trusted
//! The servers are trusted to deliver, not to tell the truth: who a room's members are is verified by the
//! owner's signatures, keys are sealed to verified members only, and frames carry their sender's. A
//! server can withhold, and it sees who speaks when, how much and where. A room's owner is taken
//! from the room's first sight: compare [`RoomInfo::record`]'s owner with whom you expect.

mod control;
pub mod error;
pub mod event;
pub mod identity;
mod memory;
mod options;
mod room;
pub mod rooms;
pub mod session;
#[cfg(test)]
mod vectors;

pub use error::Error;
pub use event::{Event, MembershipChange, Message, MyRoom, RoomsChange, Undecryptable, Unreadable};
pub use identity::Identity;
pub use options::Options;
pub use session::{
    FileInfo, HistoryPage, HistoryQuery, NewRoom, Progress, RoomInfo, RoomsWatch, Sent, Session,
    Speech, Start, Subscription, ThreadSummary,
};
pub use unibus_keyfile::IdentityError;
