//! The bus's own certificate authority: `pki init` and `pki issue`.
//!
//! It writes PEM files and the route secret, private ones with mode 0600, and never overwrites
//! anything: a replaced CA would cut the cluster in two.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::TryRng;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName, PrivatePkcs8KeyDer, ServerName, UnixTime};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// Validity of the CA.
const CA_DAYS: i64 = 3652;
/// Validity of a node's certificate.
const NODE_DAYS: i64 = 731;
/// Certificates are valid from an hour ago, for clocks that are behind.
const CLOCK_SKEW: Duration = Duration::hours(1);
/// Random bytes in a route secret.
const SECRET_BYTES: usize = 32;

/// File names, in a configuration folder and in the CA's.
pub const CA_CERT: &str = "ca.crt";
/// The CA's private key: stays where `pki init` was run, no node needs it.
pub const CA_KEY: &str = "ca.key";
/// The shared secret of all routes.
pub const ROUTE_SECRET: &str = "route.secret";
/// A node's certificate in its configuration folder.
pub const NODE_CERT: &str = "node.crt";
/// A node's private key in its configuration folder.
pub const NODE_KEY: &str = "node.key";

/// What `pki init` wrote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AuthorityFiles {
    /// The CA certificate: every node has it.
    pub ca_cert: PathBuf,
    /// The CA key, 0600.
    pub ca_key: PathBuf,
    /// The route secret, 0600: every node has it.
    pub route_secret: PathBuf,
}

/// What `pki issue` wrote.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IssuedFiles {
    /// The node's certificate.
    pub cert: PathBuf,
    /// Its key, 0600.
    pub key: PathBuf,
}

/// One node's complete configuration folder, as [`mint`] makes it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NodeFolder {
    /// The node's name.
    pub name: String,
    /// The folder: usable as `--config-dir`.
    pub dir: PathBuf,
    /// `ca.crt` in it.
    pub ca_cert: PathBuf,
    /// `node.crt` in it.
    pub cert: PathBuf,
    /// `node.key` in it.
    pub key: PathBuf,
    /// `route.secret` in it.
    pub route_secret: PathBuf,
}

/// Why a certificate, key or secret was not made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file is there already.
    #[error(
        "{} exists and is never overwritten; move it away or choose another folder",
        .0.display()
    )]
    Exists(PathBuf),
    /// A file could not be written.
    #[error("cannot write {}: {source}; check the folder's permissions and space", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file of the CA could not be read.
    #[error("cannot read {}: {reason}; run `unibus-node pki init` there first", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What was wrong.
        reason: String,
    },
    /// The name cannot stand in a certificate.
    #[error("{0:?} is no node name; use letters, digits, '-' and '.', for example node-1")]
    Name(String),
    /// A further host is neither a DNS name nor an address.
    #[error(
        "{0:?} is neither a DNS name nor an IP address; give hosts as node-1.example or 10.0.0.1"
    )]
    Host(String),
    /// The CA's certificate and key do not make valid certificates.
    #[error(
        "{} does not vouch for what its key signs: {reason}; \
         ca.crt and ca.key must belong together and be in date",
        path.display()
    )]
    Chain {
        /// The CA certificate.
        path: PathBuf,
        /// What the verifier said.
        reason: String,
    },
    /// Key generation or encoding failed.
    #[error(
        "cannot make the certificate for {subject:?}: {reason}; \
         try again, or check the system's random source"
    )]
    Make {
        /// Whose certificate.
        subject: String,
        /// What failed.
        reason: String,
    },
}

/// Makes a CA for `cluster` and a route secret in `dir`, which is created if missing.
pub fn init(dir: &Path, cluster: &str) -> Result<AuthorityFiles, PkiError> {
    let files = authority_files(dir);
    refuse_existing(&[&files.ca_cert, &files.ca_key, &files.route_secret])?;
    let subject = format!("{cluster} route CA");
    let make = |reason: &dyn std::fmt::Display| made(&subject, reason);
    let key = KeyPair::generate().map_err(|e| make(&e))?;
    let secret = random_secret().map_err(|e| make(&e))?;
    write_authority(dir, &subject, &key, &secret, files)
}

