//! The control plane's seven buckets: their names, how keys become subjects, and the task by which
//! the leader makes those that are missing. They are ordinary key-value and object streams
//! (control-plane.md, Records), visible to the internal identity alone.

use std::time::Duration;

use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::signing::NONCE_LIFE_MS;
use unibus_raft::Replica;
use unibus_state::{Command, CommandBatch, State, command::StreamPut};

use crate::shutdown::Shutdown;

/// How often the leader looks whether a bucket is still to be made.
const RETRY: Duration = Duration::from_millis(200);
/// Revisions of a user's record that are kept.
const USER_HISTORY: i64 = 8;
const NS_PER_MS: i64 = 1_000_000;

/// A key-value bucket of the control plane.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Bucket {
    /// Who may use the bus, by hex sign_pub.
    Users,
    /// Rooms by id.
    Rooms,
    /// `<room>.<endpoint>`.
    Members,
    /// `<endpoint>.<room>`: the reverse index.
    RoomsByMember,
    /// `<room>.<epoch>.<endpoint>`.
    RoomKeys,
    /// Hex SHA-256 of a nonce.
    Nonces,
}

impl Bucket {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Users,
        Self::Rooms,
        Self::Members,
        Self::RoomsByMember,
        Self::RoomKeys,
        Self::Nonces,
    ];

    /// The bucket's stream.
    pub(crate) const fn stream(self) -> &'static str {
        match self {
            Self::Users => "KV_UNIBUS_users",
            Self::Rooms => "KV_UNIBUS_rooms",
            Self::Members => "KV_UNIBUS_members",
            Self::RoomsByMember => "KV_UNIBUS_rooms_by_member",
            Self::RoomKeys => "KV_UNIBUS_room_keys",
            Self::Nonces => "KV_UNIBUS_nonces",
        }
    }

    /// The bucket's name.
    pub(crate) fn name(self) -> &'static str {
        self.stream().trim_start_matches("KV_")
    }

    /// What stands before a key in a subject.
    pub(crate) const fn prefix(self) -> &'static str {
        match self {
            Self::Users => "$KV.UNIBUS_users.",
            Self::Rooms => "$KV.UNIBUS_rooms.",
            Self::Members => "$KV.UNIBUS_members.",
            Self::RoomsByMember => "$KV.UNIBUS_rooms_by_member.",
            Self::RoomKeys => "$KV.UNIBUS_room_keys.",
            Self::Nonces => "$KV.UNIBUS_nonces.",
        }
    }

    /// The subject of a key, or the filter of a pattern of keys.
    pub(crate) fn subject(self, key: &str) -> String {
        format!("{}{key}", self.prefix())
    }

    const fn description(self) -> &'static str {
        match self {
            Self::Users => "who may use the bus",
            Self::Rooms => "rooms",
            Self::Members => "who belongs to which room",
            Self::RoomsByMember => "rooms by member",
            Self::RoomKeys => "room keys, sealed to their members",
            Self::Nonces => "requests that were seen",
        }
    }

    fn config(self) -> StreamConfig {
        let max_age = match self {
            Self::Nonces => i64::try_from(NONCE_LIFE_MS).unwrap_or(i64::MAX) * NS_PER_MS,
            _ => 0,
        };
        StreamConfig {
            name: self.stream().to_owned(),
            description: self.description().to_owned(),
            subjects: vec![self.subject(">")],
            max_msgs_per_subject: if self == Self::Users { USER_HISTORY } else { 1 },
            max_age,
            allow_rollup_hdrs: true,
            allow_direct: true,
            deny_delete: true,
            ..StreamConfig::default()
        }
    }
}

/// The object store of blobs: its stream.
pub(crate) const BLOBS_STREAM: &str = "OBJ_UNIBUS_blobs";
/// The object store's bucket name, as object infos show it.
pub(crate) const BLOBS_BUCKET: &str = "UNIBUS_blobs";
/// What stands before an upload's id in its chunks' subject.
pub(crate) const BLOB_CHUNKS: &str = "$O.UNIBUS_blobs.C.";
/// What stands before a name (base64url) in its info's subject.
pub(crate) const BLOB_INFOS: &str = "$O.UNIBUS_blobs.M.";

fn blobs() -> StreamConfig {
    StreamConfig {
        name: BLOBS_STREAM.to_owned(),
        description: "ciphertext by its hash".to_owned(),
        subjects: vec![format!("{BLOB_CHUNKS}>"), format!("{BLOB_INFOS}>")],
        allow_rollup_hdrs: true,
        allow_direct: true,
        ..StreamConfig::default()
    }
}

/// The buckets that are not there.
fn missing(state: &State) -> Vec<StreamConfig> {
    let all = Bucket::ALL.map(Bucket::config).into_iter().chain([blobs()]);
    all.filter(|config| state.stream(&config.name).is_none())
        .collect()
}

/// Whether every bucket is there.
pub(crate) fn complete(state: &State) -> bool {
    missing(state).is_empty()
}

/// Makes what is missing as soon as this node leads; ends once everything is there.
pub(crate) async fn ensure(replica: Replica, mut shutdown: Shutdown) {
    while !shutdown.is_fired() {
        let missing = replica.with_state(missing);
        if missing.is_empty() {
            return;
        }
        if replica.leadership().borrow().is_leader {
            let mut batch = CommandBatch::new();
            for config in missing {
                let put = StreamPut {
                    config,
                    privileged: true,
                    pedantic: false,
                    replicas_max: 1,
                };
                if let Err(error) = batch.push(&Command::StreamCreate(put)) {
                    tracing::error!(%error, "a control bucket can't be encoded");
                    return;
                }
            }
            match replica.propose(batch.freeze()).await {
                Ok(proposed) => tracing::debug!(
                    index = proposed.index,
                    outcomes = ?proposed.outcomes,
                    "made the control plane's buckets"
                ),
                Err(error) => tracing::debug!(%error, "making the buckets: trying again"),
            }
        }
        tokio::select! {
            () = shutdown.wait() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}
