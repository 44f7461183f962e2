//! Tests of the log: openraft's suite, group commit, recycling, reading back; `damage` breaks files
//! on purpose, `disk` fails syncs and cuts the power, and `model` compares with a vector.

mod damage;
mod disk;
mod model;
mod suite;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft::RaftLogReader;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::segment::{self, Segment};
use super::{GroupLog, Log, LogError, LogOptions, lock_dir, recovery};
use crate::transport::GroupId;
use crate::types::{Batch, Entry, EntryPayload, LeaderId, LogId, Membership, TypeConfig, Vote};

const GROUP: GroupId = GroupId(7);
const DEADLINE: Duration = Duration::from_secs(20);

/// Small segments and a small cache, so that rolling and reading from disk happen all the time.
fn small() -> LogOptions {
    LogOptions {
        segment_bytes: 2048,
        cache_bytes: 512,
        spares_max: 2,
        ..LogOptions::default()
    }
}

/// A directory in memory where there is one: these tests look at bytes, not at the disk.
fn fast_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId {
        leader_id: LeaderId { term, node_id: 3 },
        index,
    }
}

fn vote(term: u64, committed: bool) -> Vote {
    Vote {
        leader_id: LeaderId { term, node_id: 3 },
        committed,
    }
}

/// An entry whose payload is `size` bytes that depend on its log id.
fn entry(term: u64, index: u64, size: usize) -> Entry {
    let payload: Vec<u8> = format!("[{term}/{index}]")
        .bytes()
        .cycle()
        .take(size)
        .collect();
    Entry {
        log_id: log_id(term, index),
        payload: EntryPayload::Normal(Batch(payload.into())),
    }
}

/// Starts an append; the receiver resolves when it is on disk.
async fn start(
    log: &mut GroupLog,
    entries: Vec<Entry>,
) -> impl Future<Output = std::io::Result<()>> + use<> {
    let (sender, answer) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender))
        .await
        .unwrap();
    async move {
        tokio::time::timeout(DEADLINE, answer)
            .await
            .expect("the append is answered in time")
            .expect("the append is answered")
    }
}

async fn append(log: &mut GroupLog, entries: Vec<Entry>) {
    start(log, entries).await.await.unwrap();
}

async fn all(log: &mut GroupLog) -> Vec<Entry> {
    log.try_get_log_entries(..).await.unwrap()
}

fn open(dir: &Path, options: LogOptions) -> (Log, super::OpenReport) {
    Log::open(dir, options).unwrap()
}

/// Keeps the writer from finishing a batch until dropped: it looks at the groups in each, and a
/// thread holds them.
fn hold_writer(log: &Log) -> std::sync::mpsc::Sender<()> {
    let shared = Arc::clone(&log.handle.shared);
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (holding, held) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let groups = shared.groups.write();
        holding.send(()).unwrap();
        // Ends with an error when the test drops its side.
        let _ = released.recv();
        drop(groups);
    });
    held.recv().unwrap();
    release
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "wal"))
        .collect();
    paths.sort();
    paths
}

fn spares(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            segment::is_spare(name.to_str().unwrap())
        })
        .count()
}

#[tokio::test]
async fn what_was_written_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let membership = Membership::new_with_defaults(vec![[1, 2].into()], []);
    let entries = vec![
        Entry {
            log_id: log_id(1, 0),
            payload: EntryPayload::Membership(membership),
        },
        Entry {
            log_id: log_id(1, 1),
            payload: EntryPayload::Blank,
        },
        entry(2, 2, 100),
    ];
    {
        let (log, report) = open(dir.path(), small());
        assert_eq!(report.records, 0);
        let mut group = log.group(GROUP);
        append(&mut group, entries.clone()).await;
        group.save_vote(&vote(2, true)).await.unwrap();
        group.save_committed(Some(log_id(1, 1))).await.unwrap();
        assert!(group.live_bytes() > 100);
    }
    let (log, report) = open(dir.path(), small());
    assert_eq!(report.cut, None);
    let mut group = log.group(GROUP);
    assert_eq!(all(&mut group).await, entries);
    assert_eq!(group.read_vote().await.unwrap(), Some(vote(2, true)));
    assert_eq!(group.read_committed().await.unwrap(), Some(log_id(1, 1)));
    assert_eq!(all(&mut log.group(GroupId(8))).await, vec![]);
}

