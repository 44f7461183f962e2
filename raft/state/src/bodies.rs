//! The binary bodies of commands that carry messages. All numbers are little-endian; every length is
//! checked against what is there before anything is allocated.

use bytes::Bytes;

use crate::codec::{CodecError, Reader, len_u32, put_blob};
use crate::command::{
    Append, AtomicBatch, CopiedMessage, CopyBatch, RestoreMessages, ScheduleRun, Series,
};

/// Bytes of a copied message besides subject and data.
const COPIED_BYTES_MIN: usize = 8 + 8 + 4 + 4 + 4;

/// `stream | created_ns | origin | origin_uid | after | upto | count | (seq | ts_ns | subject |
/// header_len | data)…`
pub(crate) fn encode_copy(batch: &CopyBatch) -> Vec<u8> {
    let bytes: usize = batch.messages.iter().map(|m| m.data.len() + 128).sum();
    let mut out = Vec::with_capacity(bytes + 128);
    put_blob(&mut out, batch.stream.as_bytes());
    out.extend_from_slice(&batch.created_ns.to_le_bytes());
    put_blob(&mut out, batch.origin.as_bytes());
    for number in [batch.origin_uid, batch.after, batch.upto] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    put_copied(&mut out, &batch.messages);
    out
}

/// `count | (seq | ts_ns | subject | header_len | data)…`
fn put_copied(out: &mut Vec<u8>, messages: &[CopiedMessage]) {
    out.extend_from_slice(&len_u32(messages.len()).to_le_bytes());
    for message in messages {
        out.extend_from_slice(&message.seq.to_le_bytes());
        out.extend_from_slice(&message.ts_ns.to_le_bytes());
        put_blob(out, &message.subject);
        out.extend_from_slice(&message.header_len.to_le_bytes());
        put_blob(out, &message.data);
    }
}

/// `token | messages… | count | removed…`
pub(crate) fn encode_restored(batch: &RestoreMessages) -> Vec<u8> {
    let bytes: usize = batch.messages.iter().map(|m| m.data.len() + 128).sum();
    let mut out = Vec::with_capacity(bytes + 128);
    put_blob(&mut out, batch.token.as_bytes());
    put_copied(&mut out, &batch.messages);
    out.extend_from_slice(&len_u32(batch.removed.len()).to_le_bytes());
    for seq in &batch.removed {
        out.extend_from_slice(&seq.to_le_bytes());
    }
    out
}

pub(crate) fn decode_restored(body: &[u8]) -> Result<RestoreMessages, CodecError> {
    let mut reader = Reader::new(body);
    let token = reader.text()?.to_owned();
    let messages = read_copied(&mut reader)?;
    let removed = (0..reader.count(8)?)
        .map(|_| reader.u64())
        .collect::<Result<Vec<_>, _>>()?;
    reader.finish()?;
    Ok(RestoreMessages {
        token,
        messages,
        removed,
    })
}

fn read_copied(reader: &mut Reader<'_>) -> Result<Vec<CopiedMessage>, CodecError> {
    let count = reader.count(COPIED_BYTES_MIN)?;
    (0..count).map(|_| decode_copied(reader)).collect()
}

pub(crate) fn decode_copy(body: &[u8]) -> Result<CopyBatch, CodecError> {
    let mut reader = Reader::new(body);
    let stream = reader.text()?.to_owned();
    let created_ns = reader.u64()?;
    let origin = reader.text()?.to_owned();
    let (origin_uid, after, upto) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let messages = read_copied(&mut reader)?;
    reader.finish()?;
    Ok(CopyBatch {
        stream,
        created_ns,
        origin,
        origin_uid,
        after,
        upto,
        whole: false,
        messages,
    })
}

fn decode_copied(reader: &mut Reader<'_>) -> Result<CopiedMessage, CodecError> {
    let (seq, ts_ns) = (reader.u64()?, reader.u64()?);
    let subject = reader.blob()?;
    let header_len = reader.u32()?;
    let data = reader.blob()?;
    if header_len as usize > data.len() || subject.len() > usize::from(u16::MAX) {
        return Err(CodecError::Length);
    }
    Ok(CopiedMessage {
        seq,
        ts_ns,
        subject: Bytes::copy_from_slice(subject),
        header_len,
        data: Bytes::copy_from_slice(data),
    })
}

/// `id | count | (privileged | subject | header_len | data)…`
pub(crate) fn encode_atomic(batch: &AtomicBatch) -> Vec<u8> {
    let mut out = room_for(&batch.messages);
    put_blob(&mut out, batch.id.as_bytes());
    put_appends(&mut out, &batch.messages);
    out
}

/// `go_on | messages`
pub(crate) fn encode_series(series: &Series) -> Vec<u8> {
    let mut out = room_for(&series.messages);
    out.push(u8::from(series.go_on));
    put_appends(&mut out, &series.messages);
    out
}

pub(crate) fn decode_series(body: &[u8]) -> Result<Series, CodecError> {
    let mut reader = Reader::new(body);
    let go_on = reader.flag()?;
    let messages = read_appends(&mut reader)?;
    reader.finish()?;
    Ok(Series { go_on, messages })
}

fn room_for(messages: &[Append]) -> Vec<u8> {
    let bytes: usize = messages.iter().map(|m| m.data.len() + 128).sum();
    Vec::with_capacity(bytes + 128)
}

