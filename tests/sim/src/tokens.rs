//! Proposals on their way and who waits for them.

use unibus_state::{EncodedBatch, Outcome};

/// Names one proposal.
pub(crate) type FlightId = u64;

/// Who waits for the outcome of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A publisher, for its n-th message.
    Publish { publisher: usize, n: u64 },
    /// A writer of the register, for its value.
    Register { writer: usize, value: u64 },
    /// The leader's desk, for what a cursor reported.
    Update {
        consumer: usize,
        life: u64,
        /// Acknowledgements to answer once it is applied.
        answers: Vec<u64>,
    },
    /// The operator, for a signed change.
    Control { request: usize },
    /// Nobody.
    Nobody,
}

/// A batch of commands that is proposed as one.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    /// Where it was proposed.
    pub(crate) origin: usize,
    pub(crate) batch: EncodedBatch,
    /// One for each command.
    pub(crate) tokens: Vec<Token>,
}

/// What became of a proposal.
#[derive(Clone, Debug)]
pub(crate) enum Landing {
    /// Applied as this entry.
    Applied {
        index: usize,
        outcomes: Vec<Outcome>,
    },
    /// Surely not applied: it may be sent again.
    Refused,
    /// May have been applied, or will be.
    Unknown,
}

/// What is on the network, to be delivered or lost.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// A proposal for whoever leads.
    Propose {
        from: usize,
        to: usize,
        flight: FlightId,
    },
    /// Its answer.
    Answer {
        from: usize,
        to: usize,
        flight: FlightId,
        landing: Landing,
    },
    /// A message for a consumer's client, from the node that leads.
    Delivery { consumer: usize, seq: u64 },
    /// An acknowledgement for whoever leads.
    Ack {
        consumer: usize,
        seq: u64,
        to: usize,
        double: bool,
        is_nak: bool,
    },
    /// A pull request for whoever leads.
    Pull {
        consumer: usize,
        to: usize,
        batch: u64,
        reply: Vec<u8>,
    },
}
