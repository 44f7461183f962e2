//! Somebody's keys.

use std::sync::Arc;

use crate::error::BusError;

/// Who somebody is: keys, and the file that keeps them. Secrets never cross into the other language.
#[derive(Debug, uniffi::Object)]
#[uniffi::export(Debug)]
pub struct Identity {
    pub(crate) inner: Arc<unibus_client::Identity>,
}

impl Identity {
    fn of(inner: unibus_client::Identity) -> Arc<Self> {
        let inner = Arc::new(inner);
        Arc::new(Self { inner })
    }
}

#[uniffi::export]
impl Identity {
    /// A new identity that is nowhere stored.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    #[uniffi::constructor]
    pub fn generate() -> Result<Arc<Self>, BusError> {
        Ok(Self::of(unibus_client::Identity::generate()?))
    }

    /// The identity in a file.
    ///
    /// # Errors
    /// [`BusError::Identity`]; the file is left as it is.
    #[uniffi::constructor]
    pub fn load(file: &str) -> Result<Arc<Self>, BusError> {
        Ok(Self::of(unibus_client::Identity::load(file.as_ref())?))
    }

    /// The identity in a file, made (mode 0600) where nothing is.
    ///
    /// # Errors
    /// [`BusError::Identity`]; a file that is there is never overwritten.
    #[uniffi::constructor]
    pub fn load_or_create(file: &str) -> Result<Arc<Self>, BusError> {
        let inner = unibus_client::Identity::load_or_create(file.as_ref())?;
        Ok(Self::of(inner))
    }

    /// Writes the identity to a file that must not be there.
    ///
    /// # Errors
    /// [`BusError::Identity`].
    pub fn create(&self, file: &str) -> Result<(), BusError> {
        Ok(self.inner.create(file.as_ref())?)
    }

    /// The name by which rooms know this identity: 32 hex digits.
    pub fn endpoint(&self) -> String {
        self.inner.endpoint().to_string()
    }

    /// `U…`: what an admin adds to a server's users.
    pub fn nkey(&self) -> String {
        self.inner.nkey()
    }

    /// `unibus-contact:…`: what an inviter needs.
    pub fn contact(&self) -> String {
        self.inner.contact()
    }
}
