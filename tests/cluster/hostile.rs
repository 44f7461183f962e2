//! Who means harm at the listeners of a node of a cluster: the route port, UDP and TCP, and handshakes of TLS
//! that are begun and never ended. Peers and clients are served meanwhile.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, ensure};
use tokio::net::UdpSocket;
use unibus_testkit::hostile::{babble, hold, vanish};
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, round_trip};

use crate::binary;

/// Where harm comes from; the nodes themselves are at 127.0.0.1, which is harm of a neighbour.
const ATTACKER: [u8; 4] = [127, 0, 0, 66];
const NEIGHBOUR: [u8; 4] = [127, 0, 0, 1];
/// Rounds of harm for each listener.
const ROUNDS: usize = 100;
/// Connections of each kind that are held open meanwhile: at the route port, more than are kept.
const HELD: usize = 200;
/// Datagrams of noise.
const DATAGRAMS: usize = 2000;
/// Bytes of the largest and of what a first packet of QUIC has at least.
const DATAGRAM_BYTES_MAX: usize = 1452;
const INITIAL_BYTES: usize = 1200;
/// What the node's memory may grow by, in bytes.
const GROWTH_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The head of a TLS record that holds a hello of 512 bytes, and no more of it.
const HALF_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

/// The route port of node 0.
fn route_port(cluster: &Cluster) -> anyhow::Result<u16> {
    let first = cluster.routes().split(',').next().unwrap_or_default();
    let (_, port) = first.rsplit_once(':').context("a route with a port")?;
    Ok(port.parse()?)
}

/// Noise: some of it looks like first packets of QUIC, of this version or of none.
async fn spray(from: [u8; 4], port: u16) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(SocketAddr::from((from, 0))).await?;
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for number in 0..DATAGRAMS {
        let mut noise: [u8; DATAGRAM_BYTES_MAX] = rand::random();
        let length = match number % 4 {
            0 => 1 + number % DATAGRAM_BYTES_MAX,
            1 => {
                noise[..6].copy_from_slice(&[0xc0, 0, 0, 0, 1, 8]);
                INITIAL_BYTES
            }
            2 => {
                noise[0] |= 0xc0;
                INITIAL_BYTES
            }
            _ => {
                // A short header, of a connection that there is not.
                noise[0] = 0x40 | (noise[0] & 0x3f);
                INITIAL_BYTES / 2
            }
        };
        socket.send_to(&noise[..length], to).await?;
    }
    Ok(())
}

/// A client of node 0, as that node itself.
async fn client(cluster: &Cluster) -> anyhow::Result<async_nats::Client> {
    let file = std::fs::read(cluster.data_dir(0).join("internal.json"))?;
    let internal: serde_json::Value = serde_json::from_slice(&file)?;
    let seed = internal["seed"].as_str().context("a seed")?.to_owned();
    let node = cluster.nodes.first().context("no node")?;
    let options = async_nats::ConnectOptions::with_nkey(seed)
        .add_root_certificates(cluster.ca())
        .require_tls(true);
    let url = format!("tls://127.0.0.1:{}", node.client_port);
    Ok(options.connect(url).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn noise_at_the_route_port_and_handshakes_without_an_end_are_in_nobodys_way()
-> anyhow::Result<()> {
    let options = ClusterOptions {
        tls: true,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::without_users(binary(), options).await?;
    round_trip(&client(&cluster).await?).await?;
    let route = route_port(&cluster)?;
    let (clients, control) = (cluster.nodes[0].client_port, cluster.nodes[0].http_port);
    let before = cluster.nodes[0].resident_bytes()?;

    let mut held = Vec::new();
    for from in [ATTACKER, NEIGHBOUR] {
        spray(from, route).await?;
        for port in [route, clients, control] {
            for _ in 0..ROUNDS {
                babble(from, port, &HALF_HELLO[..3]).await?;
                vanish(from, port, HALF_HELLO).await?;
            }
        }
        for _ in 0..HELD {
            held.push(hold(from, route, b"").await?);
        }
        for port in [clients, control] {
            for _ in 0..HELD / 4 {
                held.push(hold(from, port, HALF_HELLO).await?);
            }
        }
    }
    // A peer comes back and a client comes, while all of that is there.
    assert_eq!(cluster.nodes[1].stop(PATIENCE).await?, Some(0));
    cluster.nodes[1].start()?;
    cluster.ready().await?;
    round_trip(&client(&cluster).await?).await?;
    drop(held);
    let node = &cluster.nodes[0];
    node.at_rest().await?;
    let grown = node.resident_bytes()?.saturating_sub(before);
    println!("{} KiB more than before", grown / 1024);
    ensure!(grown < GROWTH_BYTES_MAX, "{grown} bytes more than before");
    ensure!(!node.log_text().contains("panicked"), "{}", node.log_text());
    for node in &mut cluster.nodes {
        assert_eq!(node.stop(PATIENCE).await?, Some(0));
    }
    Ok(())
}
