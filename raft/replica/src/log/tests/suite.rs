//! openraft's own storage suite against this log and the smallest state machine there is.

use std::io;

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::{OptionalSend, RaftSnapshotBuilder, StorageError};
use tempfile::TempDir;

use super::{GROUP, GroupLog, Log, fast_dir, small};
use crate::types::{EntryPayload, LogId, Reply, SnapshotMeta, StoredMembership, TypeConfig};

type TestSnapshot = openraft::alias::SnapshotOf<TypeConfig, ()>;

/// Remembers what was applied last, and nothing else.
#[derive(Clone, Default)]
struct Machine {
    applied: SnapshotMeta,
    snapshot: Option<SnapshotMeta>,
}

/// A frozen view of a machine, sharing its snapshot slot through the builder protocol: openraft asks
/// the machine itself for the current snapshot, so building stores into both.
struct Builder {
    meta: SnapshotMeta,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<TestSnapshot> {
        Ok(Snapshot {
            meta: self.meta.clone(),
            snapshot: (),
        })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((
            self.applied.last_log_id,
            self.applied.last_membership.clone(),
        ))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied.last_log_id = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.applied.last_membership =
                    StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(Reply::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.snapshot = Some(self.applied.clone());
        Builder {
            meta: self.applied.clone(),
        }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> io::Result<()> {
        self.applied = meta.clone();
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<TestSnapshot>> {
        Ok(self
            .snapshot
            .clone()
            .map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct Stores;

impl StoreBuilder<TypeConfig, GroupLog, Machine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, GroupLog, Machine), StorageError<TypeConfig>> {
        let dir = fast_dir();
        let (log, _) = Log::open(dir.path(), small()).unwrap();
        Ok((dir, log.group(GROUP), Machine::default()))
    }
}

#[tokio::test]
async fn openraft_suite() {
    Suite::test_all(Stores).await.unwrap();
}
