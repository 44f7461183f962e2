//! What is answered for is on disk: disks that refuse, processes that are killed, and power cuts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::RaftLogStorage;

use super::harness::{Net, Node, eventually, leader_of, messages, payload, three};
use super::single::alone;
use crate::backup::BackupWriter;
use crate::blocks::{BlockCut, BlockStore};
use crate::disk::faults::{Disk, Fault};
use crate::manifest::{FileEntry, MANIFEST_FILES, Manifest};
use crate::recover::Remains;
use crate::snapshot::{Newest, PartialSnapshot, SnapshotDir};
use crate::types::{LeaderId, SnapshotMeta, Vote};
use crate::{OnDamage, OpenStore, ReplicaOptions, StorageError};

/// The others may sync first: then a node has applied what is still on its way to its own disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_waits_for_the_entries_that_it_covers() {
    let net: Arc<Net> = Arc::default();
    let nodes = three(&net).await;
    let leader = leader_of(&nodes);
    let slow = &nodes[(leader + 1) % 3];
    let index = nodes[leader].read_barrier().await.unwrap();
    slow.wait_applied(index, deadline()).await.unwrap();
    slow.raft().runtime_config().elect(false);
    let disk = Disk::under(slow.home());
    let hold = disk.hold_syncs(".wal");
    let proposed = nodes[leader].propose(messages(&["x"])).await.unwrap();
    slow.wait_applied(proposed.index, deadline()).await.unwrap();
    assert_eq!(slow.log().waiting(), 0);
    let replica = (**slow).clone();
    let taking = tokio::spawn(async move { replica.checkpoint().await });
    eventually("the checkpoint waits for the log", || {
        slow.log().waiting() > 0 || slow.status().checkpoint_index > 0
    })
    .await;
    assert_eq!(
        slow.status().checkpoint_index,
        0,
        "its entries are not synced"
    );
    drop(hold);
    assert!(taking.await.unwrap().unwrap() >= proposed.index);
}

fn deadline() -> std::time::Instant {
    std::time::Instant::now() + std::time::Duration::from_secs(60)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_of_a_block_ends_the_node_and_nothing_is_lost() {
    for is_first in [true, false] {
        let net: Arc<Net> = Arc::default();
        let mut node = alone(&net).await;
        if !is_first {
            node.propose(messages(&["before"])).await.unwrap();
            node.checkpoint().await.unwrap();
        }
        let disk = Disk::under(node.home());
        node.propose(messages(&["one", "two"])).await.unwrap();
        disk.fail_next_sync(".blk", Fault::Refused);
        node.checkpoint().await.unwrap_err();
        assert!(disk.has_failed());
        eventually("the node ends", || node.status().fatal.is_some()).await;
        node.kill().await;
        node.restart().await;
        node.read_barrier().await.unwrap();
        node.checkpoint().await.unwrap();
        node.kill().await;
        disk.cut_power();
        node.restart().await;
        node.read_barrier().await.unwrap();
        let last = node.with_state(|state| state.stream("S").unwrap().last_seq());
        assert_eq!(payload(&node, last - 1).unwrap(), "one");
        assert_eq!(payload(&node, last).unwrap(), "two");
    }
}

#[test]
fn after_a_failed_sync_no_block_counts_as_durable_whoever_tries_again() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::under(dir.path());
    let store = BlockStore::open(dir.path().join("blocks"), 0).unwrap();
    store.patch((1, 0), 0, b"mended").unwrap();
    assert!(store.failure().is_none());
    disk.fail_next_sync(".blk", Fault::Refused);
    let is_unsynced = |result| matches!(result, Err(StorageError::Unsynced { .. }));
    assert!(is_unsynced(store.patch((1, 0), 0, b"again!")));
    assert!(is_unsynced(store.patch((1, 0), 0, b"again!")));
    let cut = BlockCut {
        dirty: [(1, 0)].into(),
        ..BlockCut::default()
    };
    assert!(is_unsynced(store.sync(&cut)));
    assert!(store.failure().is_some());
}

/// The only folder in one.
fn only(folder: &Path) -> PathBuf {
    let mut entries = fs::read_dir(folder).unwrap();
    let only = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    only
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A node that formed a cluster alone, and what it had on disk then; two others have joined it since.
async fn grown(net: &Arc<Net>) -> (Node, Vec<Node>, tempfile::TempDir) {
    let mut first = alone(net).await;
    first.checkpoint().await.unwrap();
    first.kill().await;
    let before = tempfile::tempdir().unwrap();
    copy_all(&first.path(), before.path());
    first.restart().await;
    let mut others = Vec::new();
    for name in ["two", "three"] {
        let node = Node::start(net, name).await;
        first.admit(node.id, node.name.clone()).await.unwrap();
        others.push(node);
    }
    first.propose(messages(&["tail"])).await.unwrap();
    (first, others, before)
}

/// A change of its members is what a node needs to know most when it has lost its log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_members_are_checkpointed_without_a_purge() {
    let net: Arc<Net> = Arc::default();
    let (mut first, _others, _) = grown(&net).await;
    eventually("a checkpoint that names three", || {
        let newest = SnapshotDir::open(newest_in(&first.path().join("snapshots")));
        newest.is_ok_and(|newest| {
            let members = &newest.manifest.meta.last_membership;
            members.membership().voter_ids().count() == 3
        })
    })
    .await;
    assert!(first.log().last_index() > first.log().purged_index() + 3);
    first.kill().await;
    for entry in fs::read_dir(first.path().join("log")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|end| end == "wal") {
            fs::write(path, b"nothing").unwrap();
        }
    }
    first.restart().await;
    assert!(first.status().rejoining, "others have what it lost");
}

