//! Makes and recycles segment files on a thread of its own, so that filling 64 MiB with zeros or
//! syncing a directory never delays a commit.
//!
//! Segments leave oldest first, each departure synced before the next, so that a crash never leaves
//! a gap. After a failure nothing leaves any more; the next open starts over.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::segment::{self, Segment};
use super::{LogError, LogOptions};

/// Jobs that may wait. A full queue puts a retirement off until the next write.
const JOBS_MAX: usize = 256;

/// A file that can become a segment.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) bytes: u32,
}

#[derive(Debug)]
enum Job {
    /// Have at least one spare.
    Prepare,
    /// The segment holds nothing that is needed.
    Retire(Arc<Segment>),
}

/// The writer's side.
#[derive(Debug)]
pub(super) struct Keeper {
    dir: PathBuf,
    segment_bytes: u32,
    spares: Arc<Mutex<Vec<Spare>>>,
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts the thread and adopts the spares that an earlier run left.
    pub(super) fn start(dir: &Path, options: &LogOptions) -> Result<Self, LogError> {
        let segment_bytes = segment_bytes(options);
        let spares = adopt(dir, segment_bytes, options.spares_max)?;
        let spares = Arc::new(Mutex::new(spares));
        let (jobs, queue) = sync_channel(JOBS_MAX);
        let worker = Worker {
            dir: dir.to_owned(),
            segment_bytes,
            spares_max: options.spares_max,
            spares: Arc::clone(&spares),
            has_failed: false,
        };
        let thread = std::thread::Builder::new()
            .name("unibus-log-keep".to_owned())
            .spawn(move || worker.run(&queue))
            .map_err(|e| LogError::io("start the keeper of", dir, e))?;
        Ok(Self {
            dir: dir.to_owned(),
            segment_bytes,
            spares,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// A file for a segment that can take at least `needed` bytes: a spare, or a new one.
    pub(super) fn take(&self, needed: u64) -> Result<Spare, LogError> {
        if needed <= u64::from(self.segment_bytes) {
            if let Some(spare) = self.spares.lock().pop() {
                return Ok(spare);
            }
            return create(&self.dir, self.segment_bytes);
        }
        let bytes = u32::try_from(needed).map_err(|_| {
            LogError::io(
                "create",
                &self.dir,
                std::io::Error::other("a record over 4 GiB"),
            )
        })?;
        create(&self.dir, bytes)
    }

    /// Asks for a spare to be there when the next segment is needed.
    pub(super) fn prepare(&self) {
        if let Some(jobs) = &self.jobs {
            // A full queue means that the keeper is busy retiring, which makes spares too.
            let _ = jobs.try_send(Job::Prepare);
        }
    }

    /// Gives up a segment; gives it back when the keeper is too busy.
    pub(super) fn retire(&self, segment: Arc<Segment>) -> Result<(), Arc<Segment>> {
        let Some(jobs) = &self.jobs else {
            return Err(segment);
        };
        match jobs.try_send(Job::Retire(segment)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(Job::Retire(segment)))
            | Err(TrySendError::Disconnected(Job::Retire(segment))) => Err(segment),
            Err(_) => Ok(()),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log keeper panicked");
        }
    }
}

/// The thread's side.
struct Worker {
    dir: PathBuf,
    segment_bytes: u32,
    spares_max: usize,
    spares: Arc<Mutex<Vec<Spare>>>,
    has_failed: bool,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Job>) {
        for job in queue {
            let result = match job {
                Job::Prepare => self.prepare(),
                Job::Retire(_) if self.has_failed => Ok(()),
                Job::Retire(segment) => self.retire(segment).inspect_err(|_| {
                    self.has_failed = true;
                }),
            };
            if let Err(error) = result {
                tracing::warn!(%error, "the log keeper could not do a job");
            }
        }
    }

    fn prepare(&self) -> Result<(), LogError> {
        if !self.spares.lock().is_empty() || self.spares_max == 0 {
            return Ok(());
        }
        let spare = create(&self.dir, self.segment_bytes)?;
        self.spares.lock().push(spare);
        Ok(())
    }

    fn retire(&self, segment: Arc<Segment>) -> Result<(), LogError> {
        let path = segment.path.clone();
        // A reader may still hold the file: then it keeps its content, and only the name goes.
        let spare = match Arc::try_unwrap(segment) {
            Ok(segment)
                if segment.bytes == self.segment_bytes
                    && self.spares.lock().len() < self.spares_max =>
            {
                let to = spare_path(&self.dir);
                fs::rename(&path, &to).map_err(|e| LogError::io("rename", &path, e))?;
                Some(Spare {
                    path: to,
                    file: segment.file,
                    bytes: segment.bytes,
                })
            }
            _ => {
                fs::remove_file(&path).map_err(|e| LogError::io("remove", &path, e))?;
                None
            }
        };
        segment::sync_dir(&self.dir)?;
        self.spares.lock().extend(spare);
        Ok(())
    }
}

/// The configured size, within what the format can address and what a few records need.
pub(super) fn segment_bytes(options: &LogOptions) -> u32 {
    const SEGMENT_BYTES_MIN: u64 = 1024;
    let bytes = options
        .segment_bytes
        .clamp(SEGMENT_BYTES_MIN, u64::from(u32::MAX));
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Makes a zero-filled file.
pub(super) fn create(dir: &Path, bytes: u32) -> Result<Spare, LogError> {
    let path = spare_path(dir);
    let file = segment::create_zeroed(&path, bytes)?;
    Ok(Spare { path, file, bytes })
}

/// A name that no other spare has.
fn spare_path(dir: &Path) -> PathBuf {
    dir.join(format!("spare-{:016x}", segment::fresh_salt()))
}

/// Takes over spares of the right size; removes the others.
fn adopt(dir: &Path, segment_bytes: u32, spares_max: usize) -> Result<Vec<Spare>, LogError> {
    let mut spares = Vec::new();
    for entry in fs::read_dir(dir).map_err(|e| LogError::io("list", dir, e))? {
        let entry = entry.map_err(|e| LogError::io("list", dir, e))?;
        if !entry.file_name().to_str().is_some_and(segment::is_spare) {
            continue;
        }
        let path = entry.path();
        let len = entry
            .metadata()
            .map_err(|e| LogError::io("inspect", &path, e))?
            .len();
        if len != u64::from(segment_bytes) || spares.len() >= spares_max {
            fs::remove_file(&path).map_err(|e| LogError::io("remove", &path, e))?;
            continue;
        }
        let file = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| LogError::io("open", &path, e))?;
        spares.push(Spare {
            path,
            file,
            bytes: segment_bytes,
        });
    }
    Ok(spares)
}