/// As [`init`], with everything made from `seed`: who has the seed makes the same CA, on whatever
/// machine. Only for clusters whose nodes share nothing but a password and whose routes stay on
/// loopback.
///
/// # Errors
/// [`PkiError`].
pub fn init_derived(
    dir: &Path,
    cluster: &str,
    seed: &[u8; 32],
) -> Result<AuthorityFiles, PkiError> {
    /// PKCS #8 of an Ed25519 key (RFC 8410), up to its 32 bytes.
    const PKCS8_ED25519: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let files = authority_files(dir);
    refuse_existing(&[&files.ca_cert, &files.ca_key, &files.route_secret])?;
    let subject = format!("{cluster} route CA");
    let key = Zeroizing::new(blake3::derive_key(
        "unibus 2026-11 derived route CA key",
        seed,
    ));
    let der = Zeroizing::new([&PKCS8_ED25519[..], &key[..]].concat());
    let der = PrivatePkcs8KeyDer::from(der.as_slice());
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519)
        .map_err(|e| made(&subject, &e))?;
    let secret = blake3::derive_key("unibus 2026-11 derived route secret", seed);
    let secret = Zeroizing::new(data_encoding::HEXLOWER.encode(&secret));
    write_authority(dir, &subject, &key, &secret, files)
}

fn authority_files(dir: &Path) -> AuthorityFiles {
    AuthorityFiles {
        ca_cert: dir.join(CA_CERT),
        ca_key: dir.join(CA_KEY),
        route_secret: dir.join(ROUTE_SECRET),
    }
}

fn write_authority(
    dir: &Path,
    subject: &str,
    key: &KeyPair,
    secret: &str,
    files: AuthorityFiles,
) -> Result<AuthorityFiles, PkiError> {
    let make = |reason: &dyn std::fmt::Display| made(subject, reason);
    let certificate = authority_params(subject)
        .self_signed(key)
        .map_err(|e| make(&e))?;
    create_dir(dir)?;
    write_new(&files.ca_key, 0o600, &Zeroizing::new(key.serialize_pem()))?;
    write_new(&files.ca_cert, 0o644, &certificate.pem())?;
    write_new(&files.route_secret, 0o600, secret)?;
    Ok(files)
}

/// Issues `<name>.crt` and `<name>.key` in `dir`, which holds the CA. `name` is the node's identity
/// and the first DNS name of the certificate; `hosts` are further DNS names and IP addresses for
/// clients.
pub fn issue(dir: &Path, name: &str, hosts: &[String]) -> Result<IssuedFiles, PkiError> {
    let files = IssuedFiles {
        cert: dir.join(format!("{name}.crt")),
        key: dir.join(format!("{name}.key")),
    };
    issue_to(dir, name, hosts, &files)?;
    Ok(files)
}

/// Makes everything for a cluster on one machine (quickstart, tests): a CA in `dir` and a complete
/// configuration folder `dir/<name>` for each node.
pub fn mint(
    dir: &Path,
    cluster: &str,
    names: &[&str],
    hosts: &[String],
) -> Result<Vec<NodeFolder>, PkiError> {
    init(dir, cluster)?;
    names
        .iter()
        .map(|name| issue_folder(dir, name, hosts))
        .collect()
}

/// Adds a node to what [`mint`] or [`init`] made in `dir`: the folder `dir/<name>` with
/// certificate, key, CA and secret under their default names.
pub fn issue_folder(dir: &Path, name: &str, hosts: &[String]) -> Result<NodeFolder, PkiError> {
    check_name(name)?;
    let folder = dir.join(name);
    let node = NodeFolder {
        name: name.to_owned(),
        ca_cert: folder.join(CA_CERT),
        cert: folder.join(NODE_CERT),
        key: folder.join(NODE_KEY),
        route_secret: folder.join(ROUTE_SECRET),
        dir: folder,
    };
    refuse_existing(&[&node.ca_cert, &node.route_secret])?;
    let ca = read(&dir.join(CA_CERT))?;
    let secret = Zeroizing::new(read(&dir.join(ROUTE_SECRET))?);
    create_dir(&node.dir)?;
    issue_to(
        dir,
        name,
        hosts,
        &IssuedFiles {
            cert: node.cert.clone(),
            key: node.key.clone(),
        },
    )?;
    write_new(&node.ca_cert, 0o644, &ca)?;
    write_new(&node.route_secret, 0o600, &secret)?;
    Ok(node)
}

