//! Failed syncs, kills and power cuts: what a log has read counts, so it must not vanish later.

use std::fs;
use std::os::unix::fs::FileExt;

use super::damage::{records, segment};
use super::{GROUP, all, append, entry, fast_dir, open, segments, small, start};
use crate::disk::faults::{Disk, Fault};
use crate::log::record::Kind;
use crate::log::{LogError, recovery};

const FIRST: &str = "0000000000000001.wal";

#[tokio::test]
async fn what_was_read_after_a_failed_sync_or_a_kill_survives_a_power_cut() {
    for fault in [Fault::Refused, Fault::Killed] {
        // One stays in the segment, the others fill it: it is sealed and not synced, and has a successor.
        for count in [1, 30] {
            let dir = fast_dir();
            let disk = Disk::under(dir.path());
            {
                let (log, _) = open(dir.path(), small());
                let mut group = log.group(GROUP);
                append(&mut group, vec![entry(1, 0, 100)]).await;
                disk.fail_next_sync(FIRST, fault);
                let entries = (1..=count).map(|index| entry(1, index, 100)).collect();
                start(&mut group, entries).await.await.unwrap_err();
                assert!(disk.has_failed());
            }
            let there = {
                let (log, _) = open(dir.path(), small());
                let mut group = log.group(GROUP);
                let next = all(&mut group).await.len() as u64;
                assert!(next > 1, "the page cache has more");
                append(&mut group, vec![entry(1, next, 100)]).await;
                all(&mut group).await
            };
            disk.cut_power();
            let (log, _) = open(dir.path(), small());
            let found = all(&mut log.group(GROUP)).await;
            assert_eq!(found, there, "{fault:?}, {count} entries");
        }
    }
}

#[test]
fn a_file_that_could_not_be_filled_is_not_left_behind() {
    let dir = fast_dir();
    let disk = Disk::under(dir.path());
    let path = dir.path().join("spare-1");
    disk.fail_next_sync("spare-1", Fault::Refused);
    super::segment::create_zeroed(&path, 4096).unwrap_err();
    assert!(!path.exists());
    super::segment::create_zeroed(&path, 4096).unwrap();
    assert!(path.exists());
}

#[tokio::test]
async fn what_is_proven_to_be_synced_is_not_written_again() {
    let dir = fast_dir();
    {
        let (log, _) = open(dir.path(), small());
        let mut group = log.group(GROUP);
        for index in 0..30 {
            append(&mut group, vec![entry(1, index, 100)]).await;
        }
        log.sync().await.unwrap();
    }
    let before = segments(dir.path());
    let last_two = before.len() - 2;
    let disk = Disk::under(dir.path());
    drop(open(dir.path(), small()));
    for (at, path) in before.iter().enumerate() {
        let written = disk.written(path);
        if at < last_two {
            assert_eq!(written, 0);
        }
        // The last entry of a segment, its seal, and a mark at most.
        assert!(written < 300, "{written} bytes of {}", path.display());
    }
}

#[tokio::test]
async fn records_behind_a_cut_stay_dead_also_if_the_zeros_over_them_were_lost() {
    let dir = fast_dir();
    let before = Disk::under(dir.path());
    {
        let (log, _) = open(dir.path(), small());
        let mut group = log.group(GROUP);
        append(&mut group, vec![entry(1, 0, 30)]).await;
        before.fail_next_sync(FIRST, Fault::Killed);
        let three = vec![entry(1, 1, 30), entry(1, 2, 30), entry(1, 3, 30)];
        start(&mut group, three).await.await.unwrap_err();
    }
    drop(before);
    // The first page of that write is lost, the rest is on disk.
    let path = segments(dir.path()).pop().unwrap();
    let found = records(&fs::read(&path).unwrap(), segment(&path).stamp);
    let (at, size, _) = *found
        .iter()
        .filter(|(.., kind)| *kind == Kind::Entry)
        .nth(1)
        .unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&vec![0; size], at as u64).unwrap();
    let disk = Disk::under(dir.path());
    disk.fail_next_sync(FIRST, Fault::Refused);
    let failed = recovery::open(dir.path(), &small()).map(|_| ());
    assert!(matches!(failed, Err(LogError::Io { .. })), "{failed:?}");
    {
        let (log, _) = open(dir.path(), small());
        // Of the size of the lost one: those behind it would follow.
        append(&mut log.group(GROUP), vec![entry(2, 1, 30)]).await;
    }
    disk.cut_power();
    let (log, _) = open(dir.path(), small());
    let there = all(&mut log.group(GROUP)).await;
    assert_eq!(there, vec![entry(1, 0, 30), entry(2, 1, 30)]);
    assert!(!dir.path().join("zeroing").exists());
}
