//! The write-ahead log: one for each node, shared by all groups. It is the truth; everything else on
//! disk can be rebuilt from it and a checkpoint.
//!
//! Records of all groups (entries, votes, truncations, purges, committed hints) go through one
//! bounded queue to one writer thread, which writes what waits, issues ONE `fdatasync` for it and
//! then calls everyone back. Segments are files of a fixed size, zero-filled once and recycled, so
//! that a sync has no file-size change to journal.
//!
//! What it must never do: acknowledge before the sync, or forget anything acknowledged. On open a
//! torn tail (never synced) is cut and reported; anything else that is wrong is a [`LogError`] that
//! names file and offset, and nothing is changed on disk.
//!
//! Parts: `record` and `segment` are the format, `synced` says how far it must reach, `recovery` reads it, `writer` writes it, `keeper`
//! makes and recycles segment files off the writer's path, `index` is what memory knows of a group,
//! `group` implements openraft's storage traits.

mod error;
pub(crate) mod fuzzing;
mod group;
mod index;
mod keeper;
mod record;
mod recovery;
mod salvage;
mod segment;
mod synced;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, mpsc};

pub(crate) use error::LogError;
pub(crate) use group::GroupLog;
pub(crate) use salvage::{Salvaged, salvage};

use crate::transport::GroupId;
use index::GroupIndex;
use recovery::Recovered;
use segment::Segment;
use writer::{Op, Writer};

/// Sizes and limits of the log.
#[derive(Clone, Debug)]
pub(crate) struct LogOptions {
    /// Size of a segment file in bytes. A record that does not fit gets a segment of its own size.
    pub(crate) segment_bytes: u64,
    /// Bytes of recent entries kept in memory for each group.
    pub(crate) cache_bytes: usize,
    /// Bytes of entries that may wait for the writer; an append waits while they are over.
    pub(crate) queue_bytes: usize,
    /// Operations that may wait for the writer.
    pub(crate) queue_ops: usize,
    /// Bytes that one limited read returns, at most (but at least one entry).
    pub(crate) read_bytes: usize,
    /// Recycled segment files kept for reuse, at most. A file that is not kept is made anew when the log
    /// grows again, and filling it with zeros writes as much as what is then logged in it.
    pub(crate) spares_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 * 1024 * 1024,
            cache_bytes: 64 * 1024 * 1024,
            queue_bytes: 64 * 1024 * 1024,
            queue_ops: 1024,
            read_bytes: 4 * 1024 * 1024,
            spares_max: 4,
        }
    }
}

/// What opening found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct OpenReport {
    /// Segments read.
    pub(crate) segments: usize,
    /// Valid records read.
    pub(crate) records: u64,
    /// The torn tail that was cut, if there was one.
    pub(crate) cut: Option<Cut>,
}

/// A torn tail: written but never synced, so never acknowledged.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Cut {
    /// The segment file.
    pub(crate) file: PathBuf,
    /// Where the first incomplete record starts, in bytes from the start of the file.
    pub(crate) offset: u64,
    /// Bytes from `offset` to the end of the last trace of a record.
    pub(crate) bytes: u64,
    /// Complete records behind the incomplete one that were dropped with it. They belong to the same
    /// unsynced write.
    pub(crate) records: u64,
}

/// Counters since open.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(dead_code, reason = "tests use it; metrics will")]
pub(crate) struct LogStats {
    /// Data syncs of segment files.
    pub(crate) syncs: u64,
    /// Operations (appends, votes, truncations, purges) written.
    pub(crate) operations: u64,
    /// Record bytes written, headers included.
    pub(crate) bytes: u64,
    /// Segments in use now.
    pub(crate) segments: u64,
}

/// What the writer, the readers and the groups share.
#[derive(Debug)]
struct Shared {
    options: LogOptions,
    /// Segments in use, by sequence number. Readers clone the `Arc`; a segment is recycled only when
    /// nobody else holds it.
    segments: RwLock<BTreeMap<u64, Arc<Segment>>>,
    groups: RwLock<BTreeMap<GroupId, Arc<Mutex<GroupIndex>>>>,
    /// The first write or sync failure. Nothing is accepted after it: what a failed sync left on
    /// disk is unknown until the next open.
    failure: RwLock<Option<String>>,
    syncs: AtomicU64,
    operations: AtomicU64,
    bytes: AtomicU64,
}

