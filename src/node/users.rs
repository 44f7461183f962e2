//! The users' bucket: made by the leader, read into the directory whenever it changes. It is an
//! ordinary key-value bucket, `KV_UNIBUS_users` (control-plane.md, Records).

use std::time::Duration;

use unibus_proto::headers::HeaderMap;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_raft::Replica;
use unibus_state::{
    Command, CommandBatch, Effect, Location, State, StoredMessage, command::StreamPut,
};

use crate::access::Directory;
use crate::shutdown::Shutdown;

/// The bucket's stream.
pub(super) const USERS_STREAM: &str = "KV_UNIBUS_users";
const USERS_FILTER: &str = "$KV.UNIBUS_users.>";
const USERS_PREFIX: &str = "$KV.UNIBUS_users.";
/// How often the leader looks whether the bucket is still to be made.
const RETRY: Duration = Duration::from_millis(200);

/// Whether these effects touch the users.
pub(super) fn concerned(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::StreamCreated { name }
        | Effect::StreamUpdated { name }
        | Effect::StreamRemoved { name }
        | Effect::StreamAdvanced { name } => &**name == USERS_STREAM,
        _ => false,
    })
}

/// Reads every user into the directory, which pushes changed grants into open connections.
pub(super) fn load(state: &State, replica: &Replica, directory: &Directory) {
    let mut users = Vec::new();
    for at in locations(state) {
        match read(replica, &at) {
            Ok(Some(user)) => users.push(user),
            Ok(None) => {}
            // Fail closed: a record that can't be read admits nobody.
            Err(error) => tracing::error!(%error, "a user's record can't be read; it is left out"),
        }
    }
    directory.replace_users(users);
}

fn locations(state: &State) -> Vec<Location> {
    let Some(stream) = state.stream(USERS_STREAM) else {
        return Vec::new();
    };
    let last = stream.last_seqs(&[USERS_FILTER]);
    last.into_iter().filter_map(|seq| stream.get(seq)).collect()
}

/// A user's key and JSON; `None` for a tombstone.
fn read(replica: &Replica, at: &Location) -> Result<Option<(String, Vec<u8>)>, String> {
    let record = replica.read_record(at).map_err(|e| e.to_string())?;
    let message = StoredMessage::decode(record).map_err(|e| e.to_string())?;
    let headers = HeaderMap::parse(&message.headers);
    if headers.is_ok_and(|headers| headers.get("KV-Operation").is_some()) {
        return Ok(None);
    }
    let subject = std::str::from_utf8(&message.subject).map_err(|e| e.to_string())?;
    let key = subject
        .strip_prefix(USERS_PREFIX)
        .ok_or("a subject outside the bucket")?;
    Ok(Some((key.to_owned(), message.payload.to_vec())))
}

/// Makes the bucket as soon as this node leads and it is missing; ends once it is there.
pub(super) async fn ensure_bucket(replica: Replica, mut shutdown: Shutdown) {
    while !shutdown.is_fired() {
        if replica.with_state(|state| state.stream(USERS_STREAM).is_some()) {
            return;
        }
        if replica.leadership().borrow().is_leader {
            let mut batch = CommandBatch::new();
            let pushed = batch.push(&Command::StreamCreate(StreamPut {
                config: bucket(),
                privileged: true,
                pedantic: false,
                replicas_max: 1,
            }));
            if let Err(error) = pushed {
                tracing::error!(%error, "the users' bucket can't be encoded");
                return;
            }
            match replica.propose(batch.freeze()).await {
                Ok(proposed) => {
                    tracing::debug!(index = proposed.index, "made the users' bucket");
                }
                Err(error) => tracing::debug!(%error, "making the users' bucket: trying again"),
            }
        }
        tokio::select! {
            () = shutdown.wait() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

fn bucket() -> StreamConfig {
    StreamConfig {
        name: USERS_STREAM.to_owned(),
        description: "who may use the bus".to_owned(),
        subjects: vec![USERS_FILTER.to_owned()],
        max_msgs_per_subject: 8,
        allow_rollup_hdrs: true,
        allow_direct: true,
        deny_delete: true,
        ..StreamConfig::default()
    }
}
