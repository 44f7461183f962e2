//! `$SYS`: requests about servers and accounts, answered by each node for itself, and events about
//! clients (nats-surface §4.2). A question is put to the peers too, and each of them answers on its own.
//!
//! Who may ask: the clients of the system account. Where accounts are not configured (the bus's own
//! users) that is the node's own identity alone. Everybody may ask about themselves and their account.

mod ask;
mod events;
mod order;
mod peers;
mod serve;

pub use self::ask::Ask;
pub use self::events::Advisories;
pub use self::peers::{PeerAnswers, Peers};
pub use self::serve::SystemServices;
