//! Settings and certificate files → how the broker's listeners speak, and the same again while they
//! serve. Reads files; must never log or return what stands in a private key.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tracing::{info, warn};
use unibus_broker::{
    ClientListener, HandshakeFirst, ListenerSettings, OriginRule, TlsSettings, WebSocketSettings,
};

use crate::config::NodeConfig;
use crate::config::tls::{self, ClientTls, TlsVersion};
use crate::config::websocket::WebSocket;

/// Largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Why clients can't be served with TLS, or by WebSocket.
#[derive(Debug, Error)]
pub enum ClientTlsError {
    /// A file can't be used.
    #[error("the client TLS file {path:?} can't be used: {reason}; wanted {wanted} in PEM")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
        /// What should stand in it.
        wanted: &'static str,
    },
    /// Certificate and key, or the authority, don't work.
    #[error(
        "the certificate {cert:?} and the key {key:?} can't be used for clients' TLS: {reason}"
    )]
    Pair {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
        /// Why.
        reason: String,
    },
    /// Clients' certificates are wanted and nothing says from whom.
    #[error(
        "clients' certificates are to be verified and no authority is named; name the file of its certificate (--tls-ca, ca_file)"
    )]
    NoAuthority,
    /// A WebSocket listener without TLS that is not meant to be one.
    #[error(
        "the WebSocket listener {0} has no TLS; give it a certificate, or say that plain ws is meant (--ws-no-tls, no_tls)"
    )]
    WebSocketWithoutTls(SocketAddr),
    /// An allowed origin can't be read.
    #[error(transparent)]
    Origin(#[from] unibus_broker::OriginError),
}

/// The client listeners of a node.
#[derive(Clone, Debug)]
pub(super) struct ClientListeners {
    pub(super) nats: ClientListener,
    pub(super) websocket: Option<(ClientListener, SocketAddr)>,
}

/// Whether the files of the client listeners can be used; listens nowhere.
///
/// # Errors
/// [`ClientTlsError`] for the first that can't.
pub fn check_client_tls(config: &NodeConfig) -> Result<(), ClientTlsError> {
    let websocket = config.websocket.as_ref().map(|ws| ws.listen);
    ClientListeners::load(config, websocket).map(drop)
}

impl ClientListeners {
    /// Reads the files. `websocket` = where that listener is really bound.
    pub(super) fn load(
        config: &NodeConfig,
        websocket: Option<SocketAddr>,
    ) -> Result<Self, ClientTlsError> {
        let ws = match (&config.websocket, websocket) {
            (Some(ws), Some(at)) => Some((ClientListener::new(websocket_settings(ws, at)?), at)),
            _ => None,
        };
        if let Some(ws) = config.websocket.as_ref().filter(|ws| ws.compression) {
            info!(listen = %ws.listen, "WebSocket compression is accepted as a setting and not used");
        }
        warn_of_plain_text(config);
        Ok(Self {
            nats: ClientListener::new(nats_settings(config.client_tls.as_ref())?),
            websocket: ws,
        })
    }

    /// Reads the files again. What is returned puts them in force, for connections accepted from then on.
    pub(super) fn prepare(
        &self,
        tls: Option<&ClientTls>,
        websocket: Option<&WebSocket>,
    ) -> Result<impl FnOnce() + use<'_>, ClientTlsError> {
        let nats = nats_settings(tls)?;
        let websocket = match (&self.websocket, websocket) {
            (Some((listener, at)), Some(ws)) => Some((listener, websocket_settings(ws, *at)?)),
            _ => None,
        };
        Ok(move || {
            if let Some((listener, settings)) = websocket {
                listener.replace(settings);
            }
            self.nats.replace(nats);
        })
    }
}

/// What others on the network can read is allowed where clients prove who they are, and said.
fn warn_of_plain_text(config: &NodeConfig) {
    let public = |at: SocketAddr| !at.ip().is_loopback();
    let tls = config.client_tls.as_ref();
    if public(config.client_listen) && tls.is_none_or(|tls| tls.allow_non_tls) {
        warn!(
            listen = %config.client_listen,
            "clients on other hosts may talk in plain text: give a certificate (--tls-cert, --tls-key)"
        );
    }
    if let Some(ws) = config.websocket.as_ref().filter(|ws| ws.tls.is_none()) {
        warn!(listen = %ws.listen, "WebSocket without TLS: keep it behind something that ends TLS");
    }
}

fn nats_settings(tls: Option<&ClientTls>) -> Result<ListenerSettings, ClientTlsError> {
    Ok(ListenerSettings {
        tls: tls.map(tls_settings).transpose()?,
        websocket: None,
    })
}

