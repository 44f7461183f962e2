//! What an operator asks of a running node: `$SYS.UNIBUS.…` requests, answered to the node's own identity
//! only. `unibus-node cluster` and `unibus-node backup` are their clients. Every request is answered within
//! seconds; what takes longer says so and is asked for again.

mod backup;
mod cluster;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use unibus_broker::{Broker, Inbound, Publication, Service};
use unibus_raft::Replica;

use crate::mesh::Mesh;
use backup::Readers;

pub use backup::{BackupBegun, BackupPiece};
pub use cluster::{ClusterStatus, MemberStatus, StrangerStatus};

/// Before every request.
pub const PREFIX: &str = "$SYS.UNIBUS.";
/// Requests that are worked on at once; a further one finds no responder.
const WORKING_MAX: usize = 16;
/// How long a request is worked on before it is answered with "not yet".
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of a request.
const REQUEST_BYTES_MAX: usize = 4096;

/// What a command asks for, as JSON. Fields that a verb has no use for are left out.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// A node's name, or its id as 16 hex digits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The node that takes its place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub with: String,
    /// Do it even where nothing can be written afterwards.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub accept_quorum_loss: bool,
    /// Which bytes of a backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupPiece>,
}

/// The answer, as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done, or was done before.
    Done(String),
    /// It goes on; ask again. The text says what is awaited.
    Working(String),
    /// It is not done, and asking again changes nothing.
    Refused(String),
    /// The members.
    Cluster(Box<ClusterStatus>),
    /// A backup that can be read.
    Backup(BackupBegun),
}

/// The parts that requests are about.
#[derive(Clone)]
pub struct Parts {
    /// Where answers are published.
    pub broker: Broker,
    /// The store.
    pub replica: Replica,
    /// The other nodes; `None` for a node without any.
    pub mesh: Option<Arc<Mesh>>,
    /// The cluster's name.
    pub cluster_name: Option<String>,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// Serves the requests for as long as the broker lives.
pub fn start(parts: Parts) {
    let broker = parts.broker.clone();
    let operator = Operator {
        parts,
        readers: Arc::default(),
        places: Arc::new(Semaphore::new(WORKING_MAX)),
    };
    broker.add_service(&format!("{PREFIX}>"), Arc::new(operator));
}

struct Operator {
    parts: Parts,
    readers: Arc<Readers>,
    places: Arc<Semaphore>,
}

impl Service for Operator {
    fn deliver(&self, message: &Inbound<'_>) -> bool {
        let (Some(reply), true) = (message.reply, message.origin.internal) else {
            return false;
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return false;
        };
        let subject = String::from_utf8_lossy(message.subject).into_owned();
        let body = message.data[message.header_len..].to_vec();
        let (parts, reply) = (self.parts.clone(), reply.to_vec());
        let readers = Arc::clone(&self.readers);
        tokio::spawn(async move {
            let _place = place;
            let verb = subject.strip_prefix(PREFIX).unwrap_or_default();
            let working = answer(&parts, &readers, verb, &body);
            let answer = tokio::time::timeout(ANSWER_WITHIN, working).await;
            let data = answer.unwrap_or_else(|_| json(&Answer::Working("it goes on".to_owned())));
            parts.broker.publish(Publication {
                subject: &reply,
                shown: None,
                reply: None,
                header_len: 0,
                data: &data,
                capture: false,
                local: false,
            });
        });
        true
    }
}

fn json(answer: &Answer) -> Vec<u8> {
    serde_json::to_vec(answer).unwrap_or_default()
}

async fn answer(parts: &Parts, readers: &Arc<Readers>, verb: &str, body: &[u8]) -> Vec<u8> {
    let request = match parse(body) {
        Ok(request) => request,
        Err(words) => return json(&Answer::Refused(words)),
    };
    json(&match verb {
        "CLUSTER.STATUS" => Answer::Cluster(Box::new(cluster::status(parts))),
        "CLUSTER.ADD" => cluster::add(parts, &request).await,
        "CLUSTER.REMOVE" => cluster::remove(parts, &request).await,
        "CLUSTER.REPLACE" => cluster::replace(parts, &request).await,
        "BACKUP.BEGIN" => {
            let id = request.backup.unwrap_or_default().id;
            backup::begin(parts, readers, &id).await
        }
        "BACKUP.READ" => {
            return backup::read(parts, readers, request.backup.unwrap_or_default()).await;
        }
        other => Answer::Refused(format!(
            "this version knows no request {other:?}: ask a node of the command's own version"
        )),
    })
}

fn parse(body: &[u8]) -> Result<Request, String> {
    if body.len() > REQUEST_BYTES_MAX {
        return Err(format!("a request of {} bytes", body.len()));
    }
    if body.is_empty() {
        return Ok(Request::default());
    }
    serde_json::from_slice(body).map_err(|error| format!("not a request: {error}"))
}
