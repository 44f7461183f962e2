//! The command line of users: before a node has ever started, over TLS, and what it refuses.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::Context;
use futures::StreamExt;
use unibus_testkit::{Cluster, ClusterOptions, NodeProcess, PATIENCE, free_port, issue, make_ca};

use crate::binary;
use crate::golden::{hear, is_closed, round_trip_own};
use crate::people::{Person, fresh};
use crate::world::World;

/// Runs the binary with arguments to its end.
pub(crate) fn run(args: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(binary())
        .args(args)
        .env_remove("UNIBUS_CA")
        .output()?)
}

/// What a command printed, and how it ended.
pub(crate) fn ended(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

fn enforcing(dir: &Path, flags: &[&str]) -> anyhow::Result<NodeProcess> {
    let data = dir.join("data").display().to_string();
    let own = ["--bind", "127.0.0.1", "--monitor-port", "0"];
    let more = ["--bus-auth", "enforce", "--data-dir", data.as_str()];
    let all = own.iter().chain(&more).chain(flags);
    let args = all.map(ToString::to_string).collect();
    Ok(NodeProcess::new(
        binary(),
        args,
        dir.join("node.log"),
        free_port()?,
        free_port()?,
    ))
}

fn identity(dir: &Path) -> String {
    dir.join("data/internal.json").display().to_string()
}

/// `user …` about the node that keeps its identity in `file`.
pub(crate) fn user(
    words: &[&str],
    file: &str,
    url: &str,
    more: &[&str],
) -> anyhow::Result<(Option<i32>, String)> {
    let target = ["--internal-id-file", file, "--nats-url", url];
    let args: Vec<&str> = [&["user"], words, &target, more].concat();
    Ok(ended(&run(&args)?))
}

#[tokio::test]
async fn user_add_before_the_first_start_makes_the_first_admin() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut node = enforcing(dir.path(), &[])?;
    let (admin, other) = (Person::new(), Person::new());
    let (file, url) = (identity(dir.path()), node.url());
    let (key, other_key) = (admin.sign_pub(), other.sign_pub());
    let (code, text) = user(&["add", &key], &file, &url, &[])?;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--role admin"), "{text}");
    let (code, text) = user(&["add", &key, "--role", "admin"], &file, &url, &[])?;
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = user(&["add", &key, "--role", "member"], &file, &url, &[])?;
    assert_eq!(code, Some(1), "a second add: {text}");

    node.start()?;
    node.ready(PATIENCE).await?;
    // Healthy means that the first users are there.
    let port = node.http_port;
    let users = admin.get(port, "/users").await?.expect(200).json();
    assert_eq!(users.as_array().map(Vec::len), Some(1), "{users}");
    assert_eq!(
        (&users[0]["role"], &users[0]["sign_pub"]),
        (&"admin".into(), &key.clone().into())
    );
    let left = dir.path().join("data/first-users.json");
    assert!(!left.exists(), "the file is left");

    // From here on a node is asked, and what it has is never changed by a second add.
    let (code, text) = user(&["add", "--store", "kv", &other_key], &file, &url, &[])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 of 1 replicas have it"), "{text}");
    for role in ["admin", "member"] {
        let (code, text) = user(&["add", "--role", role, &other_key], &file, &url, &[])?;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("is there already (role member"), "{text}");
    }
    node.kill();
    // A node that has started once and is away is waited for, not begun anew.
    let (code, text) = user(
        &["add", &Person::new().sign_pub(), "--role", "admin"],
        &file,
        &url,
        &[],
    )?;
    assert_eq!(code, Some(1), "{text}");
    assert!(!left.exists());
    Ok(())
}

