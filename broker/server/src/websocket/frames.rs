//! WebSocket frames from a client, unwrapped in place (RFC 6455 §5).
//!
//! Owns the state between two reads: a partial header, where in a payload the stream is, and a control
//! frame's payload. Data is never collected: bytes go on as they come, so a frame of any length costs
//! nothing. Must never do I/O.

use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

/// Longest header: two bytes, a length of eight and a mask of four.
const HEADER_BYTES_MAX: usize = 14;

/// Longest payload of a control frame (RFC 6455 §5.5).
pub(crate) const CONTROL_BYTES_MAX: usize = 125;

/// Why a client's frames end the connection: all of them are protocol errors (close code 1002).
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a client's frame has no mask")]
    Unmasked,
    #[error("a reserved bit is set and no extension was agreed upon")]
    Reserved,
    #[error("the opcode is unknown")]
    Opcode,
    #[error("a control frame is fragmented or longer than 125 bytes")]
    Control,
    #[error("a continuation without a beginning, or a beginning within a message")]
    Order,
    #[error("the length has its top bit set")]
    Length,
}

/// What a control frame asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Asked {
    Pong,
    Close,
}

/// What [`FrameReader::unwrap`] found.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Unwrapped {
    /// Bytes of data, now at the start of the slice.
    pub(crate) data: usize,
    /// A ping or close came; its payload is [`FrameReader::asked`]. A close ends the stream, and of
    /// several pings only the last has to be answered (RFC 6455 §5.5.3).
    pub(crate) asked: Option<Asked>,
}

/// The reading side of one connection.
#[derive(Debug)]
pub(crate) struct FrameReader {
    masked: bool,
    header: [u8; HEADER_BYTES_MAX],
    header_len: usize,
    /// Inside a payload.
    body: Option<Body>,
    /// A message goes on in the next data frame.
    fragmented: bool,
    /// The control frame that is being read.
    control: Payload,
    /// The last complete ping or close.
    asked: Payload,
}

/// A control frame's payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Payload {
    bytes: [u8; CONTROL_BYTES_MAX],
    len: usize,
}

impl Payload {
    const EMPTY: Self = Self {
        bytes: [0; CONTROL_BYTES_MAX],
        len: 0,
    };

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The caller has checked that there is room.
    fn extend(&mut self, bytes: &[u8]) {
        let to = self.len + bytes.len();
        self.bytes[self.len..to].copy_from_slice(bytes);
        self.len = to;
    }
}

#[derive(Debug)]
struct Body {
    left: u64,
    mask: Option<[u8; 4]>,
    control: Option<Control>,
}

impl FrameReader {
    /// `masked` = a frame without a mask is an error.
    pub(crate) const fn new(masked: bool) -> Self {
        Self {
            masked,
            header: [0; HEADER_BYTES_MAX],
            header_len: 0,
            body: None,
            fragmented: false,
            control: Payload::EMPTY,
            asked: Payload::EMPTY,
        }
    }

    /// The payload of the last complete ping or close.
    pub(crate) const fn asked(&self) -> &Payload {
        &self.asked
    }

    /// Replaces the wire's bytes in `bytes` by the data within. Nothing after a close is looked at.
    ///
    /// # Errors
    /// [`FrameError`]: the connection has to end.
    pub(crate) fn unwrap(&mut self, bytes: &mut [u8]) -> Result<Unwrapped, FrameError> {
        let mut found = Unwrapped::default();
        let mut at = 0;
        loop {
            let Some(body) = &mut self.body else {
                if at == bytes.len() {
                    return Ok(found);
                }
                at += self.read_header(&bytes[at..])?;
                continue;
            };
            let here = usize::try_from(body.left).unwrap_or(usize::MAX);
            let end = at + here.min(bytes.len() - at);
            if let Some(mask) = &mut body.mask {
                unmask(&mut bytes[at..end], mask);
            }
            match body.control {
                None => {
                    bytes.copy_within(at..end, found.data);
                    found.data += end - at;
                }
                Some(_) => self.control.extend(&bytes[at..end]),
            }
            body.left -= (end - at) as u64;
            at = end;
            if body.left > 0 {
                return Ok(found);
            }
            match body.control {
                Some(Control::Ping) => {
                    self.asked = self.control;
                    found.asked = Some(Asked::Pong);
                }
                Some(Control::Close) => {
                    self.asked = self.control;
                    found.asked = Some(Asked::Close);
                    return Ok(found);
                }
                _ => {}
            }
            self.body = None;
        }
    }

