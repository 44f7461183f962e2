//! Frames: the envelope of everything that is said in a room (rooms.md, Frames). A deterministically
//! encoded CBOR map, signed by its sender. Encoding, decoding, signing and encryption; no I/O.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use thiserror::Error;
use unibus_proto::control::{EndpointId, RoomId, SignPublic};
use unibus_proto::nkey::{SIGNATURE_LEN, UserSeed};
use zeroize::Zeroizing;

use super::cbor::{CborError, Map, Value};
use super::message::{DecryptError, MessageContext, SALT_BYTES, decrypt, encrypt};
use super::room_key::RoomKey;

/// The version of the envelope.
pub const FRAME_VERSION: u64 = 1;
/// Largest frame that is read or made, in bytes: what one message of the bus takes by default.
pub const FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a frame beside its payload, at most.
pub const FRAME_OVERHEAD_MAX: usize = 1024;
/// Longest name of a frame's kind, in bytes.
pub const KIND_BYTES_MAX: usize = 32;
/// What stands before the signed bytes, so that no other signature can be taken for a frame's.
const SIGN_FORM: &[u8] = b"UNIBUS-FRAME-1\n";

/// Why bytes are no frame, or a frame is not what it claims to be. Example: [`SignedFrame`].
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum FrameError {
    /// Larger than [`FRAME_BYTES_MAX`].
    #[error("the frame has {0} bytes; the most is {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// Not the CBOR that frames are.
    #[error("the frame is garbled: {0}")]
    Cbor(#[from] CborError),
    /// A field is not there.
    #[error("the frame has no {0:?}")]
    Missing(&'static str),
    /// A field is not what it has to be.
    #[error("the frame's {0:?} is malformed")]
    Malformed(&'static str),
    /// A later version than this client knows.
    #[error("the frame has version {0}; this client knows version {FRAME_VERSION}")]
    Version(u64),
    /// It is not signed by who is said to have sent it.
    #[error("the frame's signature does not fit its sender")]
    Signature,
    /// It is encrypted and the salt is missing, or the reverse.
    #[error("the frame says both that it is encrypted and that it is not")]
    Ambiguous,
    /// Its payload can't be decrypted.
    #[error(transparent)]
    Decrypt(#[from] DecryptError),
}

/// A frame's id: 16 bytes in the form of a UUID version 7 (RFC 9562 §5.7), so that ids sort by time.
/// Example: [`FrameId::new`].
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FrameId(pub [u8; 16]);

impl FrameId {
    /// The id of a frame that is made at `unix_ms`.
    ///
    /// ```
    /// use unibus_client::rooms::frame::FrameId;
    /// let (early, late) = (FrameId::new(1000, [9; 10]), FrameId::new(1001, [1; 10]));
    /// assert!(early < late);
    /// assert_eq!(late.to_string().parse(), Ok(late));
    /// ```
    #[must_use]
    pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
        Self(
            *uuid::Builder::from_unix_timestamp_millis(unix_ms, &random)
                .as_uuid()
                .as_bytes(),
        )
    }
}

impl fmt::Display for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for FrameId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for FrameId {
    type Err = FrameError;

    fn from_str(text: &str) -> Result<Self, FrameError> {
        let bytes = HEXLOWER.decode(text.as_bytes()).ok();
        let id = bytes.and_then(|bytes| bytes.try_into().ok());
        id.map(Self).ok_or(FrameError::Malformed("id"))
    }
}

/// What a frame is: `MSG`, `REACT`, `FILE`, or a kind that an application made up.
///
/// ```
/// use unibus_client::rooms::frame::FrameKind;
/// assert_eq!(FrameKind::message().as_str(), "MSG");
/// assert_eq!(FrameKind::reaction().to_string(), "REACT");
/// assert_eq!("FILE".parse::<FrameKind>()?, FrameKind::file());
/// let own: FrameKind = "TEMPERATURE".parse()?;
/// assert!("temperature".parse::<FrameKind>().is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct FrameKind(String);

impl FrameKind {
    /// `MSG`: the payload is what somebody says. Example: [`FrameKind`].
    #[must_use]
    pub fn message() -> Self {
        Self("MSG".into())
    }

    /// `REACT`: the payload is a reaction, such as an emoji, to the frame in `re`.
    /// Example: [`FrameKind`].
    #[must_use]
    pub fn reaction() -> Self {
        Self("REACT".into())
    }

    /// `FILE`: the payload is the reference of an encrypted file. Example: [`FrameKind`].
    #[must_use]
    pub fn file() -> Self {
        Self("FILE".into())
    }

    /// The word. Example: [`FrameKind`].
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FrameKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for FrameKind {
    type Err = FrameError;

    /// Upper-case letters, digits and `_`, at most [`KIND_BYTES_MAX`] of them.
    fn from_str(text: &str) -> Result<Self, FrameError> {
        let legal = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        if (1..=KIND_BYTES_MAX).contains(&text.len()) && text.bytes().all(legal) {
            Ok(Self(text.to_owned()))
        } else {
            Err(FrameError::Malformed("ty"))
        }
    }
}

/// Everything about a frame but its payload. Example: [`Frame`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Header {
    /// Its id.
    pub id: FrameId,
    /// The room it belongs to.
    pub room: RoomId,
    /// The epoch of its key; 0 in a cleartext room.
    pub epoch: u64,
    /// Who sent it.
    pub from: EndpointId,
    /// What it is.
    pub kind: FrameKind,
    /// When it was sent, Unix milliseconds by the sender's clock.
    pub sent_ms: u64,
    /// The frame that its thread began with.
    pub thread: Option<FrameId>,
    /// The frame that it replies or reacts to.
    pub reply_to: Option<FrameId>,
}

impl Header {
    /// A frame of a cleartext room. Example: [`Frame`].
    #[must_use]
    pub fn plain(mut self, payload: Vec<u8>) -> Frame {
        self.epoch = 0;
        Frame {
            header: self,
            salt: None,
            payload,
            more: Vec::new(),
        }
    }

    /// A frame whose payload is encrypted with a key of its own. `salt` is random, and used once.
    /// Example: [`Frame`].
    #[must_use]
    pub fn encrypted(self, key: &RoomKey, salt: [u8; SALT_BYTES], plaintext: &[u8]) -> Frame {
        let message_key = self.context().key(key, &salt);
        let mut frame = Frame {
            header: self,
            salt: Some(salt),
            payload: Vec::new(),
            more: Vec::new(),
        };
        frame.payload = encrypt(&message_key, plaintext, &frame.associated());
        frame
    }

    fn context(&self) -> MessageContext<'_> {
        MessageContext {
            room: &self.room,
            epoch: self.epoch,
            from: &self.from,
            kind: &self.kind,
        }
    }
}

/// A field that this version does not know. It is signed, and written as it was read.
#[derive(Clone, Debug, Eq, PartialEq)]
enum More {
    Uint(u64),
    Bytes(Vec<u8>),
    Text(String),
}

/// A frame that is not signed yet, or whose signature is kept beside it.
///
/// ```
/// use unibus_client::Identity;
/// use unibus_client::rooms::frame::{Frame, FrameError, FrameId, FrameKind, Header};
/// use unibus_client::rooms::message::DecryptError;
/// use unibus_client::rooms::room_key::RoomKey;
///
/// let me = Identity::generate()?;
/// let header = Header {
///     id: FrameId::new(1_000, [7; 10]),
///     room: "kitchen".parse()?,
///     epoch: 1,
///     from: me.endpoint().clone(),
///     kind: FrameKind::message(),
///     sent_ms: 1_000,
///     thread: None,
///     reply_to: None,
/// };
/// let key = RoomKey::random(&mut rand::rng());
/// let salt = [9; 24]; // random, and used once
/// let frame: Frame = header.clone().encrypted(&key, salt, b"tea is ready");
/// assert!(frame.is_encrypted() && frame.payload() != b"tea is ready");
/// assert_eq!(frame.open(&key)?.as_slice(), b"tea is ready");
/// let other = frame.open(&RoomKey::from_bytes([7; 32]));
/// assert_eq!(other, Err(FrameError::Decrypt(DecryptError)));
///
/// // In a room without encryption the payload is as it was, and the epoch 0.
/// let open = header.plain(b"tea is ready".to_vec());
/// assert_eq!((open.payload(), open.header().epoch), (&b"tea is ready"[..], 0));
///
/// // What is published: the frame and its sender's signature.
/// let bytes = frame.sign(me.signing());
/// assert!(bytes.len() < frame.signed_bytes().len() + 100);
/// // Everything but the payload is bound to the ciphertext.
/// assert!(frame.associated().len() < bytes.len());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    header: Header,
    salt: Option<[u8; SALT_BYTES]>,
    payload: Vec<u8>,
    more: Vec<(String, More)>,
}

impl Frame {
    /// Everything but the payload. Example: [`Frame`].
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The payload as it is sent: ciphertext in an encrypted room. Example: [`Frame`].
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Whether the payload is encrypted. Example: [`Frame`].
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.salt.is_some()
    }

    /// The payload in cleartext. Example: [`Frame`].
    ///
    /// # Errors
    /// [`FrameError::Decrypt`]; [`FrameError::Ambiguous`] for a frame that is not encrypted.
    pub fn open(&self, key: &RoomKey) -> Result<Zeroizing<Vec<u8>>, FrameError> {
        let salt = self.salt.as_ref().ok_or(FrameError::Ambiguous)?;
        let key = self.header.context().key(key, salt);
        let plaintext = decrypt(&key, &self.payload, &self.associated())?;
        Ok(Zeroizing::new(plaintext))
    }

    /// Signs the frame; answers with its encoding. Example: [`Frame`].
    #[must_use]
    pub fn sign(&self, seed: &UserSeed) -> Vec<u8> {
        let signature = seed.sign_bytes(&self.signed_bytes());
        let mut map = self.fields(true);
        map.put("sig", Value::Bytes(&signature));
        map.encode()
    }

    /// The bytes that the signature covers. Example: [`Frame`].
    #[must_use]
    pub fn signed_bytes(&self) -> Vec<u8> {
        [SIGN_FORM, &self.fields(true).encode()].concat()
    }

    /// What encryption authenticates beside the payload: the encoding of all other fields.
    /// Example: [`Frame`].
    #[must_use]
    pub fn associated(&self) -> Vec<u8> {
        self.fields(false).encode()
    }

    fn fields(&self, with_payload: bool) -> Map<'_> {
        let Header {
            id,
            room,
            epoch,
            from,
            kind,
            sent_ms,
            thread,
            reply_to,
        } = &self.header;
        let mut map = Map::default();
        map.put("v", Value::Uint(FRAME_VERSION));
        map.put("id", Value::Bytes(&id.0));
        map.put("room", Value::Text(room.as_str()));
        map.put("ep", Value::Uint(*epoch));
        map.put("from", Value::Text(from.as_str()));
        map.put("ty", Value::Text(kind.as_str()));
        map.put("ts", Value::Uint(*sent_ms));
        if let Some(salt) = &self.salt {
            map.put("n", Value::Bytes(salt));
        }
        if with_payload {
            map.put("p", Value::Bytes(&self.payload));
        }
        if let Some(thread) = thread {
            map.put("thr", Value::Bytes(&thread.0));
        }
        if let Some(reply_to) = reply_to {
            map.put("re", Value::Bytes(&reply_to.0));
        }
        for (key, value) in &self.more {
            let value = match value {
                More::Uint(number) => Value::Uint(*number),
                More::Bytes(bytes) => Value::Bytes(bytes),
                More::Text(text) => Value::Text(text),
            };
            map.put(key, value);
        }
        map
    }
}

