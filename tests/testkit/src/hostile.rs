//! Clients that mean harm: what comes before any login, from an address of loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::PATIENCE;

/// Random bytes of one [`babble`].
const NOISE_BYTES: usize = 4096;

/// A connection from an address of loopback to a port of 127.0.0.1.
///
/// # Errors
/// When it is refused.
pub async fn connect_from(from: [u8; 4], port: u16) -> anyhow::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::from(from), 0))?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = tokio::time::timeout(PATIENCE, socket.connect(to)).await;
    Ok(stream.context("nobody accepts")??)
}

/// Says `first` and random bytes, and reads until the other end lets go of it.
///
/// # Errors
/// When it does not let go within [`PATIENCE`].
pub async fn babble(from: [u8; 4], port: u16, first: &[u8]) -> anyhow::Result<()> {
    let mut stream = connect_from(from, port).await?;
    let noise: [u8; NOISE_BYTES] = rand::random();
    let talking = async {
        // Whether the other end still reads is its own choice.
        let _cut = stream.write_all(first).await;
        let _cut = stream.write_all(&noise).await;
        let _cut = stream.shutdown().await;
        let mut sink = Vec::new();
        let _reset = stream.read_to_end(&mut sink).await;
    };
    let let_go = tokio::time::timeout(PATIENCE, talking).await;
    let_go.with_context(|| format!("port {port} holds who babbles after {first:?}"))
}

/// Says something and resets the connection at once: whatever is said to it then can't be written.
///
/// # Errors
/// When the connection can't be opened.
pub async fn vanish(from: [u8; 4], port: u16, said: &[u8]) -> anyhow::Result<()> {
    let mut stream = connect_from(from, port).await?;
    stream.set_zero_linger()?;
    let _cut = stream.write_all(said).await;
    Ok(())
}

/// Says something and then nothing, and reads nothing, until it is dropped.
///
/// # Errors
/// When the connection can't be opened.
pub async fn hold(from: [u8; 4], port: u16, said: &[u8]) -> anyhow::Result<TcpStream> {
    let mut stream = connect_from(from, port).await?;
    let _cut = stream.write_all(said).await;
    Ok(stream)
}
