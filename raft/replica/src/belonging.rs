//! Which cluster a node belongs to. Names are chosen by people and two clusters may have one; the identity is
//! made with a cluster, is in its membership and so in every log and snapshot of it, and is made anew where
//! a store begins another history (`seed`). This file keeps it beside the store too, so that a node can say it
//! before its store is read, and so that a node without anything takes part in one cluster only: it writes
//! down whose calls it answers before it answers the first.
//!
//! ```text
//! unibus-cluster-id 1
//! 6f9a…            the identity, 32 hex digits
//! member           or founding: this node was about to form it; or admitted: no entry of it is applied yet
//! crc32 1a2b3c4d   of the lines before
//! ```

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::{Mutex, RwLock};

use crate::errors::StorageError;
use crate::identity::write_whole;

/// Name of the file, in the store.
const FILE: &str = "cluster.id";
const HEADER: &str = "unibus-cluster-id 1";
/// Larger than any such file, bytes.
const BYTES_MAX: u64 = 4096;
/// What identities are digests for.
const CONTEXT: &str = "unibus 2026 cluster identity of its first members";
/// Bytes of an identity.
pub(crate) const ID_BYTES: usize = 16;

/// The version of routes from which on raft's calls carry the identity, and memberships may.
pub const CLUSTER_IDS_FROM: u32 = 5;

/// A cluster's identity, shown as 32 hex digits.
#[derive(Copy, Clone, Eq, PartialEq)]
pub struct ClusterId(pub(crate) [u8; ID_BYTES]);

impl ClusterId {
    /// Of a cluster that begins with these members. Their ids are random, so no other begins with the same;
    /// and those of them that form it at the same time form one.
    pub(crate) fn of(members: impl IntoIterator<Item = u64>) -> Self {
        let mut sorted: Vec<u64> = members.into_iter().collect();
        sorted.sort_unstable();
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        for id in sorted {
            hasher.update(&id.to_le_bytes());
        }
        let mut first = [0; ID_BYTES];
        hasher.finalize_xof().fill(&mut first);
        Self(first)
    }

    /// What [`fmt::Display`] wrote; `None` for anything else.
    fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 2 * ID_BYTES && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = is_hex.then(|| u128::from_str_radix(text, 16).ok())??;
        Some(Self(number.to_be_bytes()))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How a node came to belong to its cluster.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum How {
    /// It was about to form it.
    Founding,
    /// It answered a call of it and has applied nothing of it yet.
    Admitted,
    /// The membership that it has applied says so.
    Member,
}

impl How {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Founding, "founding"),
        (Self::Admitted, "admitted"),
        (Self::Member, "member"),
    ];

    fn word(self) -> &'static str {
        let found = Self::ALL.iter().find(|(how, _)| *how == self);
        found.map_or("", |(_, word)| word)
    }
}

/// The cluster that a node belongs to, as its disk says it.
#[derive(Debug)]
pub struct Belonging {
    store: PathBuf,
    now: RwLock<Option<(ClusterId, How)>>,
    /// Held while the file changes.
    writing: Mutex<()>,
}

impl Belonging {
    /// Reads what is beside the store in `store`. One that can't be believed is none: the membership says it
    /// again.
    pub(crate) fn read(store: &Path) -> Result<Self, StorageError> {
        let path = store.join(FILE);
        let found = match fs::metadata(&path) {
            Ok(meta) if meta.len() <= BYTES_MAX => {
                let bytes = fs::read(&path).map_err(StorageError::io("read", &path))?;
                decode(&bytes)
            }
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::with(store, None));
            }
            Err(error) => return Err(StorageError::io("inspect", path)(error)),
        };
        if found.is_none() {
            tracing::error!(path = %path.display(), "not what was written; it is written again");
        }
        Ok(Self::with(store, found))
    }

    fn with(store: &Path, now: Option<(ClusterId, How)>) -> Self {
        Self {
            store: store.to_owned(),
            now: RwLock::new(now),
            writing: Mutex::default(),
        }
    }

    /// The cluster; `None` for a node of none, or of one that was formed before there were identities.
    #[must_use]
    pub fn id(&self) -> Option<ClusterId> {
        self.now.read().map(|(id, _)| id)
    }

    /// The cluster that has begun to admit this node, which has applied nothing of it yet.
    pub(crate) fn admitted(&self) -> Option<ClusterId> {
        let now = *self.now.read();
        now.filter(|(_, how)| *how == How::Admitted)
            .map(|(id, _)| id)
    }

    /// A node that has no entry has formed nothing.
    pub(crate) fn forget_founding(&self) {
        let mut now = self.now.write();
        if now.is_some_and(|(_, how)| how == How::Founding) {
            *now = None;
        }
    }

    /// Durably: this node forms the cluster `id`. Blocking.
    pub(crate) fn found(&self, id: ClusterId) -> Result<(), Elsewhere> {
        self.take(id, How::Founding)
    }

    /// Durably: this node, which has no entry, answers calls of the cluster `id` and of no other. Blocking.
    pub(crate) fn admit(&self, id: ClusterId) -> Result<(), Elsewhere> {
        self.take(id, How::Admitted)
    }

    /// Durably: the membership that was applied says so. Blocking.
    pub(crate) fn confirm(&self, id: ClusterId) -> Result<(), Elsewhere> {
        self.take(id, How::Member)
    }

    fn take(&self, id: ClusterId, how: How) -> Result<(), Elsewhere> {
        let _one_at_a_time = self.writing.lock();
        let now = *self.now.read();
        match now {
            Some((own, _)) if own != id => return Err(Elsewhere::Other { own, other: id }),
            Some((_, known)) if known == how || known == How::Member => return Ok(()),
            _ => {}
        }
        let body = format!("{HEADER}\n{id}\n{}\n", how.word());
        let text = format!("{body}crc32 {:08x}\n", crc32fast::hash(body.as_bytes()));
        write_whole(&self.store, FILE, text.as_bytes())?;
        *self.now.write() = Some((id, how));
        Ok(())
    }
}

