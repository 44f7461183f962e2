//! The corruption matrix: every kind of file × every kind of damage × one node of three or two of them.
//! What is acknowledged must be there afterwards, on every node, or the nodes must refuse to serve and
//! have it still on disk.
//!
//! `cargo test -p unibus-raft damage` runs some of the cases; with `UNIBUS_TEST_FULL=1` it runs all of
//! them and writes `ops/faults/corruption-matrix.md`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use unibus_state::StoredMessage;

use super::harness::{Net, Node, equal_digests, eventually, leader_of, messages, three};
use crate::{InitializeError, OnDamage, OpenStore, Replica, StartError};

/// A file that a node keeps.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Kind {
    Log,
    LogMarker,
    LogNote,
    Manifest,
    Rows,
    RowsDatabase,
    Block,
    Index,
    IndexCopy,
    IndexBoth,
    Identity,
    IdentityCopy,
}

const KINDS: [Kind; 12] = [
    Kind::Log,
    Kind::LogMarker,
    Kind::LogNote,
    Kind::Manifest,
    Kind::Rows,
    Kind::RowsDatabase,
    Kind::Block,
    Kind::Index,
    Kind::IndexCopy,
    Kind::IndexBoth,
    Kind::Identity,
    Kind::IdentityCopy,
];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Log => "log and vote (`store/log/*.wal`)",
            Self::LogMarker => "log marker (`store/log/FORMAT`)",
            Self::LogNote => "how far the log is synced (`store/log/synced`)",
            Self::Manifest => "snapshot manifest (`store/snapshots/*/manifest`)",
            Self::Rows => "snapshot rows (`store/snapshots/*/rows`)",
            Self::RowsDatabase => "rows database (`store/rows/db`)",
            Self::Block => "messages (`store/blocks/*/*.blk`)",
            Self::Index => "index of a sealed block (`store/snapshots/*/*.idx`)",
            Self::IndexCopy => "its copy (`store/blocks/*/*.idx`)",
            Self::IndexBoth => "both at once",
            Self::Identity => "identity (`node.id`)",
            Self::IdentityCopy => "its copy (`store/node.id`)",
        }
    }

    /// What is harmed at a node that does not run.
    fn files(self, home: &Path) -> Vec<PathBuf> {
        match self {
            Self::IndexBoth => vec![Self::Index.file(home), Self::IndexCopy.file(home)],
            one => vec![one.file(home)],
        }
    }

    /// Such a file of a node that does not run.
    fn file(self, home: &Path) -> PathBuf {
        let store = home.join("store");
        match self {
            Self::Log => last_in(&store.join("log"), ".wal"),
            Self::LogMarker => store.join("log/FORMAT"),
            Self::LogNote => store.join("log/synced"),
            Self::Manifest => last_in(&store.join("snapshots"), "").join("manifest"),
            Self::Rows => last_in(&store.join("snapshots"), "").join("rows"),
            Self::RowsDatabase => store.join("rows/db"),
            Self::Block => last_in(&last_in(&store.join("blocks"), ""), ".blk"),
            Self::Index => last_in(&last_in(&store.join("snapshots"), ""), ".idx"),
            Self::IndexCopy | Self::IndexBoth => {
                last_in(&last_in(&store.join("blocks"), ""), ".idx")
            }
            Self::Identity => home.join("node.id"),
            Self::IdentityCopy => store.join("node.id"),
        }
    }
}

fn last_in(folder: &Path, suffix: &str) -> PathBuf {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let named = entries.filter(|path| path.to_str().unwrap().ends_with(suffix));
    named.max().unwrap()
}

#[derive(Copy, Clone, Debug, Eq, PartialEq)]
enum Harm {
    BitFlip,
    Truncated,
    Missing,
    Zeroed,
}

const HARMS: [Harm; 4] = [Harm::BitFlip, Harm::Truncated, Harm::Missing, Harm::Zeroed];

impl Harm {
    fn name(self) -> &'static str {
        match self {
            Self::BitFlip => "a bit flipped",
            Self::Truncated => "cut in the middle",
            Self::Missing => "missing",
            Self::Zeroed => "zeros",
        }
    }

    fn inflict(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        match self {
            Self::BitFlip => bytes[used / 2] ^= 0x10,
            Self::Truncated => bytes.truncate(used / 2),
            Self::Missing => return fs::remove_file(path).unwrap(),
            Self::Zeroed => bytes.fill(0),
        }
        // In place: the file keeps its inode, and with it the names that share it.
        fs::write(path, bytes).unwrap();
    }
}

