//! What a chat keeps on this host: the names that its user gave to people, and how far rooms were read.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use unibus_proto::control::{EndpointId, RoomId};

use super::model::names::Names;
use crate::context::Store;
use crate::error::{Attempt, CliError, Result};

/// Largest file that is read, in bytes.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Mode of the files: who talks to whom is nobody else's business.
const PRIVATE: u32 = 0o600;

/// The files of one identity.
#[derive(Debug)]
pub(super) struct Files {
    store: Store,
    names: PathBuf,
    marks: PathBuf,
    /// What the marks' file says, as far as this program knows.
    written: BTreeMap<RoomId, u64>,
}

impl Files {
    /// Where they are, beside the contexts.
    ///
    /// # Errors
    /// Where there is no home.
    pub(super) fn of(me: &EndpointId) -> Result<Self> {
        let store = Store::open()?;
        let names = store.folder().join("people");
        let marks = store.folder().join(format!("read-{me}.json"));
        Ok(Self {
            store,
            names,
            marks,
            written: BTreeMap::new(),
        })
    }

    /// The names.
    ///
    /// # Errors
    /// A file that can't be read or is wrong; it is left as it is.
    pub(super) fn names(&self) -> Result<Names> {
        let Some(text) = read(&self.names)? else {
            return Ok(Names::default());
        };
        let names = Names::parse(&text);
        names.or_wrong(|| self.names.display().to_string())
    }

    /// Adds a line to the names.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(super) fn remember(&self, line: &str) -> Result {
        let what = || format!("can't write {}", self.names.display());
        fs::create_dir_all(self.store.folder()).or_failed(what)?;
        let mut options = fs::OpenOptions::new();
        let file = options
            .append(true)
            .create(true)
            .mode(PRIVATE)
            .open(&self.names);
        let mut file = file.or_failed(what)?;
        file.write_all(line.as_bytes()).or_failed(what)
    }

    /// How far rooms were read. A damaged file is told and then written anew: it is only that.
    ///
    /// # Errors
    /// A file that can't be read.
    pub(super) fn marks(&mut self) -> Result<BTreeMap<RoomId, u64>> {
        let text = read(&self.marks)?.unwrap_or_default();
        self.written = serde_json::from_str(&text).unwrap_or_default();
        Ok(self.written.clone())
    }

    /// Writes how far rooms were read, where that has changed. What another chat of this identity has
    /// read further counts.
    ///
    /// # Errors
    /// Where it can't be written.
    pub(super) fn save_marks(&mut self, marks: &BTreeMap<RoomId, u64>) -> Result {
        if *marks == self.written {
            return Ok(());
        }
        let text = read(&self.marks)?.unwrap_or_default();
        let others: BTreeMap<RoomId, u64> = serde_json::from_str(&text).unwrap_or_default();
        let mut all = marks.clone();
        for (room, mark) in others {
            all.entry(room).and_modify(|own| *own = (*own).max(mark));
        }
        let text = serde_json::to_string(&all);
        let text = text.or_failed(|| "the marks can't be written".to_owned())?;
        self.store.replace(&self.marks, &text)?;
        self.written.clone_from(marks);
        Ok(())
    }
}

/// A small file's text; `None` where there is none.
fn read(path: &PathBuf) -> Result<Option<String>> {
    let what = || format!("can't read {}", path.display());
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Ok(about) if about.len() > BYTES_MAX => {
            let text = format!("{} has more than {BYTES_MAX} bytes", path.display());
            return Err(CliError::Wrong(text));
        }
        _ => {}
    }
    fs::read_to_string(path).or_wrong(what).map(Some)
}
