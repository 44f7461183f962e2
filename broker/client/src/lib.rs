//! Client of a unibus: end-to-end encrypted rooms.

pub mod identity;
pub mod rooms;
mod secret_file;
#[cfg(test)]
mod vectors;

pub use identity::Identity;
pub use secret_file::IdentityError;