fn issue_to(ca: &Path, name: &str, hosts: &[String], files: &IssuedFiles) -> Result<(), PkiError> {
    check_name(name)?;
    let params = node_params(name, hosts)?;
    refuse_existing(&[&files.cert, &files.key])?;
    let (ca_cert_path, ca_key_path) = (ca.join(CA_CERT), ca.join(CA_KEY));
    let ca_pem = read(&ca_cert_path)?;
    let ca_key_pem = Zeroizing::new(read(&ca_key_path)?);
    let ca_key = KeyPair::from_pem(&ca_key_pem).map_err(|e| PkiError::Read {
        path: ca_key_path,
        reason: e.to_string(),
    })?;
    let issuer = Issuer::from_ca_cert_pem(&ca_pem, ca_key).map_err(|e| PkiError::Read {
        path: ca_cert_path.clone(),
        reason: e.to_string(),
    })?;
    let key = KeyPair::generate().map_err(|e| made(name, &e))?;
    let certificate = params
        .signed_by(&key, &issuer)
        .map_err(|e| made(name, &e))?;
    verify_chain(&ca_pem, certificate.der(), name).map_err(|reason| PkiError::Chain {
        path: ca_cert_path,
        reason,
    })?;
    write_new(&files.key, 0o600, &Zeroizing::new(key.serialize_pem()))?;
    write_new(&files.cert, 0o644, &certificate.pem())
}

fn authority_params(subject: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(subject);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, CA_DAYS);
    params
}

fn node_params(name: &str, hosts: &[String]) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.subject_alt_names = vec![dns_name(name).ok_or_else(|| PkiError::Name(name.to_owned()))?];
    for host in hosts {
        let san = match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => dns_name(host).ok_or_else(|| PkiError::Host(host.clone()))?,
        };
        if !params.subject_alt_names.contains(&san) {
            params.subject_alt_names.push(san);
        }
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, NODE_DAYS);
    Ok(params)
}

fn dns_name(text: &str) -> Option<SanType> {
    DnsName::try_from(text).ok()?;
    text.try_into().ok().map(SanType::DnsName)
}

/// A name becomes a file name and an identity: a DNS name, no address, no path.
fn check_name(name: &str) -> Result<(), PkiError> {
    let valid = DnsName::try_from(name).is_ok()
        && name.parse::<IpAddr>().is_err()
        && !name.starts_with('.')
        && !name.contains(['/', '\\']);
    if valid {
        Ok(())
    } else {
        Err(PkiError::Name(name.to_owned()))
    }
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn validity(params: &mut CertificateParams, days: i64) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(days);
}

/// What the routes will check: the new certificate is good for both ends under this CA.
fn verify_chain(ca_pem: &str, certificate: &CertificateDer<'_>, name: &str) -> Result<(), String> {
    let text = |e: &dyn std::fmt::Display| e.to_string();
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(ca.map_err(|e| text(&e))?).map_err(|e| text(&e))?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let now = UnixTime::now();
    let server_name = ServerName::try_from(name).map_err(|e| text(&e))?;
    WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
        .build()
        .map_err(|e| text(&e))?
        .verify_server_cert(certificate, &[], &server_name, &[], now)
        .map_err(|e| text(&e))?;
    WebPkiClientVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|e| text(&e))?
        .verify_client_cert(certificate, &[], now)
        .map_err(|e| text(&e))?;
    Ok(())
}

fn random_secret() -> Result<Zeroizing<String>, rand::rngs::SysError> {
    let mut bytes = Zeroizing::new([0_u8; SECRET_BYTES]);
    rand::rngs::SysRng.try_fill_bytes(bytes.as_mut_slice())?;
    Ok(Zeroizing::new(
        data_encoding::BASE64.encode(bytes.as_slice()) + "\n",
    ))
}

fn made(subject: &str, reason: &dyn std::fmt::Display) -> PkiError {
    PkiError::Make {
        subject: subject.to_owned(),
        reason: reason.to_string(),
    }
}