impl Shared {
    /// The index of a group, made on first use.
    fn group(&self, group: GroupId) -> Arc<Mutex<GroupIndex>> {
        if let Some(index) = self.groups.read().get(&group) {
            return Arc::clone(index);
        }
        let mut groups = self.groups.write();
        Arc::clone(groups.entry(group).or_default())
    }

    /// The error that everything answers once the log has failed.
    fn check(&self) -> std::io::Result<()> {
        match self.failure.read().as_ref() {
            None => Ok(()),
            Some(why) => Err(std::io::Error::other(format!("the log has failed: {why}"))),
        }
    }
}

/// The log of a node. Dropping the last handle (this and every [`GroupLog`]) writes out what waits
/// and releases the directory.
#[derive(Debug)]
pub(crate) struct Log {
    handle: Arc<Handle>,
}

/// Keeps the writer alive and joins it at the end.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
    /// `None` only while dropping.
    ops: Option<mpsc::Sender<Op>>,
    /// Permits are bytes of `queue_bytes`.
    room: Arc<Semaphore>,
    writer: Option<JoinHandle<()>>,
    /// Held for its lock.
    _lock: File,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.ops = None;
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the log writer panicked");
        }
    }
}

impl Log {
    /// Opens the log in `dir`, making it if it is not there, and reads it all.
    pub(crate) fn open(dir: &Path, options: LogOptions) -> Result<(Self, OpenReport), LogError> {
        crate::disk::make_folder(dir).map_err(|e| LogError::io("create", dir, e))?;
        let lock = lock_dir(dir)?;
        let recovered = recovery::open(dir, &options)?;
        let report = recovered.report.clone();
        if let Some(cut) = &report.cut {
            tracing::warn!(file = %cut.file.display(), offset = cut.offset, bytes = cut.bytes,
                records = cut.records, "cut the torn tail of the log");
        }
        let log = Self::start(dir, options, recovered, lock)?;
        Ok((log, report))
    }

    /// Starts the threads on a log that has been read.
    fn start(
        dir: &Path,
        options: LogOptions,
        recovered: Recovered,
        lock: File,
    ) -> Result<Self, LogError> {
        let shared = Arc::new(Shared {
            segments: RwLock::new(recovered.segments),
            groups: RwLock::new(recovered.groups),
            failure: RwLock::new(None),
            syncs: AtomicU64::new(0),
            operations: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            options,
        });
        let (ops, queue) = mpsc::channel(shared.options.queue_ops);
        let writer = Writer::new(dir, Arc::clone(&shared), recovered.tail, queue)?;
        let writer = std::thread::Builder::new()
            .name("unibus-log".to_owned())
            .spawn(move || writer.run())
            .map_err(|e| LogError::io("start the writer of", dir, e))?;
        let room = Arc::new(Semaphore::new(writer::permits(shared.options.queue_bytes)));
        let handle = Handle {
            shared,
            ops: Some(ops),
            room,
            writer: Some(writer),
            _lock: lock,
        };
        Ok(Self {
            handle: Arc::new(handle),
        })
    }

    /// Whether there is a log in `dir`, or what is left of one.
    pub(crate) fn is_in(dir: &Path) -> bool {
        recovery::has_traces(dir)
    }

    /// The storage of one group: cheap to clone, and the same log each time.
    pub(crate) fn group(&self, group: GroupId) -> GroupLog {
        GroupLog::new(group, Arc::clone(&self.handle))
    }

    /// Counters, for metrics and tests.
    #[allow(dead_code, reason = "tests use it; metrics will")]
    pub(crate) fn stats(&self) -> LogStats {
        let shared = &self.handle.shared;
        LogStats {
            syncs: shared.syncs.load(Ordering::Relaxed),
            operations: shared.operations.load(Ordering::Relaxed),
            bytes: shared.bytes.load(Ordering::Relaxed),
            segments: shared.segments.read().len() as u64,
        }
    }

    /// Waits until everything accepted before this call is on disk. Also the way to learn that the
    /// log still works.
    #[allow(dead_code, reason = "tests use it; metrics will")]
    pub(crate) async fn sync(&self) -> std::io::Result<()> {
        self.handle.sync().await
    }
}

/// Takes the directory for this process, until the file is closed.
fn lock_dir(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("LOCK");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| LogError::io("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked(dir.to_owned())),
        Err(TryLockError::Error(e)) => Err(LogError::io("lock", &path, e)),
    }
}
