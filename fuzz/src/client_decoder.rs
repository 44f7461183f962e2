//! The client decoder: no input makes it panic, cuts do not matter, and what it read can be said
//! again.

use unibus_proto::decoder::{ClientOp, DecodeError, Decoder, DecoderLimits};

const LIMITS: DecoderLimits = DecoderLimits {
    control_line_bytes_max: 256,
    payload_bytes_max: 512,
};

/// Operations rewritten in one canonical spelling, and how the stream ended.
type Heard = (Vec<Vec<u8>>, Result<(), DecodeError>);

/// The first two bytes choose where the stream is cut; the rest is the stream.
pub fn client_decoder(data: &[u8]) {
    let Some((&[first, second], stream)) = data.split_first_chunk::<2>() else {
        return;
    };
    let whole = hear(stream, &[]);
    let span = stream.len() + 1;
    let mut cuts = [
        usize::from(first) * 7 % span,
        usize::from(second) * 11 % span,
    ];
    cuts.sort_unstable();
    assert_eq!(hear(stream, &cuts), whole, "cut at {cuts:?}");
    let every: Vec<usize> = (0..stream.len().min(64)).collect();
    assert_eq!(hear(stream, &every), whole, "cut at every byte");

    let said = whole.0.concat();
    assert_eq!(hear(&said, &[]), (whole.0, Ok(())), "said again");
}

fn hear(stream: &[u8], cuts: &[usize]) -> Heard {
    let mut decoder = Decoder::new(LIMITS);
    let mut ops = Vec::new();
    let mut start = 0;
    for &end in cuts.iter().chain([&stream.len()]) {
        while let Some(buf) = stream.get(start..end) {
            match decoder.decode(buf) {
                Ok(Some((op, consumed))) => {
                    assert!(0 < consumed && consumed <= buf.len(), "consumed {consumed}");
                    ops.push(canonical(&op));
                    start += consumed;
                }
                Ok(None) => {
                    assert!(decoder.wanted() > 0);
                    break;
                }
                Err(error) => return (ops, Err(error)),
            }
        }
    }
    (ops, Ok(()))
}

fn canonical(op: &ClientOp<'_>) -> Vec<u8> {
    let line = |words: &[&[u8]]| [words.join(&b' ').as_slice(), b"\r\n"].concat();
    match op {
        ClientOp::Connect(json) => line(&[b"CONNECT", json]),
        ClientOp::Ping => line(&[b"PING"]),
        ClientOp::Pong => line(&[b"PONG"]),
        ClientOp::Info => line(&[b"INFO", b"{}"]),
        ClientOp::Ok => line(&[b"+OK"]),
        ClientOp::Err(text) => line(&[b"-ERR", text]),
        ClientOp::Sub {
            subject,
            queue: None,
            sid,
        } => line(&[b"SUB", subject, sid]),
        ClientOp::Sub {
            subject,
            queue: Some(queue),
            sid,
        } => line(&[b"SUB", subject, queue, sid]),
        ClientOp::Unsub { sid, max: None } => line(&[b"UNSUB", sid]),
        ClientOp::Unsub {
            sid,
            max: Some(max),
        } => line(&[b"UNSUB", sid, max.to_string().as_bytes()]),
        ClientOp::Pub(op) => {
            assert!(op.header_len <= op.data.len() && op.data.len() <= LIMITS.payload_bytes_max);
            assert_eq!([op.headers(), op.payload()].concat(), op.data);
            let (head, total) = (op.header_len.to_string(), op.data.len().to_string());
            let mut words: Vec<&[u8]> =
                vec![if op.has_headers { b"HPUB" } else { b"PUB" }, op.subject];
            words.extend(op.reply);
            if op.has_headers {
                words.push(head.as_bytes());
            }
            words.push(total.as_bytes());
            [line(&words).as_slice(), op.data, b"\r\n"].concat()
        }
    }
}