fn newest_in(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.extension().is_none())
        .max()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_only_the_log_knows_count_when_its_end_is_damaged() {
    let net: Arc<Net> = Arc::default();
    let (mut first, _others, before) = grown(&net).await;
    first.propose(messages(&[&"x".repeat(2000)])).await.unwrap();
    first.kill().await;
    for folder in ["rows", "snapshots"] {
        let folder = first.path().join(folder);
        fs::remove_dir_all(&folder).unwrap();
        copy_all(&before.path().join(folder.file_name().unwrap()), &folder);
    }
    let log = newest_log(&first.path().join("log"));
    let mut bytes = fs::read(&log).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // In the last message: a mark behind it says that it was synced.
    bytes[used - 1000] ^= 1;
    fs::write(&log, bytes).unwrap();
    let mut members = Remains::look(&first.path()).unwrap().members;
    members.sort();
    assert_eq!(members, ["one", "three", "two"]);
    first.restart().await;
    assert!(first.status().rejoining, "others have what it lost");
}

fn newest_log(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let logs = paths.filter(|path| path.extension().is_some_and(|end| end == "wal"));
    logs.max().unwrap()
}

#[test]
fn a_snapshot_takes_the_place_of_one_like_it_without_a_moment_with_none() {
    let root = tempfile::tempdir().unwrap();
    let manifest = Manifest {
        meta: SnapshotMeta::default(),
        rows: FileEntry {
            len: 0,
            digest: [0; 32],
        },
        blocks: Vec::new(),
    };
    let make = |name| {
        let partial = PartialSnapshot::create(root.path(), name).unwrap();
        fs::write(partial.file("who"), name).unwrap();
        partial.finish(manifest.clone()).unwrap()
    };
    let made = ["first", "second", "third"].map(make);
    for (snapshot, name) in made.iter().zip(["first", "second", "third"]) {
        assert_eq!(fs::read_to_string(snapshot.file("who")).unwrap(), name);
    }
    let newest = Newest::find(root.path()).unwrap();
    assert!(newest.snapshot.as_ref().unwrap().is_same(&made[2]));
    newest.tidy(&root.path().join("damaged")).unwrap();
    assert!(only(root.path()).join("who").exists());
}

/// As a power cut leaves it between the receipt of a snapshot and the cut of the log that contradicts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_received_snapshot_outweighs_the_end_of_the_log_that_it_contradicts() {
    for is_received in [true, false] {
        let net: Arc<Net> = Arc::default();
        let mut node = alone(&net).await;
        node.propose(messages(&["one", "two"])).await.unwrap();
        // Unlike a checkpoint this purges nothing.
        drop(node.backup_source().await.unwrap());
        node.propose(messages(&["contradicted"])).await.unwrap();
        // The leader that sent it was known here before.
        let vote = Vote {
            leader_id: LeaderId {
                term: 101,
                node_id: node.id.0,
            },
            committed: false,
        };
        node.log().save_vote(&vote).await.unwrap();
        node.kill().await;
        let snapshots = node.path().join("snapshots");
        let own = only(&snapshots);
        let mut manifest = SnapshotDir::open(own.clone()).unwrap().manifest.clone();
        let partial = PartialSnapshot::create(&snapshots, "forged").unwrap();
        for entry in fs::read_dir(&own).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !MANIFEST_FILES.contains(&name.as_str()) {
                fs::hard_link(own.join(&name), partial.file(&name)).unwrap();
            }
        }
        if is_received {
            partial.mark_received().unwrap();
        }
        let last = manifest.meta.last_log_id.as_mut().unwrap();
        last.leader_id.term = vote.leader_id.term;
        partial.finish(manifest).unwrap();
        let started = node.try_restart().await;
        if !is_received {
            let text = started.unwrap_err().to_string();
            assert!(text.contains("which it does not hold"), "{text}");
            continue;
        }
        started.unwrap();
        node.read_barrier().await.unwrap();
        let last = |node: &Node| node.with_state(|state| state.stream("S").unwrap().last_seq());
        assert_eq!(last(&node), 2);
        node.propose(messages(&["three"])).await.unwrap();
        node.kill().await;
        node.restart().await;
        node.read_barrier().await.unwrap();
        assert_eq!(last(&node), 3);
        assert_eq!(payload(&node, 3).unwrap(), "three");
    }
}

#[test]
fn what_is_stored_and_a_backup_of_it_are_for_nobody_but_the_owner() {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("deep/home");
    let options = ReplicaOptions::new(&home, "one");
    let store = OpenStore::open(options, OnDamage::Refuse).unwrap();
    assert_eq!(mode(&home), 0o700);
    assert_eq!(mode(&home.join("store")), 0o700);
    drop(store);
    let manifest = Manifest {
        meta: SnapshotMeta::default(),
        rows: FileEntry {
            len: 0,
            digest: [0; 32],
        },
        blocks: Vec::new(),
    };
    let manifest = manifest.encode().unwrap();
    let (path, aside) = (dir.path().join("backup"), dir.path().join("backup.part"));
    drop(BackupWriter::create(&path, &manifest).unwrap());
    assert!(!aside.exists(), "what did not end leaves nothing");
    // Not even into a file that somebody laid there, or through a link.
    fs::write(&aside, b"").unwrap();
    let refused = BackupWriter::create(&path, &manifest);
    assert!(refused.unwrap_err().to_string().contains("can be removed"));
    fs::remove_file(&aside).unwrap();
    let writer = BackupWriter::create(&path, &manifest).unwrap();
    assert_eq!(mode(&aside), 0o600);
    writer.finish().unwrap();
    assert_eq!(mode(&path), 0o600);
    assert!(!aside.exists());
}