/// Of a cluster's nodes that all had a first user, one makes its own the cluster's.
#[tokio::test]
async fn a_cluster_with_users_takes_no_first_ones() -> anyhow::Result<()> {
    let mut cluster = Cluster::prepare(binary(), ClusterOptions::default())?;
    let admins: Vec<Person> = (0..3).map(|_| Person::new()).collect();
    for (at, admin) in admins.iter().enumerate() {
        let file = cluster.data_dir(at).join("internal.json");
        let words = ["add", &admin.sign_pub(), "--role", "admin"];
        let file = file.display().to_string();
        let (code, text) = user(&words, &file, &cluster.nodes[at].url(), &[])?;
        assert_eq!(code, Some(0), "{text}");
    }
    for node in &mut cluster.nodes {
        node.start()?;
    }
    cluster.ready().await?;
    let mut in_force = 0;
    for (at, admin) in admins.iter().enumerate() {
        let answer = admin.get(cluster.nodes[at].http_port, "/users").await?;
        match answer.status {
            200 => in_force += 1,
            _ => {
                answer.expect(401);
                let aside = cluster.data_dir(at).join("first-users.json.unused");
                assert!(aside.exists(), "node {at} did not put its file aside");
            }
        }
    }
    assert_eq!(in_force, 1);
    let winner = admins.iter().enumerate();
    for (at, _) in winner {
        let left = cluster.data_dir(at).join("first-users.json");
        assert!(!left.exists(), "node {at} left its file");
    }
    Ok(())
}

on_one_and_three!(grants_are_given_and_taken_on_open_connections);

/// `user grant` and `user ungrant` as an operator runs them, seen on a connection that is open all the
/// time: what was granted works at once, what was taken is refused and its subscription goes.
async fn grants_are_given_and_taken_on_open_connections(world: &World) -> anyhow::Result<()> {
    let person = Person::new();
    let (file, url) = (world.identity().display().to_string(), &world.nats[0]);
    let (key, nkey) = (person.sign_pub(), person.seed().public().to_nkey());
    let user = |words: &[&str]| user(words, &file, url, &[]);
    let replicas = format!("{0} of {0} replicas have it", world.nats.len());
    let subject = fresh("orders");
    let place = format!("{subject}.>");

    let (code, text) = user(&["add", "--role", "service", "--name", "shop", &nkey])?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&replicas), "{text}");
    let client = world.client(2, &person).await?;
    let mut refused = client.subscribe(place.clone()).await?;
    let said = format!("{subject}.new");
    hears_nothing(world, &client, &mut refused, &said).await?;

    let grant = ["grant", &key, "--pub", &place, "--sub", &place];
    let (code, text) = user(&grant)?;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains(&replicas), "{text}");
    let mut messages = client.subscribe(place.clone()).await?;
    let heard = hear(&client, &said, "tea", &mut messages).await?;
    assert_eq!(heard, "tea");
    let (code, text) = user(&["list"])?;
    assert_eq!(code, Some(0), "{text}");
    let line = text.lines().find(|line| line.contains(&nkey));
    let line = line.context("the user is not listed")?;
    for part in ["service", "active", "shop", &format!("pub={place}")] {
        assert!(line.contains(part), "{line}");
    }

    let (code, text) = user(&["ungrant", "--sub", &place, &key])?;
    assert_eq!(code, Some(0), "{text}");
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(1), messages.next()).await {}
    hears_nothing(world, &client, &mut messages, &said).await?;
    // What was not taken stays.
    let internal = world.internal().await?;
    let mut others = internal.subscribe(place.clone()).await?;
    let heard = hear(&client, &format!("{subject}.old"), "cake", &mut others).await?;
    assert_eq!(heard, "cake");

    let (code, text) = user(&["grant", &key])?;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("--pub"), "{text}");
    let (code, text) = user(&["revoke", &nkey])?;
    assert_eq!(code, Some(0), "{text}");
    is_closed(&client).await?;
    let (code, text) = user(&["grant", &key, "--pub", &place])?;
    assert_eq!(
        code,
        Some(1),
        "a revoked user was granted something: {text}"
    );
    Ok(())
}

/// Asserts that a subscription is not there (any more): what the node itself says is not heard.
async fn hears_nothing(
    world: &World,
    client: &async_nats::Client,
    messages: &mut async_nats::Subscriber,
    subject: &str,
) -> anyhow::Result<()> {
    let speaker = world.internal().await?;
    round_trip_own(client).await?;
    // Somebody who may hear it does: what is said next gets as far as this client's node.
    let mut witness = world
        .internal_at(2)
        .await?
        .subscribe(subject.to_owned())
        .await?;
    hear(&speaker, subject, "secret", &mut witness).await?;
    round_trip_own(client).await?;
    let heard = tokio::time::timeout(Duration::from_millis(1), messages.next()).await;
    anyhow::ensure!(!matches!(heard, Ok(Some(_))), "heard {heard:?}");
    Ok(())
}

