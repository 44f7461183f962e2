//! How the program gets in: by password, token, nkey, credentials and certificate, and what it says where it
//! does not.

use std::path::Path;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use unibus_proto::nkey::UserSeed;
use unibus_testkit::{PATIENCE, eventually, free_port, issue, make_ca};

use crate::world::{World, node_binary};

/// A server with a configuration of nats-server's, which has more logins than a bus of its own.
struct Door {
    port: u16,
    _process: Child,
}

impl Door {
    async fn open(world: &World, name: &str, configuration: &str) -> anyhow::Result<Self> {
        let (file, port) = (world.path(&format!("{name}.conf")), free_port()?);
        std::fs::write(&file, configuration)?;
        let process = Command::new(node_binary()?)
            .args(["nats-server", "-c", &file, "-a", "127.0.0.1"])
            .args(["-p", &port.to_string(), "-l", &format!("{file}.log")])
            .kill_on_drop(true)
            .spawn()?;
        eventually("a server", PATIENCE, || async {
            Ok(TcpStream::connect(("127.0.0.1", port)).await?)
        })
        .await
        .with_context(|| std::fs::read_to_string(format!("{file}.log")).unwrap_or_default())?;
        Ok(Self {
            port,
            _process: process,
        })
    }

    /// The arguments that publish something here.
    fn publish(&self, scheme: &str, flags: &str) -> String {
        let port = self.port;
        format!("pub logins.test hello --server {scheme}://127.0.0.1:{port} --timeout 5s {flags}")
    }
}

#[tokio::test]
async fn a_password_a_token_and_an_nkey_let_one_in() -> anyhow::Result<()> {
    let world = World::alone();
    let (mine, other) = (UserSeed::from_bytes([1; 32]), UserSeed::from_bytes([2; 32]));
    for (name, seed) in [("mine.nk", &mine), ("other.nk", &other)] {
        std::fs::write(world.path(name), seed.to_nkey())?;
    }
    let users = format!(
        "authorization {{ users: [ {{ user: ann, password: hunter2 }}, {{ nkey: {} }} ] }}",
        mine.public().to_nkey()
    );
    let door = Door::open(&world, "users", &users).await?;
    for flags in ["--user ann --password hunter2", "--nkey mine.nk"] {
        world.run(&door.publish("nats", flags)).await.done();
    }
    for (flags, who) in [
        ("--user ann --password wrong", "does not let user ann in"),
        ("--nkey other.nk", "other.nk in: authorization violation"),
        ("--token hunter2", "does not let token in"),
        ("", "does not let nobody in"),
    ] {
        let refused = world.run(&door.publish("nats", flags)).await;
        assert!(!refused.err.contains("hunter2"), "{refused:?}");
        refused.refused(1, who);
    }
    std::fs::write(world.path("none.nk"), "no seed")?;
    let line = door.publish("nats", "--nkey none.nk");
    world.run(&line).await.refused(2, "holds no user's seed");
    let line = door.publish("nats", "--user ann");
    world.run(&line).await.refused(2, "--password");

    let door = Door::open(&world, "token", "authorization { token: s3cret }").await?;
    world
        .run(&door.publish("nats", "--token s3cret"))
        .await
        .done();
    let refused = world.run(&door.publish("nats", "--token wrong")).await;
    refused.refused(1, "does not let token in");
    Ok(())
}

