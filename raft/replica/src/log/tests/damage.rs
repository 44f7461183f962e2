//! Broken files: what may be cut is cut and nothing else, and everything else is refused.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;

use super::{
    DEADLINE, GROUP, append, entry, fast_dir, hold_writer, log_id, open, segments, small, start,
    vote,
};
use crate::log::record::{self, Kind, Stamp};
use crate::log::segment::{HEADER_BYTES, Segment, parse_name};
use crate::log::{Log, LogError, LogOptions, recovery};
use crate::types::{Entry, LogState, Vote};

/// What a log says of its group.
#[derive(Clone, Debug, Default, PartialEq)]
struct View {
    state: LogState,
    vote: Option<Vote>,
    entries: Vec<Entry>,
}

async fn view(log: &Log) -> View {
    let mut group = log.group(GROUP);
    View {
        state: group.get_log_state().await.unwrap(),
        vote: group.read_vote().await.unwrap(),
        entries: group.try_get_log_entries(..).await.unwrap(),
    }
}

/// One write of each kind, each one record; the view after each of them, the empty one first.
async fn write_some(dir: &Path) -> Vec<View> {
    let (log, _) = open(dir, small());
    let mut group = log.group(GROUP);
    let mut views = vec![View::default()];
    for step in 0..11 {
        match step {
            0 => group.save_vote(&vote(1, false)).await.unwrap(),
            4 => group.save_vote(&vote(2, true)).await.unwrap(),
            5 => group.truncate_after(Some(log_id(1, 1))).await.unwrap(),
            8 => group.purge(log_id(1, 0)).await.unwrap(),
            1..=3 => append(&mut group, vec![entry(1, step - 1, 13 * step as usize)]).await,
            6 | 7 => append(&mut group, vec![entry(2, step - 4, 5)]).await,
            _ => append(&mut group, vec![entry(3, step - 5, 1)]).await,
        }
        log.sync().await.unwrap();
        views.push(view(&log).await);
    }
    views
}

pub(super) fn segment(path: &Path) -> Segment {
    let sequence = parse_name(path.file_name().unwrap().to_str().unwrap()).unwrap();
    Segment::open(path.parent().unwrap(), sequence).unwrap()
}

/// Start and size of each record of a segment file.
pub(super) fn records(bytes: &[u8], stamp: Stamp) -> Vec<(usize, usize, Kind)> {
    let mut found = Vec::new();
    let mut at = HEADER_BYTES as usize;
    while let Some(record) = record::read(&bytes[at..], stamp) {
        found.push((at, record.size, record.head.kind));
        at += record.size;
    }
    found
}