fn certificates(dir: &Path) -> anyhow::Result<PathBuf> {
    let pki = dir.join("pki");
    make_ca(binary(), &pki)?;
    issue(binary(), &pki, "bus", &[])?;
    Ok(pki)
}

#[tokio::test]
async fn users_are_managed_over_tls() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let pki = certificates(dir.path())?;
    let at = |name: &str| pki.join(name).display().to_string();
    let (cert, key, ca) = (at("bus.crt"), at("bus.key"), at("ca.crt"));
    let foreign = dir.path().join("foreign");
    make_ca(binary(), &foreign)?;
    let foreign = foreign.join("ca.crt").display().to_string();
    let file = identity(dir.path());
    for (flags, first) in [
        (&[][..], &[][..]),
        (&["--tls-first", "always"], &["--tls-first"]),
    ] {
        let tls = [&["--tls-cert", &cert, "--tls-key", &key], flags].concat();
        let mut node = enforcing(dir.path(), &tls)?;
        node.start()?;
        node.ready(PATIENCE).await?;
        let url = node.url();
        let add = |more: &[&str]| {
            let key = Person::new().sign_pub();
            user(&["add", &key], &file, &url, &[more, first].concat())
        };
        // This host's own node, with and without its CA; and with a CA that it is not of.
        let (code, text) = add(&[])?;
        assert_eq!(code, Some(0), "{flags:?}: {text}");
        let (code, text) = add(&["--ca", &ca])?;
        assert_eq!(code, Some(0), "{flags:?}: {text}");
        let (code, text) = add(&["--ca", &foreign])?;
        assert_eq!(code, Some(1), "{flags:?}: {text}");
        assert!(text.contains("certificate"), "{text}");
        let (code, text) = user(&["list"], &file, &url, first)?;
        assert_eq!(code, Some(0), "{text}");
        node.kill();
    }
    Ok(())
}

/// Nothing is sent to another host without a CA to know it by.
#[test]
fn a_remote_node_is_spoken_to_with_its_ca_only() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let key = Person::new().sign_pub();
    let file = identity(dir.path());
    // An address for documentation, and a name that no resolver is asked about.
    for url in [
        "nats://192.0.2.1:4222",
        "nats://bus.invalid:4222",
        "bus.invalid",
    ] {
        let (code, text) = user(&["add", &key, "--role", "admin"], &file, url, &[])?;
        assert_eq!(code, Some(2), "{url}: {text}");
        assert!(text.contains("--ca"), "{text}");
    }
    let (code, text) = user(
        &["add", &key],
        &file,
        "nats://192.0.2.1:1",
        &["--ca", "no.crt"],
    )?;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("no.crt"), "{text}");
    assert!(!dir.path().join("data").exists(), "something was written");
    Ok(())
}

#[tokio::test]
async fn a_corrupt_identity_is_an_error_and_stays() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let mut node = enforcing(dir.path(), &[])?;
    node.start()?;
    node.ready(PATIENCE).await?;
    let file = PathBuf::from(identity(dir.path()));
    let whole = std::fs::read(&file)?;
    node.kill();
    let half = whole.get(..whole.len() / 2).context("half of it")?;
    std::fs::write(&file, half)?;
    node.start()?;
    let ended = unibus_testkit::eventually("the node ends", PATIENCE, || {
        let running = node.is_running();
        async move {
            anyhow::ensure!(!running, "it runs");
            Ok(())
        }
    });
    ended.await?;
    assert!(node.log_text().contains("corrupt"), "{}", node.log_text());
    assert_eq!(std::fs::read(&file)?, half, "the file was changed");
    node.kill();
    std::fs::write(&file, whole)?;
    node.start()?;
    node.ready(PATIENCE).await
}
