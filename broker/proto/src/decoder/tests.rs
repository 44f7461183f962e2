//! The decoder against exact cases, and against a slow, obviously right model.

use super::{ClientOp, DecodeError, Decoder, DecoderLimits, PubOp};
use proptest::prelude::*;

const LIMITS: DecoderLimits = DecoderLimits {
    control_line_bytes_max: 64,
    payload_bytes_max: 100,
};

/// How a stream ended: it ran out of bytes inside an operation (or after the last), or broke a
/// rule.
type End = Result<(), DecodeError>;

/// An operation that outlives its buffer.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Owned {
    Connect(Vec<u8>),
    Ping,
    Pong,
    Info,
    Ok,
    Err(Vec<u8>),
    Pub {
        subject: Vec<u8>,
        reply: Option<Vec<u8>>,
        headers: Option<Vec<u8>>,
        payload: Vec<u8>,
    },
    Sub {
        subject: Vec<u8>,
        queue: Option<Vec<u8>>,
        sid: Vec<u8>,
    },
    Unsub {
        sid: Vec<u8>,
        max: Option<u64>,
    },
}

impl From<ClientOp<'_>> for Owned {
    fn from(op: ClientOp<'_>) -> Self {
        let owned = <[u8]>::to_vec;
        match op {
            ClientOp::Connect(json) => Self::Connect(owned(json)),
            ClientOp::Ping => Self::Ping,
            ClientOp::Pong => Self::Pong,
            ClientOp::Info => Self::Info,
            ClientOp::Ok => Self::Ok,
            ClientOp::Err(text) => Self::Err(owned(text)),
            ClientOp::Pub(op) => Self::Pub {
                subject: owned(op.subject),
                reply: op.reply.map(owned),
                headers: op.has_headers.then(|| owned(op.headers())),
                payload: owned(op.payload()),
            },
            ClientOp::Sub {
                subject,
                queue,
                sid,
            } => Self::Sub {
                subject: owned(subject),
                queue: queue.map(owned),
                sid: owned(sid),
            },
            ClientOp::Unsub { sid, max } => Self::Unsub {
                sid: owned(sid),
                max,
            },
        }
    }
}

