//! Flat CBOR maps in the one encoding that RFC 8949 §4.2 allows: text keys in the order of their
//! encodings, values that are unsigned integers, byte strings or text strings. Reads nothing else.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use thiserror::Error;

/// Longest key, in bytes: its head is one byte, so that shorter keys sort first.
const KEY_BYTES_MAX: usize = 16;
/// Entries of one map at most.
const ENTRIES_MAX: u64 = 64;

/// Why bytes are no map of ours.
///
/// ```
/// use unibus_client::rooms::CborError;
/// use unibus_client::rooms::frame::{FrameError, SignedFrame};
/// // An empty map, and a byte behind it.
/// let garbled = SignedFrame::decode(&[0xa0, 0x00]);
/// assert_eq!(garbled, Err(FrameError::Cbor(CborError::Trailing(1))));
/// ```
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum CborError {
    /// They end too early.
    #[error("the bytes end in the middle of the map")]
    Truncated,
    /// Something follows the map.
    #[error("{0} bytes follow the map")]
    Trailing(usize),
    /// They are no map of text keys to numbers, byte strings and texts.
    #[error("not a map of text keys to numbers, byte strings and texts")]
    Form,
    /// A key stands twice.
    #[error("the key {0:?} stands twice")]
    Duplicate(String),
    /// The same map has another, the only right encoding (RFC 8949 §4.2).
    #[error("the encoding is not the deterministic one")]
    NotDeterministic,
}

/// What a key of a map stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Value<'a> {
    Uint(u64),
    Bytes(&'a [u8]),
    Text(&'a str),
}

/// Entries by key. The order is that of the encoding.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Map<'a> {
    entries: Vec<(&'a str, Value<'a>)>,
}

impl<'a> Map<'a> {
    /// Adds an entry. A key is at most 16 bytes and stands once.
    pub(crate) fn put(&mut self, key: &'a str, value: Value<'a>) {
        debug_assert!(key.len() <= KEY_BYTES_MAX);
        let at = self
            .entries
            .partition_point(|(other, _)| before(other, key));
        self.entries.insert(at, (key, value));
    }

    pub(crate) fn entries(&self) -> &[(&'a str, Value<'a>)] {
        &self.entries
    }

    /// Takes an entry out.
    pub(crate) fn take(&mut self, key: &str) -> Option<Value<'a>> {
        let at = self.entries.iter().position(|(other, _)| *other == key)?;
        Some(self.entries.remove(at).1)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new(Vec::with_capacity(256));
        // A `Vec` takes everything: writing to one can't fail.
        let _infallible = self.write(&mut out);
        out.into_writer()
    }

    fn write(
        &self,
        out: &mut Encoder<Vec<u8>>,
    ) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        out.map(self.entries.len() as u64)?;
        for (key, value) in &self.entries {
            out.str(key)?;
            match value {
                Value::Uint(number) => out.u64(*number)?,
                Value::Bytes(bytes) => out.bytes(bytes)?,
                Value::Text(text) => out.str(text)?,
            };
        }
        Ok(())
    }

    /// Reads a map that fills `bytes`.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, CborError> {
        let mut input = Decoder::new(bytes);
        let map = Self::read(&mut input)?;
        let rest = bytes.len() - input.position();
        if rest > 0 {
            return Err(CborError::Trailing(rest));
        }
        // Heads that are longer than they need be read the same and are written shorter.
        if map.encode() == bytes {
            Ok(map)
        } else {
            Err(CborError::NotDeterministic)
        }
    }

    fn read(input: &mut Decoder<'a>) -> Result<Self, CborError> {
        let Some(len) = input.map().map_err(|error| cause(&error))? else {
            return Err(CborError::NotDeterministic);
        };
        if len > ENTRIES_MAX {
            return Err(CborError::Form);
        }
        let mut entries: Vec<(&'a str, Value<'a>)> = Vec::new();
        for _ in 0..len {
            let key = input.str().map_err(|error| cause(&error))?;
            if key.len() > KEY_BYTES_MAX {
                return Err(CborError::Form);
            }
            if entries.iter().any(|(other, _)| *other == key) {
                return Err(CborError::Duplicate(key.to_owned()));
            }
            if entries.last().is_some_and(|(last, _)| !before(last, key)) {
                return Err(CborError::NotDeterministic);
            }
            entries.push((key, value(input).map_err(|error| cause(&error))?));
        }
        Ok(Self { entries })
    }
}

/// Whether `a` sorts before `b`: by the bytes of their encodings, whose first is their length.
fn before(a: &str, b: &str) -> bool {
    (a.len(), a) < (b.len(), b)
}

fn value<'a>(input: &mut Decoder<'a>) -> Result<Value<'a>, minicbor::decode::Error> {
    match input.datatype()? {
        Type::Bytes => input.bytes().map(Value::Bytes),
        Type::String => input.str().map(Value::Text),
        _ => input.u64().map(Value::Uint),
    }
}

fn cause(error: &minicbor::decode::Error) -> CborError {
    if error.is_end_of_input() {
        CborError::Truncated
    } else {
        CborError::Form
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_map_has_one_encoding() {
        let mut map = Map::default();
        map.put("room", Value::Text("r"));
        map.put("v", Value::Uint(1));
        map.put("id", Value::Bytes(&[7, 8]));
        // RFC 8949 §4.2.1: keys by their encoded bytes.
        let wanted = b"\xa3\x61v\x01\x62id\x42\x07\x08\x64room\x61r";
        assert_eq!(map.encode(), wanted);
        assert_eq!(Map::decode(wanted), Ok(map));
    }

    #[test]
    fn every_other_encoding_is_an_error() {
        let cases: [(&[u8], CborError); 14] = [
            (b"", CborError::Truncated),
            (b"\xa1", CborError::Truncated),
            (b"\xa1\x61v", CborError::Truncated),
            (b"\xa1\x61v\x01\x00", CborError::Trailing(1)),
            (b"\xa2\x61v\x01\x61v\x01", CborError::Duplicate("v".into())),
            (b"\xa2\x61v\x01\x61p\x01", CborError::NotDeterministic),
            (b"\xa2\x62id\x01\x61v\x01", CborError::NotDeterministic),
            (b"\xa1\x61v\x18\x01", CborError::NotDeterministic),
            (b"\xa1\x78\x01v\x01", CborError::NotDeterministic),
            (b"\xbf\x61v\x01\xff", CborError::NotDeterministic),
            (b"\xa1\x61v\x5f\x41a\xff", CborError::Form),
            (b"\xa1\x61v\x20", CborError::Form),
            (b"\xa1\x61v\xf5", CborError::Form),
            (b"\x81\x01", CborError::Form),
        ];
        for (bytes, wanted) in cases {
            assert_eq!(Map::decode(bytes), Err(wanted), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(map) = Map::decode(&bytes) {
                prop_assert_eq!(map.encode(), bytes);
            }
        }
    }
}