/// A cluster, and everything it has acknowledged.
struct World {
    nodes: Vec<Node>,
    acknowledged: BTreeMap<u64, String>,
}

impl World {
    async fn new(net: &Arc<Net>) -> Self {
        let mut nodes = three(net).await;
        for node in &mut nodes {
            node.scrub_pause = Duration::from_millis(100);
        }
        let mut world = Self {
            nodes,
            acknowledged: BTreeMap::new(),
        };
        // More than a block, so that one is sealed.
        for n in 0..30 {
            world.write(&format!("{n}-{}", "x".repeat(300_000))).await;
        }
        for node in &world.nodes {
            node.read_barrier().await.unwrap();
            node.checkpoint().await.unwrap();
        }
        for n in 0..5 {
            world.write(&format!("tail {n}")).await;
        }
        world
    }

    async fn write(&mut self, text: &str) {
        let running = self.nodes.iter().find(|node| node.is_running()).unwrap();
        let proposed = running.propose(messages(&[text])).await.unwrap();
        let seq = super::harness::sequences(&proposed)[0];
        self.acknowledged.insert(seq, text.to_owned());
    }

    /// Everything acknowledged is there and right, on every node, at latest when it is mended.
    async fn check(&self) {
        let all: Vec<&Node> = self.nodes.iter().collect();
        equal_digests(&all).await;
        for node in &self.nodes {
            eventually("every message can be read", || {
                let is_there =
                    |(seq, text): (&u64, &String)| stored(node, *seq).as_ref() == Some(text);
                self.acknowledged.iter().all(is_there)
            })
            .await;
            assert_eq!(node.status().voters.len(), 3, "{}", node.name);
        }
    }

    /// A node that is no leader.
    fn follower(&self) -> usize {
        (leader_of(&self.nodes) + 1) % 3
    }

    /// What the node's own `formation` does on a leader.
    async fn admit(&self, node: usize) {
        let (id, name) = (self.nodes[node].id, self.nodes[node].name.clone());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while let Err(error) = self.nodes[node].admit(id, name.clone()).await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        eventually("the mark of the lost store is gone", || {
            !self.nodes[node].status().rejoining
        })
        .await;
    }
}

fn stored(node: &Replica, seq: u64) -> Option<String> {
    let at = node.with_state(|state| state.stream("S")?.get(seq))?;
    let message = StoredMessage::decode(node.read_record(&at).ok()?).ok()?;
    Some(String::from_utf8(message.payload.to_vec()).unwrap())
}

/// What is in the folder of things set aside.
fn set_aside(home: &Path) -> usize {
    fs::read_dir(home.join("damaged")).map_or(0, Iterator::count)
}

const MENDED: &str = "mended from its own copy";
const HARMLESS: &str = "written anew; it only hints";
/// sled's file is a log: what lies in its middle may have been overwritten long ago. The rows are compared
/// with the snapshot's at every start.
const UNUSED: &str = "nothing in use was hit; all rows are those of the snapshot";
const FETCHED: &str = "messages fetched from a peer";
const BEGUN_ANEW: &str = "store set aside; a new member in its place, fed by the others";
const REFUSED: &str =
    "refuses to serve, sets the stores aside, names the command; all still on disk";

/// One node of three.
async fn minority(world: &mut World, kind: Kind, harm: Harm) -> &'static str {
    let victim = world.follower();
    let (old, before) = (
        world.nodes[victim].id,
        set_aside(world.nodes[victim].home()),
    );
    world.nodes[victim].kill().await;
    world.write("while it is away").await;
    for file in kind.files(world.nodes[victim].home()) {
        harm.inflict(&file);
    }
    world.nodes[victim].restart().await;
    let node = &world.nodes[victim];
    let outcome = if node.status().rejoining {
        assert_ne!(node.id, old, "what may have voted must not vote again");
        let alone = [(node.id, node.name.clone())].into();
        assert_eq!(
            node.initialize(alone).await,
            Err(InitializeError::Rejoining)
        );
        world.admit(victim).await;
        // The leader knows first.
        let victim = &world.nodes[victim];
        eventually("the old identity votes no more", || {
            !victim.status().voters.contains_key(&old)
        })
        .await;
        BEGUN_ANEW
    } else {
        assert_eq!(node.id, old);
        match kind {
            Kind::Block => FETCHED,
            Kind::LogMarker | Kind::LogNote => HARMLESS,
            _ => MENDED,
        }
    };
    world.write("after it is back").await;
    world.check().await;
    let aside = set_aside(world.nodes[victim].home()) > before;
    if kind == Kind::RowsDatabase && outcome == MENDED && !aside {
        return UNUSED;
    }
    let kept = harm != Harm::Missing && outcome != HARMLESS;
    assert!(aside || !kept, "what was damaged is kept");
    outcome
}

