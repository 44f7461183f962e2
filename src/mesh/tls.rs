//! Mutual TLS 1.3 of the routes: who may speak at all, and under which name.
//!
//! Both ends verify the other's chain against the route CA, with its validity and its extended key
//! usage, and fail closed. The name is not TLS's business here: a peer's identity is the first DNS
//! name of its certificate, read by [`identity`] and compared by the dialer before it says a word.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::error::MeshError;
use super::limits::{
    ALPN, BIDI_STREAMS_MAX, CONNECTION_WINDOW_BYTES, IDLE_TIMEOUT, KEEP_ALIVE, SEND_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
};
use super::options::MeshTls;

/// The two sides of one endpoint's configuration.
#[derive(Debug)]
pub(crate) struct TlsSet {
    pub(crate) server: quinn::ServerConfig,
    pub(crate) client: quinn::ClientConfig,
    /// This node's own name, from its certificate.
    pub(crate) name: String,
    /// When its certificate ends to be valid.
    pub(crate) not_after: SystemTime,
}

impl TlsSet {
    /// Reads the files and builds both sides.
    pub(crate) fn load(files: &MeshTls) -> Result<Self, MeshError> {
        let chain = certificates(&files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| pem(&files.key, &e))?;
        let name = chain
            .first()
            .and_then(identity)
            .ok_or_else(|| MeshError::NoName(files.cert.clone()))?;
        let not_after = certificate_not_after(&files.cert)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca)? {
            roots.add(certificate).map_err(|e| pem(&files.ca, &e))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(roots);
        let transport = Arc::new(transport());
        let server = server_config(
            &provider,
            &roots,
            chain.clone(),
            key.clone_key(),
            &transport,
        )?;
        let client = client_config(&provider, &roots, chain, key, &transport)?;
        Ok(Self {
            server,
            client,
            name,
            not_after,
        })
    }
}

/// The first DNS name of a certificate's subject alternative names: the node's identity.
pub(crate) fn identity(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        })
}

/// The identity that the peer of an established connection proved.
pub(crate) fn peer_identity(connection: &quinn::Connection) -> Option<String> {
    let chain = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    chain.first().and_then(identity)
}

/// The name in a PEM certificate file, for a node that is given none: the server name defaults to
/// its certificate's.
pub fn certificate_name(path: &Path) -> Result<String, MeshError> {
    certificates(path)?
        .first()
        .and_then(identity)
        .ok_or_else(|| MeshError::NoName(path.to_owned()))
}

/// When the certificate in a PEM file ends to be valid.
pub fn certificate_not_after(path: &Path) -> Result<SystemTime, MeshError> {
    let chain = certificates(path)?;
    let leaf = chain
        .first()
        .ok_or_else(|| MeshError::NoName(path.to_owned()))?;
    not_after(leaf).ok_or_else(|| pem(path, &"its time of validity can't be read"))
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    // One of before 1970 has expired whenever that was.
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, MeshError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| pem(path, &e))?;
    if found.is_empty() {
        return Err(pem(path, &"no certificate in it"));
    }
    Ok(found)
}

fn pem(path: &Path, reason: &dyn std::fmt::Display) -> MeshError {
    MeshError::Pem {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

fn tls(reason: impl std::fmt::Display) -> MeshError {
    MeshError::Tls(reason.to_string())
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    transport: &Arc<TransportConfig>,
) -> Result<quinn::ServerConfig, MeshError> {
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
            .build()
            .map_err(tls)?;
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // No resumption: every connection verifies the certificates anew.
    config.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(config).map_err(tls)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::clone(transport));
    Ok(server)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    transport: &Arc<TransportConfig>,
) -> Result<quinn::ClientConfig, MeshError> {
    let verifier = RouteVerifier {
        roots: Arc::clone(roots),
        provider: Arc::clone(provider),
    };
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key)
        .map_err(tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    let crypto = QuicClientConfig::try_from(config).map_err(tls)?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client.transport_config(Arc::clone(transport));
    Ok(client)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = u32::try_from(IDLE_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .initial_rtt(Duration::from_millis(50))
        .datagram_receive_buffer_size(None);
    transport
}

/// Verifies chain, validity and server usage against the route CA, and the signature, through
/// webpki; leaves only the name to the caller, because a route given as `host:port` accepts any
/// node of the cluster.
#[derive(Debug)]
struct RouteVerifier {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for RouteVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
