//! Clients that mean harm: what comes before any login, from an address of loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::PATIENCE;

/// Random bytes of one [`babble`].
const NOISE_BYTES: usize = 4096;
/// What the kernel takes in for somebody who reads slowly, in bytes: so little that the other end is told of each
/// kilobyte that is read.
const SIP_BUFFER_BYTES: u32 = 4096;

/// A connection from an address of loopback to a port of 127.0.0.1.
///
/// # Errors
/// When it is refused.
pub async fn connect_from(from: [u8; 4], port: u16) -> anyhow::Result<TcpStream> {
    connect(TcpSocket::new_v4()?, from, port).await
}

async fn connect(socket: TcpSocket, from: [u8; 4], port: u16) -> anyhow::Result<TcpStream> {
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

/// Says something and reads what is answered in pieces of `bytes`, one each `every`, until the other end lets go
/// of it: answers with how many bytes it has read.
///
/// # Errors
/// When the connection can't be opened.
pub async fn sip(
    (from, port): ([u8; 4], u16),
    said: &[u8],
    (bytes, every): (usize, Duration),
) -> anyhow::Result<u64> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SIP_BUFFER_BYTES)?;
    let mut stream = connect(socket, from, port).await?;
    let _cut = stream.write_all(said).await;
    let mut pace = tokio::time::interval(every);
    let (mut piece, mut read) = (vec![0; bytes], 0);
    loop {
        pace.tick().await;
        let mut of_piece = 0;
        while of_piece < bytes {
            match stream.read(&mut piece[of_piece..]).await {
                Ok(0) | Err(_) => return Ok(read + of_piece as u64),
                Ok(n) => of_piece += n,
            }
        }
        read += of_piece as u64;
    }
}

/// Says `first`, and then `said` in pieces of `bytes`, one each `every`, until the other end answers, which is
/// returned as far as it is there, or lets go of it.
///
/// # Errors
/// When the connection can't be opened.
pub async fn drip(
    (from, port): ([u8; 4], u16),
    (first, said): (&[u8], &[u8]),
    (bytes, every): (usize, Duration),
) -> anyhow::Result<Vec<u8>> {
    let mut stream = connect_from(from, port).await?;
    let _cut = stream.write_all(first).await;
    let (mut answers, mut sending) = stream.split();
    let dripping = async {
        let mut pace = tokio::time::interval(every);
        for piece in said.chunks(bytes) {
            pace.tick().await;
            let _cut = sending.write_all(piece).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = vec![0; NOISE_BYTES];
    tokio::select! {
        read = answers.read(&mut answer) => answer.truncate(read.unwrap_or_default()),
        () = dripping => {}
    }
    Ok(answer)
}
