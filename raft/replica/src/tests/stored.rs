//! Stores that earlier versions wrote: kept beside this file, and opened by this version.
//!
//! `UNIBUS_WRITE_STORE=NAME cargo test -p unibus-raft --lib stored` writes one more, for a version whose
//! formats are new. Those that are there are never written again.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::harness::{Net, Node, create_stream, messages, payload, sequences};

/// Bytes of zeros that are worth a new run.
const GAP: usize = 16;
/// Messages before the checkpoint, and behind it.
const CHECKPOINTED: u64 = 40;
const LOGGED: u64 = 20;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/stores")
}

/// Each file with its length, then what is not zero in it: most of a store is.
fn pack(dir: &Path, at: &Path, out: &mut String) {
    let mut entries: Vec<PathBuf> = fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.strip_prefix(dir).unwrap().to_str().unwrap();
        if path.is_dir() {
            writeln!(out, "folder {name}").unwrap();
            pack(dir, &path, out);
        } else if !name.ends_with("LOCK") {
            let bytes = fs::read(&path).unwrap();
            writeln!(out, "file {} {name}", bytes.len()).unwrap();
            for (start, run) in runs(&bytes) {
                let hex: String = run.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(out, "{start} {hex}").unwrap();
            }
        }
    }
}

/// What lies between long stretches of zeros.
fn runs(bytes: &[u8]) -> Vec<(usize, &[u8])> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(skip) = bytes[at..].iter().position(|byte| *byte != 0) {
        let start = at + skip;
        let mut end = start;
        while let Some(next) = bytes[end..].iter().position(|byte| *byte != 0)
            && (next < GAP || end == start)
        {
            end += next + 1;
        }
        found.push((start, &bytes[start..end]));
        at = end;
    }
    found
}

fn unpack(text: &str, dir: &Path) {
    let mut file: Option<(PathBuf, Vec<u8>)> = None;
    let finish = |file: Option<(PathBuf, Vec<u8>)>| {
        if let Some((path, bytes)) = file {
            fs::write(path, bytes).unwrap();
        }
    };
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["folder", name] => fs::create_dir_all(dir.join(name)).unwrap(),
            ["file", len, name] => {
                let bytes = vec![0; len.parse().unwrap()];
                finish(file.replace((dir.join(name), bytes)));
            }
            [start, hex] => {
                let start: usize = start.parse().unwrap();
                let bytes = &mut file.as_mut().unwrap().1;
                for at in 0..hex.len() / 2 {
                    let byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
                    bytes[start + at] = byte;
                }
            }
            other => panic!("not a line of a store: {other:?}"),
        }
    }
    finish(file);
}

fn body(number: u64) -> String {
    format!("message {number} of an earlier version")
}

/// A store as this version writes it: a checkpoint, and entries behind it.
async fn write(name: &str) {
    let net: Arc<Net> = Arc::default();
    let mut node = Node::start(&net, "one").await;
    let members = [(node.id, "one".to_owned())].into_iter().collect();
    node.initialize(members).await.unwrap();
    node.propose(create_stream()).await.unwrap();
    for number in 1..=CHECKPOINTED + LOGGED {
        node.propose(messages(&[&body(number)])).await.unwrap();
        if number == CHECKPOINTED {
            node.checkpoint().await.unwrap();
        }
    }
    node.kill().await;
    let mut text = String::new();
    pack(node.home(), node.home(), &mut text);
    fs::create_dir_all(folder()).unwrap();
    let path = folder().join(format!("{name}.txt"));
    assert!(!path.exists(), "{} is there already", path.display());
    fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stores_of_earlier_versions_are_opened_with_all_they_hold() {
    if let Ok(name) = std::env::var("UNIBUS_WRITE_STORE") {
        write(&name).await;
    }
    let stores: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(!stores.is_empty());
    for store in stores {
        let dir: TempDir = tempfile::tempdir().unwrap();
        unpack(&fs::read_to_string(&store).unwrap(), dir.path());
        let net: Arc<Net> = Arc::default();
        let mut node = Node::start_in(&net, "one", dir).await;
        // Twice: the second time with what this version has written to it.
        for more in 1..=2 {
            node.read_barrier().await.unwrap();
            for number in 1..=CHECKPOINTED + LOGGED {
                assert_eq!(
                    payload(&node, number).unwrap(),
                    body(number),
                    "{}",
                    store.display()
                );
            }
            let added = node.propose(messages(&["new"])).await.unwrap();
            assert_eq!(sequences(&added), [CHECKPOINTED + LOGGED + more]);
            node.checkpoint().await.unwrap();
            node.kill().await;
            node.restart().await;
        }
    }
}