/// Feeds `stream` in pieces that end at `cuts`, as a connection would.
fn decode_cut(stream: &[u8], cuts: impl IntoIterator<Item = usize>) -> (Vec<Owned>, End) {
    let mut decoder = Decoder::new(LIMITS);
    let mut ops = Vec::new();
    let mut start = 0;
    for end in cuts.into_iter().chain([stream.len()]) {
        loop {
            let buf = &stream[start..end];
            match decoder.decode(buf) {
                Ok(Some((op, consumed))) => {
                    assert!(0 < consumed && consumed <= buf.len());
                    ops.push(op.into());
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

fn decode(stream: &[u8]) -> (Vec<Owned>, End) {
    decode_cut(stream, [])
}

fn one(stream: &str) -> Owned {
    match decode(stream.as_bytes()) {
        (mut ops, Ok(())) if ops.len() == 1 => ops.remove(0),
        other => panic!("{stream:?}: {other:?}"),
    }
}

fn refusal(stream: &str) -> DecodeError {
    match decode(stream.as_bytes()) {
        (ops, Err(error)) if ops.is_empty() => error,
        other => panic!("{stream:?}: {other:?}"),
    }
}

fn publication(subject: &str, reply: Option<&str>, headers: Option<&str>, payload: &str) -> Owned {
    let owned = |text: &str| text.as_bytes().to_vec();
    Owned::Pub {
        subject: owned(subject),
        reply: reply.map(owned),
        headers: headers.map(owned),
        payload: owned(payload),
    }
}

fn subscription(subject: &str, queue: Option<&str>, sid: &str) -> Owned {
    Owned::Sub {
        subject: subject.into(),
        queue: queue.map(Into::into),
        sid: sid.into(),
    }
}

fn unsubscription(sid: &str, max: Option<u64>) -> Owned {
    Owned::Unsub {
        sid: sid.into(),
        max,
    }
}

#[test]
fn every_verb_is_read() {
    assert_eq!(
        one("CONNECT {\"a\": 1}\r\n"),
        Owned::Connect(b"{\"a\": 1}".to_vec())
    );
    assert_eq!(one("PING\r\n"), Owned::Ping);
    assert_eq!(one("PONG\r\n"), Owned::Pong);
    assert_eq!(one("INFO {}\r\n"), Owned::Info);
    assert_eq!(one("+OK\r\n"), Owned::Ok);
    assert_eq!(one("-ERR 'x'\r\n"), Owned::Err(b"'x'".to_vec()));
    assert_eq!(
        one("PUB a.b 2\r\nhi\r\n"),
        publication("a.b", None, None, "hi")
    );
    assert_eq!(
        one("PUB a.b r 2\r\nhi\r\n"),
        publication("a.b", Some("r"), None, "hi")
    );
    assert_eq!(
        one("HPUB a 2 4\r\nhhpp\r\n"),
        publication("a", None, Some("hh"), "pp")
    );
    assert_eq!(
        one("HPUB a r 4 4\r\nhhhh\r\n"),
        publication("a", Some("r"), Some("hhhh"), "")
    );
    assert_eq!(
        one("HPUB a 0 2\r\npp\r\n"),
        publication("a", None, Some(""), "pp")
    );
    assert_eq!(one("SUB a.> 1\r\n"), subscription("a.>", None, "1"));
    assert_eq!(one("SUB a q x-1\r\n"), subscription("a", Some("q"), "x-1"));
    assert_eq!(one("UNSUB 1\r\n"), unsubscription("1", None));
    assert_eq!(one("UNSUB 1 5\r\n"), unsubscription("1", Some(5)));
    assert_eq!(one("UNSUB 1 x\r\n"), unsubscription("1", None));
}

#[test]
fn a_publication_borrows_from_the_buffer() {
    let buf = b"HPUB s r 2 5\r\nhhppp\r\nPING\r\n";
    let (op, consumed) = Decoder::new(LIMITS).decode(buf).unwrap().unwrap();
    assert_eq!(consumed, buf.len() - 6);
    let data = &buf[14..19];
    let expected = PubOp {
        subject: b"s",
        reply: Some(b"r"),
        header_len: 2,
        data,
        has_headers: true,
    };
    assert_eq!(op, ClientOp::Pub(expected));
    assert_eq!(
        (expected.headers(), expected.payload()),
        (&b"hh"[..], &b"ppp"[..])
    );
}

#[test]
fn case_blanks_and_line_ends_are_free() {
    assert_eq!(
        one("pub  a \t 1 \r\nx\r\n"),
        publication("a", None, None, "x")
    );
    assert_eq!(one("PuB\ta\t1\nx\r\n"), publication("a", None, None, "x"));
    assert_eq!(
        one("hPub a 0  1\nx\r\n"),
        publication("a", None, Some(""), "x")
    );
    assert_eq!(one("sub\ta   1\n"), subscription("a", None, "1"));
    assert_eq!(one("ping\n"), Owned::Ping);
    assert_eq!(one("PING now\r\n"), Owned::Ping);
    assert_eq!(one("UnSub\t7\t \t2\n"), unsubscription("7", Some(2)));
    assert_eq!(one("connect\t {} \n"), Owned::Connect(b"{}".to_vec()));
    assert_eq!(
        one("PUB a\u{1}b\u{c}\u{e9} 0\r\n\r\n"),
        publication("a\u{1}b\u{c}\u{e9}", None, None, "")
    );
}

#[test]
fn what_a_client_may_not_say_is_unknown_at_its_first_wrong_byte() {
    for stream in [
        "MSG a 1 0\r\n\r\n",
        "HMSG a 1 0 0\r\n\r\n",
        "RS+ A a\r\n",
        "LS+ a\r\n",
        "A+ a\r\n",
        "GET / HTTP/1.1\r\n",
        "\r\n",
        " PING\r\n",
        "\u{16}\u{3}",
        "M",
        "HM",
        "PUX",
        "PUBx",
        "SUB\r\n",
        "PUB\n",
        "CONNECT{}\r\n",
        "INFO\r\n",
        "-ERR\r\n",
        "UNSUBS",
        "+K",
    ] {
        assert_eq!(refusal(stream), DecodeError::UnknownOperation, "{stream:?}");
    }
}

#[test]
fn wrong_arity_and_impossible_sizes_close_silently() {
    for stream in [
        "PUB \r\n",
        "PUB a\r\n",
        "PUB 1\r\n",
        "PUB a b c 1\r\n",
        "PUB a b c d e 1\r\n",
        "HPUB a\r\n",
        "HPUB a 1\r\n",
        "HPUB a b c 1 1\r\n",
        "SUB a\r\n",
        "SUB a b c d\r\n",
        "SUB a b c d e\r\n",
        "SUB  \r\n",
        "UNSUB \r\n",
        "UNSUB a 1 2\r\n",
        "PUB a -1\r\n\r\n",
        "PUB a x\r\n",
        "PUB a 1x\r\nx\r\n",
        "PUB a 1000000000\r\n",
        "HPUB a 3 2\r\nxx\r\n",
        "HPUB a -1 2\r\nxx\r\n",
        "HPUB a x 2\r\nxx\r\n",
        "HPUB a 1 x\r\nxx\r\n",
    ] {
        assert_eq!(refusal(stream), DecodeError::Malformed, "{stream:?}");
    }
    assert_eq!(DecodeError::Malformed.err_line(), None);
}

#[test]
fn a_payload_ends_in_crlf_exactly() {
    for stream in [
        "PUB a 2\r\nxyz\r\n",
        "PUB a 2\r\nxy\n",
        "PUB a 2\r\nxyz",
        "PUB a 2\r\nxy\rz",
        "PUB a 0\r\n\n",
    ] {
        assert_eq!(refusal(stream), DecodeError::UnknownOperation, "{stream:?}");
    }
}

#[test]
fn refusals_have_the_exact_texts() {
    assert_eq!(
        DecodeError::UnknownOperation.err_line(),
        Some("Unknown Protocol Operation")
    );
    assert_eq!(
        DecodeError::MaximumPayload.err_line(),
        Some("Maximum Payload Violation")
    );
    assert_eq!(
        DecodeError::MaximumControlLine.err_line(),
        Some("maximum control line exceeded")
    );
}

#[test]
fn the_payload_limit_is_checked_on_the_control_line() {
    assert_eq!(refusal("PUB a 101\r\n"), DecodeError::MaximumPayload);
    assert_eq!(refusal("HPUB a 1 101\r\n"), DecodeError::MaximumPayload);
    assert_eq!(refusal("PUB a 999999999\r\n"), DecodeError::MaximumPayload);
    let payload = "x".repeat(100);
    let full = format!("PUB a 100\r\n{payload}\r\n");
    assert_eq!(one(&full), publication("a", None, None, &payload));
}

#[test]
fn the_control_line_limit_counts_arguments_only() {
    for (verb, tail) in [
        ("PUB ", " 0"),
        ("SUB ", " 1"),
        ("CONNECT ", "}"),
        ("UNSUB ", " 1"),
        ("INFO ", ""),
    ] {
        for end in ["\n", "\r\n"] {
            let line = |len: usize| format!("{verb}{}{tail}{end}", "s".repeat(len - tail.len()));
            let (_, fits) = decode(line(64).as_bytes());
            assert_eq!(fits, Ok(()), "{verb}");
            assert_eq!(
                refusal(&line(65)),
                DecodeError::MaximumControlLine,
                "{verb}"
            );
        }
        let endless = format!("{verb}{}", "s".repeat(65));
        assert_eq!(refusal(&endless), DecodeError::MaximumControlLine, "{verb}");
    }
    assert_eq!(
        refusal(&format!("PUB{}", " ".repeat(66))),
        DecodeError::MaximumControlLine
    );
    let crowded = format!("SUB {}\r\n", "a ".repeat(33));
    assert_eq!(refusal(&crowded), DecodeError::MaximumControlLine);
}

#[test]
fn the_reader_is_told_how_much_is_missing() {
    let mut decoder = Decoder::new(LIMITS);
    assert!(decoder.decode(b"PUB a 5\r\nhe").unwrap().is_none());
    assert_eq!(decoder.wanted(), 5);
    assert!(decoder.decode(b"PUB a 5\r\nhello").unwrap().is_none());
    assert_eq!(decoder.wanted(), 2);
    assert!(decoder.decode(b"PUB a 5\r\nhello\r").unwrap().is_none());
    assert_eq!(decoder.wanted(), 1);
    assert!(decoder.decode(b"PUB a 5\r\nhello\r\n").unwrap().is_some());
    assert!(decoder.decode(b"SUB a").unwrap().is_none());
    assert_eq!(decoder.wanted(), 1);
}

#[test]
fn a_waiting_payload_is_not_looked_at_again() {
    let mut decoder = Decoder::new(LIMITS);
    assert!(decoder.decode(b"PUB a 5\r\nhe").unwrap().is_none());
    // While the count says that bytes are missing, the decoder has no reason to read any.
    assert!(decoder.decode(b"??????????????").unwrap().is_none());
    assert!(decoder.decode(b"PUB a 5\r\nhello\r\n").unwrap().is_some());
}

#[test]
fn debug_shows_neither_credentials_nor_payloads() {
    let shown = |buf: &[u8]| format!("{:?}", Decoder::new(LIMITS).decode(buf).unwrap());
    assert!(!shown(b"CONNECT {\"pass\":\"hunter2\"}\r\n").contains("hunter2"));
    let publication = shown(b"PUB sub.ject 7\r\nhunter2\r\n");
    assert!(publication.contains("sub.ject") && !publication.contains("hunter2"));
}

/// The model: works on the whole stream at once, copies freely, and cuts lines into words.
mod naive {
    use super::{DecodeError, End, LIMITS, Owned};

    const WITH_ARGS: [&str; 7] = ["CONNECT", "INFO", "PUB", "HPUB", "SUB", "UNSUB", "-ERR"];
    const ALONE: [&str; 3] = ["PING", "PONG", "+OK"];

    pub(super) fn decode(mut stream: &[u8]) -> (Vec<Owned>, End) {
        let mut ops = Vec::new();
        loop {
            match first(stream) {
                Ok(Some((op, rest))) => {
                    ops.push(op);
                    stream = rest;
                }
                Ok(None) => return (ops, Ok(())),
                Err(error) => return (ops, Err(error)),
            }
        }
    }

    fn first(stream: &[u8]) -> Result<Option<(Owned, &[u8])>, DecodeError> {
        let (line, rest) = match stream.iter().position(|&byte| byte == b'\n') {
            Some(at) => (&stream[..at], Some(&stream[at + 1..])),
            None => (stream, None),
        };
        let Some((verb, args)) = verb(line, rest.is_some())? else {
            return Ok(None);
        };
        let mut bare = args.to_vec();
        if bare.last() == Some(&b'\r') {
            bare.pop();
        }
        if bare.len() > LIMITS.control_line_bytes_max + 1 {
            return Err(DecodeError::MaximumControlLine);
        }
        let Some(rest) = rest else { return Ok(None) };
        act(verb, args, rest)
    }

    /// The verb of a line and what follows it; `None` while an unfinished line might become one.
    fn verb(line: &[u8], finished: bool) -> Result<Option<(&'static str, &[u8])>, DecodeError> {
        let upper = line.to_ascii_uppercase();
        for name in ALONE {
            if upper.starts_with(name.as_bytes()) {
                return Ok(Some((name, &line[name.len()..])));
            }
        }
        for name in WITH_ARGS {
            if [b' ', b'\t']
                .iter()
                .any(|&blank| upper.starts_with(&[name.as_bytes(), &[blank]].concat()))
            {
                return Ok(Some((name, &line[name.len()..])));
            }
        }
        let may_grow = |name: &&str| name.as_bytes().starts_with(&upper);
        if !finished && WITH_ARGS.iter().chain(&ALONE).any(may_grow) {
            return Ok(None);
        }
        Err(DecodeError::UnknownOperation)
    }

    fn act<'a>(
        verb: &str,
        args: &[u8],
        rest: &'a [u8],
    ) -> Result<Option<(Owned, &'a [u8])>, DecodeError> {
        let words: Vec<Vec<u8>> = args
            .split(|byte| b" \t\r".contains(byte))
            .filter(|word| !word.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        let op = match (verb, words.as_slice()) {
            ("PING", _) => Owned::Ping,
            ("PONG", _) => Owned::Pong,
            ("+OK", _) => Owned::Ok,
            ("INFO", _) => Owned::Info,
            ("CONNECT", _) => Owned::Connect(args.trim_ascii().to_vec()),
            ("-ERR", _) => Owned::Err(args.trim_ascii().to_vec()),
            ("SUB", [subject, sid]) => Owned::Sub {
                subject: subject.clone(),
                queue: None,
                sid: sid.clone(),
            },
            ("SUB", [subject, queue, sid]) => Owned::Sub {
                subject: subject.clone(),
                queue: Some(queue.clone()),
                sid: sid.clone(),
            },
            ("UNSUB", [sid]) => Owned::Unsub {
                sid: sid.clone(),
                max: None,
            },
            ("UNSUB", [sid, max]) => Owned::Unsub {
                sid: sid.clone(),
                max: number(max),
            },
            ("PUB", [subject, size]) => return publish(subject, None, None, size, rest),
            ("PUB", [subject, reply, size]) => {
                return publish(subject, Some(reply), None, size, rest);
            }
            ("HPUB", [subject, head, size]) => {
                return publish(subject, None, Some(head), size, rest);
            }
            ("HPUB", [subject, reply, head, size]) => {
                return publish(subject, Some(reply), Some(head), size, rest);
            }
            _ => return Err(DecodeError::Malformed),
        };
        Ok(Some((op, rest)))
    }

    fn publish<'a>(
        subject: &[u8],
        reply: Option<&Vec<u8>>,
        head: Option<&Vec<u8>>,
        size: &[u8],
        rest: &'a [u8],
    ) -> Result<Option<(Owned, &'a [u8])>, DecodeError> {
        let size = number(size).ok_or(DecodeError::Malformed)? as usize;
        let head_len = match head {
            Some(head) => number(head).ok_or(DecodeError::Malformed)? as usize,
            None => 0,
        };
        if head_len > size {
            return Err(DecodeError::Malformed);
        }
        if size > LIMITS.payload_bytes_max {
            return Err(DecodeError::MaximumPayload);
        }
        let after: Vec<u8> = rest.iter().skip(size).take(2).copied().collect();
        if !b"\r\n".starts_with(&after) {
            return Err(DecodeError::UnknownOperation);
        }
        if after.len() < 2 {
            return Ok(None);
        }
        let op = Owned::Pub {
            subject: subject.to_vec(),
            reply: reply.cloned(),
            headers: head.map(|_| rest[..head_len].to_vec()),
            payload: rest[head_len..size].to_vec(),
        };
        Ok(Some((op, &rest[size + 2..])))
    }

    fn number(word: &[u8]) -> Option<u64> {
        let text = std::str::from_utf8(word).ok()?;
        let plain = text.chars().all(|c| c.is_ascii_digit()) && text.len() <= 9;
        plain.then(|| text.parse().ok()).flatten()
    }
}

fn blank() -> impl Strategy<Value = String> {
    prop::sample::select(vec![" ", " ", " ", "\t", "  ", " \t "]).prop_map(String::from)
}

fn line_end() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["\r\n", "\r\n", "\n", " \r\n"]).prop_map(String::from)
}

fn any_case(verb: &'static str) -> impl Strategy<Value = String> {
    prop::collection::vec(any::<bool>(), verb.len()).prop_map(move |lower| {
        let flip = |(c, lower): (char, &bool)| if *lower { c.to_ascii_lowercase() } else { c };
        verb.chars().zip(&lower).map(flip).collect()
    })
}

fn verb() -> impl Strategy<Value = String> {
    let verbs = [
        "PUB", "HPUB", "SUB", "UNSUB", "PING", "PONG", "CONNECT", "INFO", "+OK", "-ERR", "MSG",
    ];
    (0..verbs.len())
        .prop_flat_map(move |i| prop_oneof![Just(verbs[i].to_owned()), any_case(verbs[i])])
}

/// A well-formed publication in any spelling.
fn publish() -> impl Strategy<Value = Vec<u8>> {
    let data = prop::collection::vec(any::<u8>(), 0..=100);
    let reply = prop::option::of("[a-z.]{1,9}");
    let spelling = (any_case("HPUB"), blank(), blank(), line_end());
    (
        "[a-z.]{1,20}",
        reply,
        data,
        prop::option::of(0..=100_usize),
        spelling,
    )
        .prop_map(
            |(subject, reply, data, head, (verb, gap, other_gap, end))| {
                let mut line = if head.is_some() {
                    verb
                } else {
                    verb[1..].to_owned()
                };
                line += &format!("{gap}{subject}{other_gap}");
                if let Some(reply) = reply {
                    line += &format!("{reply}{gap}");
                }
                if let Some(head) = head {
                    line += &format!("{}{other_gap}", head.min(data.len()));
                }
                line += &format!("{}{end}", data.len());
                [line.as_bytes(), &data, b"\r\n"].concat()
            },
        )
}

/// A line of any verb with any number of arguments of any kind.
fn loose_line() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![
        "[a-z.*>]{1,9}",
        (0..120_u32).prop_map(|n| n.to_string()),
        Just("-1".to_owned()),
        Just("9999999999".to_owned()),
        "[a-z]{60,70}",
        "[\\x01-\\x7f]{1,12}",
    ];
    (
        verb(),
        prop::collection::vec((blank(), word), 0..6),
        line_end(),
    )
        .prop_map(|(verb, words, end)| {
            let words: String = words.into_iter().map(|(gap, word)| gap + &word).collect();
            format!("{verb}{words}{end}").into_bytes()
        })
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => publish(),
        3 => loose_line(),
        1 => Just(b"PING\r\n".to_vec()),
        1 => Just(b"SUB a.* q 12\r\n".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..6),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn agrees_with_the_model(stream in stream()) {
        prop_assert_eq!(decode(&stream), naive::decode(&stream));
    }

    #[test]
    fn agrees_with_the_model_after_damage(
        stream in stream(), place in any::<prop::sample::Index>(), byte in any::<u8>(), keep in any::<prop::sample::Index>()
    ) {
        let mut stream = stream;
        if !stream.is_empty() {
            let place = place.index(stream.len());
            stream[place] = byte;
            stream.truncate(keep.index(stream.len()) + 1);
        }
        prop_assert_eq!(decode(&stream), naive::decode(&stream));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_cut_anywhere_changes_nothing(stream in stream()) {
        let whole = decode(&stream);
        for cut in 0..=stream.len() {
            prop_assert_eq!(&decode_cut(&stream, [cut]), &whole, "cut at {}", cut);
        }
        prop_assert_eq!(decode_cut(&stream, 0..stream.len()), whole, "byte by byte");
    }
}

#[test]
fn what_repeats_a_publication_has_its_line_and_its_end() {
    let first = b"PUB a.b 3\r\nabc\r\n";
    let count = |rest: &[u8]| super::repeats(&[first, rest].concat(), first.len(), 3);
    assert_eq!(count(b""), 0);
    assert_eq!(count(b"PUB a.b 3\r\nxyz\r\n"), 1);
    assert_eq!(
        count(b"PUB a.b 3\r\n\r\n1\r\nPUB a.b 3\r\nxyz\r\nPING\r\n"),
        2
    );
    // Another size, subject, reply or spelling is another operation.
    for other in [
        &b"PUB a.b 2\r\nxy\r\n\r\n"[..],
        b"PUB a.c 3\r\nxyz\r\n",
        b"PUB a.b r 3\r\nxyz\r\n",
        b"pub a.b 3\r\nxyz\r\n",
        b"PING\r\n",
    ] {
        assert_eq!(count(other), 0, "{}", String::from_utf8_lossy(other));
    }
    // Unfinished, or with another end: for the decoder to judge.
    assert_eq!(count(b"PUB a.b 3\r\nxyz\r"), 0);
    assert_eq!(count(b"PUB a.b 3\r\nxyzab"), 0);
    // Agrees with the decoder, one by one.
    let many = b"PUB a.b 3\r\nxyz\r\n".repeat(5);
    let whole = [&first[..], &many].concat();
    let mut decoder = Decoder::new(LIMITS);
    let (mut at, mut decoded) = (0, 0);
    while let Some((_, used)) = decoder.decode(&whole[at..]).unwrap() {
        at += used;
        decoded += 1;
    }
    assert_eq!(super::repeats(&whole, first.len(), 3), decoded - 1);
    assert_eq!(super::repeats(b"", 0, 0), 0);
}