fn decode(bytes: &[u8]) -> Option<(ClusterId, How)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, crc) = text.split_at(text.find("crc32 ")?);
    if crc != format!("crc32 {:08x}\n", crc32fast::hash(body.as_bytes())) {
        return None;
    }
    let mut lines = body.lines();
    if lines.next()? != HEADER {
        return None;
    }
    let id = ClusterId::parse(lines.next()?)?;
    let word = lines.next()?;
    let (how, _) = How::ALL.iter().find(|(_, known)| *known == word)?;
    Some((id, *how))
}

/// Why a node does not take part in a cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Elsewhere {
    /// It belongs to another.
    #[error("this node belongs to cluster {own}, and this is of {other}")]
    Other {
        /// Its own.
        own: ClusterId,
        /// The other one.
        other: ClusterId,
    },
    /// It could not be written down.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl From<Elsewhere> for io::Error {
    fn from(error: Elsewhere) -> Self {
        Self::other(error)
    }
}

#[cfg(test)]
mod tests {
    use super::{Belonging, ClusterId, Elsewhere, FILE};

    #[test]
    fn identities_go_by_the_set_of_members() {
        assert_eq!(ClusterId::of([1, 2, 3]), ClusterId::of([3, 1, 2]));
        assert_ne!(ClusterId::of([1, 2, 3]), ClusterId::of([1, 2]));
        let id = ClusterId::of([7]);
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
        assert_eq!(ClusterId::parse("7"), None);
        assert_eq!(ClusterId::parse(&"+".repeat(32)), None);
    }

    #[test]
    fn a_node_belongs_to_one_cluster_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (ClusterId::of([1]), ClusterId::of([2]));
        let belonging = Belonging::read(dir.path()).unwrap();
        assert_eq!(belonging.id(), None);
        belonging.admit(one).unwrap();
        for belonging in [belonging, Belonging::read(dir.path()).unwrap()] {
            assert_eq!(
                (belonging.id(), belonging.admitted()),
                (Some(one), Some(one))
            );
            assert!(matches!(belonging.admit(two), Err(Elsewhere::Other { .. })));
            assert!(matches!(belonging.found(two), Err(Elsewhere::Other { .. })));
        }
        let belonging = Belonging::read(dir.path()).unwrap();
        belonging.confirm(one).unwrap();
        belonging.admit(one).unwrap();
        let belonging = Belonging::read(dir.path()).unwrap();
        assert_eq!((belonging.id(), belonging.admitted()), (Some(one), None));
    }

    #[test]
    fn what_was_about_to_be_formed_and_was_not_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        Belonging::read(dir.path())
            .unwrap()
            .found(ClusterId::of([1]))
            .unwrap();
        let belonging = Belonging::read(dir.path()).unwrap();
        belonging.forget_founding();
        belonging.found(ClusterId::of([1, 2])).unwrap();
        assert_eq!(belonging.id(), Some(ClusterId::of([1, 2])));
    }

    #[test]
    fn what_is_damaged_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let belonging = Belonging::read(dir.path()).unwrap();
        belonging.confirm(ClusterId::of([1])).unwrap();
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 1;
            for bytes in [&bad[..], &whole[..at]] {
                std::fs::write(&path, bytes).unwrap();
                assert_eq!(Belonging::read(dir.path()).unwrap().id(), None, "{at}");
            }
        }
    }
}
