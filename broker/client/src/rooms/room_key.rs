//! Room keys, and sealing them to members: HPKE (RFC 9180) in base mode with DHKEM(X25519,
//! HKDF-SHA256), HKDF-SHA256 and AES-256-GCM. `info` binds room, epoch and recipient, so that a key
//! sealed for one can't be passed off as another's; who sealed it signs the result.

use std::fmt;

use data_encoding::{BASE64, HEXLOWER};
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand::CryptoRng;
use thiserror::Error;
use unibus_proto::control::{
    EndpointId, KexPublic, RoomId, SealedKey, SignPublic, sealed_key_statement,
};
use unibus_proto::nkey::UserSeed;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a room key.
pub const ROOM_KEY_BYTES: usize = 32;
/// Bytes of an encapsulated key, which stand before the ciphertext.
const ENCAPPED_BYTES: usize = 32;
/// Bytes of a sealed room key: encapsulated key, key, tag.
pub const SEALED_BYTES: usize = ENCAPPED_BYTES + ROOM_KEY_BYTES + 16;
/// First line of `info`.
const SEAL_FORM: &str = "UNIBUS-ROOM-KEY-1";

/// Why a sealed key is of no use. Example: [`KeySlot`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum SealError {
    /// Not base64, or not as long as a sealed key is.
    #[error("the sealed key is not {SEALED_BYTES} bytes in base64")]
    Form,
    /// The recipient's key-agreement key is no usable point.
    #[error("the recipient's key-agreement key is unusable")]
    Recipient,
    /// It was sealed for another room, epoch or recipient, or it is damaged.
    #[error("the sealed key can't be opened: it is damaged or was sealed for something else")]
    Open,
    /// The sealer's signature does not fit.
    #[error("the sealed key is not signed by who is said to have sealed it")]
    Signature,
}

/// The key of one epoch of a room. Never printed; wiped when dropped.
///
/// ```
/// use unibus_client::rooms::room_key::RoomKey;
/// let key = RoomKey::random(&mut rand::rng());
/// let kept = RoomKey::from_bytes(*key.reveal()); // such as from an application's own store
/// assert!(kept == key);
/// assert_eq!(format!("{key:?}"), "RoomKey(..)");
/// ```
#[derive(Clone, Eq, PartialEq, Zeroize, ZeroizeOnDrop)]
pub struct RoomKey([u8; ROOM_KEY_BYTES]);

impl RoomKey {
    /// A key from 32 random bytes. Example: [`RoomKey`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; ROOM_KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// A random key. Example: [`RoomKey`].
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut key = Self([0; ROOM_KEY_BYTES]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// The key itself, for tests and for those who keep keys themselves. Never log it.
    /// Example: [`RoomKey`].
    #[must_use]
    pub fn reveal(&self) -> &[u8; ROOM_KEY_BYTES] {
        &self.0
    }
}

impl fmt::Debug for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RoomKey(..)")
    }
}

/// An X25519 key-agreement key. Never printed; wiped when dropped.
///
/// ```
/// use unibus_client::rooms::room_key::KexSecret;
/// let secret = KexSecret::from_bytes(&[2; 32])?;
/// println!("others seal keys to {}", secret.public()?);
/// let kept = KexSecret::from_bytes(&secret.to_bytes())?; // such as from an application's own store
/// assert_eq!(kept.public()?, secret.public()?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct KexSecret(<X25519HkdfSha256 as Kem>::PrivateKey);