#[tokio::test]
async fn appends_that_wait_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(
        dir.path(),
        LogOptions {
            segment_bytes: 1 << 20,
            ..small()
        },
    );
    let (mut one, mut two) = (log.group(GroupId(1)), log.group(GroupId(2)));
    let mut waiting = Vec::new();
    let held = hold_writer(&log);
    for index in 0..200 {
        let group = if index % 2 == 0 { &mut one } else { &mut two };
        waiting.push(start(group, vec![entry(1, index / 2, 50)]).await);
    }
    drop(held);
    for answer in waiting {
        answer.await.unwrap();
    }
    let stats = log.stats();
    assert_eq!(stats.operations, 200);
    assert!(stats.syncs <= 2, "{} syncs", stats.syncs);
    assert_eq!(all(&mut one).await.len(), 100);
}

#[tokio::test]
async fn an_appended_entry_is_readable_before_it_is_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path(), small());
    let mut group = log.group(GROUP);
    let held = hold_writer(&log);
    let answer = start(&mut group, vec![entry(1, 0, 2000), entry(1, 1, 9)]).await;
    let read = group.limited_get_log_entries(0, 2).await.unwrap();
    assert_eq!(read, vec![entry(1, 0, 2000), entry(1, 1, 9)]);
    drop(held);
    answer.await.unwrap();
    assert_eq!(all(&mut group).await.len(), 2);
}

#[tokio::test]
async fn holes_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path(), small());
    let mut group = log.group(GROUP);
    append(&mut group, vec![entry(1, 4, 1)]).await;
    for index in [3, 4, 6] {
        let refused = group.append([entry(1, index, 1)], IOFlushed::noop()).await;
        assert!(refused.is_err(), "entry {index} after 4");
    }
    let refused = group
        .append([entry(1, 5, 1), entry(1, 7, 1)], IOFlushed::noop())
        .await;
    assert!(refused.is_err());
    append(&mut group, vec![entry(1, 5, 1)]).await;
    assert_eq!(all(&mut group).await.len(), 2);
}

#[tokio::test]
async fn limited_reads_stop_at_the_limit_and_streams_do_not() {
    use futures::TryStreamExt;
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions {
        read_bytes: 1000,
        segment_bytes: 65536,
        ..small()
    };
    let (log, _) = open(dir.path(), options);
    let mut group = log.group(GROUP);
    let entries: Vec<Entry> = (0..50).map(|index| entry(1, index, 300)).collect();
    append(&mut group, entries.clone()).await;
    assert_eq!(group.limited_get_log_entries(0, 50).await.unwrap().len(), 2);
    assert_eq!(
        group.limited_get_log_entries(49, 60).await.unwrap().len(),
        1
    );
    let streamed: Vec<Entry> = group.entries_stream(3..).await.try_collect().await.unwrap();
    assert_eq!(streamed, entries[3..]);
}

#[tokio::test]
async fn payloads_from_disk_are_slices_of_what_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(
        dir.path(),
        LogOptions {
            cache_bytes: 0,
            ..small()
        },
    );
    let mut group = log.group(GROUP);
    append(&mut group, vec![entry(1, 0, 64), entry(1, 1, 64)]).await;
    let read = all(&mut group).await;
    let payload = |entry: &Entry| match &entry.payload {
        EntryPayload::Normal(Batch(bytes)) => bytes.clone(),
        other => panic!("{other:?}"),
    };
    let (first, second): (Bytes, Bytes) = (payload(&read[0]), payload(&read[1]));
    let distance = second.as_ptr() as usize - first.as_ptr() as usize;
    assert_eq!(distance, super::record::size(64));
}

#[tokio::test]
async fn a_record_larger_than_a_segment_gets_its_own() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (log, _) = open(dir.path(), small());
        let mut group = log.group(GROUP);
        append(
            &mut group,
            vec![entry(1, 0, 10), entry(1, 1, 9000), entry(1, 2, 10)],
        )
        .await;
    }
    let (log, _) = open(dir.path(), small());
    let read = all(&mut log.group(GROUP)).await;
    assert_eq!(
        read,
        vec![entry(1, 0, 10), entry(1, 1, 9000), entry(1, 2, 10)]
    );
}

