//! Looks at the files a configuration names: which exist, who may read them, and which names the
//! route certificate carries. Reads no private key and no secret.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;

use super::ConfigError;

/// Largest certificate file that is read, in bytes.
const CERTIFICATE_BYTES_MAX: u64 = 1024 * 1024;

/// Folders that are looked at, in this order, where `--config-dir` is not given.
pub const CONFIG_DIRS: [&str; 2] = ["./unibus-config", "/etc/unibus"];

/// A file that the configuration names, and what the file system says about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileFact {
    /// Where it is, or should be.
    pub path: PathBuf,
    /// A regular file stands there and its metadata can be read.
    pub present: bool,
    /// Somebody other than its owner may read or write it.
    pub open_to_others: bool,
    /// A flag named it, as opposed to its being found in the configuration folder.
    pub explicit: bool,
}

impl FileFact {
    /// Asks the file system about `path`.
    #[must_use]
    pub fn look(path: PathBuf, explicit: bool) -> Self {
        let meta = std::fs::metadata(&path)
            .ok()
            .filter(std::fs::Metadata::is_file);
        let open_to_others = meta.as_ref().is_some_and(|m| m.mode() & 0o077 != 0);
        Self {
            path,
            present: meta.is_some(),
            open_to_others,
            explicit,
        }
    }
}

/// The file a flag names, or else `name` in the configuration folder if it stands there.
pub(super) fn pick(flag: Option<&PathBuf>, dir: Option<&Path>, name: &str) -> Option<FileFact> {
    if let Some(path) = flag {
        return Some(FileFact::look(path.clone(), true));
    }
    dir.map(|dir| FileFact::look(dir.join(name), false))
        .filter(|fact| fact.present)
}

/// The configuration folder: the one given, which must exist, or the first default that does.
pub(super) fn config_dir(given: Option<&PathBuf>) -> Result<Option<PathBuf>, ConfigError> {
    match given {
        Some(dir) if dir.is_dir() => Ok(Some(dir.clone())),
        Some(dir) => Err(ConfigError::ConfigDir(dir.clone())),
        None => Ok(CONFIG_DIRS
            .iter()
            .map(PathBuf::from)
            .find(|dir| dir.is_dir())),
    }
}

/// The DNS names in the first certificate of a PEM file, in their order.
///
/// # Errors
/// [`ConfigError::Certificate`] where the file can't be read or holds no certificate.
pub fn certificate_names(path: &Path) -> Result<Vec<String>, ConfigError> {
    let broken = |reason: String| ConfigError::Certificate {
        path: path.to_owned(),
        reason,
    };
    let meta = std::fs::metadata(path).map_err(|e| broken(e.to_string()))?;
    if meta.len() > CERTIFICATE_BYTES_MAX {
        return Err(broken(format!(
            "{} bytes are more than a certificate has",
            meta.len()
        )));
    }
    let pem = std::fs::read(path).map_err(|e| broken(e.to_string()))?;
    let der = CertificateDer::from_pem_slice(&pem)
        .map_err(|_| broken("no PEM certificate stands in it".to_owned()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&der)
        .map_err(|_| broken("its certificate can't be decoded".to_owned()))?;
    let alternatives = parsed
        .subject_alternative_name()
        .map_err(|_| broken("its subject alternative names can't be decoded".to_owned()))?;
    let names = alternatives.map_or_else(Vec::new, |extension| {
        extension
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(dns) => Some((*dns).to_owned()),
                _ => None,
            })
            .collect()
    });
    Ok(names)
}

/// The host's name as the kernel tells it, or `unibus-node` where it tells none that can be used.
#[must_use]
pub fn host_name() -> String {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .or_else(|_| std::fs::read_to_string("/etc/hostname"))
        .or_else(|_| std::env::var("HOSTNAME"))
        .unwrap_or_default();
    let name = kernel.trim();
    if super::is_name(name) {
        name.to_owned()
    } else {
        "unibus-node".to_owned()
    }
}
