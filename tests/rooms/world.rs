//! Three nodes with TLS on both planes, one admin, and people who connect with the client library.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, bail};
use unibus_client::{Event, Identity, MembershipChange, Options, Session, Subscription};
use unibus_proto::control::RoomId;
use unibus_testkit::{Cluster, ClusterOptions, PATIENCE, eventually};

/// The cluster.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_unibus-node"))
}

impl World {
    pub(crate) async fn new() -> anyhow::Result<Self> {
        let options = ClusterOptions {
            tls: true,
            ..ClusterOptions::default()
        };
        let cluster = Cluster::without_users(binary(), options).await?;
        Ok(Self { cluster })
    }

    /// All nodes, the one at `first` asked first.
    pub(crate) fn options(&self, first: usize) -> Options {
        let nodes = self.cluster.nodes.iter();
        let turned = nodes.clone().skip(first).chain(nodes.take(first));
        let options = Options::new().ca(self.cluster.ca());
        turned.fold(options, |options, node| {
            options.server(
                format!("https://127.0.0.1:{}", node.http_port),
                format!("tls://127.0.0.1:{}", node.client_port),
            )
        })
    }

    /// Adds somebody to the users.
    pub(crate) async fn admit(&self, identity: &Identity) -> anyhow::Result<()> {
        let node = &self.cluster.nodes[0];
        eventually("user add", PATIENCE, || async {
            let output = Command::new(binary())
                .args(["user", "add", &identity.nkey()])
                .args([
                    "--nats-url",
                    &format!("tls://127.0.0.1:{}", node.client_port),
                ])
                .arg("--ca")
                .arg(self.cluster.ca())
                .arg("--internal-id-file")
                .arg(self.cluster.data_dir(0).join("internal.json"))
                .output()?;
            if !output.status.success() {
                bail!("{}", String::from_utf8_lossy(&output.stderr));
            }
            Ok(())
        })
        .await
    }

    /// A new user, connected.
    pub(crate) async fn person(&self, first: usize) -> anyhow::Result<Session> {
        let identity = Identity::generate()?;
        self.admit(&identity).await?;
        self.connect(identity, first).await
    }

    pub(crate) async fn connect(&self, who: Identity, first: usize) -> anyhow::Result<Session> {
        Session::connect(who, self.options(first))
            .await
            .with_context(|| self.cluster.nodes[first].log_text())
    }
}

/// Lets `guest` into a room of `owner`.
pub(crate) async fn admit_to_room(
    owner: &Session,
    room: &RoomId,
    guest: &Session,
) -> anyhow::Result<()> {
    owner.invite(room, guest.identity().party()).await?;
    guest.join(room).await?;
    Ok(())
}

/// The next event that `wanted` takes; others are skipped.
pub(crate) async fn next_where<T>(
    events: &mut Subscription,
    what: &str,
    mut wanted: impl FnMut(Event) -> Option<T>,
) -> anyhow::Result<T> {
    let skipped = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let looking = async {
        loop {
            let event = events.next().await.context("the subscription ended")?;
            let shown = format!("{event:?}");
            match wanted(event) {
                Some(found) => return Ok::<T, anyhow::Error>(found),
                None => skipped.lock().push(shown),
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking)
        .await
        .with_context(|| format!("waiting for {what}; came instead: {:#?}", skipped.lock()))?
        .with_context(|| format!("waiting for {what}; came instead: {:#?}", skipped.lock()))
}

/// The next message's text.
pub(crate) async fn next_text(events: &mut Subscription) -> anyhow::Result<String> {
    next_where(events, "a message", |event| match event {
        Event::Message(message) => Some(message.text().into_owned()),
        _ => None,
    })
    .await
}

/// Waits for a change of membership.
pub(crate) async fn next_change(
    events: &mut Subscription,
    wanted: &MembershipChange,
) -> anyhow::Result<()> {
    next_where(events, &format!("{wanted:?}"), |event| match event {
        Event::Membership(change) if change == *wanted => Some(()),
        _ => None,
    })
    .await
}