impl KexSecret {
    /// A key from 32 random bytes (RFC 7748 clamps them when they are used). Example: [`KexSecret`].
    ///
    /// # Errors
    /// [`SealError::Recipient`] where the bytes are no key.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, SealError> {
        let secret = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(bytes);
        secret.map(Self).map_err(|_| SealError::Recipient)
    }

    /// The secret itself, for an identity file. Example: [`KexSecret`].
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<[u8; 32]> {
        let mut bytes = self.0.to_bytes();
        let copy = Zeroizing::new(bytes.into());
        bytes.zeroize();
        copy
    }

    /// The public half. Example: [`KexSecret`].
    ///
    /// # Errors
    /// [`SealError::Recipient`] where it is a point that agrees with nobody.
    pub fn public(&self) -> Result<KexPublic, SealError> {
        let bytes = X25519HkdfSha256::sk_to_pk(&self.0).to_bytes();
        let text = HEXLOWER.encode(&bytes);
        text.parse().map_err(|_| SealError::Recipient)
    }
}

impl fmt::Debug for KexSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KexSecret(..)")
    }
}

/// Which key this is and for whom: what HPKE's `info` and the sealer's signature bind.
///
/// ```
/// use unibus_client::Identity;
/// use unibus_client::rooms::room_key::{KeySlot, RoomKey, SealError};
///
/// let (owner, friend) = (Identity::generate()?, Identity::generate()?);
/// let (room, key) = ("kitchen".parse()?, RoomKey::random(&mut rand::rng()));
/// let slot = KeySlot { room: &room, epoch: 1, recipient: friend.endpoint() };
/// let sealed = slot.seal(&key, &friend.party().kex_pub, owner.signing(), &mut rand::rng())?;
///
/// let sealer = &owner.party().sign_pub;
/// assert!(slot.open(&sealed, friend.agreement(), sealer)? == key);
/// // Passed off as the key of another epoch, it is refused.
/// let later = KeySlot { epoch: 2, ..slot };
/// assert!(slot.is_by(&sealed, sealer) && !later.is_by(&sealed, sealer));
/// assert_eq!(later.open(&sealed, friend.agreement(), sealer), Err(SealError::Signature));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct KeySlot<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// The epoch, from 1.
    pub epoch: u64,
    /// The recipient.
    pub recipient: &'a EndpointId,
}

