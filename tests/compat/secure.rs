//! A client's TLS and WebSocket on a node that was given flags: async-nats judges.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use async_nats::ConnectOptions;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use unibus_testkit::{NodeProcess, PATIENCE, eventually, free_port};

/// An authority whose certificates stand in a folder of their own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        private(&dir.join("ca.crt"), &params.self_signed(&key)?.pem())?;
        Ok(Self {
            issuer: Issuer::new(params, key),
            dir: dir.to_path_buf(),
        })
    }

    /// `NAME.crt` and `NAME.key`.
    fn issue(&self, name: &str) -> anyhow::Result<()> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        private(&self.path(&format!("{name}.crt")), &certificate.pem())?;
        private(&self.path(&format!("{name}.key")), &key.serialize_pem())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn trusting(&self) -> ConnectOptions {
        ConnectOptions::new()
            .require_tls(true)
            .add_root_certificates(self.path("ca.crt"))
    }
}

fn private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(())
}

/// A node with a certificate and these further flags.
async fn node(flags: &[&str]) -> anyhow::Result<(NodeProcess, Authority, TempDir)> {
    let dir = tempfile::tempdir()?;
    let ca = Authority::new(dir.path())?;
    ca.issue("server")?;
    ca.issue("client")?;
    let at = |name: &str| ca.path(name).display().to_string();
    let mut all = vec![
        "--tls-cert".to_owned(),
        at("server.crt"),
        "--tls-key".to_owned(),
        at("server.key"),
        "--tls-ca".to_owned(),
        at("ca.crt"),
    ];
    all.extend(flags.iter().map(ToString::to_string));
    let binary = Path::new(env!("CARGO_BIN_EXE_unibus-node"));
    let mut node = NodeProcess::single(binary, dir.path())?.with_args(all);
    node.start()?;
    node.ready(PATIENCE).await?;
    Ok((node, ca, dir))
}

async fn talks(client: &async_nats::Client) -> anyhow::Result<()> {
    let mut subscription = client.subscribe("secure").await?;
    client.publish("secure", "hello".into()).await?;
    let message = unibus_testkit::next(&mut subscription).await?;
    ensure!(message.payload == "hello", "{:?}", message.payload);
    Ok(())
}

#[tokio::test]
async fn tls_upgraded_and_first() -> anyhow::Result<()> {
    let (node, ca, _dir) = node(&["--tls-first", "auto"]).await?;
    talks(&ca.trusting().connect(node.url()).await?).await?;
    talks(&ca.trusting().tls_first().connect(node.url()).await?).await?;
    let stranger = ConnectOptions::new().require_tls(true).connect(node.url());
    ensure!(stranger.await.is_err(), "an unknown authority was trusted");
    Ok(())
}

#[tokio::test]
async fn clients_prove_themselves_by_certificates() -> anyhow::Result<()> {
    let (node, ca, _dir) = node(&["--tls-verify"]).await?;
    let own = (ca.path("client.crt"), ca.path("client.key"));
    let certified = ca.trusting().add_client_certificate(own.0, own.1);
    talks(&certified.connect(node.url()).await?).await?;
    let without = ca.trusting().connect(node.url()).await;
    ensure!(without.is_err(), "a client without a certificate got in");
    Ok(())
}

#[tokio::test]
async fn a_renewed_certificate_serves_after_sighup_and_disturbs_nobody() -> anyhow::Result<()> {
    let (node, ca, dir) = node(&[]).await?;
    let early = ca.trusting().connect(node.url()).await?;
    talks(&early).await?;
    let renewed = tempfile::tempdir_in(dir.path())?;
    let new = Authority::new(renewed.path())?;
    new.issue("server")?;
    for name in ["server.crt", "server.key"] {
        std::fs::copy(new.path(name), ca.path(name))?;
    }
    node.signal("HUP")?;
    let served = || async { talks(&new.trusting().connect(node.url()).await?).await };
    eventually("the new certificate", PATIENCE, served).await?;
    talks(&early).await?;
    ensure!(
        early
            .statistics()
            .connects
            .load(std::sync::atomic::Ordering::Relaxed)
            == 1
    );
    Ok(())
}

#[tokio::test]
async fn a_websocket_listener_answers_with_info() -> anyhow::Result<()> {
    let port = free_port()?;
    let (_node, _ca, _dir) = node(&["--ws-listen", &port.to_string(), "--ws-no-tls"]).await?;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let reading = async {
        while !answer.ends_with(b"} \r\n") {
            let read = stream.read_buf(&mut answer).await?;
            ensure!(read > 0, "closed after {answer:?}");
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, reading).await??;
    let text = String::from_utf8_lossy(&answer);
    ensure!(text.starts_with("HTTP/1.1 101 "), "{text}");
    let info = text.split("INFO ").nth(1).context("INFO")?;
    let info: serde_json::Value = serde_json::from_str(info.trim())?;
    ensure!(info["port"] == port, "{info}");
    // Alone it tells no list: a client would go there with another protocol than it came by.
    ensure!(info["connect_urls"].is_null(), "{info}");
    ensure!(info["ws_connect_urls"].is_null(), "{info}");
    Ok(())
}
