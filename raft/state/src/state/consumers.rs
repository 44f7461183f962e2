//! Commands about consumers. What a consumer settles is removed here, and only here, from streams that
//! keep messages for their consumers.

use std::sync::Arc;

use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::consumer::DeliverPolicy;
use unibus_proto::jetstream::error;
use unibus_proto::jetstream::timestamp::Timestamp;

use super::{Result, State, Step};
use crate::command::{
    ConsumerCreate, ConsumerDelete, ConsumerPause, ConsumerProgress, ConsumerReset, ConsumerUpdate,
};
use crate::consumer::{self, Consumer, STALE_UPDATE};
use crate::outcome::{Effect, Outcome};
use crate::rules::Rules;
use crate::stream::{Stream, TOO_MUCH_AT_ONCE};

impl State {
    pub(super) fn create_consumer(
        &mut self,
        create: ConsumerCreate,
        step: &mut Step<'_>,
    ) -> Result<Outcome> {
        self.check_consumer_limits(&create)?;
        let applies = self.applies;
        let (slot, stream) = self.open(&create.stream, create.privileged)?;
        let mut config = create.config;
        consumer::fill_defaults(&mut config, &create.generated_name)?;
        consumer::check(&config, stream)?;
        let name: Arc<str> = config.name.as_str().into();
        let existing = stream.consumers.get(&name);
        let existing = existing.map(|consumer| consumer.config().clone());
        let created = existing.is_none();
        if let Some(existing) = &existing {
            // Pausing has a request of its own.
            config.pause_until = existing.pause_until;
        }
        match existing {
            None => {
                if create.action == ConsumerAction::Update {
                    return Err(error::CONSUMER_DOES_NOT_EXIST);
                }
                consumer::check_count(stream)?;
                consumer::check_workqueue(&config, stream)?;
                if config.deliver_policy == DeliverPolicy::Last && step.ctx.is_spent() {
                    return Err(TOO_MUCH_AT_ONCE);
                }
                let consumer = Consumer::new(config, &mut step.ctx, stream);
                stream.add_consumer(consumer);
                step.effects.push(Effect::ConsumerCreated {
                    stream: stream.name.clone(),
                    name: name.clone(),
                });
            }
            Some(before) if *before == config => {}
            Some(before) => {
                if create.action == ConsumerAction::Create {
                    return Err(error::CONSUMER_ALREADY_EXISTS);
                }
                consumer::check_update(&before, &config)?;
                consumer::check_workqueue(&config, stream)?;
                stream.reconfigure_consumer(&name, config);
                if stream.start_sweep(&mut step.ctx) > 0 {
                    step.advanced(slot, stream, applies);
                }
                step.consumer_updated(stream, &name);
            }
        }
        stream.dirty.consumers.insert(name.clone());
        let consumer = stream.consumers.get(&name);
        // Only the answer tells it, and whoever answers can count.
        let num_pending = consumer
            .filter(|_| !step.ctx.is_spent())
            .map(|consumer| consumer.count_pending(stream, &mut step.ctx.work));
        Ok(Outcome::ConsumerCreated {
            name,
            num_pending,
            created,
        })
    }

    pub(super) fn delete_consumer(
        &mut self,
        delete: &ConsumerDelete,
        step: &mut Step<'_>,
    ) -> Result<Outcome> {
        let applies = self.applies;
        let (slot, stream) = self.open(&delete.stream, delete.privileged)?;
        let consumer = stream.consumers.get(delete.name.as_str());
        let born = consumer.map(Consumer::created_ns);
        if born.is_none() || delete.created_ns.is_some_and(|meant| Some(meant) != born) {
            return Err(error::CONSUMER_NOT_FOUND);
        }
        let copied_through = consumer.is_some_and(|consumer| consumer.config().sourcing);
        let name = stream.remove_consumer(&delete.name);
        let name = name.ok_or(error::CONSUMER_NOT_FOUND)?;
        stream.dirty.consumers.insert(name.clone());
        step.effects.push(Effect::ConsumerRemoved {
            stream: stream.name.clone(),
            name,
        });
        let swept = if copied_through {
            stream.start_queue_sweep(&mut step.ctx)
        } else {
            0
        };
        if stream.start_sweep(&mut step.ctx) + swept > 0 {
            step.advanced(slot, stream, applies);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn progress(&mut self, progress: &ConsumerProgress) -> Result<Outcome> {
        let (_, stream) = self.open(&progress.stream, true)?;
        let consumer = stream.consumers.get_mut(progress.name.as_str());
        let consumer = consumer.ok_or(error::CONSUMER_NOT_FOUND)?;
        if consumer.advance(progress.consumer_seq, progress.stream_seq) {
            let name = consumer.name.clone();
            stream.dirty.consumers.insert(name);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn update_consumer(
        &mut self,
        update: &ConsumerUpdate,
        step: &mut Step<'_>,
    ) -> Result<Outcome> {
        let applies = self.applies;
        let (slot, stream) = self.open(&update.stream, true)?;
        let consumer = stream.consumers.get_mut(&update.name);
        let consumer = consumer.ok_or(error::CONSUMER_NOT_FOUND)?;
        let before = consumer.ledger().delivered().stream_seq;
        // A consumer may start beyond the end, but nothing there was delivered.
        if update.delivered.stream_seq > before.max(stream.last_seq) {
            return Err(STALE_UPDATE);
        }
        let settled = consumer.apply(update)?;
        stream.dirty.consumers.insert(update.name.clone());
        if stream.settle(&update.name, before, &settled, &mut step.ctx) > 0 {
            step.advanced(slot, stream, applies);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn pause_consumer(
        &mut self,
        pause: &ConsumerPause,
        step: &mut Step<'_>,
    ) -> Result<Outcome> {
        let now_ns = step.ctx.now_ns;
        let (_, stream) = self.open(&pause.stream, pause.privileged)?;
        let consumer = stream.consumers.get_mut(pause.name.as_str());
        let consumer = consumer.ok_or(error::CONSUMER_NOT_FOUND)?;
        let name = consumer.name.clone();
        let mut config = (**consumer.config()).clone();
        config.pause_until = (pause.until_ns > now_ns).then_some(Timestamp(pause.until_ns));
        if config != **consumer.config() {
            stream.reconfigure_consumer(&name, config);
            step.consumer_updated(stream, &name);
            stream.dirty.consumers.insert(name);
        }
        Ok(Outcome::Done)
    }

    pub(super) fn reset_consumer(
        &mut self,
        reset: &ConsumerReset,
        step: &mut Step<'_>,
    ) -> Result<Outcome> {
        let applies = self.applies;
        let (slot, stream) = self.open(&reset.stream, reset.privileged)?;
        let consumer = stream.consumers.get_mut(reset.name.as_str());
        let consumer = consumer.ok_or(error::CONSUMER_NOT_FOUND)?;
        consumer.reset(reset.seq)?;
        let name = consumer.name.clone();
        // What it has passed over needs nobody else to settle it.
        if step.ctx.rules.have(Rules::SWEEPS) && stream.start_sweep(&mut step.ctx) > 0 {
            step.advanced(slot, stream, applies);
        }
        step.consumer_updated(stream, &name);
        stream.dirty.consumers.insert(name);
        Ok(Outcome::Done)
    }
}

impl Step<'_> {
    fn consumer_updated(&mut self, stream: &Stream, name: &Arc<str>) {
        self.effects.push(Effect::ConsumerUpdated {
            stream: stream.name.clone(),
            name: name.clone(),
        });
    }
}
