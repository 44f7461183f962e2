//! What two people say is looked for where it passes in the clear: between clients and a node without
//! TLS. Everything goes through a proxy that keeps each byte of both directions. The search is tested on a
//! room in cleartext, whose words have to be found.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::ensure;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use unibus_client::{
    Event, FileInfo, HistoryQuery, Identity, NewRoom, Options, Session, Speech, Start,
};
use unibus_proto::control::Policy;
use unibus_testkit::{NodeProcess, PATIENCE};

use crate::secrecy::{FILE_TEXT, PLAINTEXT, SUBJECT, Secrets, contains};
use crate::world::{admit_to_room, next_text, next_where};

/// What is said in cleartext, and has to be found.
const OPEN_TEXT: &str = "what-everybody-on-the-wire-may-read";

/// One direction of one connection.
type Flow = Arc<Mutex<Vec<u8>>>;

/// A proxy that keeps what passes it.
struct Tap {
    port: u16,
    flows: Arc<Mutex<Vec<Flow>>>,
}

impl Tap {
    async fn before(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let tap = Self {
            port: listener.local_addr()?.port(),
            flows: Arc::default(),
        };
        let flows = Arc::clone(&tap.flows);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
                    return;
                };
                let ((near_in, near_out), (far_in, far_out)) =
                    (near.into_split(), far.into_split());
                let flow = || {
                    let flow = Flow::default();
                    flows.lock().push(Arc::clone(&flow));
                    flow
                };
                tokio::spawn(pump(near_in, far_out, flow()));
                tokio::spawn(pump(far_in, near_out, flow()));
            }
        });
        Ok(tap)
    }

    fn bytes(&self) -> Vec<Vec<u8>> {
        let flows = self.flows.lock();
        flows.iter().map(|flow| flow.lock().clone()).collect()
    }
}

/// Moves bytes, and keeps them before they arrive.
async fn pump(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, kept: Flow) {
    let mut piece = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        kept.lock().extend_from_slice(&piece[..read]);
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}

/// A node without TLS, behind a tap on each of its planes.
struct Tapped {
    node: NodeProcess,
    dir: tempfile::TempDir,
    nats: Tap,
    http: Tap,
}

impl Tapped {
    async fn new() -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let args = ["--bus-auth", "enforce"].map(str::to_owned).to_vec();
        let mut node = NodeProcess::single(binary(), dir.path())?.with_args(args);
        node.start()?;
        node.ready(PATIENCE).await?;
        Ok(Self {
            nats: Tap::before(node.client_port).await?,
            http: Tap::before(node.http_port).await?,
            node,
            dir,
        })
    }

    async fn person(&self) -> anyhow::Result<Session> {
        let who = Identity::generate()?;
        let added = Command::new(binary())
            .args(["user", "add", &who.nkey()])
            .args(["--nats-url", &self.node.url(), "--internal-id-file"])
            .arg(self.dir.path().join("data/internal.json"))
            .output()?;
        ensure!(added.status.success(), "{added:?}");
        let options = Options::new().server(
            format!("http://127.0.0.1:{}", self.http.port),
            format!("nats://127.0.0.1:{}", self.nats.port),
        );
        Ok(Session::connect(who, options).await?)
    }
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_unibus-node"))
}

#[tokio::test]
async fn the_wire_carries_no_plaintext_and_no_key() -> anyhow::Result<()> {
    let world = Tapped::new().await?;
    let (alice, bob) = (world.person().await?, world.person().await?);
    let room = alice.create_room(NewRoom::new(SUBJECT.parse()?)).await?;
    admit_to_room(&alice, &room, &bob).await?;
    let mut heard = bob.subscribe(&room, Start::Beginning).await?;
    let sent = alice.publish(&room, PLAINTEXT).await?;
    assert_eq!(next_text(&mut heard).await?, PLAINTEXT);
    let reply = bob.publish_reply(&room, sent.id, PLAINTEXT).await?;
    bob.react(&room, reply.id, PLAINTEXT).await?;
    let file = FILE_TEXT.repeat(1000);
    let info = FileInfo {
        name: Some(PLAINTEXT.into()),
        ..FileInfo::default()
    };
    let stored = alice.put_blob(file.as_bytes(), info, |_| {}).await?;
    alice.publish(&room, Speech::file(&stored)).await?;
    let shared = next_where(&mut heard, "the file", |event| match event {
        Event::File { file, .. } => Some(file),
        _ => None,
    })
    .await?;
    let mut fetched = Vec::new();
    bob.get_blob(&shared, &mut fetched, |_| {}).await?;
    assert_eq!(fetched, file.as_bytes());
    // A second key, and what was said under the first one once more.
    alice.rekey(&room).await?;
    alice.publish(&room, PLAINTEXT).await?;
    assert_eq!(
        bob.history(&room, HistoryQuery::last(9))
            .await?
            .events
            .len(),
        5
    );

    let open = NewRoom::new("open.room".parse()?).policy(Policy::NATS);
    let open = alice.create_room(open).await?;
    admit_to_room(&alice, &open, &bob).await?;
    let mut heard = bob.subscribe(&open, Start::Now).await?;
    alice.publish(&open, OPEN_TEXT).await?;
    assert_eq!(next_text(&mut heard).await?, OPEN_TEXT);

    let secrets = Secrets::of(&[&alice, &bob], &room, 2, &stored).await?;
    let (nats, http) = (world.nats.bytes(), world.http.bytes());
    secrets.assert_absent(nats.iter().chain(&http), "the wire");
    let found = |flows: &[Vec<u8>], what: &str| flows.iter().any(|b| contains(b, what.as_bytes()));
    assert!(found(&nats, OPEN_TEXT), "the search sees no message at all");
    assert!(found(&nats, SUBJECT) && found(&http, SUBJECT));
    assert!(found(&http, "sealed_key"), "the search sees no request");
    let ciphertext = nats.iter().map(Vec::len).sum::<usize>();
    ensure!(ciphertext > 4 * PLAINTEXT.len(), "{ciphertext}");
    Ok(())
}