fn websocket_settings(
    ws: &WebSocket,
    bound: SocketAddr,
) -> Result<ListenerSettings, ClientTlsError> {
    if ws.tls.is_none() && !ws.no_tls {
        return Err(ClientTlsError::WebSocketWithoutTls(bound));
    }
    let tls = ws.tls.as_ref().filter(|_| !ws.no_tls);
    let tls = tls.map(tls_settings).transpose()?;
    let origins = OriginRule::new(ws.same_origin, tls.is_some(), &ws.allowed_origins)?;
    let websocket = WebSocketSettings {
        host: bound.ip().to_string(),
        port: bound.port(),
        handshake_timeout: ws.handshake_timeout,
        origins,
    };
    Ok(ListenerSettings {
        tls,
        websocket: Some(websocket),
    })
}

fn tls_settings(tls: &ClientTls) -> Result<TlsSettings, ClientTlsError> {
    let handshake_first = match tls.handshake_first {
        tls::HandshakeFirst::Off => HandshakeFirst::Never,
        tls::HandshakeFirst::Always => HandshakeFirst::Always,
        tls::HandshakeFirst::Auto(delay) => HandshakeFirst::Within(delay),
    };
    Ok(TlsSettings {
        config: Arc::new(server_config(tls)?),
        handshake_first,
        timeout: tls.timeout.min(tls::TLS_TIMEOUT_MAX),
        required: !tls.allow_non_tls,
        verify: tls.asks_for_certificates(),
        map: tls.verify_and_map,
    })
}

fn server_config(tls: &ClientTls) -> Result<ServerConfig, ClientTlsError> {
    let chain = certificates(&tls.cert)?;
    let key = private_key(&tls.key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let pair = |error: &dyn std::fmt::Display| ClientTlsError::Pair {
        cert: tls.cert.clone(),
        key: tls.key.clone(),
        reason: error.to_string(),
    };
    let versions: &[&SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::V12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V13 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|error| pair(&error))?;
    let builder = if tls.asks_for_certificates() {
        let authority = tls.ca.as_ref().ok_or(ClientTlsError::NoAuthority)?;
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider).build();
        builder.with_client_cert_verifier(verifier.map_err(|error| pair(&error))?)
    } else {
        builder.with_no_client_auth()
    };
    builder
        .with_single_cert(chain, key)
        .map_err(|error| pair(&error))
}

fn roots(path: &Path) -> Result<Arc<RootCertStore>, ClientTlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|error| unusable(path, "authorities' certificates", &error))?;
    }
    Ok(Arc::new(roots))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientTlsError> {
    let wanted = "certificates";
    let pem = read(path, wanted)?;
    let found: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(path, wanted, &error))?;
    if found.is_empty() {
        return Err(unusable(path, wanted, &"there is none in it"));
    }
    Ok(found)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, ClientTlsError> {
    let wanted = "a private key";
    let pem = zeroize::Zeroizing::new(read(path, wanted)?);
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable(path, wanted, &error))
}

fn read(path: &Path, wanted: &'static str) -> Result<Vec<u8>, ClientTlsError> {
    let meta = std::fs::metadata(path).map_err(|error| unusable(path, wanted, &error))?;
    if meta.len() > FILE_BYTES_MAX {
        let reason = format!("{} bytes are more than {FILE_BYTES_MAX}", meta.len());
        return Err(unusable(path, wanted, &reason));
    }
    std::fs::read(path).map_err(|error| unusable(path, wanted, &error))
}

fn unusable(path: &Path, wanted: &'static str, reason: &dyn std::fmt::Display) -> ClientTlsError {
    ClientTlsError::File {
        path: path.to_owned(),
        reason: reason.to_string(),
        wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::{ClientTls, ClientTlsError, server_config};
    use std::path::PathBuf;

    /// A self-signed certificate and its key in `dir`.
    fn pair(dir: &tempfile::TempDir, name: &str) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        let (cert, at) = (params.self_signed(&key).unwrap(), dir.path());
        std::fs::write(at.join(format!("{name}.crt")), cert.pem()).unwrap();
        std::fs::write(at.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        (
            at.join(format!("{name}.crt")),
            at.join(format!("{name}.key")),
        )
    }

    #[test]
    fn what_can_not_be_used_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = pair(&dir, "a");
        let (other, _) = pair(&dir, "b");
        assert!(server_config(&ClientTls::new(cert.clone(), key.clone())).is_ok());
        let text = |tls: &ClientTls| server_config(tls).unwrap_err().to_string();
        let mixed = text(&ClientTls::new(other, key.clone()));
        assert!(
            mixed.contains("b.crt") && mixed.contains("a.key"),
            "{mixed}"
        );
        let absent = text(&ClientTls::new(dir.path().join("none"), key.clone()));
        assert!(
            absent.contains("none") && absent.contains("wanted certificates"),
            "{absent}"
        );
        let swapped = text(&ClientTls::new(key.clone(), cert.clone()));
        assert!(swapped.contains("there is none in it"), "{swapped}");
        let mut verify = ClientTls::new(cert.clone(), key);
        verify.verify = true;
        assert!(matches!(
            server_config(&verify),
            Err(ClientTlsError::NoAuthority)
        ));
        verify.ca = Some(cert);
        assert!(server_config(&verify).is_ok());
    }
}
