//! The room keys that a client has, by epoch. Old ones are kept, so that history stays readable.

use std::collections::BTreeMap;

use super::room_key::RoomKey;

/// Room keys by epoch. `Debug` shows the epochs only.
///
/// ```
/// use unibus_client::rooms::{keyring::Keyring, room_key::RoomKey};
/// let mut keys = Keyring::default();
/// keys.insert(1, RoomKey::from_bytes([7; 32]));
/// assert!(keys.key(1).is_some() && keys.key(2).is_none());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: BTreeMap<u64, RoomKey>,
}

impl Keyring {
    /// Keeps the key of an epoch.
    pub fn insert(&mut self, epoch: u64, key: RoomKey) {
        self.keys.insert(epoch, key);
    }

    /// The key of an epoch.
    #[must_use]
    pub fn key(&self, epoch: u64) -> Option<&RoomKey> {
        self.keys.get(&epoch)
    }

    /// The epochs whose keys are here, oldest first, with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &RoomKey)> {
        self.keys.iter().map(|(epoch, key)| (*epoch, key))
    }
}