#[tokio::test]
async fn purged_segments_are_recycled_and_never_resurrect() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let mut index = 0;
    for round in 1..=6 {
        let (log, report) = open(dir.path(), small());
        assert_eq!(report.cut, None, "round {round}");
        let mut group = log.group(GROUP);
        assert_eq!(all(&mut group).await, expected, "round {round}");
        group.save_vote(&vote(round, false)).await.unwrap();
        for _ in 0..60 {
            append(&mut group, vec![entry(round, index, 100)]).await;
            index += 1;
            if index % 20 == 0 {
                group.purge(log_id(round, index - 3)).await.unwrap();
            }
        }
        expected = vec![entry(round, index - 2, 100), entry(round, index - 1, 100)];
        assert_eq!(all(&mut group).await, expected);
        log.sync().await.unwrap();
        drop((log, group));
        assert!(segments(dir.path()).len() <= 3, "old segments are gone");
        assert!(spares(dir.path()) <= 2, "spares are bounded");
    }
    // The live segment is a recycled file: what an earlier life wrote is still in it, and invalid.
    let live = segments(dir.path()).pop().unwrap();
    let sequence = segment::parse_name(live.file_name().unwrap().to_str().unwrap()).unwrap();
    assert!(sequence > 20, "many segments have passed: {sequence}");
    let (log, _) = open(dir.path(), small());
    let mut group = log.group(GROUP);
    assert_eq!(group.read_vote().await.unwrap(), Some(vote(6, false)));
    assert_eq!(
        group.get_log_state().await.unwrap().last_purged_log_id,
        Some(log_id(6, index - 3))
    );
}

#[tokio::test]
async fn one_group_keeps_its_segments_while_another_moves_on() {
    let dir = tempfile::tempdir().unwrap();
    {
        let (log, _) = open(dir.path(), small());
        let (mut slow, mut fast) = (log.group(GroupId(1)), log.group(GroupId(2)));
        append(&mut slow, vec![entry(1, 0, 10)]).await;
        slow.save_vote(&vote(4, true)).await.unwrap();
        for index in 0..60 {
            append(&mut fast, vec![entry(1, index, 100)]).await;
            fast.purge(log_id(1, index)).await.unwrap();
        }
        log.sync().await.unwrap();
        assert!(log.stats().segments > 3);
    }
    let (log, _) = open(dir.path(), small());
    let mut slow = log.group(GroupId(1));
    assert_eq!(all(&mut slow).await, vec![entry(1, 0, 10)]);
    slow.purge(log_id(1, 0)).await.unwrap();
    log.sync().await.unwrap();
    assert_eq!(log.stats().segments, 1);
    assert_eq!(slow.read_vote().await.unwrap(), Some(vote(4, true)));
}

#[tokio::test]
async fn only_one_may_open_it() {
    let dir = tempfile::tempdir().unwrap();
    let (log, _) = open(dir.path(), small());
    let refused = Log::open(dir.path(), small());
    assert!(matches!(refused, Err(LogError::Locked(_))), "{refused:?}");
    let group = log.group(GROUP);
    drop(log);
    assert!(
        Log::open(dir.path(), small()).is_err(),
        "a group still has it"
    );
    drop(group);
    open(dir.path(), small());
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let lock = lock_dir(dir.path()).unwrap();
    let mut recovered = recovery::open(dir.path(), &small()).unwrap();
    let segment = &recovered.tail.segment;
    recovered.tail.segment = Arc::new(Segment {
        sequence: segment.sequence,
        path: segment.path.clone(),
        file: fs::File::open(&segment.path).unwrap(),
        bytes: segment.bytes,
        stamp: segment.stamp,
    });
    let log = Log::start(dir.path(), small(), recovered, lock).unwrap();
    let mut group = log.group(GROUP);
    let failed = start(&mut group, vec![entry(1, 0, 10)]).await.await;
    assert!(failed.is_err(), "the file cannot be written");
    assert!(group.save_vote(&vote(1, false)).await.is_err());
    assert!(
        group
            .append([entry(1, 1, 1)], IOFlushed::noop())
            .await
            .is_err()
    );
    assert!(group.try_get_log_entries(0..1).await.is_err());
    assert!(log.sync().await.is_err());
    drop((group, log));
    let (log, _) = open(dir.path(), small());
    assert_eq!(
        all(&mut log.group(GROUP)).await,
        vec![],
        "it was never acknowledged"
    );
}
