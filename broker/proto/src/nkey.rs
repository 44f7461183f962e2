//! User nkeys: Ed25519 keys in the text form NATS gives them, and the nonce challenge (§1.12).
//!
//! Owns parsing, printing and verification. Randomness comes from the caller. A seed is never
//! printed by `Debug` and is wiped when dropped.
//!
//! Text form (nkeys library): base32 without padding of a prefix, the key and a CRC-16/XMODEM, low
//! byte first. `U` is a user's public key; `SU` a user's seed, with both prefixes folded into two
//! bytes.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, BASE64_NOPAD, BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

const KEY_LEN: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_LEN: usize = 64;
const HEX_LEN: usize = 2 * KEY_LEN;
const CRC_LEN: usize = 2;

/// `U` as the first base32 letter.
const PREFIX_USER: u8 = 20 << 3;
/// `S` as the first base32 letter.
const PREFIX_SEED: u8 = 18 << 3;
/// A seed's own prefix and its kind, folded so that the text starts with `SU`.
const SEED_HEAD: [u8; 2] = [
    PREFIX_SEED | (PREFIX_USER >> 5),
    (PREFIX_USER & 0b11111) << 3,
];

/// Why a text is no user key.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Error)]
pub enum NkeyError {
    /// Neither the nkey form nor 64 hex digits.
    #[error("not an nkey: expected U… (56 letters) or 64 hex digits")]
    Form,
    /// The checksum disagrees: a typing error.
    #[error("nkey checksum mismatch")]
    Checksum,
    /// An nkey of another kind, such as an account's or a seed.
    #[error("not a user's nkey")]
    Kind,
    /// No usable point of the curve.
    #[error("not an Ed25519 public key")]
    Point,
}

/// A user's public key: a usable point of the curve, so that verifying against it can succeed.
#[derive(Copy, Clone, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NkeyPublic([u8; KEY_LEN]);

impl NkeyPublic {
    /// Checks that `bytes` is a point of the curve and not of small order.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Result<Self, NkeyError> {
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| NkeyError::Point)?;
        if key.is_weak() {
            return Err(NkeyError::Point);
        }
        Ok(Self(bytes))
    }

    /// Reads `U…` or 64 hex digits of either case.
    pub fn parse(text: &str) -> Result<Self, NkeyError> {
        if text.len() == HEX_LEN {
            let bytes = HEXLOWER_PERMISSIVE
                .decode(text.as_bytes())
                .map_err(|_| NkeyError::Form)?;
            return Self::from_bytes(bytes.try_into().map_err(|_| NkeyError::Form)?);
        }
        let body = unseal(text)?;
        match body.split_first() {
            Some((&PREFIX_USER, key)) => {
                Self::from_bytes(key.try_into().map_err(|_| NkeyError::Form)?)
            }
            Some(_) => Err(NkeyError::Kind),
            None => Err(NkeyError::Form),
        }
    }

    /// The key itself.
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// `U…`, 56 letters: how NATS shows it and CONNECT carries it.
    pub fn to_nkey(&self) -> String {
        seal(&[PREFIX_USER], &self.0)
    }

    /// 64 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Whether `signature` is this key's over `nonce`: base64url without padding as the clients
    /// send it, or standard base64. Strict: small-order points and malleable signatures are refused
    /// (RFC 8032 §5.1.7).
    pub fn verify(&self, nonce: &[u8], signature: &str) -> bool {
        decode_signature(signature).is_some_and(|signature| self.accepts(nonce, &signature))
    }

    /// The same for a signature as its 64 bytes.
    pub fn verify_bytes(&self, message: &[u8], signature: &[u8; SIGNATURE_LEN]) -> bool {
        self.accepts(message, &Signature::from_bytes(signature))
    }

    fn accepts(&self, message: &[u8], signature: &Signature) -> bool {
        VerifyingKey::from_bytes(&self.0)
            .is_ok_and(|key| key.verify_strict(message, signature).is_ok())
    }
}

/// Same as [`NkeyPublic::verify`].
pub fn verify(key: &NkeyPublic, nonce: &[u8], signature: &str) -> bool {
    key.verify(nonce, signature)
}

impl fmt::Display for NkeyPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_nkey())
    }
}

impl fmt::Debug for NkeyPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_nkey())
    }
}

impl FromStr for NkeyPublic {
    type Err = NkeyError;

    fn from_str(text: &str) -> Result<Self, NkeyError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for NkeyPublic {
    type Error = NkeyError;

    fn try_from(text: String) -> Result<Self, NkeyError> {
        Self::parse(&text)
    }
}

impl From<NkeyPublic> for String {
    fn from(key: NkeyPublic) -> Self {
        key.to_nkey()
    }
}

/// Longest nonce that is answered; servers' are 15 characters.
pub const NONCE_LEN_MAX: usize = 64;

/// A server asks for a signature of what is no nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the server wants {0} bytes signed that are no nonce (at most {NONCE_LEN_MAX} characters of base64url): \
     it may be another one than you take it for, after your signature of something else. Nothing was signed."
)]
pub struct StrangeNonce(usize);

/// A user's secret key.
pub struct UserSeed(SigningKey);

