//! What an operator or a test may set on a replica. Every limit of this crate that depends on the
//! machine or the network is here; protocol constants stay next to the code that uses them.

use std::path::PathBuf;
use std::time::Duration;

/// Folder of the store in a node's folder.
pub(crate) const STORE: &str = "store";
/// Longest times between two elections after which a silent leader is none.
const STALE_ELECTIONS: u32 = 2;

/// Settings of one replica. [`ReplicaOptions::new`] gives the production defaults.
#[derive(Clone, Debug)]
pub struct ReplicaOptions {
    /// The node's folder: its identity, its store, and what was set aside as damaged.
    pub home: PathBuf,
    /// Folder that holds the log, the blocks, the sled database and the snapshots; in [`Self::home`].
    pub data_dir: PathBuf,
    /// Name of this node as other nodes and operators see it.
    pub node_name: String,
    /// How often a leader shows that it is alive.
    pub heartbeat: Duration,
    /// How long a node that has just started gives no vote, and the shortest time between two elections.
    pub election_min: Duration,
    /// Longest time between two elections. A follower gives no vote for [`Self::loyalty`] after it has
    /// heard of its leader, and stands for election itself when that and such a time are over.
    pub election_max: Duration,
    /// A checkpoint is taken when this many bytes of entries were applied since the last one.
    pub checkpoint_log_bytes: u64,
    /// Recently written message bytes that are kept in memory.
    pub cache_bytes: usize,
    /// The log's last entries that are kept in memory, from which followers are fed and entries applied.
    pub log_cache_bytes: usize,
    /// How fast stored messages are read again to find damage, bytes per second; 0 turns it off.
    pub scrub_bytes_per_second: u64,
    /// Pause before each pass over all of them.
    pub scrub_pause: Duration,
    /// Cache of the sled database, bytes.
    pub sled_cache_bytes: u64,
    /// Size of one log segment, bytes.
    pub log_segment_bytes: u64,
    /// Log segments that checkpoints free and that are kept to be written again, at most; fewer where the
    /// log of four checkpoints takes fewer. Each takes [`Self::log_segment_bytes`] of disk; one that is
    /// not kept has to be filled with zeros anew.
    pub log_spares_max: usize,
    /// Most commands in one log entry.
    pub entry_commands_max: usize,
    /// Most command bytes in one log entry, unless a single batch is larger.
    pub entry_bytes_max: usize,
    /// Most entries (or forwarded requests) that are on their way at once.
    pub entries_in_flight_max: usize,
    /// Most batches that wait to be proposed; further ones are refused as overloaded.
    pub queue_batches_max: usize,
    /// Most bytes that wait to be proposed; further batches are refused as overloaded.
    pub queue_bytes_max: usize,
    /// A proposal is answered within this time, if need be with "may have been applied".
    pub propose_timeout: Duration,
    /// A proposal or a read that finds no leader for this long fails with `NoLeader`.
    pub no_leader_timeout: Duration,
    /// A read barrier is answered within this time.
    pub read_timeout: Duration,
    /// How long an admission waits for the new member to catch up.
    pub admit_timeout: Duration,
}

impl ReplicaOptions {
    /// The defaults for production, with the given folder of the node and name.
    pub fn new(home: impl Into<PathBuf>, node_name: impl Into<String>) -> Self {
        let home = home.into();
        Self {
            data_dir: home.join(STORE),
            home,
            node_name: node_name.into(),
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
            checkpoint_log_bytes: 256 << 20,
            cache_bytes: 256 << 20,
            log_cache_bytes: 64 << 20,
            scrub_bytes_per_second: 8 << 20,
            scrub_pause: Duration::from_secs(3600),
            sled_cache_bytes: 64 << 20,
            log_segment_bytes: 64 << 20,
            log_spares_max: 16,
            entry_commands_max: 4096,
            entry_bytes_max: 1 << 20,
            entries_in_flight_max: 4,
            queue_batches_max: 65_536,
            queue_bytes_max: 64 << 20,
            propose_timeout: Duration::from_secs(5),
            no_leader_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(3),
            admit_timeout: Duration::from_secs(600),
        }
    }

    /// How long after hearing of its leader a follower gives nobody else a vote: midway between the two
    /// election times. It has to be longer than the lease by which a leader answers reads.
    #[must_use]
    pub fn loyalty(&self) -> Duration {
        (self.election_min + self.election_max) / 2
    }

    /// A leader that was not acknowledged, or not heard of, for this long is none.
    #[must_use]
    pub fn stale(&self) -> Duration {
        self.election_max * STALE_ELECTIONS
    }

    /// Where damaged files are set aside.
    #[must_use]
    pub fn damaged_dir(&self) -> PathBuf {
        self.home.join(crate::quarantine::FOLDER)
    }
}
