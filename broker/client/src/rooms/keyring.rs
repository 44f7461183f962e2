//! The room keys that a client has, by epoch. Old ones are kept, so that history stays readable.

use std::collections::BTreeMap;

use super::room_key::RoomKey;

/// Room keys by epoch. `Debug` shows the epochs only.
///
/// ```
/// use unibus_client::rooms::{keyring::Keyring, room_key::RoomKey};
/// let mut keys = Keyring::default();
/// keys.insert(1, RoomKey::from_bytes([7; 32]));
/// keys.insert(2, RoomKey::from_bytes([8; 32]));
/// assert!(keys.key(1).is_some() && keys.key(3).is_none());
/// let epochs: Vec<u64> = keys.iter().map(|(epoch, _)| epoch).collect();
/// assert_eq!(epochs, [1, 2]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Keyring {
    keys: BTreeMap<u64, RoomKey>,
}

impl Keyring {
    /// Keeps the key of an epoch. Example: [`Keyring`].
    pub fn insert(&mut self, epoch: u64, key: RoomKey) {
        self.keys.insert(epoch, key);
    }

    /// The key of an epoch. Example: [`Keyring`].
    #[must_use]
    pub fn key(&self, epoch: u64) -> Option<&RoomKey> {
        self.keys.get(&epoch)
    }

    /// The epochs whose keys are here, oldest first, with their keys. Example: [`Keyring`].
    pub fn iter(&self) -> impl Iterator<Item = (u64, &RoomKey)> {
        self.keys.iter().map(|(epoch, key)| (*epoch, key))
    }
}
