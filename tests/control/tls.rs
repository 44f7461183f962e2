//! TLS of the control listener: encrypted, and with a new certificate without a connection dropped.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::pki_types::ServerName;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use unibus_testkit::hostile::{hold, vanish};
use unibus_testkit::{PATIENCE, eventually, issue, make_ca};

use crate::binary;
use crate::world::{World, read_answer};

async fn connect(port: u16, ca: &Path) -> anyhow::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).map_err(|error| anyhow::anyhow!("{error}"))?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("127.0.0.1")?;
    Ok(TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await?)
}

async fn ask(stream: &mut TlsStream<TcpStream>) -> anyhow::Result<u16> {
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        .await?;
    Ok(read_answer(stream, false).await?.status)
}

fn leaf(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
}

#[tokio::test]
async fn a_new_certificate_is_used_and_open_connections_stay() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let pki = dir.path().join("pki");
    make_ca(binary(), &pki)?;
    issue(binary(), &pki, "one", &[])?;
    issue(binary(), &pki, "two", &[])?;
    let (cert, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let install = |name: &str| -> anyhow::Result<()> {
        std::fs::copy(pki.join(format!("{name}.key")), &key)?;
        std::fs::copy(pki.join(format!("{name}.crt")), &cert)?;
        Ok(())
    };
    install("one")?;
    let text = |path: &Path| path.display().to_string();
    let (cert_flag, key_flag) = (text(&cert), text(&key));
    let flags = ["--http-tls-cert", &cert_flag, "--http-tls-key", &key_flag];
    let world = World::single_with(&flags).await?;
    let (port, ca) = (world.http[0], pki.join("ca.crt"));
    let mut open = connect(port, &ca).await?;
    assert_eq!(ask(&mut open).await?, 200);
    let first = leaf(&open).context("a certificate")?;
    install("two")?;
    eventually("the new certificate", PATIENCE, || async {
        let mut stream = connect(port, &ca).await?;
        if leaf(&stream).is_none_or(|leaf| leaf == first) {
            bail!("still the first certificate");
        }
        assert_eq!(ask(&mut stream).await?, 200);
        Ok(())
    })
    .await?;
    assert_eq!(
        ask(&mut open).await?,
        200,
        "the open connection was dropped"
    );
    // In the clear nothing is answered.
    let mut plain = TcpStream::connect(("127.0.0.1", port)).await?;
    plain
        .write_all(b"GET /livez HTTP/1.1\r\nhost: n\r\n\r\n")
        .await?;
    assert!(read_answer(&mut plain, false).await.is_err());
    Ok(())
}

/// The head of a TLS record that holds a hello, and no more of it.
const HALF_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
const ATTACKER: [u8; 4] = [127, 0, 0, 66];

#[tokio::test]
async fn handshakes_that_are_begun_and_never_ended_keep_nobody_out() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let pki = dir.path().join("pki");
    make_ca(binary(), &pki)?;
    issue(binary(), &pki, "one", &[])?;
    let file = |name: &str| pki.join(name).display().to_string();
    let (cert, key) = (file("one.crt"), file("one.key"));
    let flags = [
        "--http-tls-cert",
        &cert,
        "--http-tls-key",
        &key,
        "--http-max-connections",
        "8",
        "--http-max-connections-per-address",
        "4",
        "--http-header-timeout-ms",
        "60000",
    ];
    let mut world = World::single_with(&flags).await?;
    let (port, ca) = (world.http[0], pki.join("ca.crt"));
    let mut held = Vec::new();
    for _ in 0..20 {
        vanish(ATTACKER, port, HALF_HELLO).await?;
        held.push(hold(ATTACKER, port, HALF_HELLO).await?);
    }
    let mut honest = connect(port, &ca).await?;
    assert_eq!(ask(&mut honest).await?, 200);
    world.node(0).at_rest().await?;
    drop(held);
    assert_eq!(world.node(0).stop(PATIENCE).await?, Some(0));
    Ok(())
}