impl KeySlot<'_> {
    fn info(&self) -> String {
        let Self {
            room,
            epoch,
            recipient,
        } = self;
        format!("{SEAL_FORM}\n{room}\n{epoch}\n{recipient}")
    }

    /// Seals a room key to a recipient, signed by the sealer. Example: [`KeySlot`].
    ///
    /// # Errors
    /// [`SealError::Recipient`].
    pub fn seal(
        &self,
        key: &RoomKey,
        to: &KexPublic,
        sealer: &UserSeed,
        rng: &mut impl CryptoRng,
    ) -> Result<SealedKey, SealError> {
        let point = HEXLOWER.decode(to.as_str().as_bytes());
        let point = point.map_err(|_| SealError::Recipient)?;
        let recipient = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&point)
            .map_err(|_| SealError::Recipient)?;
        let (encapped, ciphertext) =
            hpke::single_shot_seal_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeS::Base,
                &recipient,
                self.info().as_bytes(),
                key.reveal(),
                &[],
                rng,
            )
            .map_err(|_| SealError::Recipient)?;
        let sealed = [encapped.to_bytes().as_slice(), &ciphertext].concat();
        let statement = sealed_key_statement(self.room, self.epoch, self.recipient, &sealed);
        Ok(SealedKey {
            sealed_key: BASE64.encode(&sealed),
            signature: sealer.sign(statement.as_bytes()),
        })
    }

    /// Whether a sealed key is signed by `sealer` for this slot, and so whom its sealer has given it: what
    /// can be told without opening it. Example: [`KeySlot`].
    #[must_use]
    pub fn is_by(&self, sealed: &SealedKey, sealer: &SignPublic) -> bool {
        let bytes = BASE64.decode(sealed.sealed_key.as_bytes());
        bytes.is_ok_and(|bytes| self.is_signed(&bytes, sealed, sealer))
    }

    fn is_signed(&self, bytes: &[u8], sealed: &SealedKey, sealer: &SignPublic) -> bool {
        let statement = sealed_key_statement(self.room, self.epoch, self.recipient, bytes);
        sealer.0.verify(statement.as_bytes(), &sealed.signature)
    }

    /// Checks who sealed a key, and opens it. `sealer` is the signing key of the member that the
    /// record names, which the caller has verified. Example: [`KeySlot`].
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(
        &self,
        sealed: &SealedKey,
        secret: &KexSecret,
        sealer: &SignPublic,
    ) -> Result<RoomKey, SealError> {
        let bytes = BASE64.decode(sealed.sealed_key.as_bytes());
        let bytes = bytes.map_err(|_| SealError::Form)?;
        if bytes.len() != SEALED_BYTES {
            return Err(SealError::Form);
        }
        if !self.is_signed(&bytes, sealed, sealer) {
            return Err(SealError::Signature);
        }
        let (encapped, ciphertext) = bytes.split_at(ENCAPPED_BYTES);
        let encapped = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(encapped)
            .map_err(|_| SealError::Open)?;
        let opened = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &secret.0,
            &encapped,
            self.info().as_bytes(),
            ciphertext,
            &[],
        );
        let opened = Zeroizing::new(opened.map_err(|_| SealError::Open)?);
        let bytes = <[u8; ROOM_KEY_BYTES]>::try_from(opened.as_slice());
        bytes.map(RoomKey).map_err(|_| SealError::Open)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn parts() -> (RoomId, UserSeed, KexSecret, EndpointId) {
        let sealer = UserSeed::from_bytes([1; 32]);
        let secret = KexSecret::from_bytes(&[2; 32]).unwrap();
        let recipient = EndpointId::of(&UserSeed::from_bytes([3; 32]).public());
        ("room".parse().unwrap(), sealer, secret, recipient)
    }

    #[test]
    fn a_sealed_key_opens_in_its_slot_and_in_no_other() {
        let (room, sealer, secret, recipient) = parts();
        let slot = KeySlot {
            room: &room,
            epoch: 3,
            recipient: &recipient,
        };
        let key = RoomKey::from_bytes([9; 32]);
        let to = secret.public().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let sealed = slot.seal(&key, &to, &sealer, &mut rng).unwrap();
        let by = SignPublic(sealer.public());
        assert_eq!(slot.open(&sealed, &secret, &by), Ok(key));

        let other_epoch = KeySlot { epoch: 4, ..slot };
        assert_eq!(
            other_epoch.open(&sealed, &secret, &by),
            Err(SealError::Signature)
        );
        // Even a sealer who signs it for another epoch can't move the key there.
        let bytes = BASE64.decode(sealed.sealed_key.as_bytes()).unwrap();
        let statement = sealed_key_statement(&room, 4, &recipient, &bytes);
        let moved = SealedKey {
            signature: sealer.sign(statement.as_bytes()),
            ..sealed.clone()
        };
        assert_eq!(other_epoch.open(&moved, &secret, &by), Err(SealError::Open));

        let stranger = KexSecret::from_bytes(&[4; 32]).unwrap();
        assert_eq!(slot.open(&sealed, &stranger, &by), Err(SealError::Open));
        let other = UserSeed::from_bytes([5; 32]).public();
        let other = SignPublic(other);
        assert_eq!(
            slot.open(&sealed, &secret, &other),
            Err(SealError::Signature)
        );
        let short = SealedKey {
            sealed_key: sealed.sealed_key[..100].to_owned(),
            ..sealed
        };
        assert_eq!(slot.open(&short, &secret, &by), Err(SealError::Form));
    }

    #[test]
    fn secrets_are_not_printed() {
        let secret = KexSecret::from_bytes(&[2; 32]).unwrap();
        let key = RoomKey::from_bytes([2; 32]);
        assert_eq!(format!("{secret:?} {key:?}"), "KexSecret(..) RoomKey(..)");
    }
}
