//! Streams that keep messages only for their consumers: a work queue removes what its consumer has
//! settled, an interest stream what nobody waits for any more (traps 27 and 32).

use std::sync::Arc;

use unibus_proto::jetstream::config::Retention;
use unibus_proto::jetstream::consumer::{AckPolicy, ConsumerConfig};

use crate::consumer::Consumer;
use crate::stream::{Context, Stream};

/// Messages times consumers that are compared in one step, while every node waits.
const SWEEP_CHECKS_MAX: usize = 1 << 20;

impl Stream {
    pub(crate) fn add_consumer(&mut self, consumer: Consumer) {
        let name = Arc::clone(consumer.name());
        self.interest.insert(&name, consumer.filters());
        self.consumers.insert(name, consumer);
    }

    pub(crate) fn remove_consumer(&mut self, name: &str) -> Option<Arc<str>> {
        let (name, consumer) = self.consumers.remove_entry(name)?;
        self.interest.remove(&name, consumer.filters());
        Some(name)
    }

    pub(crate) fn reconfigure_consumer(&mut self, name: &Arc<str>, config: ConsumerConfig) {
        if let Some(consumer) = self.consumers.get_mut(name) {
            self.interest.remove(name, consumer.filters());
            consumer.reconfigure(config);
            self.interest.insert(name, consumer.filters());
        }
    }

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
        let live = self
            .blocks
            .iter_from(after.saturating_add(1))
            .map(|(seq, ..)| seq);
        live.take_while(|seq| *seq <= to).collect()
    }

    /// Removes a message that `consumer` was meant to have and nobody needs.
    fn remove_unneeded(&mut self, seq: u64, consumer: &Arc<str>, ctx: &mut Context<'_>) -> bool {
        let Some(view) = self.message(seq) else {
            return false;
        };
        let own = self.consumers.get(consumer);
        if !own.is_some_and(|own| own.wants(view.subject)) {
            return false;
        }
        self.needed_by = self.needed_by(seq, view.subject);
        self.needed_by.is_none() && self.remove(seq, ctx)
    }

    /// A consumer is gone or wants less: finds out, in steps, what nobody needs any more.
    pub(crate) fn start_sweep(&mut self, ctx: &mut Context<'_>) -> usize {
        if self.config.retention != Retention::Interest {
            return 0;
        }
        self.sweep_all(ctx)
    }

    /// A consumer is gone that a work queue was copied through: what the others have settled meanwhile
    /// waited for it alone.
    pub(crate) fn start_queue_sweep(&mut self, ctx: &mut Context<'_>) -> usize {
        if self.config.retention != Retention::Workqueue {
            return 0;
        }
        self.sweep_all(ctx)
    }

    fn sweep_all(&mut self, ctx: &mut Context<'_>) -> usize {
        if self.messages == 0 {
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
        // What no consumer wants yet waits in a work queue for one to come.
        let waits_for_any = self.config.retention == Retention::Workqueue;
        for seq in &step {
            let Some(view) = self.message(*seq) else {
                continue;
            };
            let other = self.needed_by(*seq, view.subject);
            let kept = waits_for_any && self.interest.of(view.subject).next().is_none();
            if other.is_some() {
                self.needed_by = other;
            } else if !kept {
                self.remove(*seq, ctx);
            }
        }
        let more = step.len() == budget;
        self.sweep_from = step.last().filter(|_| more).map(|last| last + 1);
        self.dirty.row = true;
        step.len()
    }

    /// A consumer that still waits for a message: of an interest stream, or of a work queue whose messages
    /// are copied too.
    fn needed_by(&self, seq: u64, subject: &[u8]) -> Option<Arc<str>> {
        let needs = |name: &&Arc<str>| {
            let consumer = self.consumers.get(*name);
            consumer.is_some_and(|other| other.ledger().needs(seq) && other.wants(subject))
        };
        let last = self.needed_by.iter().find(needs);
        last.or_else(|| self.interest.of(subject).find(needs))
            .cloned()
    }
}
