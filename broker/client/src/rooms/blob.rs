//! Encrypted files: pieces, each AES-256-GCM under the file's own random key with its number as the
//! nonce, stored by the SHA-256 of their ciphertext; more than one piece stands under a manifest,
//! which is encrypted in the same way. A [`BlobRef`] is what is told in a room: where, and the key.

use std::fmt;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use rand::CryptoRng;
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::cbor::{CborError, Map, Value};
use super::message::{TAG_BYTES, open, seal};

/// Bytes of a piece's plaintext; the last one may be shorter. With its tag a piece is well below
/// what one request takes.
pub const PIECE_BYTES: usize = 4 * 1024 * 1024;
/// Pieces of one file at most (512 GiB): their manifest has to fit in one request.
pub const PIECES_MAX: u64 = 128 * 1024;
/// Longest name or media type, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Longest text form of a reference that is read, in bytes.
const REF_BYTES_MAX: usize = 8 * 1024;
const VERSION: u64 = 1;
const HASH_BYTES: usize = 32;
/// First line of the associated data of a piece.
const PIECE_FORM: &str = "UNIBUS-BLOB-PIECE-1";
/// Associated data of a manifest.
const MANIFEST_FORM: &str = "UNIBUS-BLOB-MANIFEST-1";
/// What a reference's text begins with.
const TEXT_PREFIX: &str = "unibus-blob:";

/// Why a file can't be read or made. Example: [`BlobKey`].
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum BlobError {
    /// A reference or manifest is garbled.
    #[error("the {what} of a file is garbled: {cause}")]
    Cbor {
        /// `reference` or `manifest`.
        what: &'static str,
        /// In which way.
        cause: CborError,
    },
    /// A reference or manifest has the wrong fields.
    #[error("the {what} of a file is malformed: {field}")]
    Malformed {
        /// `reference` or `manifest`.
        what: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// The bytes are not those that the hash names.
    #[error("the server sent other bytes than those with the hash {0}")]
    Hash(String),
    /// A piece or manifest can't be decrypted.
    #[error("a piece of the file can't be decrypted: it is damaged, or the key is another file's")]
    Decrypt,
    /// More pieces than [`PIECES_MAX`].
    #[error("the file is larger than {PIECES_MAX} pieces of {PIECE_BYTES} bytes")]
    TooLarge,
    /// The pieces are not as long as the reference says.
    #[error("the file has {found} bytes where {wanted} were announced")]
    Length {
        /// As announced.
        wanted: u64,
        /// As found.
        found: u64,
    },
}

/// The key of one file. Never printed; wiped when dropped.
///
/// ```
/// use unibus_client::rooms::blob::{BlobError, BlobHash, BlobKey, Manifest, pieces_of, stored_bytes};
///
/// let key = BlobKey::random(&mut rand::rng());
/// let piece = key.seal_piece(0, true, b"a small file");
/// assert_eq!(piece.len(), stored_bytes(12));
/// assert_eq!(key.open_piece(0, true, &piece)?, b"a small file");
/// // A piece of another place, or with another file's key, is none.
/// assert_eq!(key.open_piece(1, true, &piece), Err(BlobError::Decrypt));
/// assert_eq!(BlobKey::from_bytes([7; 32]).open_piece(0, true, &piece), Err(BlobError::Decrypt));
///
/// // Pieces are kept under the hash of what is stored; larger files have a manifest of them.
/// let hash = BlobHash::of(&piece);
/// assert!(hash.check(&piece).is_ok() && hash.check(b"other").is_err());
/// let size = 5 * 1024 * 1024;
/// let manifest = Manifest { size, pieces: vec![hash; pieces_of(size) as usize] };
/// assert_eq!(key.open_manifest(&key.seal_manifest(&manifest))?, manifest);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Eq, PartialEq, Zeroize, ZeroizeOnDrop)]
pub struct BlobKey([u8; 32]);

impl BlobKey {
    /// A key from 32 random bytes. Example: [`BlobKey`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A random key. Example: [`BlobKey`].
    #[must_use]
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut key = Self([0; 32]);
        rng.fill_bytes(&mut key.0);
        key
    }

    /// Encrypts piece number `index`. Example: [`BlobKey`].
    #[must_use]
    pub fn seal_piece(&self, index: u64, last: bool, plaintext: &[u8]) -> Vec<u8> {
        seal(&self.0, nonce(0, index), plaintext, &piece_aad(index, last))
    }

    /// Decrypts piece number `index`. Example: [`BlobKey`].
    ///
    /// # Errors
    /// [`BlobError::Decrypt`].
    pub fn open_piece(&self, index: u64, last: bool, bytes: &[u8]) -> Result<Vec<u8>, BlobError> {
        open(&self.0, nonce(0, index), bytes, &piece_aad(index, last))
            .map_err(|_| BlobError::Decrypt)
    }

    /// Encrypts a manifest. Example: [`BlobKey`].
    #[must_use]
    pub fn seal_manifest(&self, manifest: &Manifest) -> Vec<u8> {
        let aad = MANIFEST_FORM.as_bytes();
        seal(&self.0, nonce(1, 0), &manifest.encode(), aad)
    }

    /// Decrypts a manifest. Example: [`BlobKey`].
    ///
    /// # Errors
    /// [`BlobError`].
    pub fn open_manifest(&self, bytes: &[u8]) -> Result<Manifest, BlobError> {
        let plaintext = open(&self.0, nonce(1, 0), bytes, MANIFEST_FORM.as_bytes())
            .map_err(|_| BlobError::Decrypt)?;
        Manifest::decode(&plaintext)
    }
}

impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlobKey(..)")
    }
}

/// The first byte tells pieces and manifests apart, the last eight are the number.
fn nonce(kind: u8, index: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[0] = kind;
    nonce[4..].copy_from_slice(&index.to_be_bytes());
    nonce
}

/// The number keeps pieces in order, the mark of the last one tells a file from its beginning.
fn piece_aad(index: u64, last: bool) -> Vec<u8> {
    let end = if last { "last" } else { "more" };
    format!("{PIECE_FORM}\n{index}\n{end}").into_bytes()
}

/// The SHA-256 of stored bytes: their address. Example: [`BlobKey`].
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct BlobHash(pub [u8; HASH_BYTES]);

impl BlobHash {
    /// The address of `bytes`. Example: [`BlobKey`].
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Checks that bytes which came from a server are those with this address. Example: [`BlobKey`].
    ///
    /// # Errors
    /// [`BlobError::Hash`].
    pub fn check(&self, bytes: &[u8]) -> Result<(), BlobError> {
        if Self::of(bytes) == *self {
            Ok(())
        } else {
            Err(BlobError::Hash(self.to_string()))
        }
    }
}

impl fmt::Display for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for BlobHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The pieces of a file in order. Example: [`BlobKey`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// Bytes of the file.
    pub size: u64,
    /// The addresses of its pieces.
    pub pieces: Vec<BlobHash>,
}

impl Manifest {
    fn encode(&self) -> Vec<u8> {
        let hashes: Vec<u8> = self.pieces.iter().flat_map(|hash| hash.0).collect();
        let mut map = Map::default();
        map.put("v", Value::Uint(VERSION));
        map.put("size", Value::Uint(self.size));
        map.put("pieces", Value::Bytes(&hashes));
        map.encode()
    }

    fn decode(bytes: &[u8]) -> Result<Self, BlobError> {
        let mut fields = Reader::new("manifest", bytes)?;
        fields.version()?;
        let size = fields.uint("size")?;
        let hashes = fields.bytes("pieces")?;
        let (pieces, rest) = hashes.as_chunks::<HASH_BYTES>();
        if !rest.is_empty() || pieces.len() as u64 != pieces_of(size) {
            return Err(fields.malformed("pieces"));
        }
        Ok(Self {
            size,
            pieces: pieces.iter().map(|hash| BlobHash(*hash)).collect(),
        })
    }
}

