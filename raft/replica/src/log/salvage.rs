//! Reading what is left of a damaged log: everything in front of the first thing that is wrong. Changes
//! nothing. Only `unibus-node recover` goes by what it finds: what is behind the damage may have been
//! acknowledged.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::group::decode;
use super::index::{GroupIndex, Piece};
use super::recovery::{Scan, Stop, list};
use super::segment::{self, Segment};
use super::{LogError, lock_dir};
use crate::transport::GroupId;
use crate::types::{Entry, EntryPayload, StoredMembership};

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 4 << 20;

/// What is left of one group's log.
#[derive(Debug)]
pub(crate) struct Salvaged {
    group: GroupId,
    index: GroupIndex,
    segments: BTreeMap<u64, Arc<Segment>>,
    /// What is wrong, if anything is.
    pub(crate) damage: Option<String>,
    /// Held for its lock: no node may run on the log meanwhile.
    _lock: File,
}

/// Reads the log in `dir` as far as it goes.
pub(crate) fn salvage(dir: &Path, group: GroupId) -> Result<Salvaged, LogError> {
    let lock = lock_dir(dir)?;
    let sequences = list(dir)?;
    let last = sequences.last().copied();
    let mut scan = Scan::default();
    let mut segments = BTreeMap::new();
    let mut damage = sequences
        .is_empty()
        .then(|| format!("{} has no segments", dir.display()));
    let mut buffer = Vec::new();
    let first = sequences.first().copied().unwrap_or_default();
    for (due, sequence) in (first..).zip(sequences) {
        if sequence != due {
            let name = dir.join(segment::file_name(due));
            damage = Some(format!("{} is missing", name.display()));
            break;
        }
        let read = Segment::open(dir, sequence).and_then(|segment| {
            segment.read_all(&mut buffer)?;
            let stop = scan.read_segment(&segment, &buffer);
            segments.insert(sequence, Arc::new(segment));
            stop
        });
        match read {
            Ok(Stop::Sealed) => {}
            Ok(Stop::At(_)) if Some(sequence) == last => {}
            Ok(Stop::At(offset)) => {
                let name = dir.join(segment::file_name(sequence));
                damage = Some(format!("{} is damaged at byte {offset}", name.display()));
                break;
            }
            Err(error) if error.is_damage() => {
                damage = Some(error.to_string());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Salvaged {
        group,
        index: scan.into_index(group),
        segments,
        damage,
        _lock: lock,
    })
}

impl Salvaged {
    /// Index of the first entry that is there, and of the last one.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        let first = self.index.purged.map_or(0, |id| id.index);
        let end = self.index.end();
        (self.index.log_id(end.checked_sub(1)?).is_some()).then(|| {
            let start = (first..end).find(|at| self.index.log_id(*at).is_some());
            (start.unwrap_or(end - 1), end - 1)
        })
    }

    /// Who the members are by the last entry that says so, if one can be read.
    pub(crate) fn membership(&self) -> Option<StoredMembership> {
        let mut last = None;
        let read = self.for_each(0, |entry| {
            if let EntryPayload::Membership(membership) = entry.payload {
                last = Some(StoredMembership::new(Some(entry.log_id), membership));
            }
            Ok(())
        });
        if let Err(error) = read {
            tracing::warn!(%error, "not every entry of the log can be read");
        }
        last
    }

    /// Hands over the entries from `from` on, one after the other.
    pub(crate) fn for_each(
        &self,
        from: u64,
        mut each: impl FnMut(Entry) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut next = from;
        loop {
            let pieces = self.index.read(next, u64::MAX, READ_BYTES);
            if pieces.is_empty() {
                return Ok(());
            }
            for piece in pieces {
                let Piece::Stored(log_id, place) = piece else {
                    continue;
                };
                let bad = || super::index::invalid(format!("entry {log_id} can't be read"));
                let segment = self.segments.get(&place.segment).ok_or_else(bad)?;
                let mut record = vec![0; place.size as usize];
                segment
                    .file
                    .read_exact_at(&mut record, u64::from(place.offset))?;
                let entry = decode(self.group, &log_id, segment, &Bytes::from(record));
                next = log_id.index + 1;
                each(entry.ok_or_else(bad)?)?;
            }
        }
    }
}
