//! Messages of fast batches (ADR-50): one after the other in one entry, each stored or refused by
//! itself. That nothing follows a refused message where the client wants no gaps is decided here, in the
//! log: the publisher's node has sent what follows before it knows.

use unibus_proto::jetstream::error;

use crate::atomic::append_ref;
use crate::command::Series;
use crate::outcome::{Outcome, Refusal};
use crate::publish::{Publisher, Stored};
use crate::stream::{Context, Stream};

impl Stream {
    /// Stores the messages, up to the first that is refused unless the series goes on.
    pub(crate) fn append_series(&mut self, series: &Series, ctx: &mut Context<'_>) -> Outcome {
        if !self.config.allow_batched {
            return Outcome::Refused(Refusal {
                stream: Some(self.name.clone()),
                silent: false,
                error: error::BATCH_PUBLISH_DISABLED,
            });
        }
        let (mut seq, mut refused) = (0, Vec::new());
        for (at, message) in (0u32..).zip(&series.messages) {
            match self.publish(append_ref(message), Publisher::Client, ctx) {
                Ok(
                    Stored::New(stored) | Stored::Duplicate(stored) | Stored::Counted(stored, _),
                ) => {
                    seq = stored;
                }
                Err(error) => {
                    refused.push((at, error));
                    if !series.go_on {
                        break;
                    }
                }
            }
        }
        if self.config.no_ack {
            return Outcome::Silent;
        }
        Outcome::Series {
            stream: self.name.clone(),
            seq,
            refused,
        }
    }
}