/// A directory with the log files of `from`, the last of them changed.
fn broken(from: &Path, to: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // As after a power cut: the note of how far the log is synced is itself never synced.
        if entry.file_name() != "LOCK" && entry.file_name() != "synced" {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
    let last = segments(to).pop().unwrap();
    let mut bytes = fs::read(&last).unwrap();
    change(&mut bytes);
    fs::write(&last, bytes).unwrap();
}

#[tokio::test]
async fn a_tail_torn_at_any_byte_leaves_the_complete_prefix() {
    let dir = fast_dir();
    let views = write_some(dir.path()).await;
    let path = segments(dir.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let records = records(&whole, segment(&path).stamp);
    let writes = records.iter().filter(|r| r.2 != Kind::Mark).count();
    assert_eq!(writes + 1, views.len());
    let (at, size, _) = *records.last().unwrap();
    let copy = fast_dir();
    for cut in HEADER_BYTES as usize..=at + size {
        fs::remove_file(copy.path().join("synced")).ok();
        broken(dir.path(), copy.path(), |bytes| bytes[cut..].fill(0));
        // A record that lost only zeros is still whole: what is missing reads as zeros.
        let end = whole[..cut].len() + whole[cut..].iter().take_while(|byte| **byte == 0).count();
        let complete = records
            .iter()
            .filter(|(at, size, kind)| *kind != Kind::Mark && at + size <= end)
            .count();
        {
            let (log, report) = open(copy.path(), small());
            assert_eq!(view(&log).await, views[complete], "cut at byte {cut}");
            // Once its tag is there, an incomplete record is known to be one.
            let partial = records
                .iter()
                .find(|(at, size, _)| at + 12 <= cut && at + size > end);
            match (partial, report.cut) {
                (Some((at, ..)), found) => assert_eq!(found.unwrap().offset, *at as u64),
                (None, Some(found)) => assert!(found.offset <= cut as u64),
                (None, None) => {}
            }
            let mut group = log.group(GROUP);
            group.save_vote(&vote(9, true)).await.unwrap();
        }
        let (log, report) = open(copy.path(), small());
        assert_eq!(report.cut, None, "the tail is clean after the cut");
        assert_eq!(view(&log).await.vote, Some(vote(9, true)));
    }
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_synced_records_is_refused() {
    let dir = fast_dir();
    let views = write_some(dir.path()).await;
    let path = segments(dir.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let records = records(&whole, segment(&path).stamp);
    let copy = fast_dir();
    let name = path.file_name().unwrap();
    let (last_at, last_size, kind) = *records.last().unwrap();
    assert_eq!(kind, Kind::Mark, "an idle log ends with a mark");
    for at in 0..last_at + last_size {
        broken(dir.path(), copy.path(), |bytes| bytes[at] ^= 0x10);
        let opened = recovery::open(copy.path(), &small());
        if at >= last_at {
            assert!(opened.is_ok(), "the last mark holds nothing: {at}");
            continue;
        }
        let starts = records.iter().map(|r| r.0).take_while(|start| *start <= at);
        let expected = starts.last().unwrap_or(0) as u64;
        match opened.map(|_| ()) {
            Err(LogError::Damaged { file, offset, .. }) => {
                assert_eq!(file.file_name(), Some(name));
                assert_eq!(offset, expected, "flipped byte {at}");
            }
            other => panic!("flipped byte {at}: {other:?}"),
        }
        let untouched = fs::read(copy.path().join(name)).unwrap();
        assert!(untouched[..at] == whole[..at] && untouched[at + 1..] == whole[at + 1..]);
    }
    broken(dir.path(), copy.path(), |_| {});
    let (log, _) = open(copy.path(), small());
    assert_eq!(view(&log).await, *views.last().unwrap());
}

#[tokio::test]
async fn a_write_that_was_never_synced_may_be_torn_in_the_middle() {
    let dir = fast_dir();
    {
        let (log, _) = open(dir.path(), small());
        let mut group = log.group(GROUP);
        append(&mut group, vec![entry(1, 0, 30)]).await;
        let three = vec![entry(1, 1, 30), entry(1, 2, 30), entry(1, 3, 30)];
        append(&mut group, three).await;
    }
    let path = segments(dir.path()).pop().unwrap();
    let stamp = segment(&path).stamp;
    let records = records(&fs::read(&path).unwrap(), stamp);
    let kinds: Vec<Kind> = records.iter().map(|r| r.2).collect();
    use Kind::{Entry, Mark};
    assert_eq!(kinds, [Entry, Mark, Entry, Entry, Entry, Mark]);
    // As after a power cut in the middle of the last sync: its first page is lost, the rest is not.
    let copy = fast_dir();
    broken(dir.path(), copy.path(), |bytes| {
        let (first, mark) = (records[2], records[5]);
        bytes[first.0..first.0 + first.1].fill(0);
        bytes[mark.0..mark.0 + mark.1].fill(0);
    });
    {
        let (log, report) = open(copy.path(), small());
        let cut = report.cut.unwrap();
        assert_eq!((cut.offset, cut.records), (records[2].0 as u64, 2));
        assert_eq!(view(&log).await.entries, vec![entry(1, 0, 30)]);
        // A record of the same size as the lost one: the two behind it must stay dead.
        append(&mut log.group(GROUP), vec![entry(2, 1, 30)]).await;
    }
    let (log, _) = open(copy.path(), small());
    assert_eq!(
        view(&log).await.entries,
        vec![entry(1, 0, 30), entry(2, 1, 30)]
    );
}

/// A log of several segments, all needed.
async fn write_segments(dir: &Path) -> usize {
    let (log, _) = open(dir, small());
    let mut group = log.group(GROUP);
    for index in 0..60 {
        append(&mut group, vec![entry(1, index, 100)]).await;
    }
    drop((log, group));
    segments(dir).len()
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    let dir = fast_dir();
    let count = write_segments(dir.path()).await;
    assert!(count > 4);
    for missing in [0, 2, count - 1] {
        let copy = fast_dir();
        broken(dir.path(), copy.path(), |_| {});
        let gone = segments(copy.path()).remove(missing);
        fs::remove_file(&gone).unwrap();
        match recovery::open(copy.path(), &small()).map(|_| ()) {
            Err(LogError::Missing { file, .. }) => assert_eq!(file, gone),
            other => panic!("without segment {missing}: {other:?}"),
        }
    }
    for path in segments(dir.path()) {
        fs::remove_file(path).unwrap();
    }
    let refused = recovery::open(dir.path(), &small()).map(|_| ());
    assert!(
        matches!(refused, Err(LogError::Missing { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn damage_in_an_earlier_segment_is_refused() {
    let dir = fast_dir();
    write_segments(dir.path()).await;
    let path = segments(dir.path()).remove(1);
    let records = records(&fs::read(&path).unwrap(), segment(&path).stamp);
    assert_eq!(records.last().unwrap().2, Kind::Seal);
    for (at, size, _) in records {
        let copy = fast_dir();
        broken(dir.path(), copy.path(), |_| {});
        let file = fs::File::options()
            .write(true)
            .open(copy.path().join(path.file_name().unwrap()))
            .unwrap();
        file.write_all_at(&vec![0xee; size], at as u64).unwrap();
        match recovery::open(copy.path(), &small()).map(|_| ()) {
            Err(LogError::Damaged { offset, .. }) => assert_eq!(offset, at as u64),
            other => panic!("record at {at}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_prepared_segment_that_was_never_used_is_dropped() {
    let dir = fast_dir();
    let views = write_some(dir.path()).await;
    let bytes = u32::try_from(small().segment_bytes).unwrap();
    let spare = crate::log::keeper::create(dir.path(), bytes).unwrap();
    Segment::activate(dir.path(), &spare.path, spare.file, bytes, 2).unwrap();
    let (log, report) = open(dir.path(), small());
    assert_eq!(report.cut, None);
    assert_eq!(view(&log).await, *views.last().unwrap());
    assert_eq!(log.stats().segments, 1);
    drop(log);
    assert_eq!(segments(dir.path()).len(), 1);
}

#[tokio::test]
async fn a_file_of_another_format_is_refused() {
    let dir = fast_dir();
    write_some(dir.path()).await;
    let path = segments(dir.path()).pop().unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..60]);
    bytes[60..64].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let refused = Log::open(dir.path(), LogOptions::default()).map(|_| ());
    assert!(
        matches!(refused, Err(LogError::Format { found: 2, .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn damage_found_while_reading_is_an_error() {
    let dir = fast_dir();
    let (log, _) = open(
        dir.path(),
        LogOptions {
            cache_bytes: 0,
            ..small()
        },
    );
    let mut group = log.group(GROUP);
    append(&mut group, vec![entry(1, 0, 50), entry(1, 1, 50)]).await;
    let path = segments(dir.path()).pop().unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    let second = u64::from(HEADER_BYTES) + record::size(50) as u64;
    file.write_all_at(b"x", second + 60).unwrap();
    assert_eq!(group.try_get_log_entries(0..1).await.unwrap().len(), 1);
    let error = group.try_get_log_entries(0..2).await.unwrap_err();
    assert!(error.to_string().contains("damaged at byte"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committed_hint_gets_to_the_disk_after_the_entry_it_names() {
    let dir = fast_dir();
    let (log, _) = open(dir.path(), LogOptions::default());
    let mut group = log.group(GROUP);
    let held = hold_writer(&log);
    let first = start(&mut group, vec![entry(1, 0, 5)]).await;
    // The writer is in the middle of the first batch, so the second entry is not part of it.
    let queue = log.handle.ops.as_ref().unwrap();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while queue.capacity() < queue.max_capacity() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    let second = start(&mut group, vec![entry(1, 1, 5)]).await;
    group.save_committed(Some(log_id(1, 1))).await.unwrap();
    drop(held);
    first.await.unwrap();
    second.await.unwrap();
    append(&mut group, vec![entry(1, 2, 5)]).await;
    let path = segments(dir.path()).pop().unwrap();
    let kinds: Vec<Kind> = records(&fs::read(&path).unwrap(), segment(&path).stamp)
        .into_iter()
        .map(|(_, _, kind)| kind)
        .filter(|kind| *kind != Kind::Mark)
        .collect();
    let entries = [Kind::Entry, Kind::Entry, Kind::Entry];
    assert_eq!(kinds, [&entries[..], &[Kind::Committed]].concat());
}

#[tokio::test]
async fn a_committed_hint_without_its_entry_is_not_believed() {
    let dir = fast_dir();
    let (log, _) = open(dir.path(), LogOptions::default());
    let mut group = log.group(GROUP);
    append(&mut group, vec![entry(1, 0, 5), entry(1, 1, 5)]).await;
    for beyond in [log_id(1, 2), log_id(2, 1)] {
        group.save_committed(Some(beyond)).await.unwrap();
        assert_eq!(group.read_committed().await.unwrap(), None);
    }
    group.save_committed(Some(log_id(1, 1))).await.unwrap();
    assert_eq!(group.read_committed().await.unwrap(), Some(log_id(1, 1)));
    group.purge(log_id(1, 1)).await.unwrap();
    assert_eq!(group.read_committed().await.unwrap(), Some(log_id(1, 1)));
}

#[tokio::test]
async fn records_that_were_synced_and_are_zeros_now_are_missed() {
    let dir = fast_dir();
    write_some(dir.path()).await;
    let path = segments(dir.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let records = records(&whole, segment(&path).stamp);
    let copy = fast_dir();
    // All but the last mark, which holds nothing.
    for (at, ..) in &records[..records.len() - 1] {
        broken(dir.path(), copy.path(), |bytes| bytes[*at..].fill(0));
        fs::copy(dir.path().join("synced"), copy.path().join("synced")).unwrap();
        match recovery::open(copy.path(), &small()).map(|_| ()) {
            Err(LogError::Damaged { offset, .. }) => assert_eq!(offset, *at as u64),
            other => panic!("zeros from {at}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_segment_that_is_shorter_than_it_was_made_is_refused() {
    let dir = fast_dir();
    write_some(dir.path()).await;
    let copy = fast_dir();
    let len = small().segment_bytes as usize;
    for cut in [0, 5, 64, 200, len - 1] {
        broken(dir.path(), copy.path(), |bytes| bytes.truncate(cut));
        let refused = recovery::open(copy.path(), &small()).map(|_| ());
        assert!(
            matches!(refused, Err(LogError::Damaged { .. })),
            "{cut}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_tail_torn_behind_the_note_is_cut_and_one_torn_before_it_is_damage() {
    let dir = fast_dir();
    let (log, _) = open(dir.path(), small());
    let mut group = log.group(GROUP);
    let noted = dir.path().join("synced");
    let mut notes = Vec::new();
    for index in 0..4 {
        append(&mut group, vec![entry(1, index, 40)]).await;
        log.sync().await.unwrap();
        notes.push(fs::read(&noted).unwrap());
    }
    drop((log, group));
    let path = segments(dir.path()).pop().unwrap();
    let whole = fs::read(&path).unwrap();
    let entries: Vec<(usize, usize)> = records(&whole, segment(&path).stamp)
        .into_iter()
        .filter(|(.., kind)| *kind == Kind::Entry)
        .map(|(at, size, _)| (at, size))
        .collect();
    let copy = fast_dir();
    for (torn, (at, size)) in entries.iter().enumerate() {
        // The note is never synced: what is found may be any of those that were written, or none.
        for note in [None, Some(0), Some(1), Some(2), Some(3)] {
            fs::remove_file(copy.path().join("synced")).ok();
            broken(dir.path(), copy.path(), |bytes| {
                bytes[at + size / 2..].fill(0)
            });
            if let Some(note) = note {
                fs::write(copy.path().join("synced"), &notes[note]).unwrap();
            }
            let opened = recovery::open(copy.path(), &small()).map(|log| log.report.cut);
            match opened {
                Ok(cut) if note.is_none_or(|note| note < torn) => {
                    assert_eq!(cut.unwrap().offset, *at as u64);
                }
                Err(LogError::Damaged { offset, .. }) if note.is_some_and(|note| note >= torn) => {
                    assert_eq!(offset, *at as u64);
                }
                other => panic!("entry {torn} torn, note {note:?}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_short_segment_in_front_of_others_is_refused() {
    let dir = fast_dir();
    let count = write_segments(dir.path()).await;
    let len = small().segment_bytes;
    for short in [0, count - 2] {
        let path = segments(dir.path()).remove(short);
        let records = records(&fs::read(&path).unwrap(), segment(&path).stamp);
        let (at, size, kind) = *records.last().unwrap();
        assert_eq!(kind, Kind::Seal);
        // What is behind the seal holds nothing, nor does what fills its last words.
        for cut in [0, 40, 100, len / 2, at as u64, (at + size) as u64] {
            let copy = fast_dir();
            broken(dir.path(), copy.path(), |_| {});
            let path = segments(copy.path()).remove(short);
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_len(cut).unwrap();
            match recovery::open(copy.path(), &small()).map(|_| ()) {
                Err(LogError::Damaged { file, .. }) if cut < (at + size) as u64 => {
                    assert_eq!(file, path);
                }
                Ok(()) if cut == (at + size) as u64 => {}
                other => panic!("segment {short} cut to {cut}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn the_last_segment_lost_as_a_whole_is_missed_with_and_without_the_note() {
    let dir = fast_dir();
    write_segments(dir.path()).await;
    for is_noted in [true, false] {
        let copy = fast_dir();
        broken(dir.path(), copy.path(), |_| {});
        if is_noted {
            fs::copy(dir.path().join("synced"), copy.path().join("synced")).unwrap();
        }
        let gone = segments(copy.path()).pop().unwrap();
        // Its file is there and holds nothing, as after a file system has lost its pages.
        let file = fs::File::options().write(true).open(&gone).unwrap();
        file.write_all_at(&vec![0; small().segment_bytes as usize], 0)
            .unwrap();
        match recovery::open(copy.path(), &small()).map(|_| ()) {
            Err(LogError::Damaged { file, .. }) => assert_eq!(file, gone),
            other => panic!("with a note: {is_noted}: {other:?}"),
        }
    }
}