/// A server's part of a login with credentials: what the client showed, as CONNECT says it.
async fn shown_to(listener: &TcpListener, nonce: &str) -> anyhow::Result<serde_json::Value> {
    let (mut socket, _) = listener.accept().await?;
    let info = format!(
        "INFO {{\"server_id\":\"x\",\"version\":\"2.11.0\",\"proto\":1,\"headers\":true,\
         \"max_payload\":1048576,\"auth_required\":true,\"nonce\":\"{nonce}\"}}\r\n"
    );
    socket.write_all(info.as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(&mut socket).read_line(&mut line).await?;
    let refusal = b"-ERR 'Authorization Violation'\r\n";
    socket.write_all(refusal).await?;
    let connect = line.strip_prefix("CONNECT ").context("no CONNECT")?;
    Ok(serde_json::from_str(connect)?)
}

#[tokio::test]
async fn credentials_show_their_jwt_and_sign_the_nonce() -> anyhow::Result<()> {
    let world = World::alone();
    let seed = UserSeed::from_bytes([3; 32]);
    let credentials = format!(
        "-----BEGIN NATS USER JWT-----\nheader.claims.signature\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        seed.to_nkey()
    );
    std::fs::write(world.path("me.creds"), credentials)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = format!("nats://{}", listener.local_addr()?);
    let line = format!("pub a b --server {server} --creds me.creds");
    let (shown, run) = tokio::join!(
        tokio::time::timeout(PATIENCE, shown_to(&listener, "a-nonce")),
        world.run(&line)
    );
    let shown = shown??;
    run.refused(1, "me.creds in: authorization violation");
    assert_eq!(shown["jwt"], "header.claims.signature", "{shown}");
    let signature = shown["sig"].as_str().context("sig")?;
    assert!(seed.public().verify(b"a-nonce", signature), "{shown}");
    assert!(!shown.to_string().contains(&*seed.to_nkey()), "{shown}");

    world
        .run(&format!("pub a b --server {server} --creds none.creds"))
        .await
        .refused(2, "none.creds");
    Ok(())
}

/// Configuration of a server with TLS and a certificate from `pki`.
fn tls(pki: &Path, more: &str) -> String {
    let at = |name: &str| pki.join(name).display().to_string();
    let (certificate, key, ca) = (at("n0.crt"), at("n0.key"), at("ca.crt"));
    format!(
        "tls {{ cert_file: \"{certificate}\", key_file: \"{key}\", ca_file: \"{ca}\", {more} }}"
    )
}

#[tokio::test]
async fn certificates_are_checked_on_both_sides() -> anyhow::Result<()> {
    let world = World::alone();
    let binary = node_binary()?;
    let pki = world.dir.path().join("pki");
    make_ca(&binary, &pki)?;
    for name in ["n0", "ann"] {
        issue(&binary, &pki, name, &[])?;
    }
    let foreign = world.dir.path().join("foreign");
    make_ca(&binary, &foreign)?;
    issue(&binary, &foreign, "eve", &[])?;

    let door = Door::open(&world, "verify", &tls(&pki, "verify: true")).await?;
    let mine = "--tls-ca pki/ca.crt --tls-cert pki/ann.crt --tls-key pki/ann.key";
    // With a CA named, TLS is meant whatever the scheme says.
    for scheme in ["tls", "nats"] {
        world.run(&door.publish(scheme, mine)).await.done();
    }
    for (flags, status, words) in [
        (
            "--tls-ca pki/ca.crt",
            1,
            "--tls-cert and --tls-key name one",
        ),
        (
            "--tls-ca pki/ca.crt --tls-cert foreign/eve.crt --tls-key foreign/eve.key",
            1,
            "127.0.0.1",
        ),
        (
            "--tls-ca foreign/ca.crt --tls-cert pki/ann.crt --tls-key pki/ann.key",
            1,
            "--tls-ca names the CA",
        ),
        ("", 1, "--tls-ca names the CA"),
        ("--tls-ca none.crt", 2, "none.crt"),
        ("--tls-ca pki/ca.crt --tls-cert pki/ann.crt", 2, "--tls-key"),
    ] {
        let run = world.run(&door.publish("tls", flags)).await;
        run.refused(status, words);
    }

    let door = Door::open(&world, "first", &tls(&pki, "handshake_first: true")).await?;
    let first = "--tls-ca pki/ca.crt --tls-first";
    world.run(&door.publish("tls", first)).await.done();
    // Who waits for the server's INFO waits in vain.
    let port = door.port;
    let line =
        format!("pub a b --server tls://127.0.0.1:{port} --tls-ca pki/ca.crt --timeout 300ms");
    world.run(&line).await.refused(1, "no answer");
    Ok(())
}

/// A server that wants something else signed than a login, and notes what it is told.
async fn liar() -> anyhow::Result<(u16, tokio::task::JoinHandle<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let serving = tokio::spawn(async move {
        let mut told = String::new();
        let info = serde_json::json!({
            "server_id": "N", "server_name": "liar", "version": "2.14.0", "proto": 1, "headers": true,
            "host": "127.0.0.1", "port": port, "max_payload": 1_048_576, "auth_required": true,
            "nonce": "UNIBUS-REQUEST-1\nPOST\n/users\n",
        });
        while let Ok((mut stream, _)) = listener.accept().await {
            let hello = format!("INFO {info}\r\n");
            if stream.write_all(hello.as_bytes()).await.is_err() {
                continue;
            }
            let mut line = String::new();
            let reading = BufReader::new(&mut stream).read_line(&mut line).await;
            told.push_str(&line);
            if reading.is_ok_and(|read| read > 0) {
                break;
            }
        }
        told
    });
    Ok((port, serving))
}

#[tokio::test]
async fn a_server_gets_nothing_signed_but_a_nonce() -> anyhow::Result<()> {
    let world = World::enforced().await?;
    world.person("me", &["--role", "service"]).await?;
    let mine = UserSeed::from_bytes([1; 32]);
    std::fs::write(world.path("mine.nk"), mine.to_nkey())?;
    let (port, serving) = liar().await?;
    let server = format!("nats://127.0.0.1:{port}");
    for line in [
        "pub x y --nkey mine.nk",
        "pub x y --identity me.json",
        "room list --identity me.json",
    ] {
        let line = format!("{line} --server {server} --timeout 3s");
        world.run(&line).await.refused(1, "that are no nonce");
    }
    let node = Command::new(node_binary()?)
        .args(["user", "list", "--nats-url", &server])
        .args(["--internal-id-file", &world.path("data/internal.json")])
        .output()
        .await?;
    let said = String::from_utf8_lossy(&node.stderr);
    assert!(
        !node.status.success() && said.contains("that are no nonce"),
        "{said}"
    );
    assert!(!serving.is_finished(), "it was told {}", serving.await?);
    // Whoever had signed would have said CONNECT.
    if serving.is_finished() {
        anyhow::bail!("it was told {}", serving.await?);
    }
    serving.abort();
    Ok(())
}
