//! Signed requests of the control plane (control-plane.md, Authentication of requests): the one
//! function that builds what is signed, the four headers, and the checks that need neither a store
//! nor a clock of their own. Shared by the node and by clients; randomness and time are arguments.

use data_encoding::{BASE64, HEXLOWER};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::nkey::{NkeyPublic, UserSeed};

/// First line of everything that is signed for a request.
pub const REQUEST_FORM: &str = "UNIBUS-REQUEST-1";
/// Carries the signer's public key, 64 hex digits.
pub const HEADER_KEY: &str = "x-unibus-key";
/// Carries Unix seconds.
pub const HEADER_TIMESTAMP: &str = "x-unibus-timestamp";
/// Carries [`NONCE_BYTES`] random bytes in base64.
pub const HEADER_NONCE: &str = "x-unibus-nonce";
/// Carries the Ed25519 signature in base64.
pub const HEADER_SIGNATURE: &str = "x-unibus-signature";
/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;
/// A timestamp counts while it is less than this far from the node's clock, in milliseconds.
pub const SKEW_MAX_MS: u64 = 30_000;
/// How far from true time the clock of a node may be, in milliseconds, for a nonce to be remembered for
/// long enough. One that is further off turns honest clients away.
pub const NODE_CLOCK_OFF_MAX_MS: u64 = SKEW_MAX_MS;
/// How long a nonce is remembered, in milliseconds: as long as any node could accept its timestamp. The
/// node that accepts it first may be ahead and the one that is asked again behind; and the leader that
/// stamps the claim may be behind, the one whose stamps let it expire ahead.
pub const NONCE_LIFE_MS: u64 = 2 * SKEW_MAX_MS + 4 * NODE_CLOCK_OFF_MAX_MS;
/// Most digits of a timestamp: far beyond any clock, far below an overflow in milliseconds.
const TIMESTAMP_DIGITS_MAX: usize = 14;

/// SHA-256 of a body.
pub type BodyHash = [u8; 32];

/// The hash of a whole body.
#[must_use]
pub fn body_hash(body: &[u8]) -> BodyHash {
    Sha256::digest(body).into()
}

/// The bytes that a request's signature covers. `uri` is path and query exactly as sent.
#[must_use]
pub fn canonical_request(
    method: &str,
    uri: &str,
    timestamp: u64,
    nonce: &str,
    body: &BodyHash,
) -> String {
    let body = HEXLOWER.encode(body);
    format!("{REQUEST_FORM}\n{method}\n{uri}\n{timestamp}\n{nonce}\n{body}")
}