/// How many pieces a file of `size` bytes has: at least one. Example: [`BlobKey`].
#[must_use]
pub fn pieces_of(size: u64) -> u64 {
    size.div_ceil(PIECE_BYTES as u64).max(1)
}

/// Where a file is and how it is read: what is told to those who may read it. Secret; `Debug` shows
/// no key.
///
/// ```
/// use unibus_client::rooms::blob::{BlobHash, BlobKey, BlobRef};
///
/// let file = BlobRef {
///     hash: BlobHash::of(b"what is stored"),
///     key: BlobKey::from_bytes([7; 32]),
///     size: 1024,
///     name: Some("cat.png".into()),
///     media_type: Some("image/png".into()),
/// };
/// assert!(!file.has_manifest());
/// assert_eq!(BlobRef::decode(&file.encode())?, file); // as a frame's payload
/// assert_eq!(BlobRef::from_text(&file.to_text())?, file); // as a text to pass on
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BlobRef {
    /// The address of its only piece, or of its manifest.
    pub hash: BlobHash,
    /// Its key.
    pub key: BlobKey,
    /// Bytes of the file.
    pub size: u64,
    /// What the sender calls it. Never to be used as a path without a check.
    pub name: Option<String>,
    /// What the sender says it is, such as `image/png`.
    pub media_type: Option<String>,
}

impl BlobRef {
    /// Whether [`BlobRef::hash`] is a manifest's. Example: [`BlobRef`].
    #[must_use]
    pub fn has_manifest(&self) -> bool {
        pieces_of(self.size) > 1
    }

    /// The reference as the payload of a `FILE` frame. Example: [`BlobRef`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut map = Map::default();
        map.put("v", Value::Uint(VERSION));
        map.put("hash", Value::Bytes(&self.hash.0));
        map.put("key", Value::Bytes(&self.key.0));
        map.put("size", Value::Uint(self.size));
        if let Some(name) = &self.name {
            map.put("name", Value::Text(name));
        }
        if let Some(media_type) = &self.media_type {
            map.put("type", Value::Text(media_type));
        }
        map.encode()
    }

    /// Reads a reference. Fields that this version does not know are ignored. Example: [`BlobRef`].
    ///
    /// # Errors
    /// [`BlobError::Cbor`], [`BlobError::Malformed`], [`BlobError::TooLarge`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BlobError> {
        let mut fields = Reader::new("reference", bytes)?;
        fields.version()?;
        let reference = Self {
            hash: BlobHash(fields.array("hash")?),
            key: BlobKey(fields.array("key")?),
            size: fields.uint("size")?,
            name: fields.maybe_text("name")?,
            media_type: fields.maybe_text("type")?,
        };
        if pieces_of(reference.size) > PIECES_MAX {
            return Err(BlobError::TooLarge);
        }
        Ok(reference)
    }

    /// The reference as a text for a person to pass on. Secret. Example: [`BlobRef`].
    #[must_use]
    pub fn to_text(&self) -> String {
        format!("{TEXT_PREFIX}{}", BASE64URL_NOPAD.encode(&self.encode()))
    }

    /// Reads [`BlobRef::to_text`]. Example: [`BlobRef`].
    ///
    /// # Errors
    /// As [`BlobRef::decode`].
    pub fn from_text(text: &str) -> Result<Self, BlobError> {
        let bytes = text
            .trim()
            .strip_prefix(TEXT_PREFIX)
            .filter(|rest| rest.len() <= REF_BYTES_MAX)
            .and_then(|rest| BASE64URL_NOPAD.decode(rest.as_bytes()).ok());
        let bytes = bytes.ok_or(BlobError::Malformed {
            what: "reference",
            field: "it is unibus-blob: and base64url",
        })?;
        Self::decode(&bytes)
    }
}