/// `count | message…`
fn put_appends(out: &mut Vec<u8>, messages: &[Append]) {
    out.extend_from_slice(&len_u32(messages.len()).to_le_bytes());
    for message in messages {
        put_append(out, message);
    }
}

fn read_appends(reader: &mut Reader<'_>) -> Result<Vec<Append>, CodecError> {
    let count = reader.count(1 + 4 + 4 + 4)?;
    (0..count).map(|_| read_append(reader)).collect()
}

/// `privileged | subject | header_len | data`
fn put_append(out: &mut Vec<u8>, message: &Append) {
    out.push(u8::from(message.privileged));
    put_blob(out, &message.subject);
    out.extend_from_slice(&message.header_len.to_le_bytes());
    put_blob(out, &message.data);
}

fn read_append(reader: &mut Reader<'_>) -> Result<Append, CodecError> {
    let privileged = reader.flag()?;
    let subject = reader.blob()?;
    let header_len = reader.u32()?;
    let data = reader.blob()?;
    if header_len as usize > data.len() || subject.len() > usize::from(u16::MAX) {
        return Err(CodecError::Length);
    }
    Ok(Append {
        subject: Bytes::copy_from_slice(subject),
        header_len,
        data: Bytes::copy_from_slice(data),
        privileged,
    })
}

pub(crate) fn decode_atomic(body: &[u8]) -> Result<AtomicBatch, CodecError> {
    let mut reader = Reader::new(body);
    let id = reader.text()?.to_owned();
    let messages = read_appends(&mut reader)?;
    reader.finish()?;
    Ok(AtomicBatch { id, messages })
}

/// `stream | created_ns | seq | due_ns | next_ns | message?`
pub(crate) fn encode_run(run: &ScheduleRun) -> Vec<u8> {
    let bytes = run.message.as_ref().map_or(0, |message| message.data.len());
    let mut out = Vec::with_capacity(bytes + 256);
    put_blob(&mut out, run.stream.as_bytes());
    for number in [run.created_ns, run.seq, run.due_ns, run.next_ns] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(u8::from(run.message.is_some()));
    if let Some(message) = &run.message {
        put_append(&mut out, message);
    }
    out
}

pub(crate) fn decode_run(body: &[u8]) -> Result<ScheduleRun, CodecError> {
    let mut reader = Reader::new(body);
    let run = ScheduleRun {
        stream: reader.text()?.to_owned(),
        created_ns: reader.u64()?,
        seq: reader.u64()?,
        due_ns: reader.u64()?,
        next_ns: reader.u64()?,
        message: if reader.flag()? {
            Some(read_append(&mut reader)?)
        } else {
            None
        },
    };
    reader.finish()?;
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_read_back_and_damage_is_seen() {
        let batch = AtomicBatch {
            id: "b".into(),
            messages: vec![Append {
                subject: Bytes::from_static(b"s"),
                header_len: 1,
                data: Bytes::from_static(b"hp"),
                privileged: true,
            }],
        };
        let bytes = encode_atomic(&batch);
        assert_eq!(decode_atomic(&bytes), Ok(batch.clone()));
        for cut in 0..bytes.len() {
            assert!(decode_atomic(&bytes[..cut]).is_err(), "{cut}");
        }
        let series = Series {
            go_on: true,
            messages: batch.messages,
        };
        let bytes = encode_series(&series);
        assert_eq!(decode_series(&bytes), Ok(series));
        for cut in 0..bytes.len() {
            assert!(decode_series(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn runs_read_back_and_damage_is_seen() {
        let run = ScheduleRun {
            stream: "S".into(),
            created_ns: 1,
            seq: 2,
            due_ns: 3,
            next_ns: 4,
            message: Some(Append {
                subject: Bytes::from_static(b"s"),
                header_len: 1,
                data: Bytes::from_static(b"hp"),
                privileged: false,
            }),
        };
        let bytes = encode_run(&run);
        assert_eq!(decode_run(&bytes), Ok(run));
        for cut in 0..bytes.len() {
            assert!(decode_run(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn restored_messages_read_back_and_damage_is_seen() {
        let batch = RestoreMessages {
            token: "t".into(),
            messages: vec![CopiedMessage {
                seq: 8,
                ts_ns: 80,
                subject: Bytes::from_static(b"o.a"),
                header_len: 2,
                data: Bytes::from_static(b"hhpay"),
            }],
            removed: vec![3, 4],
        };
        let bytes = encode_restored(&batch);
        assert_eq!(decode_restored(&bytes), Ok(batch));
        for cut in 0..bytes.len() {
            assert!(decode_restored(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn copies_read_back_and_damage_is_seen() {
        let batch = CopyBatch {
            stream: "M".into(),
            created_ns: 7,
            origin: "O > >".into(),
            origin_uid: 3,
            after: 4,
            upto: 9,
            whole: false,
            messages: vec![CopiedMessage {
                seq: 8,
                ts_ns: 80,
                subject: Bytes::from_static(b"o.a"),
                header_len: 2,
                data: Bytes::from_static(b"hhpay"),
            }],
        };
        let bytes = encode_copy(&batch);
        assert_eq!(decode_copy(&bytes), Ok(batch));
        for cut in 0..bytes.len() {
            assert!(decode_copy(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}