/// Signs a request: the four headers and their values.
#[must_use]
pub fn sign_request(
    seed: &UserSeed,
    method: &str,
    uri: &str,
    timestamp: u64,
    nonce: &[u8; NONCE_BYTES],
    body: &BodyHash,
) -> [(&'static str, String); 4] {
    let nonce = BASE64.encode(nonce);
    let signed = canonical_request(method, uri, timestamp, &nonce, body);
    [
        (HEADER_KEY, seed.public().to_hex()),
        (HEADER_TIMESTAMP, timestamp.to_string()),
        (HEADER_SIGNATURE, seed.sign(signed.as_bytes())),
        (HEADER_NONCE, nonce),
    ]
}

/// Why a request proves nothing. The words are for the person who sent it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Error)]
pub enum ProofError {
    /// A header is not there.
    #[error("the header {0} is missing: this node asks for signed requests")]
    Missing(&'static str),
    /// A header is not what it has to be.
    #[error("the header {header} is malformed: wanted {wanted}")]
    Malformed {
        /// Which.
        header: &'static str,
        /// Its form.
        wanted: &'static str,
    },
    /// The clocks differ too much.
    #[error("the timestamp is not within 30 seconds of this node's clock: check the clock")]
    Clock,
    /// Signed by somebody else, or over something else.
    #[error("the signature does not fit this request")]
    Signature,
}

/// What a request says about who sent it; nothing of it is proven until it was checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestProof {
    /// The signer.
    pub key: NkeyPublic,
    /// Unix seconds.
    pub timestamp: u64,
    nonce: String,
    nonce_bytes: [u8; NONCE_BYTES],
    signature: String,
}

impl RequestProof {
    /// Reads the four headers. `header` answers with the value of a header (lower-case name), or
    /// with `None` where there is none or more than one.
    ///
    /// # Errors
    /// [`ProofError::Missing`] and [`ProofError::Malformed`].
    pub fn read<'a>(header: impl Fn(&'static str) -> Option<&'a str>) -> Result<Self, ProofError> {
        let get = |name| header(name).ok_or(ProofError::Missing(name));
        let (key, timestamp) = (get(HEADER_KEY)?, get(HEADER_TIMESTAMP)?);
        let (nonce, signature) = (get(HEADER_NONCE)?, get(HEADER_SIGNATURE)?);
        let malformed = |header, wanted| ProofError::Malformed { header, wanted };
        let key = NkeyPublic::parse(key)
            .map_err(|_| malformed(HEADER_KEY, "an Ed25519 public key in 64 hex digits"))?;
        let seconds = "Unix seconds in decimal digits";
        let timestamp =
            read_timestamp(timestamp).ok_or_else(|| malformed(HEADER_TIMESTAMP, seconds))?;
        let nonce_bytes = BASE64
            .decode(nonce.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| malformed(HEADER_NONCE, "16 random bytes in base64"))?;
        // 64 bytes in base64, with or without padding.
        if !(86..=88).contains(&signature.len()) {
            return Err(malformed(
                HEADER_SIGNATURE,
                "an Ed25519 signature in base64",
            ));
        }
        Ok(Self {
            key,
            timestamp,
            nonce: nonce.to_owned(),
            nonce_bytes,
            signature: signature.to_owned(),
        })
    }

    /// Whether the timestamp is near enough to `now_ms` (Unix milliseconds).
    ///
    /// # Errors
    /// [`ProofError::Clock`].
    pub fn check_clock(&self, now_ms: u64) -> Result<(), ProofError> {
        let sent_ms = self.timestamp.saturating_mul(1000);
        if sent_ms.abs_diff(now_ms) < SKEW_MAX_MS {
            Ok(())
        } else {
            Err(ProofError::Clock)
        }
    }

    /// Whether the key's owner signed this request.
    ///
    /// # Errors
    /// [`ProofError::Signature`].
    pub fn check_signature(
        &self,
        method: &str,
        uri: &str,
        body: &BodyHash,
    ) -> Result<(), ProofError> {
        let signed = canonical_request(method, uri, self.timestamp, &self.nonce, body);
        if self.key.verify(signed.as_bytes(), &self.signature) {
            Ok(())
        } else {
            Err(ProofError::Signature)
        }
    }

    /// The key under which the nonce is claimed: the hex SHA-256 of its bytes.
    #[must_use]
    pub fn nonce_key(&self) -> String {
        HEXLOWER.encode(&Sha256::digest(self.nonce_bytes))
    }
}

