//! openraft's storage suite over the real log and the real state machine.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::harness::Recorder;
use crate::log::GroupLog;
use crate::machine::Machine;
use crate::replica::{GROUP, Observer};
use crate::types::TypeConfig;
use crate::{OnDamage, OpenStore, ReplicaOptions};

struct Stores;

impl StoreBuilder<TypeConfig, GroupLog, Machine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, GroupLog, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let mut options = ReplicaOptions::new(dir.path(), "suite");
        options.log_segment_bytes = 1 << 20;
        options.sled_cache_bytes = 1 << 20;
        let store = OpenStore::open(options, OnDamage::Refuse).unwrap();
        let observer: Arc<dyn Observer> = Arc::new(Recorder::default());
        let log = store.log.group(GROUP);
        let (blocks, belonging) = (store.blocks, store.belonging);
        let machine = Machine::new(store.opened, blocks, log.clone(), observer, belonging);
        Ok((dir, log, machine))
    }
}

#[tokio::test]
async fn openraft_suite_passes() {
    Suite::test_all(Stores).await.unwrap();
}
