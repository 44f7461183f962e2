//! Proposals.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use unibus_state::Outcome;

use crate::errors::ProposeError;

/// What became of a batch: one outcome per command, in order.
#[derive(Debug)]
pub struct Proposed {
    /// Index of the entry that carried the batch. Wait for it ([`crate::Replica::wait_applied`])
    /// before reading the effect from local state on a node that does not lead.
    pub index: u64,
    /// One outcome for each command of the batch.
    pub outcomes: Vec<Outcome>,
}

/// A batch that is on its way. Dropping it does not take the batch back.
#[derive(Debug)]
pub struct Proposal {
    answer: oneshot::Receiver<Result<Proposed, ProposeError>>,
}

impl Future for Proposal {
    type Output = Result<Proposed, ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer)
            .poll(cx)
            .map(|answer| answer.unwrap_or(Err(ProposeError::Stopped)))
    }
}