/// A frame as it was received. Its signature is not checked yet: see [`SignedFrame::verify`].
///
/// ```
/// use unibus_client::Identity;
/// use unibus_client::rooms::frame::{FrameError, SignedFrame};
/// # use unibus_client::rooms::frame::{FrameId, FrameKind, Header};
/// # let me = Identity::generate()?;
/// # let header = Header {
/// #     id: FrameId::new(1_000, [7; 10]),
/// #     room: "kitchen".parse()?,
/// #     epoch: 1,
/// #     from: me.endpoint().clone(),
/// #     kind: FrameKind::message(),
/// #     sent_ms: 1_000,
/// #     thread: None,
/// #     reply_to: None,
/// # };
/// # let bytes = header.plain(b"tea is ready".to_vec()).sign(me.signing());
/// // `bytes` is what came; whom it claims to be from says whose key has to fit.
/// let received = SignedFrame::decode(&bytes)?;
/// assert_eq!(received.claims().from, *me.endpoint());
/// let frame = received.verify(&me.party().sign_pub)?;
/// assert_eq!(frame.payload(), b"tea is ready");
/// assert_eq!((received.unverified(), received.encode()), (frame, bytes));
///
/// let somebody = Identity::generate()?;
/// let refused = received.verify(&somebody.party().sign_pub);
/// assert_eq!(refused, Err(FrameError::Signature));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SignedFrame {
    frame: Frame,
    signature: [u8; SIGNATURE_LEN],
}