impl UserSeed {
    /// A seed from 32 random bytes.
    pub fn from_bytes(random: [u8; KEY_LEN]) -> Self {
        Self(SigningKey::from_bytes(&random))
    }

    /// Reads `SU…`.
    pub fn parse(text: &str) -> Result<Self, NkeyError> {
        let body = unseal(text)?;
        let (head, key) = body
            .split_at_checked(SEED_HEAD.len())
            .ok_or(NkeyError::Form)?;
        if head != SEED_HEAD {
            return Err(NkeyError::Kind);
        }
        Ok(Self::from_bytes(
            key.try_into().map_err(|_| NkeyError::Form)?,
        ))
    }

    /// `SU…`, 58 letters. Secret.
    pub fn to_nkey(&self) -> String {
        seal(&SEED_HEAD, self.0.as_bytes())
    }

    /// The public half.
    pub fn public(&self) -> NkeyPublic {
        NkeyPublic(self.0.verifying_key().to_bytes())
    }

    /// Proves the key to a server, which chose the nonce: the 64 bytes of the signature. The same key signs
    /// requests to the control plane and statements about rooms, so a nonce that could be one of those is
    /// not signed: only what servers make, up to [`NONCE_LEN_MAX`] characters of base64url.
    ///
    /// # Errors
    /// [`StrangeNonce`]: whoever sent it wants something else signed than a login.
    pub fn answer_nonce(&self, nonce: &[u8]) -> Result<[u8; SIGNATURE_LEN], StrangeNonce> {
        let is_plain =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=');
        if nonce.len() > NONCE_LEN_MAX || !nonce.iter().all(is_plain) {
            return Err(StrangeNonce(nonce.len()));
        }
        Ok(self.sign_bytes(nonce))
    }

    /// Signs a nonce, in the form CONNECT's `sig` has: base64url without padding.
    pub fn sign(&self, nonce: &[u8]) -> String {
        BASE64URL_NOPAD.encode(&self.sign_bytes(nonce))
    }

    /// Signs a message: the 64 bytes of the signature (RFC 8032 §5.1.6).
    pub fn sign_bytes(&self, message: &[u8]) -> [u8; SIGNATURE_LEN] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for UserSeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserSeed(of {})", self.public())
    }
}

impl FromStr for UserSeed {
    type Err = NkeyError;

    fn from_str(text: &str) -> Result<Self, NkeyError> {
        Self::parse(text)
    }
}

fn decode_signature(text: &str) -> Option<Signature> {
    let text = text.trim_end_matches('=').as_bytes();
    let bytes = BASE64URL_NOPAD
        .decode(text)
        .or_else(|_| BASE64_NOPAD.decode(text))
        .ok()?;
    Some(Signature::from_bytes(&bytes.try_into().ok()?))
}

