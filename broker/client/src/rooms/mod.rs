//! What a room is made of, without I/O: frames, sealed keys, message keys, verified membership and
//! encrypted files (rooms.md). Everything here is a function of its arguments: randomness, time and
//! bytes come from the caller, so that the vectors under `tests/vectors` can be byte-exact.

pub mod blob;
mod cbor;
pub mod frame;
pub mod keyring;
pub mod message;
pub mod room_key;
pub mod roster;

pub use cbor::CborError;
