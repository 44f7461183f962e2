//! Streams that keep messages only for their consumers: a work queue removes what its consumer has
//! settled, an interest stream what nobody waits for any more (traps 27 and 32).

use std::sync::Arc;

use unibus_proto::jetstream::config::Retention;
use unibus_proto::jetstream::consumer::AckPolicy;

use crate::stream::{Context, Stream};

impl Stream {
    /// Removes what a consumer has settled, as far as nobody else needs it: the messages named, and for
    /// a consumer without acknowledgements those it delivered after `delivered_before`. Returns how
    /// many went.
    pub(crate) fn settle(
        &mut self,
        consumer: &Arc<str>,
        delivered_before: u64,
        settled: &[u64],
        ctx: &mut Context<'_>,
    ) -> u64 {
        let retention = self.config.retention;
        if retention == Retention::Limits {
            return 0;
        }
        let mut gone = 0;
        for seq in settled {
            gone += u64::from(self.remove_unneeded(*seq, consumer, ctx));
        }
        if retention == Retention::Interest {
            for seq in self.passed(consumer, delivered_before) {
                gone += u64::from(self.remove_unneeded(seq, consumer, ctx));
            }
        }
        gone
    }

    /// What a consumer without acknowledgements has delivered after a sequence.
    fn passed(&self, consumer: &Arc<str>, after: u64) -> Vec<u64> {
        let Some(consumer) = self.consumers.get(consumer) else {
            return Vec::new();
        };
        let to = consumer.ledger().delivered().stream_seq;
        if consumer.config().ack_policy != AckPolicy::None {
            return Vec::new();
        }
        let live = self.blocks.iter_from(after + 1).map(|(seq, ..)| seq);
        live.take_while(|seq| *seq <= to).collect()
    }

    /// Removes a message that `consumer` was meant to have and nobody needs.
    fn remove_unneeded(&mut self, seq: u64, consumer: &Arc<str>, ctx: &mut Context<'_>) -> bool {
        let Some(view) = self.message(seq) else {
            return false;
        };
        let own = self.consumers.get(consumer);
        let meant = own.is_some_and(|own| own.wants(view.subject));
        if !meant || self.is_needed(seq, view.subject) {
            return false;
        }
        self.remove(seq, ctx)
    }

    /// Whether a consumer of an interest stream still waits for a message. On a work queue the one that
    /// settled it was the only one.
    fn is_needed(&self, seq: u64, subject: &[u8]) -> bool {
        self.config.retention == Retention::Interest
            && self
                .consumers
                .values()
                .any(|other| other.ledger().needs(seq) && other.wants(subject))
    }
}
