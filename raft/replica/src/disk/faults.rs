//! A disk for tests: it remembers what was synced, fails a sync on demand, and forgets the rest when its
//! power is cut. It sees what goes through [`super`]; names, and files that are written otherwise, last.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};

static DISKS: Mutex<Vec<Weak<Disk>>> = Mutex::new(Vec::new());

/// What becomes of the bytes that a sync was to write.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(crate) enum Fault {
    /// The disk refuses them: they stay readable until the power is cut, and later syncs succeed without
    /// them.
    Refused,
    /// The process is killed in front of the sync: a later one by another process writes them.
    Killed,
}

/// The files under a folder.
#[derive(Debug)]
pub(crate) struct Disk {
    root: PathBuf,
    files: Mutex<BTreeMap<u64, Held>>,
    fault: Mutex<Option<(String, Fault)>>,
    held: Mutex<Option<String>>,
    released: Condvar,
}

/// Keeps syncs from being done until it is dropped.
pub(crate) struct Hold(Arc<Disk>);

impl Drop for Hold {
    fn drop(&mut self) {
        *self.0.held.lock() = None;
        self.0.released.notify_all();
    }
}

#[derive(Debug)]
struct Held {
    durable: Vec<u8>,
    dirty: Vec<Range<usize>>,
    written: usize,
}

impl Disk {
    /// Puts a disk under `root`, until it is dropped. What is there by now is durable.
    pub(crate) fn under(root: &Path) -> Arc<Self> {
        let disk = Arc::new(Self {
            root: root.canonicalize().unwrap(),
            files: Mutex::default(),
            fault: Mutex::default(),
            held: Mutex::default(),
            released: Condvar::new(),
        });
        let mut disks = DISKS.lock();
        disks.retain(|disk| disk.strong_count() > 0);
        disks.push(Arc::downgrade(&disk));
        disk
    }

    /// The next sync of a file whose path ends so fails.
    pub(crate) fn fail_next_sync(&self, path_end: &str, fault: Fault) {
        *self.fault.lock() = Some((path_end.to_owned(), fault));
    }

    /// Syncs of files whose path ends so take until the answer is dropped.
    pub(crate) fn hold_syncs(self: &Arc<Self>, path_end: &str) -> Hold {
        *self.held.lock() = Some(path_end.to_owned());
        Hold(Arc::clone(self))
    }

    /// Whether no failure is left that was asked for.
    pub(crate) fn has_failed(&self) -> bool {
        self.fault.lock().is_none()
    }

    /// Bytes that were written to a file since the disk is there.
    pub(crate) fn written(&self, path: &Path) -> usize {
        let inode = fs::metadata(path).unwrap().ino();
        self.files.lock().get(&inode).map_or(0, |held| held.written)
    }

    /// Leaves what was synced. Nobody may use the files.
    pub(crate) fn cut_power(&self) {
        let mut files = self.files.lock();
        restore(&self.root, &files);
        files.clear();
    }

    fn held<'a>(
        files: &'a mut BTreeMap<u64, Held>,
        file: &File,
        path: &Path,
    ) -> io::Result<&'a mut Held> {
        Ok(match files.entry(file.metadata()?.ino()) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => place.insert(Held {
                durable: fs::read(path)?,
                dirty: Vec::new(),
                written: 0,
            }),
        })
    }
}

fn restore(folder: &Path, files: &BTreeMap<u64, Held>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            restore(&entry.path(), files);
        } else if let Some(held) = files.get(&meta.ino()) {
            fs::write(entry.path(), &held.durable).unwrap();
        }
    }
}

/// The disk that a file is on, if a test made one.
fn disk_of(file: &File) -> Option<(Arc<Disk>, PathBuf)> {
    let disks: Vec<Arc<Disk>> = DISKS.lock().iter().filter_map(Weak::upgrade).collect();
    if disks.is_empty() {
        return None;
    }
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
    let disk = disks.into_iter().find(|disk| path.starts_with(&disk.root));
    // A file that was removed while it was open is on no disk any more.
    disk.filter(|_| path.is_file()).map(|disk| (disk, path))
}

/// Bytes are about to be written.
pub(super) fn writing(file: &File, offset: u64, len: usize) -> io::Result<()> {
    if let Some((disk, path)) = disk_of(file) {
        let mut files = disk.files.lock();
        let at = usize::try_from(offset).unwrap();
        let held = Disk::held(&mut files, file, &path)?;
        held.dirty.push(at..at + len);
        held.written += len;
    }
    Ok(())
}

/// What was written is about to be synced.
pub(super) fn syncing(file: &File) -> io::Result<()> {
    let Some((disk, path)) = disk_of(file) else {
        return Ok(());
    };
    let ends_so = |end: &String| path.to_str().unwrap().ends_with(end.as_str());
    disk.released.wait_while(&mut disk.held.lock(), |held| {
        held.as_ref().is_some_and(ends_so)
    });
    let mut files = disk.files.lock();
    let held = Disk::held(&mut files, file, &path)?;
    let mut fault = disk.fault.lock();
    let hit = fault.take_if(|(end, _)| ends_so(end));
    if let Some((_, fault)) = hit {
        if fault == Fault::Refused {
            held.dirty.clear();
        }
        return Err(io::Error::from_raw_os_error(5));
    }
    let now = fs::read(&path)?;
    held.durable.resize(now.len(), 0);
    for range in held.dirty.drain(..) {
        let range = range.start.min(now.len())..range.end.min(now.len());
        held.durable[range.clone()].copy_from_slice(&now[range]);
    }
    Ok(())
}
