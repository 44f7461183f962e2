//! TLS of the control listener: one certificate that is read again when its files change, without
//! a connection being dropped. A pair that can't be used is logged and the one in use stays.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio_rustls::TlsAcceptor;

use crate::shutdown::Shutdown;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The protocol that is spoken over it.
const ALPN: &[u8] = b"http/1.1";

/// Files of a certificate (PEM).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ControlTls {
    /// The chain, the listener's own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Why a certificate can't be used.
#[derive(Debug, Error)]
pub enum ControlTlsError {
    /// A file can't be read.
    #[error("{path:?} of the control listener can't be read: {reason}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The files are no pair, or no usable one.
    #[error("the certificate {cert:?} and the key {key:?} can't be used together: {reason}")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        reason: String,
    },
}

/// The certificate in use.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// A listener's TLS.
pub(super) struct ServerTls {
    files: ControlTls,
    current: Arc<Current>,
    pub(super) acceptor: TlsAcceptor,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerTls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl ServerTls {
    pub(super) fn load(files: ControlTls) -> Result<Self, ControlTlsError> {
        let current = Arc::new(Current(ArcSwap::from_pointee(read(&files)?)));
        let provider = Arc::new(ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| pair(&files, error.to_string()))?;
        let mut config = config
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&current) as _);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self {
            files,
            current,
            acceptor: TlsAcceptor::from(Arc::new(config)),
        })
    }

    /// Reads the files again whenever they change, until shutdown.
    pub(super) async fn follow(self: Arc<Self>, mut shutdown: Shutdown) {
        let mut seen = self.stamps();
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let now = self.stamps();
            if now == seen {
                continue;
            }
            match read(&self.files) {
                Ok(key) => {
                    self.current.0.store(Arc::new(key));
                    seen = now;
                    tracing::info!(cert = ?self.files.cert, "the control listener's certificate was read again");
                }
                // Perhaps only one of the two is written yet: looked at again.
                Err(error) => {
                    tracing::warn!(%error, "the control listener keeps the certificate it has");
                }
            }
        }
    }

    /// When the files were last written.
    fn stamps(&self) -> [Option<SystemTime>; 2] {
        [&self.files.cert, &self.files.key].map(|path| {
            std::fs::metadata(path)
                .and_then(|meta| meta.modified())
                .ok()
        })
    }
}

fn read(files: &ControlTls) -> Result<CertifiedKey, ControlTlsError> {
    let unreadable = |path: &PathBuf, reason: String| ControlTlsError::File {
        path: path.clone(),
        reason,
    };
    let chain = CertificateDer::pem_file_iter(&files.cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(&files.cert, error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|error| unreadable(&files.key, error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable(&files.cert, "it holds no certificate".into()));
    }
    CertifiedKey::from_der(chain, key, &ring::default_provider())
        .map_err(|error| pair(files, error.to_string()))
}

fn pair(files: &ControlTls, reason: String) -> ControlTlsError {
    ControlTlsError::Pair {
        cert: files.cert.clone(),
        key: files.key.clone(),
        reason,
    }
}