fn seal(head: &[u8], key: &[u8; KEY_LEN]) -> String {
    let mut bytes = Vec::with_capacity(head.len() + KEY_LEN + CRC_LEN);
    bytes.extend_from_slice(head);
    bytes.extend_from_slice(key);
    let crc = crc16(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    BASE32_NOPAD.encode(&bytes)
}

/// Prefixes and key of a text whose checksum is right.
fn unseal(text: &str) -> Result<Vec<u8>, NkeyError> {
    let mut bytes = BASE32_NOPAD
        .decode(text.as_bytes())
        .map_err(|_| NkeyError::Form)?;
    let body_len = bytes.len().checked_sub(CRC_LEN).ok_or(NkeyError::Form)?;
    let crc = crc16(&bytes[..body_len]).to_le_bytes();
    if bytes[body_len..] != crc {
        return Err(NkeyError::Checksum);
    }
    bytes.truncate(body_len);
    Ok(bytes)
}

/// CRC-16/XMODEM: polynomial 0x1021, starting at 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0_u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A key pair printed in the NATS documentation.
    const SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    const PUBLIC: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";

    #[test]
    fn the_documented_pair_belongs_together() {
        let seed = UserSeed::parse(SEED).unwrap();
        assert_eq!(seed.to_nkey(), SEED);
        assert_eq!(seed.public().to_nkey(), PUBLIC);
        assert_eq!(NkeyPublic::parse(PUBLIC).unwrap(), seed.public());
    }

    #[test]
    fn crc16_has_the_published_check_value() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
    }

    #[test]
    fn hex_of_either_case_is_the_same_key() {
        let key = NkeyPublic::parse(PUBLIC).unwrap();
        let hex = key.to_hex();
        assert_eq!(hex.len(), 64);
        assert_eq!(hex, hex.to_lowercase());
        assert_eq!(NkeyPublic::parse(&hex).unwrap(), key);
        assert_eq!(NkeyPublic::parse(&hex.to_uppercase()).unwrap(), key);
    }

    #[test]
    fn what_is_no_user_key_is_refused_with_the_reason() {
        let last_changed = format!("{}5", &PUBLIC[..55]);
        assert_eq!(NkeyPublic::parse(&last_changed), Err(NkeyError::Checksum));
        assert_eq!(NkeyPublic::parse(SEED), Err(NkeyError::Kind));
        assert_eq!(NkeyPublic::parse(""), Err(NkeyError::Form));
        assert_eq!(NkeyPublic::parse("user"), Err(NkeyError::Form));
        assert_eq!(
            NkeyPublic::parse(&PUBLIC.to_lowercase()),
            Err(NkeyError::Form)
        );
        assert_eq!(NkeyPublic::parse(&"g".repeat(64)), Err(NkeyError::Form));
        let account = seal(&[0], NkeyPublic::parse(PUBLIC).unwrap().as_bytes());
        assert!(account.starts_with('A'));
        assert_eq!(NkeyPublic::parse(&account), Err(NkeyError::Kind));
        assert_eq!(UserSeed::parse(PUBLIC).unwrap_err(), NkeyError::Kind);
        assert_eq!(UserSeed::parse("SUA").unwrap_err(), NkeyError::Form);
    }

    #[test]
    fn points_of_small_order_are_no_keys() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(NkeyPublic::from_bytes(identity), Err(NkeyError::Point));
        assert_eq!(NkeyPublic::parse(&"0".repeat(64)), Err(NkeyError::Point));
    }

    #[test]
    fn a_nonce_is_verified_in_every_base64_that_clients_use() {
        let seed = UserSeed::parse(SEED).unwrap();
        let key = seed.public();
        let url = seed.sign(b"nonce-of-15-chr");
        let raw = BASE64URL_NOPAD.decode(url.as_bytes()).unwrap();
        let standard = data_encoding::BASE64.encode(&raw);
        let padded = data_encoding::BASE64URL.encode(&raw);
        for signature in [&url, &standard, &padded] {
            assert!(key.verify(b"nonce-of-15-chr", signature), "{signature}");
            assert!(!key.verify(b"another-nonce--", signature));
        }
    }

    #[test]
    fn a_wrong_signature_does_not_verify() {
        let seed = UserSeed::parse(SEED).unwrap();
        let stranger = UserSeed::from_bytes([7; 32]);
        let signature = seed.sign(b"n");
        assert!(!stranger.public().verify(b"n", &signature));
        for text in [
            "",
            "=",
            "AAAA",
            "****",
            &signature[..85],
            &format!("{signature}A"),
        ] {
            assert!(!seed.public().verify(b"n", text), "{text}");
        }
    }

    #[test]
    fn a_signature_with_s_beyond_the_group_order_does_not_verify() {
        // The order of the base point (RFC 8032 §5.1), little-endian: S + L signs the same for a
        // lax verifier.
        let order = HEXLOWER
            .decode(b"edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
            .unwrap();
        let seed = UserSeed::parse(SEED).unwrap();
        let mut raw = BASE64URL_NOPAD.decode(seed.sign(b"n").as_bytes()).unwrap();
        let mut carry = 0_u16;
        for (byte, add) in raw[32..].iter_mut().zip(&order) {
            carry += u16::from(*byte) + u16::from(*add);
            *byte = carry as u8;
            carry >>= 8;
        }
        assert!(!seed.public().verify(b"n", &BASE64URL_NOPAD.encode(&raw)));
    }

    #[test]
    fn only_nonces_are_signed_for_a_server() {
        let seed = UserSeed::parse(SEED).unwrap();
        for nonce in ["", "Tk9OQ0U-_abc123", &"n".repeat(64), "cGFkZGVk=="] {
            assert_eq!(
                seed.answer_nonce(nonce.as_bytes()),
                Ok(seed.sign_bytes(nonce.as_bytes())),
            );
        }
        let request = "UNIBUS-REQUEST-1\nPOST\n/users\n";
        for strange in [request, "a b", "a\nb", &"n".repeat(65), "\u{e9}"] {
            assert!(seed.answer_nonce(strange.as_bytes()).is_err(), "{strange}");
        }
    }

    #[test]
    fn a_seed_is_not_shown() {
        let shown = format!("{:?}", UserSeed::parse(SEED).unwrap());
        assert!(
            !shown.contains("SUACS") && shown.contains(PUBLIC),
            "{shown}"
        );
    }

    #[test]
    fn a_public_key_is_a_string_in_json() {
        let key = NkeyPublic::parse(PUBLIC).unwrap();
        let json = serde_json::to_string(&key).unwrap();
        assert_eq!(json, format!("\"{PUBLIC}\""));
        assert_eq!(serde_json::from_str::<NkeyPublic>(&json).unwrap(), key);
        assert!(serde_json::from_str::<NkeyPublic>("\"UXYZ\"").is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn any_seed_survives_its_text_forms(random in any::<[u8; 32]>(), nonce in any::<[u8; 15]>()) {
            let seed = UserSeed::from_bytes(random);
            let again = UserSeed::parse(&seed.to_nkey()).unwrap();
            prop_assert!(seed.to_nkey().starts_with("SU"));
            prop_assert!(seed.public().to_nkey().starts_with('U'));
            prop_assert_eq!(NkeyPublic::parse(&seed.public().to_nkey()).unwrap(), seed.public());
            prop_assert!(seed.public().verify(&nonce, &again.sign(&nonce)));
        }
    }
}