/// Bytes of a stored piece whose plaintext has `len`. Example: [`BlobKey`].
#[must_use]
pub fn stored_bytes(len: usize) -> usize {
    len + TAG_BYTES
}

struct Reader<'a> {
    what: &'static str,
    map: Map<'a>,
}

impl<'a> Reader<'a> {
    fn new(what: &'static str, bytes: &'a [u8]) -> Result<Self, BlobError> {
        let map = Map::decode(bytes).map_err(|cause| BlobError::Cbor { what, cause })?;
        Ok(Self { what, map })
    }

    fn malformed(&self, field: &'static str) -> BlobError {
        BlobError::Malformed {
            what: self.what,
            field,
        }
    }

    fn version(&mut self) -> Result<(), BlobError> {
        match self.uint("v")? {
            VERSION => Ok(()),
            _ => Err(self.malformed("it is of a later version")),
        }
    }

    fn uint(&mut self, key: &'static str) -> Result<u64, BlobError> {
        match self.map.take(key) {
            Some(Value::Uint(number)) => Ok(number),
            _ => Err(self.malformed(key)),
        }
    }

    fn bytes(&mut self, key: &'static str) -> Result<&'a [u8], BlobError> {
        match self.map.take(key) {
            Some(Value::Bytes(bytes)) => Ok(bytes),
            _ => Err(self.malformed(key)),
        }
    }

    fn array<const N: usize>(&mut self, key: &'static str) -> Result<[u8; N], BlobError> {
        let bytes = self.bytes(key)?;
        bytes.try_into().map_err(|_| self.malformed(key))
    }

    fn maybe_text(&mut self, key: &'static str) -> Result<Option<String>, BlobError> {
        match self.map.take(key) {
            None => Ok(None),
            Some(Value::Text(text)) if text.len() <= TEXT_BYTES_MAX => Ok(Some(text.to_owned())),
            Some(_) => Err(self.malformed(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> BlobKey {
        BlobKey([7; 32])
    }

    #[test]
    fn pieces_open_in_their_place_only() {
        let sealed = key().seal_piece(2, false, b"some bytes");
        assert_eq!(sealed.len(), stored_bytes(10));
        assert_eq!(key().open_piece(2, false, &sealed).unwrap(), b"some bytes");
        for (index, last) in [(1, false), (2, true)] {
            let moved = key().open_piece(index, last, &sealed);
            assert_eq!(moved, Err(BlobError::Decrypt));
        }
        let other = BlobKey([8; 32]);
        assert_eq!(other.open_piece(2, false, &sealed), Err(BlobError::Decrypt));
    }

    #[test]
    fn manifests_and_references_are_read_back() {
        let size = PIECE_BYTES as u64 + 1;
        let pieces = vec![BlobHash::of(b"a"), BlobHash::of(b"b")];
        let manifest = Manifest { size, pieces };
        let sealed = key().seal_manifest(&manifest);
        assert_eq!(key().open_manifest(&sealed), Ok(manifest.clone()));
        let short = Manifest {
            size: 1,
            ..manifest
        };
        let refused = key().open_manifest(&key().seal_manifest(&short));
        assert!(matches!(refused, Err(BlobError::Malformed { .. })));

        let reference = BlobRef {
            hash: BlobHash::of(&sealed),
            key: key(),
            size,
            name: Some("a.png".into()),
            media_type: None,
        };
        assert!(reference.has_manifest());
        let text = reference.to_text();
        assert_eq!(BlobRef::from_text(&text), Ok(reference.clone()));
        assert!(BlobRef::from_text(&text[1..]).is_err());
        assert!(BlobRef::from_text(&text[..text.len() - 2]).is_err());
        assert!(!format!("{reference:?}").contains("7, 7"));
    }

    #[test]
    fn bytes_that_are_not_the_named_ones_are_noticed() {
        let hash = BlobHash::of(b"stored");
        assert!(hash.check(b"stored").is_ok());
        assert_eq!(hash.check(b"other"), Err(BlobError::Hash(hash.to_string())));
    }
}
