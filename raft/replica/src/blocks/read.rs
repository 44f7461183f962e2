//! Reading records: one, or many that mostly lie beside one another, which then cost one search of the
//! cache or one read of a file together.

use bytes::Bytes;
use unibus_state::{Location, first_damaged};

use super::{BlockStore, file_bytes, key_of};
use crate::errors::StorageError;

/// Bytes that one read of a file brings at most, unless a single record is longer.
const RUN_BYTES_MAX: u32 = 1 << 20;
/// Bytes between two records that are read along rather than skipped.
const GAP_BYTES_MAX: u32 = 4 << 10;

impl BlockStore {
    /// The record at `at`: from the cache, else from its file, where its checksum is checked.
    pub(crate) fn read(&self, at: &Location) -> Result<Bytes, StorageError> {
        if let Some(bytes) = self.cache.lock().get(at) {
            return Ok(bytes);
        }
        let record = self.read_range(key_of(at), at.offset, at.len)?;
        self.checked(at, record)
    }

    /// The records at `places`, in their order, as [`BlockStore::read`] has them one by one.
    pub(crate) fn read_all(&self, places: &[Location]) -> Vec<Result<Bytes, StorageError>> {
        let mut found = self.cache.lock().get_all(places);
        let mut records = Vec::with_capacity(places.len());
        while let Some(at) = places.get(records.len()) {
            let done = records.len();
            if let Some(record) = found.get_mut(done).and_then(Option::take) {
                records.push(Ok(record));
                continue;
            }
            let missing = found[done..].iter().take_while(|found| found.is_none());
            let run = neighbours(&places[done..done + missing.count()]);
            let end = run.last().map_or(at.offset, |last| last.offset + last.len);
            match self.read_range(key_of(at), at.offset, end - at.offset) {
                Ok(bytes) => records.extend(run.iter().map(|place| {
                    let from = (place.offset - at.offset) as usize;
                    self.checked(place, bytes.slice(from..from + place.len as usize))
                })),
                // Some of them may be there all the same.
                Err(_) => records.extend(run.iter().map(|place| self.read(place))),
            }
        }
        records
    }

    fn checked(&self, at: &Location, record: Bytes) -> Result<Bytes, StorageError> {
        if first_damaged(&record).is_none() {
            return Ok(record);
        }
        Err(StorageError::Damaged {
            path: self.path(key_of(at)),
            reason: format!(
                "the checksum of the record at byte {} does not match",
                file_bytes(at.offset)
            ),
        })
    }
}

/// The first of `places`, and those that follow it in its block closely enough to be read with it.
fn neighbours(places: &[Location]) -> &[Location] {
    let Some(first) = places.first() else {
        return places;
    };
    let close = places.windows(2).take_while(|pair| {
        let gap = pair[1].offset.checked_sub(pair[0].offset + pair[0].len);
        let bytes = (pair[1].offset + pair[1].len).saturating_sub(first.offset);
        key_of(&pair[1]) == key_of(first)
            && gap.is_some_and(|gap| gap <= GAP_BYTES_MAX)
            && bytes <= RUN_BYTES_MAX
    });
    &places[..=close.count()]
}

#[cfg(test)]
mod tests {
    use unibus_state::{BlockId, BlockSink, StreamUid};

    use super::*;

    /// Records of 32 to 132 bytes, one behind the other, in two blocks.
    fn filled(cache_bytes: usize) -> (tempfile::TempDir, BlockStore, Vec<Location>) {
        let dir = tempfile::tempdir().unwrap();
        let store = BlockStore::open(dir.path().join("b"), cache_bytes).unwrap();
        let mut places = Vec::new();
        let mut offsets = [0_u32; 2];
        for number in 0..200_u32 {
            let block = number / 120;
            let record = super::super::tests::record(&vec![number as u8; (number % 101) as usize]);
            let offset = &mut offsets[block as usize];
            let at = Location {
                stream: StreamUid(3),
                block: BlockId(block),
                offset: *offset,
                len: record.len() as u32,
            };
            *offset += at.len;
            let mut writer = store.writer();
            writer.append(&at, &[&record]);
            writer.publish();
            writer.write_out().unwrap();
            places.push(at);
        }
        (dir, store, places)
    }

    #[test]
    fn many_are_read_as_one_by_one() {
        // Nothing cached, the end cached, everything cached.
        for cache_bytes in [0, 4096, 1 << 20] {
            let (_dir, store, places) = filled(cache_bytes);
            let mut strange: Vec<Location> = places.iter().rev().step_by(3).copied().collect();
            strange.extend(places.iter().step_by(2));
            for wanted in [&places[..], &strange, &places[7..8], &[]] {
                let one_by_one: Vec<Bytes> =
                    wanted.iter().map(|at| store.read(at).unwrap()).collect();
                let together: Vec<Bytes> = store
                    .read_all(wanted)
                    .into_iter()
                    .map(Result::unwrap)
                    .collect();
                assert_eq!(together, one_by_one);
            }
        }
    }

    #[test]
    fn what_is_missing_or_damaged_spoils_no_other() {
        let (_dir, store, places) = filled(0);
        store.patch((3, 0), places[5].offset + 9, b"!").unwrap();
        let mut wanted = places[..10].to_vec();
        wanted.push(Location {
            offset: 1 << 20,
            ..places[0]
        });
        wanted.push(places[150]);
        let read = store.read_all(&wanted);
        for (number, record) in read.iter().enumerate() {
            match number {
                5 => assert!(matches!(record, Err(StorageError::Damaged { .. }))),
                10 => assert!(matches!(record, Err(StorageError::Missing { .. }))),
                _ => assert!(record.is_ok(), "{number}"),
            }
        }
    }

    #[test]
    fn neighbours_are_close_and_not_too_many() {
        let place = |block, offset, len| Location {
            stream: StreamUid(1),
            block: BlockId(block),
            offset,
            len,
        };
        let count = |places: &[Location]| neighbours(places).len();
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[place(0, 0, 5), place(0, 5, 5), place(1, 10, 5)]), 2);
        assert_eq!(count(&[place(0, 5, 5), place(0, 0, 5)]), 1, "backwards");
        let far = GAP_BYTES_MAX + 6;
        assert_eq!(count(&[place(0, 0, 5), place(0, far, 5)]), 1);
        assert_eq!(count(&[place(0, 0, 5), place(0, far - 1, 5)]), 2);
        let (half, rest) = (RUN_BYTES_MAX / 2, RUN_BYTES_MAX / 2 + 1);
        assert_eq!(count(&[place(0, 0, half), place(0, half, half)]), 2);
        assert_eq!(count(&[place(0, 0, half), place(0, half, rest)]), 1);
    }
}