/// Two nodes of three. What they had is put back afterwards.
async fn majority(world: &mut World, kind: Kind, harm: Harm) -> &'static str {
    let intact = world.follower();
    let victims = [(intact + 1) % 3, (intact + 2) % 3];
    let mut saved = Vec::new();
    for victim in victims {
        let node = &mut world.nodes[victim];
        node.kill().await;
        let copy = tempfile::tempdir().unwrap();
        copy_all(node.home(), copy.path());
        for file in kind.files(node.home()) {
            harm.inflict(&file);
        }
        saved.push(copy);
    }
    for victim in victims {
        world.nodes[victim].restart().await;
    }
    if !world.nodes[victims[0]].status().rejoining {
        world.check().await;
        return match kind {
            Kind::Block => FETCHED,
            Kind::LogMarker | Kind::LogNote => HARMLESS,
            _ => MENDED,
        };
    }
    for victim in victims {
        let node = &world.nodes[victim];
        assert!(node.status().rejoining && !node.status().initialized);
        let alone = [(node.id, node.name.clone())].into();
        assert_eq!(
            node.initialize(alone).await,
            Err(InitializeError::Rejoining)
        );
        let admitted = node.admit(node.id, node.name.clone()).await;
        assert!(admitted.is_err(), "one of three admits nobody");
    }
    let refused = world.nodes[intact]
        .propose(messages(&["no majority"]))
        .await;
    assert!(refused.is_err(), "one of three acknowledges nothing");
    for (victim, copy) in victims.into_iter().zip(saved) {
        let node = &mut world.nodes[victim];
        node.kill().await;
        assert!(set_aside(node.home()) > 0);
        for entry in fs::read_dir(node.home()).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => fs::remove_dir_all(path).unwrap(),
                false => fs::remove_file(path).unwrap(),
            }
        }
        copy_all(copy.path(), node.home());
        node.restart().await;
    }
    world.check().await;
    REFUSED
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// The cases that run every time: each way of healing once, and each refusal.
fn is_short(kind: Kind, harm: Harm, majority: bool) -> bool {
    let picked = match harm {
        Harm::BitFlip => [Kind::Log, Kind::Block, Kind::RowsDatabase, Kind::IndexCopy].as_slice(),
        Harm::Truncated => &[Kind::Log, Kind::Rows, Kind::Index, Kind::Identity],
        Harm::Missing => &[Kind::Manifest, Kind::Block],
        Harm::Zeroed => &[Kind::Log, Kind::IdentityCopy],
    };
    picked.contains(&kind) && (!majority || harm == Harm::BitFlip)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn corruption_matrix() {
    let full = std::env::var_os("UNIBUS_TEST_FULL").is_some();
    let net: Arc<Net> = Arc::default();
    let mut world = World::new(&net).await;
    let mut table = String::from(
        "# Corruption matrix\n\nWritten by `UNIBUS_TEST_FULL=1 cargo test -p unibus-raft corruption_matrix`: \
         three replicas, a checkpoint\nand a tail of log; after each case every acknowledged message was \
         read back on every node and compared.\n\n| file | damage | on one node of three | on two of \
         three |\n|---|---|---|---|\n",
    );
    for kind in KINDS {
        for harm in HARMS {
            let mut cells = Vec::new();
            for is_majority in [false, true] {
                if !full && !is_short(kind, harm, is_majority) {
                    continue;
                }
                println!("{kind:?} {harm:?} majority: {is_majority}");
                cells.push(match is_majority {
                    false => minority(&mut world, kind, harm).await,
                    true => majority(&mut world, kind, harm).await,
                });
            }
            let (name, harm) = (kind.name(), harm.name());
            writeln!(table, "| {name} | {harm} | {} |", cells.join(" | ")).unwrap();
        }
    }
    let ops = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/faults");
    if full {
        fs::create_dir_all(&ops).unwrap();
        fs::write(ops.join("corruption-matrix.md"), table).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_alone_with_a_damaged_store_refuses_and_changes_nothing() {
    let net: Arc<Net> = Arc::default();
    let mut node = Node::start(&net, "one").await;
    let members = [(node.id, node.name.clone())].into();
    node.initialize(members).await.unwrap();
    node.propose(super::harness::create_stream()).await.unwrap();
    for n in 0..20 {
        node.propose(messages(&[&format!("{n}")])).await.unwrap();
    }
    node.checkpoint().await.unwrap();
    node.propose(messages(&["tail"])).await.unwrap();
    node.kill().await;
    // Also where it would be allowed to ask others: it is the only voter, so nobody has what it lost.
    for on_damage in [OnDamage::Refuse, OnDamage::Rejoin] {
        for harm in HARMS {
            let log = Kind::Log.file(node.home());
            let whole = fs::read(&log).unwrap();
            harm.inflict(&log);
            let harmed = fs::read(&log).ok();
            let Err(StartError::Damaged(damage)) = OpenStore::open(node.options(), on_damage)
            else {
                panic!("{harm:?} was not refused");
            };
            let text = damage.to_string();
            let names_file = text.contains(log.file_name().unwrap().to_str().unwrap());
            assert!(names_file && text.contains("unibus-node recover"), "{text}");
            assert_eq!(fs::read(&log).ok(), harmed, "nothing was changed");
            assert_eq!(set_aside(node.home()), 0);
            fs::write(&log, whole).unwrap();
        }
    }
    fs::rename(node.path(), node.home().join("elsewhere")).unwrap();
    let refused = OpenStore::open(node.options(), OnDamage::Refuse);
    assert!(
        matches!(refused, Err(StartError::Damaged(_))),
        "{refused:?}"
    );
    fs::remove_dir_all(node.path()).unwrap();
    fs::rename(node.home().join("elsewhere"), node.path()).unwrap();
    node.restart().await;
    node.read_barrier().await.unwrap();
    assert_eq!(stored(&node, 21).unwrap(), "tail");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_of_another_node_is_refused() {
    let net: Arc<Net> = Arc::default();
    let mut one = Node::start(&net, "one").await;
    let mut two = Node::start(&net, "two").await;
    one.kill().await;
    two.kill().await;
    fs::copy(two.home().join("node.id"), one.home().join("node.id")).unwrap();
    let refused = OpenStore::open(one.options(), OnDamage::Rejoin);
    assert!(
        matches!(refused, Err(StartError::TwoNodes { .. })),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_over_that_was_interrupted_goes_on() {
    let net: Arc<Net> = Arc::default();
    let mut world = World::new(&net).await;
    let victim = world.follower();
    let old = world.nodes[victim].id;
    world.nodes[victim].kill().await;
    let home = world.nodes[victim].home().to_owned();
    // As a crash leaves it after the store was moved and before the identity was.
    fs::write(home.join("rejoin"), "").unwrap();
    fs::create_dir_all(home.join("damaged/x")).unwrap();
    fs::rename(home.join("store"), home.join("damaged/x/store")).unwrap();
    world.nodes[victim].restart().await;
    assert!(world.nodes[victim].status().rejoining && world.nodes[victim].id != old);
    // And once more before anybody admitted it.
    world.nodes[victim].kill().await;
    world.nodes[victim].restart().await;
    assert!(world.nodes[victim].status().rejoining);
    world.admit(victim).await;
    world.check().await;
    assert!(!home.join("rejoin").exists());
    world.nodes[victim].kill().await;
    world.nodes[victim].restart().await;
    assert!(!world.nodes[victim].status().rejoining);
    world.check().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_node_is_not_replaced_by_one_of_its_name() {
    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    let double = Node::start(&net, &nodes[1].name).await;
    let refused = double.admit(double.id, double.name.clone()).await;
    let text = format!("{:?}", refused.unwrap_err());
    assert!(text.contains("alive"), "{text}");
    assert!(nodes[0].status().voters.contains_key(&nodes[1].id));
}