impl SignedFrame {
    /// Reads a frame that fills `bytes`. Example: [`SignedFrame`].
    ///
    /// # Errors
    /// [`FrameError`] for everything that is not the one encoding of a frame; never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::TooLarge(bytes.len()));
        }
        let mut fields = Fields(Map::decode(bytes)?);
        match fields.uint("v")? {
            FRAME_VERSION => {}
            other => return Err(FrameError::Version(other)),
        }
        let header = Header {
            id: FrameId(fields.array("id")?),
            room: fields.parsed("room")?,
            epoch: fields.uint("ep")?,
            from: fields.parsed("from")?,
            kind: fields.parsed("ty")?,
            sent_ms: fields.uint("ts")?,
            thread: fields.maybe_array("thr")?.map(FrameId),
            reply_to: fields.maybe_array("re")?.map(FrameId),
        };
        let frame = Frame {
            salt: fields.maybe_array("n")?,
            payload: fields.bytes("p")?.to_vec(),
            header,
            more: Vec::new(),
        };
        if frame.is_encrypted() != (frame.header.epoch > 0) {
            return Err(FrameError::Ambiguous);
        }
        let signature = fields.array("sig")?;
        Ok(Self {
            frame: Frame {
                more: fields.rest(),
                ..frame
            },
            signature,
        })
    }

    /// The frame, once its sender's key is known and its signature fits. Example: [`SignedFrame`].
    ///
    /// # Errors
    /// [`FrameError::Signature`].
    pub fn verify(&self, sender: &SignPublic) -> Result<&Frame, FrameError> {
        let fits = sender.endpoint() == self.frame.header.from
            && sender
                .0
                .verify_bytes(&self.frame.signed_bytes(), &self.signature);
        if fits {
            Ok(&self.frame)
        } else {
            Err(FrameError::Signature)
        }
    }

    /// What the frame claims to be, before anything of it is proven. Example: [`SignedFrame`].
    #[must_use]
    pub fn claims(&self) -> &Header {
        &self.frame.header
    }

    /// The frame before anything of it is proven: for tools that only look at frames.
    /// Example: [`SignedFrame`].
    #[must_use]
    pub fn unverified(&self) -> &Frame {
        &self.frame
    }

    /// Its encoding: the bytes that it was read from. Example: [`SignedFrame`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut map = self.frame.fields(true);
        map.put("sig", Value::Bytes(&self.signature));
        map.encode()
    }
}