fn read(path: &Path) -> Result<String, PkiError> {
    std::fs::read_to_string(path).map_err(|e| PkiError::Read {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

fn create_dir(dir: &Path) -> Result<(), PkiError> {
    std::fs::create_dir_all(dir).map_err(|source| PkiError::Write {
        path: dir.to_owned(),
        source,
    })
}

fn refuse_existing(paths: &[&PathBuf]) -> Result<(), PkiError> {
    match paths.iter().find(|path| path.exists()) {
        Some(path) => Err(PkiError::Exists((*path).clone())),
        None => Ok(()),
    }
}

/// Creates the file with its mode from the start, so that a key is never readable by others.
fn write_new(path: &Path, mode: u32, content: &str) -> Result<(), PkiError> {
    let error = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AlreadyExists => PkiError::Exists(path.to_owned()),
        _ => PkiError::Write {
            path: path.to_owned(),
            source,
        },
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(error)?;
    file.write_all(content.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::{CA_CERT, CA_KEY, PkiError, init, issue, issue_folder, mint};

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn init_and_issue_make_private_files_and_never_overwrite() {
        let dir = tempfile::tempdir().unwrap();
        let authority = init(dir.path(), "east").unwrap();
        assert_eq!(mode(&authority.ca_key), 0o600);
        assert_eq!(mode(&authority.route_secret), 0o600);
        let secret = std::fs::read_to_string(&authority.route_secret).unwrap();
        assert_eq!(
            data_encoding::BASE64
                .decode(secret.trim().as_bytes())
                .unwrap()
                .len(),
            32
        );

        let hosts = [
            "127.0.0.1".to_owned(),
            "alpha.example".to_owned(),
            "n1".to_owned(),
        ];
        let node = issue(dir.path(), "n1", &hosts).unwrap();
        assert_eq!(mode(&node.key), 0o600);
        let before = std::fs::read(&node.cert).unwrap();

        assert!(matches!(init(dir.path(), "east"), Err(PkiError::Exists(_))));
        let again = issue(dir.path(), "n1", &[]).unwrap_err();
        assert!(matches!(&again, PkiError::Exists(path) if path.ends_with("n1.crt")));
        assert!(again.to_string().contains("never overwritten"), "{again}");
        assert_eq!(std::fs::read(&node.cert).unwrap(), before);
        assert_eq!(
            std::fs::read_to_string(&authority.route_secret).unwrap(),
            secret
        );
    }

    #[test]
    fn names_and_hosts_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        init(dir.path(), "east").unwrap();
        for name in ["", "10.0.0.1", "a b", "../up", "a/b", "."] {
            assert!(
                matches!(issue(dir.path(), name, &[]), Err(PkiError::Name(_))),
                "{name:?}"
            );
            assert!(matches!(
                issue_folder(dir.path(), name, &[]),
                Err(PkiError::Name(_))
            ));
        }
        let error = issue(dir.path(), "n1", &["not a host".to_owned()]).unwrap_err();
        assert!(matches!(error, PkiError::Host(_)));
        assert!(!dir.path().join("n1.crt").exists());
    }

    #[test]
    fn a_missing_or_mismatched_authority_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = issue(dir.path(), "n1", &[]).unwrap_err();
        assert!(matches!(&error, PkiError::Read { path, .. } if path.ends_with(CA_CERT)));
        assert!(error.to_string().contains("pki init"), "{error}");

        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        init(&one, "east").unwrap();
        init(&two, "east").unwrap();
        std::fs::copy(two.join(CA_KEY), one.join(CA_KEY)).unwrap();
        let error = issue(&one, "n1", &[]).unwrap_err();
        assert!(matches!(error, PkiError::Chain { .. }), "{error}");
        assert!(!one.join("n1.key").exists());
        issue(&two, "n1", &[]).unwrap();
    }

    #[test]
    fn mint_makes_a_folder_that_a_node_can_run_from() {
        let dir = tempfile::tempdir().unwrap();
        let nodes = mint(dir.path(), "east", &["n1", "n2"], &["localhost".to_owned()]).unwrap();
        assert_eq!(nodes.len(), 2);
        for node in &nodes {
            for file in [&node.ca_cert, &node.cert, &node.key, &node.route_secret] {
                assert!(file.is_file(), "{}", file.display());
            }
            assert_eq!(mode(&node.key), 0o600);
            assert_eq!(mode(&node.route_secret), 0o600);
        }
    }
}