/// Digits only: signs, blanks and leading zeros would be other spellings of one number.
fn read_timestamp(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && text.len() <= TIMESTAMP_DIGITS_MAX && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn seed() -> UserSeed {
        UserSeed::from_bytes([7; 32])
    }

    fn headers(uri: &str, body: &[u8]) -> HashMap<&'static str, String> {
        sign_request(&seed(), "POST", uri, NOW, &[9; 16], &body_hash(body)).into()
    }

    fn read(headers: &HashMap<&'static str, String>) -> Result<RequestProof, ProofError> {
        RequestProof::read(|name| headers.get(name).map(String::as_str))
    }

    #[test]
    fn the_signed_text_is_golden() {
        let text = canonical_request("GET", "/a?b=c", 5, "bm9uY2U=", &body_hash(b""));
        assert_eq!(
            text,
            "UNIBUS-REQUEST-1\nGET\n/a?b=c\n5\nbm9uY2U=\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }

    #[test]
    fn a_signed_request_proves_itself_and_nothing_else() {
        let headers = headers("/rooms?x=1", b"body");
        let proof = read(&headers).unwrap();
        assert_eq!(proof.key, seed().public());
        assert_eq!(proof.nonce_key().len(), 64);
        let body = body_hash(b"body");
        assert!(proof.check_signature("POST", "/rooms?x=1", &body).is_ok());
        for (method, uri, body) in [
            ("PUT", "/rooms?x=1", body),
            ("POST", "/rooms?x=2", body),
            ("POST", "/room?x=1", body),
            ("POST", "/rooms?x=1", body_hash(b"bode")),
        ] {
            let refused = proof.check_signature(method, uri, &body);
            assert_eq!(refused, Err(ProofError::Signature), "{method} {uri}");
        }
        for changed in [HEADER_KEY, HEADER_TIMESTAMP, HEADER_NONCE] {
            let mut headers = headers.clone();
            let other = UserSeed::from_bytes([8; 32]);
            let other = sign_request(&other, "POST", "/", NOW + 1, &[8; 16], &body);
            let value = other.into_iter().find(|(name, _)| *name == changed);
            headers.extend(value);
            let proof = read(&headers).unwrap();
            assert!(
                proof.check_signature("POST", "/rooms?x=1", &body).is_err(),
                "{changed}"
            );
        }
    }

    #[test]
    fn the_clock_window_is_open_on_neither_side() {
        let proof = read(&headers("/", b"")).unwrap();
        let sent_ms = NOW * 1000;
        for near in [sent_ms, sent_ms - 29_999, sent_ms + 29_999] {
            assert!(proof.check_clock(near).is_ok(), "{near}");
        }
        for far in [sent_ms - 30_000, sent_ms + 30_000, 0, u64::MAX] {
            assert_eq!(proof.check_clock(far), Err(ProofError::Clock), "{far}");
        }
    }

    #[test]
    fn a_nonce_is_remembered_while_any_node_accepts_its_timestamp() {
        let proof = read(&headers("/", b"")).unwrap();
        let off = i64::try_from(NODE_CLOCK_OFF_MAX_MS).unwrap();
        let clocks = || [-off, 0, off].into_iter();
        // True times at which a node whose clock is off by so much accepts the request.
        let accepted = |clock: i64| {
            let sent = i64::try_from(NOW * 1000).unwrap();
            let is_accepted = |at: &i64| proof.check_clock((at + clock).cast_unsigned()).is_ok();
            let times = sent - clock - 31_000..sent - clock + 31_000;
            let first = times.clone().find(is_accepted).unwrap();
            (first, times.rev().find(is_accepted).unwrap())
        };
        for (first, again) in clocks().flat_map(|a| clocks().map(move |b| (a, b))) {
            let (claimed, repeated) = (accepted(first).0, accepted(again).1);
            for (stamping, later) in clocks().flat_map(|a| clocks().map(move |b| (a, b))) {
                let age = (repeated + later) - (claimed + stamping);
                assert!(age < i64::try_from(NONCE_LIFE_MS).unwrap(), "{age} ms");
            }
        }
    }

    #[test]
    fn missing_and_malformed_headers_are_told_apart() {
        let good = headers("/", b"");
        for name in [HEADER_KEY, HEADER_TIMESTAMP, HEADER_NONCE, HEADER_SIGNATURE] {
            let mut without = good.clone();
            without.remove(name);
            assert_eq!(read(&without), Err(ProofError::Missing(name)));
            for bad in ["", "x", "-1", "00", "AAAA", "ÄÄ"] {
                let mut with = good.clone();
                with.insert(name, bad.to_owned());
                let outcome = read(&with);
                assert!(
                    matches!(outcome, Err(ProofError::Malformed { header, .. }) if header == name),
                    "{name}: {bad:?} gave {outcome:?}"
                );
            }
        }
    }
}
