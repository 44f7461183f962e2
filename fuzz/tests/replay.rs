//! A short run of each fuzz target on stable: its corpus, then a bounded walk around it.
//!
//! The corpus is replayed in full, so that a crash stays red once its input is committed; the walk
//! is seeded, so that a failure comes again with the same seed.

use std::path::Path;
use std::time::Duration;

use unibus_fuzz::{Budget, explore, read_corpus};

const SEED: u64 = 0x5eed_0000_0001;
const BUDGET: Budget = Budget {
    iterations: 20_000,
    time: Duration::from_secs(2),
};

fn short_run(target: &str, harness: fn(&[u8]), dictionary: &[&[u8]]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpora")
        .join(target);
    let corpus = read_corpus(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    assert!(!corpus.is_empty(), "no seeds in {}", folder.display());
    let tried = explore(harness, &corpus, dictionary, SEED, BUDGET);
    assert!(tried > 0, "no time for a single mutation");
}

#[test]
fn client_decoder() {
    let words: [&[u8]; 22] = [
        b"PUB ",
        b"HPUB ",
        b"SUB ",
        b"UNSUB ",
        b"CONNECT {}",
        b"PING\r\n",
        b"PONG\r\n",
        b"INFO {}\r\n",
        b"+OK\r\n",
        b"-ERR 'x'\r\n",
        b"MSG a 1 0\r\n\r\n",
        b"pub\t",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b" 0\r\n\r\n",
        b"-1",
        b"512",
        b"513",
        b"9999999999",
    ];
    short_run("client_decoder", unibus_fuzz::client_decoder, &words);
}

#[test]
fn acks() {
    let words: [&[u8]; 12] = [
        b"$JS.ACK.",
        b".1.2.3.4.5",
        b"+ACK",
        b"-NAK ",
        b"+WPI",
        b"+TERM ",
        b"+NXT ",
        b"{\"delay\":1}",
        b"{\"batch\":2}",
        b"\"expires\":9",
        b"1h2m3.4s",
        b"18446744073709551616",
    ];
    short_run("acks", unibus_fuzz::acks, &words);
}

#[test]
fn frames() {
    let words: [&[u8]; 14] = [
        b"\x61v\x01",
        b"\x62id\x50",
        b"\x62ep\x00",
        b"\x62ty\x63MSG",
        b"\x63sig\x58\x40",
        b"\x63thr\x50",
        b"\x62re\x50",
        b"\x61n\x58\x18",
        b"\x64room",
        b"\x64from\x78\x20",
        b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xbf",
        b"\xff",
        b"\x5f",
    ];
    short_run("frames", unibus_fuzz::frames, &words);
}

#[test]
fn headers() {
    let words: [&[u8]; 9] = [
        b"NATS/1.0",
        b"NATS/1.0 503 No Responders",
        b"\r\n",
        b"\r\n\r\n",
        b": ",
        b":",
        b"Nats-Msg-Id: ",
        b"\r",
        b"\n",
    ];
    short_run("headers", unibus_fuzz::headers, &words);
}

#[test]
fn configuration() {
    let words: [&[u8]; 14] = [
        b"include x\n",
        b"include 'x'",
        b"a: $a\n",
        b"$E",
        b"{",
        b"}",
        b"[",
        b"]",
        b"(\n",
        b"\n)\n",
        b"\\u00e9",
        b"\0",
        b"# x\n",
        b"1kb",
    ];
    short_run("configuration", unibus_fuzz::configuration, &words);
}

#[test]
fn route_decoder() {
    let words: [&[u8]; 8] = [
        b"\x01\x09\0\0\0\x01\x07\0\0\0\0\0\0\0",
        b"\x02\x0b\0\0\0\x01\0\0\0\x03\0a.*\0\0",
        b"\x03\0\0\0\0",
        b"\x04\x0e\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0ax",
        b"\x05\0\0\0\0",
        b"\x07\x08\0\0\0\x01\0A\x03\0\0\0\0",
        b"\xff\xff",
        b"\0\0",
    ];
    short_run("route_decoder", unibus_fuzz::route_decoder, &words);
}

#[test]
fn signed_request() {
    let words: [&[u8]; 6] = [
        b"1700000000",
        b"CQkJCQkJCQkJCQkJCQkJCQ==",
        b"\n",
        b"GET",
        b"/rooms",
        b"18446744073709551616",
    ];
    short_run("signed_request", unibus_fuzz::signed_request, &words);
}

#[test]
fn jetstream_api() {
    let words: [&[u8]; 20] = [
        b"\ns{\"name\":\"S\",\"subjects\":[\"a.>\"]",
        b"\nu{\"name\":\"S\",\"subjects\":[\"a.*\"]}",
        b"\nc{\"durable_name\":\"c\"}",
        b"\nd{\"durable_name\":\"c\",\"ack_wait\":1}",
        b"\nmx",
        b"\n{\"batch\":1}",
        b",\"retention\":\"workqueue\"",
        b",\"retention\":\"interest\"",
        b",\"max_msgs\":1",
        b",\"max_age\":1000000000",
        b",\"discard\":\"new\"",
        b",\"mirror\":{\"name\":\"M\"}",
        b",\"sources\":[{\"name\":\"M\"}]",
        b",\"republish\":{\"src\":\">\",\"dest\":\"r.>\"}",
        b",\"subject_transform\":{\"src\":\"a.*\",\"dest\":\"b.$1\"}",
        b",\"filter_subjects\":[\"a.b\",\"a.c\"]",
        b",\"backoff\":[1,2]",
        b",\"max_deliver\":3",
        b"-9223372036854775808",
        b"}",
    ];
    short_run("jetstream_api", unibus_fuzz::jetstream_api, &words);
}

#[test]
fn group_frames() {
    let words: [&[u8]; 5] = [
        b"\x01",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"n0",
        b"\x01\0\0\0",
    ];
    short_run("group_frames", unibus_fuzz::group_frames, &words);
}

#[test]
fn leader_frames() {
    let words: [&[u8]; 5] = [
        b"\x01\x01\x02\0\0\0\0\0\0\0ab",
        b"\x01\x02S.c",
        b"\x01\x04S.c.g",
        b"\x02\x01\0\x01\0\x01\0\0\0arb",
        b"\0\x01\0\0\0",
    ];
    short_run("leader_frames", unibus_fuzz::leader_frames, &words);
}

#[test]
fn stream_archive() {
    let words: [&[u8]; 6] = [
        b"meta.inf",
        b"msgs/1.blk",
        b"obs/c/meta.inf",
        b"obs/c/obs.dat",
        b"ustar\x0000",
        b"\x16\x02",
    ];
    short_run("stream_archive", unibus_fuzz::stream_archive, &words);
}

#[test]
fn log_recovery() {
    short_run("log_recovery", unibus_fuzz::log_recovery, &[]);
}

#[test]
fn sublist() {
    short_run("sublist", unibus_fuzz::sublist, &[]);
}

#[test]
fn state_machine() {
    short_run("state_machine", unibus_fuzz::state_machine, &[]);
}

#[test]
#[should_panic(expected = "offending input: b\"PUB")]
fn a_broken_promise_is_found_and_shown() {
    fn harness(data: &[u8]) {
        assert!(!data.starts_with(b"PUBX"), "planted");
    }
    let budget = Budget {
        iterations: 100_000,
        time: Duration::from_secs(20),
    };
    explore(harness, &[b"PUB ".to_vec()], &[b"X"], SEED, budget);
}
