//! Indexes of sealed blocks: written once, apart from the rows, and moved there from older stores.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use unibus_state::command::StreamPurge;
use unibus_state::{BLOCK_BYTES_MAX, Command, EncodedBatch, State, sealed_index};

use super::harness::{Net, Node, create_stream, messages, payload};
use crate::manifest::{BlockEntry, Manifest, ROWS_FILE};
use crate::rows::{Row, read_rows_file, write_rows_file};

/// Long enough that three messages seal a block.
const LONG: usize = BLOCK_BYTES_MAX as usize / 3;

async fn alone(net: &Arc<Net>) -> Node {
    let node = Node::start(net, "one").await;
    let members = BTreeMap::from([(node.id, node.name.clone())]);
    node.initialize(members).await.unwrap();
    node.propose(create_stream()).await.unwrap();
    node
}

async fn write_long(node: &Node, count: usize) {
    let text = "z".repeat(LONG);
    for _ in 0..count {
        node.propose(messages(&[&text])).await.unwrap();
    }
}

/// The folder of the only snapshot.
fn snapshot(node: &Node) -> PathBuf {
    let mut entries = fs::read_dir(node.path().join("snapshots")).unwrap();
    let only = entries.next().unwrap().unwrap().path();
    assert!(entries.next().is_none());
    only
}

fn manifest(node: &Node) -> Manifest {
    let bytes = fs::read(snapshot(node).join("manifest")).unwrap();
    Manifest::decode(&Bytes::from(bytes)).unwrap()
}

fn rows(path: PathBuf) -> Vec<Row> {
    let rows = read_rows_file(&path).unwrap();
    rows.map(Result::unwrap).collect()
}

fn sealed_rows(node: &Node) -> usize {
    let rows = rows(snapshot(node).join(ROWS_FILE));
    let sealed = |row: &&Row| sealed_index(&row.0, &row.1).is_some();
    rows.iter().filter(sealed).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_index_of_a_sealed_block_is_written_once_and_goes_with_it() {
    let net = Arc::default();
    let mut node = alone(&net).await;
    write_long(&node, 5).await;
    node.checkpoint().await.unwrap();
    let before = manifest(&node);
    let indexed = |manifest: &Manifest| {
        let blocks = manifest.blocks.iter();
        blocks
            .map(|block| block.index.is_some())
            .collect::<Vec<_>>()
    };
    assert_eq!(indexed(&before), [true, true, false]);
    assert_eq!(sealed_rows(&node), 0);
    write_long(&node, 2).await;
    node.checkpoint().await.unwrap();
    let after = manifest(&node);
    assert_eq!(indexed(&after), [true, true, true, false]);
    assert_eq!(after.blocks[..2], before.blocks[..2]);
    let digest = node.with_state(State::digest);
    for damage in ["none", "database"] {
        node.kill().await;
        if damage == "database" {
            fs::remove_dir_all(node.path().join("rows")).unwrap();
        }
        node.restart().await;
        node.read_barrier().await.unwrap();
        assert_eq!(node.with_state(State::digest), digest, "{damage}");
        assert_eq!(payload(&node, 1).unwrap().len(), LONG, "{damage}");
    }
    let purge = StreamPurge {
        name: "S".to_owned(),
        filter: String::new(),
        seq: 6,
        keep: 0,
        privileged: false,
    };
    let purge = EncodedBatch::of(&Command::StreamPurge(purge)).unwrap();
    node.propose(purge).await.unwrap();
    node.checkpoint().await.unwrap();
    assert_eq!(indexed(&manifest(&node)), [true, false]);
    let folder = fs::read_dir(node.path().join("blocks")).unwrap().next();
    let files = fs::read_dir(folder.unwrap().unwrap().path()).unwrap();
    assert_eq!(files.count(), 3, "two blocks and an index");
}

/// As versions wrote it that keep all indexes in the rows.
fn make_older(node: &Node) {
    let folder = snapshot(node);
    let mut manifest = manifest(node);
    let mut all = rows(folder.join(ROWS_FILE));
    for block in &mut manifest.blocks {
        if block.index.take().is_some() {
            let index = folder.join(block.index_name());
            all.extend(rows(index.clone()));
            fs::remove_file(index).unwrap();
        }
    }
    all.sort();
    let path = folder.join(ROWS_FILE);
    manifest.rows = write_rows_file(&path, all.into_iter().map(Ok)).unwrap();
    for name in ["manifest", "manifest.copy"] {
        fs::write(folder.join(name), manifest.encode().unwrap()).unwrap();
    }
    fs::remove_dir_all(node.path().join("rows")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_of_an_older_store_are_moved_out_of_its_rows() {
    let net = Arc::default();
    let mut node = alone(&net).await;
    write_long(&node, 5).await;
    node.checkpoint().await.unwrap();
    let mut digest = node.with_state(State::digest);
    node.kill().await;
    make_older(&node);
    assert_eq!(sealed_rows(&node), 2);
    for _ in 0..2 {
        node.restart().await;
        node.read_barrier().await.unwrap();
        assert_eq!(node.with_state(State::digest), digest);
        node.propose(messages(&["something new"])).await.unwrap();
        digest = node.with_state(State::digest);
        node.checkpoint().await.unwrap();
        assert_eq!(sealed_rows(&node), 0);
        let with_index = |block: &&BlockEntry| block.index.is_some();
        assert_eq!(manifest(&node).blocks.iter().filter(with_index).count(), 2);
        node.kill().await;
    }
}
