//! Streams that keep messages only for their consumers: a work queue removes what its consumer has
//! settled, an interest stream what nobody waits for any more (traps 27 and 32).

use std::sync::Arc;

use unibus_proto::jetstream::config::Retention;
use unibus_proto::jetstream::consumer::AckPolicy;

use crate::stream::{Context, Stream};

/// Messages times consumers that are compared in one step, while every node waits.
const SWEEP_CHECKS_MAX: usize = 1 << 20;

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

    /// A consumer is gone or wants less: finds out, in steps, what nobody needs any more.
    pub(crate) fn start_sweep(&mut self, ctx: &mut Context<'_>) -> usize {
        if self.config.retention != Retention::Interest || self.messages == 0 {
            return 0;
        }
        self.sweep_from = Some(self.first_seq);
        self.dirty.row = true;
        self.sweep(ctx)
    }

    /// One step of what [`Stream::start_sweep`] began. Returns how many messages it looked at.
    pub(crate) fn sweep(&mut self, ctx: &mut Context<'_>) -> usize {
        let Some(from) = self.sweep_from else {
            return 0;
        };
        let budget = (SWEEP_CHECKS_MAX / self.consumers.len().max(1)).max(1);
        let live = self.blocks.iter_from(from).map(|(seq, ..)| seq);
        let step: Vec<u64> = live.take(budget).collect();
        for seq in &step {
            let subject = self.message(*seq).map(|view| view.subject);
            if subject.is_some_and(|subject| !self.is_needed(*seq, subject)) {
                self.remove(*seq, ctx);
            }
        }
        let more = step.len() == budget;
        self.sweep_from = step.last().filter(|_| more).map(|last| last + 1);
        self.dirty.row = true;
        step.len()
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
