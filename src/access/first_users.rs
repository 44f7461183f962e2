//! The first users of a node that has never started: a JSON file (mode 0600) beside the node's
//! identity, written by `user add` and taken by the node when it first speaks for a cluster without
//! users. Owns the file's form; what becomes of it is the control plane's affair.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::users::{Role, UserRecord};

/// The file's name.
const FILE: &str = "first-users.json";
/// What its name becomes where the cluster has users already.
const UNUSED: &str = "first-users.json.unused";
/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Why first users can't be kept or taken.
#[derive(Debug, Error)]
pub enum FirstUsersError {
    /// The operating system says no.
    #[error("{} can't be {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read`, `written` or `removed`.
        action: &'static str,
        /// Its reason.
        source: std::io::Error,
    },
    /// Others could have written it.
    #[error("{path} can be read or written by others on this host; mend it: chmod 600 {path}", path = .0.display())]
    Open(PathBuf),
    /// It is no list of users.
    #[error("{} is corrupt: {reason}; remove it and add the users again", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nobody could ever add anybody.
    #[error(
        "this node has never started, so this would be its first user, who must be an admin: add --role admin, or start the node first"
    )]
    NoAdmin,
    /// The key is there.
    #[error("user {0} is among this node's first users already; a second add changes nothing")]
    Exists(String),
}

/// The file of a node whose identity is kept at `identity`.
#[derive(Clone, Debug)]
pub struct FirstUsers {
    path: PathBuf,
}

impl FirstUsers {
    /// Beside the identity's file.
    #[must_use]
    pub fn beside(identity: &Path) -> Self {
        Self {
            path: identity.with_file_name(FILE),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The users; empty where there is no file.
    ///
    /// # Errors
    /// [`FirstUsersError`]; the file is left as it is.
    pub fn load(&self) -> Result<Vec<UserRecord>, FirstUsersError> {
        let meta = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            meta => meta.map_err(|error| self.io("read", error))?,
        };
        if meta.mode() & 0o077 != 0 {
            return Err(FirstUsersError::Open(self.path.clone()));
        }
        let corrupt = |reason: String| FirstUsersError::Corrupt {
            path: self.path.clone(),
            reason,
        };
        if meta.len() > FILE_BYTES_MAX {
            return Err(corrupt("it is larger than a list of first users is".into()));
        }
        let text = std::fs::read(&self.path).map_err(|error| self.io("read", error))?;
        let users: Vec<UserRecord> =
            serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        for user in &users {
            user.check().map_err(|error| corrupt(error.to_string()))?;
        }
        Ok(users)
    }

    /// Adds one: the first of them is an admin.
    ///
    /// # Errors
    /// [`FirstUsersError`]; the file is then as it was.
    pub fn add(&self, user: &UserRecord) -> Result<(), FirstUsersError> {
        let mut users = self.load()?;
        if users.iter().any(|held| held.sign_pub == user.sign_pub) {
            return Err(FirstUsersError::Exists(user.sign_pub.clone()));
        }
        users.push(user.clone());
        if !users.iter().any(|user| user.role == Role::Admin) {
            return Err(FirstUsersError::NoAdmin);
        }
        self.write(&users)
            .map_err(|error| self.io("written", error))
    }

    /// They are the cluster's now.
    ///
    /// # Errors
    /// [`FirstUsersError::Io`].
    pub fn taken(&self) -> Result<(), FirstUsersError> {
        std::fs::remove_file(&self.path).map_err(|error| self.io("removed", error))
    }

    /// They are not wanted: the file is put aside. Answers with where it is now.
    ///
    /// # Errors
    /// [`FirstUsersError::Io`].
    pub fn unused(&self) -> Result<PathBuf, FirstUsersError> {
        let aside = self.path.with_file_name(UNUSED);
        std::fs::rename(&self.path, &aside).map_err(|error| self.io("removed", error))?;
        Ok(aside)
    }

    fn write(&self, users: &[UserRecord]) -> std::io::Result<()> {
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder)?;
        let draft = self.path.with_extension("new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&draft)?;
        // Structs of strings and enums always serialise.
        file.write_all(&serde_json::to_vec_pretty(users).unwrap_or_default())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        std::fs::rename(&draft, &self.path)?;
        File::open(folder)?.sync_all()
    }

    fn io(&self, action: &'static str, source: std::io::Error) -> FirstUsersError {
        FirstUsersError::Io {
            path: self.path.clone(),
            action,
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{FirstUsers, FirstUsersError};
    use crate::access::{Grants, Role, UserRecord};
    use unibus_proto::nkey::UserSeed;

    fn user(n: u8, role: Role) -> UserRecord {
        let key = UserSeed::from_bytes([n; 32]).public();
        UserRecord::new(&key, "", role, Grants::default()).unwrap()
    }

    #[test]
    fn the_first_is_an_admin_and_nobody_is_added_twice() {
        let dir = tempfile::tempdir().unwrap();
        let first = FirstUsers::beside(&dir.path().join("deep/internal.json"));
        assert!(first.load().unwrap().is_empty());
        let refused = first.add(&user(1, Role::Member)).unwrap_err();
        assert!(matches!(refused, FirstUsersError::NoAdmin));
        assert!(!first.path().exists());
        first.add(&user(1, Role::Admin)).unwrap();
        first.add(&user(2, Role::Service)).unwrap();
        let again = first.add(&user(1, Role::Member)).unwrap_err();
        assert!(matches!(again, FirstUsersError::Exists(_)));
        let roles: Vec<Role> = first.load().unwrap().iter().map(|user| user.role).collect();
        assert_eq!(roles, [Role::Admin, Role::Service]);
        let mode = std::fs::metadata(first.path()).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_corrupt_or_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = FirstUsers::beside(&dir.path().join("internal.json"));
        first.add(&user(1, Role::Admin)).unwrap();
        let whole = std::fs::read(first.path()).unwrap();
        std::fs::write(first.path(), &whole[..whole.len() / 2]).unwrap();
        assert!(matches!(first.load(), Err(FirstUsersError::Corrupt { .. })));
        assert!(first.add(&user(2, Role::Admin)).is_err());
        std::fs::write(first.path(), whole).unwrap();
        std::fs::set_permissions(first.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(first.load(), Err(FirstUsersError::Open(_))));
    }
}