    /// Takes bytes of a header. Returns how many.
    fn read_header(&mut self, bytes: &[u8]) -> Result<usize, FrameError> {
        let before = self.header_len;
        let more = bytes.len().min(HEADER_BYTES_MAX - before);
        self.header[before..before + more].copy_from_slice(&bytes[..more]);
        let mut cursor = Cursor::new(&self.header[..before + more]);
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| FrameError::Opcode)?;
        let Some((header, length)) = parsed else {
            self.header_len += more;
            return Ok(more);
        };
        let used = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        self.header_len = 0;
        self.begin(&header, length)?;
        Ok(used.saturating_sub(before))
    }

    fn begin(&mut self, header: &FrameHeader, length: u64) -> Result<(), FrameError> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(FrameError::Reserved);
        }
        if self.masked && header.mask.is_none() {
            return Err(FrameError::Unmasked);
        }
        if length >> 63 != 0 {
            return Err(FrameError::Length);
        }
        let control = match header.opcode {
            OpCode::Control(control) => {
                if !header.is_final || length > CONTROL_BYTES_MAX as u64 {
                    return Err(FrameError::Control);
                }
                self.control.len = 0;
                Some(control)
            }
            OpCode::Data(data) => {
                if (data == Data::Continue) != self.fragmented {
                    return Err(FrameError::Order);
                }
                self.fragmented = !header.is_final;
                None
            }
        };
        self.body = Some(Body {
            left: length,
            mask: header.mask,
            control,
        });
        Ok(())
    }
}

/// Removes the mask, and turns it to fit the byte after the last.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let wide = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        chunk.copy_from_slice(&(u64::from_ne_bytes(word) ^ wide).to_ne_bytes());
    }
    let rest = chunks.into_remainder();
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    mask.rotate_left(rest.len() % 4);
}

#[cfg(test)]
mod tests {
    use super::{Asked, FrameError, FrameReader, Unwrapped};

    const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len @ 126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend((len as u16).to_be_bytes());
            }
            len => {
                frame.push(0x80 | 127);
                frame.extend((len as u64).to_be_bytes());
            }
        }
        frame.extend(MASK);
        frame.extend(payload.iter().enumerate().map(|(i, b)| b ^ MASK[i % 4]));
        frame
    }

    fn read(reader: &mut FrameReader, wire: &[u8]) -> Result<(Vec<u8>, Option<Asked>), FrameError> {
        let mut bytes = wire.to_vec();
        let Unwrapped { data, asked } = reader.unwrap(&mut bytes)?;
        bytes.truncate(data);
        Ok((bytes, asked))
    }

    #[test]
    fn data_is_the_same_however_it_is_cut() {
        let long = vec![b'x'; 70_000];
        let middle = vec![b'y'; 300];
        let wire = [
            frame(0x82, b"PUB a 1\r"),
            frame(0x81, b"\nz\r\n"),
            frame(0x02, &middle),
            frame(0x89, b"still there?"),
            frame(0x00, b""),
            frame(0x80, &long),
            frame(0x8a, b"unasked pong"),
        ]
        .concat();
        let wanted = [&b"PUB a 1\r\nz\r\n"[..], &middle, &long].concat();
        for step in [1, 2, 3, 7, 13, 4096, wire.len()] {
            let mut reader = FrameReader::new(true);
            let mut data = Vec::new();
            let mut pings = 0;
            for piece in wire.chunks(step) {
                let (more, asked) = read(&mut reader, piece).unwrap();
                data.extend(more);
                if asked == Some(Asked::Pong) {
                    pings += 1;
                    // Also where the pong after it came in the same piece.
                    assert_eq!(reader.asked().bytes(), b"still there?");
                }
            }
            assert_eq!(data, wanted, "in pieces of {step}");
            assert_eq!(pings, 1, "in pieces of {step}");
        }
    }

    #[test]
    fn nothing_after_a_close_is_looked_at() {
        let mut reader = FrameReader::new(true);
        let wire = [
            frame(0x82, b"a"),
            frame(0x88, b"\x03\xe8bye"),
            vec![0xff; 9],
        ]
        .concat();
        let (data, asked) = read(&mut reader, &wire).unwrap();
        assert_eq!((data.as_slice(), asked), (&b"a"[..], Some(Asked::Close)));
        assert_eq!(reader.asked().bytes(), b"\x03\xe8bye");
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        let cases: [(&[u8], FrameError); 8] = [
            (&[0x82, 0x01, b'a'], FrameError::Unmasked),
            (&[0xc2, 0x80, 0, 0, 0, 0], FrameError::Reserved),
            (&[0x83, 0x80, 0, 0, 0, 0], FrameError::Opcode),
            (&[0x09, 0x80, 0, 0, 0, 0], FrameError::Control),
            (&[0x89, 0xfe, 0, 126, 0, 0, 0, 0], FrameError::Control),
            (&[0x80, 0x80, 0, 0, 0, 0], FrameError::Order),
            (
                &[0x02, 0x80, 0, 0, 0, 0, 0x82, 0x80, 0, 0, 0, 0],
                FrameError::Order,
            ),
            (
                &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                FrameError::Length,
            ),
        ];
        for (wire, error) in cases {
            let mut reader = FrameReader::new(true);
            assert_eq!(read(&mut reader, wire), Err(error), "{wire:?}");
        }
    }

    #[test]
    fn a_mask_may_be_missing_where_that_was_agreed_upon() {
        let mut reader = FrameReader::new(false);
        let (data, _) = read(&mut reader, &[0x82, 0x02, b'h', b'i']).unwrap();
        assert_eq!(data, b"hi");
        let (data, _) = read(&mut reader, &frame(0x82, b"masked all the same")).unwrap();
        assert_eq!(data, b"masked all the same");
    }
}
