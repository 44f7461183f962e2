//! Questions of `$SYS` between the nodes of a cluster: puts one to every peer, answers those of peers.
//! The asking node alone judges who may ask and publishes the answers; a peer takes nothing but a
//! question that a node can have let through, and never publishes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use unibus_raft::{GroupId, RpcClass, Transport};

use super::ask::Ask;
use crate::monitor::source::Monitor;

/// Peers that are asked one question, as many as a node has routes.
const PEERS_MAX: usize = 64;
/// How long a peer may take to answer, at both ends.
pub(super) const PEER_ANSWER_MAX: Duration = Duration::from_secs(2);
/// Bytes of a question on its way: escaped, a byte of its subject and options takes six at most.
const QUESTION_BYTES_MAX: usize = 6 * super::ask::BYTES_MAX + 1024;
/// Bytes of an answer on its way; a larger document stays where it is.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Questions of peers that are worked on at once: documents may walk all connections.
const ANSWERING_MAX: usize = 2;
/// System questions belong to no group.
const NO_GROUP: GroupId = GroupId(0);

/// The way to the other nodes.
#[derive(Clone, Debug)]
pub struct Peers {
    transport: Arc<dyn Transport>,
}

impl Peers {
    /// Asks by `transport`.
    #[must_use]
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport }
    }

    /// Puts a question to every connected peer. Each future is one peer's answer, `None` where it
    /// stays silent, refuses or takes more than [`PEER_ANSWER_MAX`].
    pub(super) fn ask_all(&self, ask: &Ask) -> Vec<BoxFuture<'static, Option<Bytes>>> {
        let question = ask.encode();
        let peers = self.transport.connected().into_iter().take(PEERS_MAX);
        let asked = peers.map(|peer| {
            let call = self
                .transport
                .call(peer, RpcClass::System, NO_GROUP, question.clone());
            async move {
                match tokio::time::timeout(PEER_ANSWER_MAX, call).await {
                    Ok(Ok(answer)) => (!answer.is_empty()).then_some(answer),
                    Ok(Err(error)) => {
                        tracing::debug!(%peer, %error, "no answer about a peer");
                        None
                    }
                    Err(_) => {
                        tracing::debug!(%peer, "no answer about a peer within {PEER_ANSWER_MAX:?}");
                        None
                    }
                }
            }
            .boxed()
        });
        asked.collect()
    }
}

/// What answers the questions of peers: `RpcClass::System`.
#[derive(Clone)]
pub struct PeerAnswers {
    monitor: Monitor,
    places: Arc<Semaphore>,
}

impl fmt::Debug for PeerAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerAnswers").finish_non_exhaustive()
    }
}

impl PeerAnswers {
    /// Answers from the documents of `monitor`.
    #[must_use]
    pub fn new(monitor: Monitor) -> Self {
        let places = Arc::new(Semaphore::new(ANSWERING_MAX));
        Self { monitor, places }
    }

    /// The answer to one question, empty where this node has to stay silent. How many wait is
    /// bounded by the transport.
    ///
    /// # Errors
    /// A text for the asking node's log.
    pub async fn answer(self, question: Bytes) -> Result<Bytes, String> {
        if question.len() > QUESTION_BYTES_MAX {
            return Err(format!(
                "a question of {} bytes; {QUESTION_BYTES_MAX} are allowed",
                question.len()
            ));
        }
        let ask = Ask::decode(&question).ok_or("not a question that a node asks its peers")?;
        let place = Arc::clone(&self.places).acquire_owned();
        let Ok(Ok(place)) = tokio::time::timeout(PEER_ANSWER_MAX, place).await else {
            return Err("too many questions at once; ask again later".to_owned());
        };
        let monitor = self.monitor;
        let answering = tokio::task::spawn_blocking(move || {
            let _place = place;
            ask.answer(&monitor).unwrap_or_default()
        });
        let answer = answering.await.map_err(|error| error.to_string())?;
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(format!(
                "an answer of {} bytes; {ANSWER_BYTES_MAX} are allowed: ask for less, with limit and offset",
                answer.len()
            ));
        }
        Ok(answer.into())
    }
}