/// The fields of a frame as they are taken out of its map.
struct Fields<'a>(Map<'a>);

impl<'a> Fields<'a> {
    fn uint(&mut self, key: &'static str) -> Result<u64, FrameError> {
        match self.0.take(key).ok_or(FrameError::Missing(key))? {
            Value::Uint(number) => Ok(number),
            _ => Err(FrameError::Malformed(key)),
        }
    }

    fn bytes(&mut self, key: &'static str) -> Result<&'a [u8], FrameError> {
        match self.0.take(key).ok_or(FrameError::Missing(key))? {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(FrameError::Malformed(key)),
        }
    }

    fn array<const N: usize>(&mut self, key: &'static str) -> Result<[u8; N], FrameError> {
        let bytes = self.bytes(key)?;
        bytes.try_into().map_err(|_| FrameError::Malformed(key))
    }

    fn maybe_array<const N: usize>(
        &mut self,
        key: &'static str,
    ) -> Result<Option<[u8; N]>, FrameError> {
        match self.array(key) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(FrameError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parsed<T: FromStr>(&mut self, key: &'static str) -> Result<T, FrameError> {
        match self.0.take(key).ok_or(FrameError::Missing(key))? {
            Value::Text(text) => text.parse().map_err(|_| FrameError::Malformed(key)),
            _ => Err(FrameError::Malformed(key)),
        }
    }

    fn rest(self) -> Vec<(String, More)> {
        let owned = |value: &Value<'_>| match value {
            Value::Uint(number) => More::Uint(*number),
            Value::Bytes(bytes) => More::Bytes(bytes.to_vec()),
            Value::Text(text) => More::Text((*text).to_owned()),
        };
        let entries = self.0.entries().iter();
        entries
            .map(|(key, value)| ((*key).to_owned(), owned(value)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::Identity;

    fn me() -> Identity {
        Identity::from_secrets([1; 32], [2; 32]).unwrap()
    }

    fn header(identity: &Identity) -> Header {
        Header {
            id: FrameId::new(1_700_000_000_000, [5; 10]),
            room: "r1".parse().unwrap(),
            epoch: 2,
            from: identity.endpoint().clone(),
            kind: FrameKind::message(),
            sent_ms: 1_700_000_000_000,
            thread: None,
            reply_to: None,
        }
    }

    fn key() -> RoomKey {
        RoomKey::from_bytes([3; 32])
    }

    #[test]
    fn a_frame_is_read_verified_and_decrypted() {
        let me = me();
        let frame = header(&me).encrypted(&key(), [4; 24], b"hello");
        let bytes = frame.sign(me.signing());
        let read = SignedFrame::decode(&bytes).unwrap();
        assert_eq!(read.encode(), bytes);
        let frame = read.verify(&me.party().sign_pub).unwrap();
        assert_eq!(frame.open(&key()).unwrap().as_slice(), b"hello");
        assert_ne!(frame.payload(), b"hello");
        let other = Identity::from_secrets([9; 32], [9; 32]).unwrap();
        let refused = read.verify(&other.party().sign_pub);
        assert_eq!(refused, Err(FrameError::Signature));
        let wrong = RoomKey::from_bytes([8; 32]);
        assert_eq!(frame.open(&wrong), Err(FrameError::Decrypt(DecryptError)));
    }

    #[test]
    fn a_frame_of_a_cleartext_room_is_signed_only() {
        let me = me();
        let bytes = header(&me).plain(b"hello".to_vec()).sign(me.signing());
        let read = SignedFrame::decode(&bytes).unwrap();
        let frame = read.verify(&me.party().sign_pub).unwrap();
        assert_eq!((frame.header().epoch, frame.payload()), (0, &b"hello"[..]));
        assert_eq!(frame.open(&key()), Err(FrameError::Ambiguous));
    }

    /// Every field is bound by encryption as well as by the signature: a member who signs another's
    /// ciphertext as its own gets nowhere.
    #[test]
    fn every_other_field_is_authenticated() {
        let me = me();
        let other = Identity::from_secrets([9; 32], [9; 32]).unwrap();
        let genuine = header(&me).encrypted(&key(), [4; 24], b"hello");
        let changes: [fn(&mut Header, &Identity); 8] = [
            |h, _| h.id.0[0] ^= 1,
            |h, _| h.room = "r2".parse().unwrap(),
            |h, _| h.epoch += 1,
            |h, other| h.from = other.endpoint().clone(),
            |h, _| h.kind = FrameKind::reaction(),
            |h, _| h.sent_ms += 1,
            |h, _| h.thread = Some(h.id),
            |h, _| h.reply_to = Some(h.id),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut changed = genuine.clone();
            change(&mut changed.header, &other);
            let opened = changed.open(&key());
            assert_eq!(opened, Err(FrameError::Decrypt(DecryptError)), "{at}");
        }
    }

    #[test]
    fn optional_fields_are_absent_from_frames_without_them() {
        let me = me();
        let bytes = header(&me)
            .encrypted(&key(), [4; 24], b"x")
            .sign(me.signing());
        let map = Map::decode(&bytes).unwrap();
        let keys: Vec<&str> = map.entries().iter().map(|(key, _)| *key).collect();
        let wanted = ["n", "p", "v", "ep", "id", "ts", "ty", "sig", "from", "room"];
        assert_eq!(keys, wanted);
    }

    #[test]
    fn fields_of_a_later_client_are_signed_and_kept() {
        let me = me();
        let mut frame = header(&me).plain(b"x".to_vec());
        frame.more = vec![
            ("zz".into(), More::Uint(7)),
            ("edit".into(), More::Bytes(vec![1, 2])),
        ];
        let bytes = frame.sign(me.signing());
        let read = SignedFrame::decode(&bytes).unwrap();
        assert!(read.verify(&me.party().sign_pub).is_ok());
        assert_eq!(read.encode(), bytes);
        let mut without = read;
        without.frame.more.clear();
        let refused = without.verify(&me.party().sign_pub);
        assert_eq!(refused, Err(FrameError::Signature));
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        let me = me();
        let good = header(&me)
            .encrypted(&key(), [4; 24], b"x")
            .sign(me.signing());
        for len in 0..good.len() {
            assert!(SignedFrame::decode(&good[..len]).is_err(), "{len}");
        }
        let trailing = [&good[..], b"\0"].concat();
        let refused = SignedFrame::decode(&trailing);
        assert_eq!(refused, Err(FrameError::Cbor(CborError::Trailing(1))));
        let large = vec![0; FRAME_BYTES_MAX + 1];
        assert!(matches!(
            SignedFrame::decode(&large),
            Err(FrameError::TooLarge(_))
        ));
        let changed = |change: &dyn Fn(&mut Map<'_>)| {
            let mut map = Map::decode(&good).unwrap();
            change(&mut map);
            SignedFrame::decode(&map.encode()).unwrap_err()
        };
        for key in ["v", "id", "room", "ep", "from", "ty", "ts", "p", "sig"] {
            let without = changed(&|map| {
                map.take(key);
            });
            assert_eq!(without, FrameError::Missing(key_of(key)), "{key}");
            let replaced = changed(&|map| {
                let other = match map.take(key) {
                    Some(Value::Uint(_)) => Value::Text("x"),
                    _ => Value::Uint(1),
                };
                map.put(key_of(key), other);
            });
            assert_eq!(replaced, FrameError::Malformed(key_of(key)), "{key}");
        }
        let later = changed(&|map| {
            map.take("v");
            map.put("v", Value::Uint(2));
        });
        assert_eq!(later, FrameError::Version(2));
        let unsalted = changed(&|map| {
            map.take("n");
        });
        assert_eq!(unsalted, FrameError::Ambiguous);
    }

    fn key_of(key: &str) -> &'static str {
        const KEYS: [&str; 9] = ["v", "id", "room", "ep", "from", "ty", "ts", "p", "sig"];
        KEYS.into_iter().find(|known| *known == key).unwrap()
    }

    proptest! {
        #[test]
        fn any_frame_survives_the_journey(
            text in proptest::collection::vec(any::<u8>(), 0..2000),
            random in any::<[u8; 10]>(),
            salt in any::<[u8; 24]>(),
            sent_ms in 0..u64::from(u32::MAX) * 1000,
            thread in proptest::option::of(any::<[u8; 16]>()),
            kind in "[A-Z][A-Z0-9_]{0,31}",
        ) {
            let me = me();
            let header = Header {
                id: FrameId::new(sent_ms, random),
                sent_ms,
                thread: thread.map(FrameId),
                kind: kind.parse().unwrap(),
                ..header(&me)
            };
            let bytes = header.clone().encrypted(&key(), salt, &text).sign(me.signing());
            prop_assert!(bytes.len() <= text.len() + FRAME_OVERHEAD_MAX);
            let read = SignedFrame::decode(&bytes).unwrap();
            let frame = read.verify(&me.party().sign_pub).unwrap();
            prop_assert_eq!(frame.header(), &header);
            let opened = frame.open(&key()).unwrap();
            prop_assert_eq!(opened.as_slice(), &text[..]);
        }

        #[test]
        fn a_flipped_bit_is_never_accepted(at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let me = me();
            let mut bytes = header(&me).encrypted(&key(), [4; 24], b"text").sign(me.signing());
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let accepted = SignedFrame::decode(&bytes)
                .and_then(|read| read.verify(&me.party().sign_pub).map(drop));
            prop_assert!(accepted.is_err());
        }
    }
}
