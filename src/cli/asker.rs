//! Requests to a running node that only its own identity may make (`crate::operate`), and how long they are
//! repeated. Knows nothing of what a command prints.

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::time::Instant;

use super::link::{Link, LinkError, Target};
use crate::operate::{Answer, PREFIX, Request};

/// Pause before a request is made again that is still being worked on.
const RETRY: Duration = Duration::from_millis(200);

/// Why a request was not done.
#[derive(Debug, Error)]
pub(super) enum AskError {
    /// The node can't be spoken to.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The node says no, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It was not done in time.
    #[error("not done within {} s: {reason}; it goes on, and the same command can be given again", within.as_secs())]
    Late {
        /// The time that was given.
        within: Duration,
        /// What it waits for.
        reason: String,
    },
    /// The node and the command do not understand each other.
    #[error("the node's answer makes no sense here: ask a node of the command's own version")]
    Strange,
}

impl AskError {
    /// Whether the command itself is wrong, as opposed to its not having worked.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::Link(error) if error.is_usage())
    }
}

/// A connection on which requests are made.
pub(super) struct Asker {
    link: Link,
    within: Duration,
    deadline: Instant,
}

impl Asker {
    /// Connects as the node's own identity; everything has to be done within `within`.
    ///
    /// # Errors
    /// [`AskError::Link`].
    pub(super) async fn open(target: &Target, within: Duration) -> Result<Self, AskError> {
        Ok(Self {
            link: Link::open(target).await?,
            within,
            deadline: Instant::now() + within,
        })
    }

    /// Makes one request.
    ///
    /// # Errors
    /// [`AskError`].
    pub(super) async fn ask(&self, verb: &str, request: &Request) -> Result<Answer, AskError> {
        let body = self.ask_raw(verb, request).await?;
        serde_json::from_slice(&body).map_err(|_| AskError::Strange)
    }

    /// [`Self::ask`] for a request whose answer is not [`Answer`].
    ///
    /// # Errors
    /// [`AskError`].
    pub(super) async fn ask_raw(&self, verb: &str, request: &Request) -> Result<Bytes, AskError> {
        let body = Bytes::from(serde_json::to_vec(request).unwrap_or_default());
        let subject = format!("{PREFIX}{verb}");
        let asking = self.link.until(|| {
            let client = &self.link.client;
            client.request(subject.clone(), body.clone())
        });
        Ok(asking.await?.payload)
    }

    /// Pauses before the same request is made again.
    ///
    /// # Errors
    /// [`AskError::Late`] where there is no time for it.
    pub(super) async fn pause(&self, reason: String) -> Result<(), AskError> {
        if Instant::now() + RETRY >= self.deadline {
            return Err(AskError::Late {
                within: self.within,
                reason,
            });
        }
        tokio::time::sleep(RETRY).await;
        Ok(())
    }
}
