//! What the node does for a client, it does with its own authority: here is asked whether the client
//! could do it itself. Pure: it looks at nothing but the asker and what is asked for.

use unibus_broker::Origin;
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_proto::jetstream::error::{self, ApiError};
use unibus_state::DEAD_LETTER_KEY;

/// Why a consumer may not be made by `origin`: it would publish where its maker may not.
pub(super) fn refuse_consumer(origin: &Origin, config: &ConsumerConfig) -> Option<ApiError> {
    if !may_deliver(origin, config) {
        return Some(error::DELIVER_SUBJECT_NOT_VALID);
    }
    // What is stored there are bodies and headers that anybody may have chosen who publishes to the
    // consumer's stream.
    let letters = config.metadata.get(DEAD_LETTER_KEY)?;
    (!origin.may_publish(letters.as_bytes())).then(|| {
        ApiError::consumer_create(format!(
            "{DEAD_LETTER_KEY} {letters:?} is a subject that you may not publish to"
        ))
    })
}

/// Nobody has the node deliver where he could neither publish nor listen himself.
fn may_deliver(origin: &Origin, config: &ConsumerConfig) -> bool {
    let deliver = config.deliver_subject.as_bytes();
    let group = config.deliver_group.as_bytes();
    deliver.is_empty()
        || origin.may_be_answered_at(deliver)
        || (!group.is_empty()
            && origin
                .permissions
                .as_deref()
                .is_none_or(|held| held.can_subscribe(deliver, Some(group))))
}
