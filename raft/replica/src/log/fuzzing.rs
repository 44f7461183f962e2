//! A damaged log: whatever was written over its files, opening it either gives entries that were written
//! or names the damage.

#![allow(
    clippy::expect_used,
    reason = "a fuzz target ends with a panic where its own preparation fails"
)]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::{Log, LogOptions};
use crate::transport::GroupId;
use crate::types::{Batch, Entry, EntryPayload, LeaderId, LogId, TypeConfig};

const GROUP: GroupId = GroupId(1);
const ENTRIES: u64 = 24;

/// Files of a log of a few segments: name and bytes.
type Files = Vec<(String, Vec<u8>)>;

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 2048,
        cache_bytes: 512,
        spares_max: 1,
        ..LogOptions::default()
    }
}

fn entry(index: u64) -> Entry {
    let payload = format!("[{index}]").repeat(12);
    Entry {
        log_id: LogId {
            leader_id: LeaderId {
                term: 1 + index / 10,
                node_id: 3,
            },
            index,
        },
        payload: EntryPayload::Normal(Batch(payload.into())),
    }
}

/// Runs something that is asynchronous and waits for nothing but the log's own threads.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(work)
}

fn written(folder: &Path) -> Files {
    let (log, _) = Log::open(folder, options()).expect("an empty log");
    let mut group = log.group(GROUP);
    block_on(async {
        for index in 1..=ENTRIES {
            let (sender, answer) = TypeConfig::oneshot();
            let flushed = IOFlushed::signal(sender);
            group
                .append(vec![entry(index)], flushed)
                .await
                .expect("an append");
            drop(answer.await);
        }
    });
    drop((group, log));
    let mut files: Files = fs::read_dir(folder)
        .expect("the folder")
        .filter_map(Result::ok)
        .filter(|file| file.path().extension().is_some_and(|ext| ext == "wal"))
        .map(|file| {
            let name = file.file_name().to_string_lossy().into_owned();
            (name, fs::read(file.path()).expect("a segment"))
        })
        .collect();
    files.sort();
    files
}

/// Each four bytes are one damage: file, what is done, and where. `folder` is empty, and the caller
/// removes it.
///
/// # Panics
/// When an entry comes back that was never written, or with a gap.
pub fn log_recovery(folder: &Path, data: &[u8]) {
    static FILES: OnceLock<Files> = OnceLock::new();
    let mut files = FILES.get_or_init(|| written(&folder.join("whole"))).clone();
    for damage in data.chunks_exact(4).take(16) {
        hurt(&mut files, damage);
    }
    let damaged = folder.join("damaged");
    fs::create_dir(&damaged).expect("a folder");
    for (name, bytes) in &files {
        fs::write(damaged.join(name), bytes).expect("a file");
    }
    check(&damaged);
}

fn hurt(files: &mut Files, damage: &[u8]) {
    let count = files.len().max(1);
    let Some((_, bytes)) = files.get_mut(usize::from(damage[0]) % count) else {
        return;
    };
    let at = usize::from(u16::from_le_bytes([damage[2], damage[3]])) % bytes.len().max(1);
    match damage[1] % 5 {
        0 => bytes.truncate(at),
        1 => bytes.iter_mut().skip(at).for_each(|byte| *byte = 0),
        2 => drop(bytes.drain(..at.min(bytes.len()))),
        3 => bytes
            .iter_mut()
            .skip(at)
            .take(64)
            .for_each(|byte| *byte = 0xa5),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= damage[1] | 1;
            }
        }
    }
}

fn check(folder: &Path) {
    // Damage is an error with its place; what it does to the node is not the log's affair.
    let Ok((log, _)) = Log::open(folder, options()) else {
        return;
    };
    let mut group = log.group(GROUP);
    let read = block_on(async { group.try_get_log_entries(..).await });
    let Ok(entries) = read else { return };
    let mut next = None;
    for found in entries {
        let index = found.log_id.index;
        assert_eq!(found, entry(index), "an entry that was never written");
        assert_eq!(index, next.unwrap_or(index), "a gap in the log");
        next = Some(index + 1);
    }
}
