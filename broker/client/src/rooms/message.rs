//! Encrypting one message: a key of its own by HKDF-SHA256 (RFC 5869) from the room key and the
//! frame's salt, AES-256-GCM with a zero nonce, and the frame's other fields as associated data. A
//! key is used once, so there is no counter to lose and no birthday bound to reach.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use thiserror::Error;
use unibus_proto::control::{EndpointId, RoomId};
use zeroize::Zeroizing;

use super::frame::FrameKind;
use super::room_key::RoomKey;

/// Bytes of a frame's salt.
pub const SALT_BYTES: usize = 24;
/// Bytes that encryption adds.
pub const TAG_BYTES: usize = 16;
/// First line of HKDF's `info`.
const MESSAGE_FORM: &str = "UNIBUS-MESSAGE-1";
/// A message key is used once: its nonce needs no value.
const NONCE: [u8; 12] = [0; 12];

/// The ciphertext was not made with this key for this frame, or it is damaged. Example: [`Frame`](super::frame::Frame).
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
#[error("the message can't be decrypted: it is damaged, or was encrypted for something else")]
pub struct DecryptError;

/// What a message key is bound to beside the room key and the salt. Example: [`MessageContext::key`].
#[derive(Clone, Copy, Debug)]
pub struct MessageContext<'a> {
    /// The room.
    pub room: &'a RoomId,
    /// The epoch of the room key.
    pub epoch: u64,
    /// Who speaks.
    pub from: &'a EndpointId,
    /// What kind of frame it is.
    pub kind: &'a FrameKind,
}

impl MessageContext<'_> {
    /// The key of the message with this salt.
    ///
    /// ```
    /// use unibus_client::rooms::{frame::FrameKind, message::MessageContext, room_key::RoomKey};
    /// let room = "r1".parse()?;
    /// let from = "00112233445566778899aabbccddeeff".parse()?;
    /// let context = MessageContext { room: &room, epoch: 1, from: &from, kind: &FrameKind::message() };
    /// let key = context.key(&RoomKey::from_bytes([7; 32]), &[9; 24]);
    /// assert_eq!(key.len(), 32);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn key(&self, room_key: &RoomKey, salt: &[u8; SALT_BYTES]) -> Zeroizing<[u8; 32]> {
        let Self {
            room,
            epoch,
            from,
            kind,
        } = self;
        let info = format!("{MESSAGE_FORM}\n{room}\n{epoch}\n{from}\n{kind}");
        let mut key = Zeroizing::new([0; 32]);
        // 32 bytes are far below the most that HKDF-SHA256 gives (RFC 5869 §2.3).
        let _infallible = Hkdf::<Sha256>::new(Some(salt), room_key.reveal())
            .expand(info.as_bytes(), key.as_mut());
        key
    }
}

/// Encrypts with a message key.
#[must_use]
pub(crate) fn encrypt(key: &[u8; 32], plaintext: &[u8], aad: &[u8]) -> Vec<u8> {
    seal(key, NONCE, plaintext, aad)
}

/// Decrypts with a message key.
pub(crate) fn decrypt(
    key: &[u8; 32],
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, DecryptError> {
    open(key, NONCE, ciphertext, aad)
}

/// AES-256-GCM; a pair of key and nonce is used once.
pub(crate) fn seal(key: &[u8; 32], nonce: [u8; 12], plaintext: &[u8], aad: &[u8]) -> Vec<u8> {
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key));
    let payload = Payload {
        msg: plaintext,
        aad,
    };
    // Fails only beyond 64 GiB (RFC 5116 §5.2), which no caller has.
    cipher
        .encrypt(&Nonce::from(nonce), payload)
        .unwrap_or_default()
}

pub(crate) fn open(
    key: &[u8; 32],
    nonce: [u8; 12],
    ciphertext: &[u8],
    aad: &[u8],
) -> Result<Vec<u8>, DecryptError> {
    let cipher = Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key));
    let payload = Payload {
        msg: ciphertext,
        aad,
    };
    cipher
        .decrypt(&Nonce::from(nonce), payload)
        .map_err(|_| DecryptError)
}
