//! The folder of context files: one JSON file each, mode 0600, replaced as a whole, and the name of the
//! selected one.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Attempt, Result, wrong};
use crate::settings::Settings;

/// Longest name of a context, in bytes.
const NAME_MAX: usize = 64;
/// Mode of what may hold a secret.
const PRIVATE: u32 = 0o600;
/// Bits of a mode that let others read or write.
const OTHERS: u32 = 0o077;

/// The folder `unibus` in the user's configuration folder.
#[derive(Debug)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    /// The store of this user, where the environment tells of a home.
    pub(crate) fn find() -> Option<Self> {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        // Relative paths are to be ignored (XDG Base Directory Specification).
        let config = var("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| var("HOME").map(|home| Path::new(&home).join(".config")))?;
        Some(Self {
            folder: config.join("unibus"),
        })
    }

    /// The store of this user.
    ///
    /// # Errors
    /// Where neither XDG_CONFIG_HOME nor HOME is set.
    pub(crate) fn open() -> Result<Self> {
        match Self::find() {
            Some(store) => Ok(store),
            None => wrong("contexts need a home: neither XDG_CONFIG_HOME nor HOME is set"),
        }
    }

    /// The folder that contexts, and what belongs to them, are kept in.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether a context is there.
    ///
    /// # Errors
    /// For what can't be a name.
    pub(crate) fn exists(&self, name: &str) -> Result<bool> {
        Ok(self.path(name)?.exists())
    }

    /// A context's settings.
    ///
    /// # Errors
    /// Where it is not there, can't be read, or others can read the secret in it.
    pub(crate) fn load(&self, name: &str) -> Result<Settings> {
        let path = self.path(name)?;
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return wrong(format!(
                    "there is no context {name:?}; see unibus context list"
                ));
            }
            read => read.or_wrong(|| format!("can't read {}", path.display()))?,
        };
        let settings: Settings =
            serde_json::from_str(&text).or_wrong(|| format!("{} is no context", path.display()))?;
        let mode = fs::metadata(&path)
            .or_wrong(|| format!("can't read {}", path.display()))?
            .permissions()
            .mode();
        if settings.login.has_secret() && mode & OTHERS != 0 {
            return wrong(format!(
                "{} holds a secret and others on this host may use it (mode {:o}): chmod 600 it",
                path.display(),
                mode & 0o777
            ));
        }
        Ok(settings)
    }

    /// Writes a context and tells where.
    ///
    /// # Errors
    /// Where the file can't be written; what was there stays then.
    pub(crate) fn save(&self, name: &str, settings: &Settings) -> Result<PathBuf> {
        let path = self.path(name)?;
        let text = serde_json::to_string_pretty(settings)
            .or_failed(|| format!("can't save context {name}"))?;
        self.replace(&path, &format!("{text}\n"))?;
        Ok(path)
    }

    /// Deletes a context, and the selection where it was the selected one.
    ///
    /// # Errors
    /// Where that does not work.
    pub(crate) fn remove(&self, name: &str) -> Result {
        if self.selected()?.as_deref() == Some(name) {
            self.select(None)?;
        }
        let path = self.path(name)?;
        fs::remove_file(&path).or_failed(|| format!("can't delete {}", path.display()))
    }

    /// The names of all contexts, in order.
    ///
    /// # Errors
    /// Where the folder can't be read.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        let folder = self.contexts();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.or_failed(|| format!("can't read {}", folder.display()))?,
        };
        let mut names: Vec<String> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let name = name.strip_suffix(".json")?;
                is_name(name).then(|| name.to_owned())
            })
            .collect();
        names.sort();
        Ok(names)
    }

    /// The selected context's name.
    ///
    /// # Errors
    /// Where the file that says it can't be read.
    pub(crate) fn selected(&self) -> Result<Option<String>> {
        let path = self.selection();
        match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            read => {
                let text = read.or_wrong(|| format!("can't read {}", path.display()))?;
                Ok(Some(text.trim().to_owned()).filter(|name| !name.is_empty()))
            }
        }
    }

    /// Selects a context, or none.
    ///
    /// # Errors
    /// Where the file that says it can't be written.
    pub(crate) fn select(&self, name: Option<&str>) -> Result {
        let path = self.selection();
        match name {
            Some(name) => self.replace(&path, &format!("{name}\n")),
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    Err(error).or_failed(|| format!("can't delete {}", path.display()))
                }
                _ => Ok(()),
            },
        }
    }

    fn contexts(&self) -> PathBuf {
        self.folder.join("context")
    }

    fn selection(&self) -> PathBuf {
        self.folder.join("selected")
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        if !is_name(name) {
            return wrong(format!(
                "{name:?} can't be a context's name: letters, digits, '-', '_' and '.', at most {NAME_MAX}"
            ));
        }
        Ok(self.contexts().join(format!("{name}.json")))
    }

    /// Writes a file of the folder under another name and renames it, so that there is never half a file.
    ///
    /// # Errors
    /// Where that does not work; what was there stays then.
    pub(crate) fn replace(&self, path: &Path, text: &str) -> Result {
        let what = || format!("can't write {}", path.display());
        let mut folders = fs::DirBuilder::new();
        folders.recursive(true).mode(0o700);
        folders.create(self.contexts()).or_failed(what)?;
        let temporary = path.with_extension(format!("tmp{}", std::process::id()));
        let written = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(PRIVATE)
            .open(&temporary)
            .and_then(|mut file| {
                file.write_all(text.as_bytes())
                    .and_then(|()| file.sync_all())
            })
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            // It may never have been made.
            let _absent = fs::remove_file(&temporary);
        }
        written.or_failed(what)
    }
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::Store;
    use crate::settings::{Login, Settings};

    fn store() -> (Store, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("unibus");
        (Store { folder }, dir)
    }

    fn secret() -> Settings {
        Settings {
            servers: vec!["nats://h:1".into()],
            login: Login {
                token: Some("t".into()),
                ..Login::default()
            },
            ..Settings::default()
        }
    }

    #[test]
    fn what_is_saved_is_private_and_comes_back() {
        let (store, _dir) = store();
        let path = store.save("a.b-c_1", &secret()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(store.load("a.b-c_1").unwrap(), secret());
        assert_eq!(store.names().unwrap(), ["a.b-c_1"]);
        store.select(Some("a.b-c_1")).unwrap();
        store.remove("a.b-c_1").unwrap();
        assert_eq!(store.selected().unwrap(), None);
        assert!(store.names().unwrap().is_empty());
    }

    #[test]
    fn a_secret_that_others_can_read_is_not_used() {
        let (store, _dir) = store();
        let path = store.save("x", &secret()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let error = store.load("x").unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn names_can_not_leave_the_folder() {
        let (store, _dir) = store();
        for bad in ["", "..", "../x", "a/b", ".hidden", "a b", &"x".repeat(65)] {
            assert_eq!(store.load(bad).unwrap_err().status(), 2, "{bad}");
        }
    }

    #[test]
    fn a_damaged_file_is_an_error_and_not_an_empty_context() {
        let (store, _dir) = store();
        let path = store.save("x", &secret()).unwrap();
        for text in ["{", "{\"serverz\": []}", "[]"] {
            std::fs::write(&path, text).unwrap();
            assert!(store.load("x").is_err(), "{text}");
        }
    }
}
