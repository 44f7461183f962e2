//! Where consumers deliver that copies are made through: between the delivery engine and the task that
//! copies, without the broker in between. On other nodes than the leader there is none.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use unibus_state::Location;

use super::super::sender::Step;
use super::super::table::Key;

/// Messages that wait to be copied, of one consumer.
const SINK_MESSAGES_MAX: usize = 4096;

/// A delivered message.
#[derive(Clone, Copy, Debug)]
struct Taken {
    seq: u64,
    place: Location,
}

/// What one consumer delivered and is not copied yet, in the order of delivery.
#[derive(Debug, Default)]
pub(in crate::jetstream) struct Sink(Mutex<VecDeque<Taken>>);

impl Sink {
    /// How many messages it has room for.
    pub(in crate::jetstream) fn room(&self) -> usize {
        SINK_MESSAGES_MAX.saturating_sub(self.0.lock().len())
    }

    /// Takes the messages of a turn.
    pub(in crate::jetstream) fn put(&self, steps: &[Step]) {
        let messages = steps.iter().filter_map(|step| match step {
            Step::Message(delivery) => Some(Taken {
                seq: delivery.seq,
                place: delivery.location,
            }),
            _ => None,
        });
        self.0.lock().extend(messages);
    }

    /// Hands on what is to be copied next, as long as `take` wants it and the consumer did not go back.
    pub(super) fn each_after(&self, after: u64, mut take: impl FnMut(u64, Location) -> bool) {
        let mut last = after;
        for taken in &*self.0.lock() {
            if taken.seq <= last || !take(taken.seq, taken.place) {
                break;
            }
            last = taken.seq;
        }
    }

    /// Takes off what is at the front and copied: everything up to `seq` is. True if there was something.
    pub(super) fn forget(&self, seq: u64) -> bool {
        let mut queue = self.0.lock();
        let copied = queue.iter().take_while(|taken| taken.seq <= seq).count();
        queue.drain(..copied);
        copied > 0
    }
}

/// The sinks of all consumers that copies are made through.
#[derive(Debug, Default)]
pub(in crate::jetstream) struct Sinks(RwLock<HashMap<Key, Arc<Sink>>>);

impl Sinks {
    /// The sink of a consumer, if it has one.
    pub(in crate::jetstream) fn of(&self, key: &Key) -> Option<Arc<Sink>> {
        self.0.read().get(key).cloned()
    }

    /// The same, by name.
    pub(in crate::jetstream) fn has(&self, stream: &str, consumer: &str) -> bool {
        self.of(&(stream.into(), consumer.into())).is_some()
    }

    pub(super) fn open(&self, key: Key) -> Arc<Sink> {
        let sink = Arc::<Sink>::default();
        self.0.write().insert(key, Arc::clone(&sink));
        sink
    }

    pub(super) fn close(&self, key: &Key) {
        self.0.write().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use unibus_state::{BlockId, Location, StreamUid};

    use super::{Sink, Taken};

    fn sink(seqs: &[u64]) -> Sink {
        let sink = Sink::default();
        let place = Location {
            stream: StreamUid(1),
            block: BlockId(1),
            offset: 0,
            len: 1,
        };
        let taken = seqs.iter().map(|seq| Taken { seq: *seq, place });
        sink.0.lock().extend(taken);
        sink
    }

    fn next(sink: &Sink, after: u64) -> Vec<u64> {
        let mut seqs = Vec::new();
        sink.each_after(after, |seq, _| {
            seqs.push(seq);
            true
        });
        seqs
    }

    #[test]
    fn a_batch_ends_where_the_consumer_went_back() {
        let sink = sink(&[3, 4, 9, 4, 9, 10]);
        assert_eq!(next(&sink, 2), [3, 4, 9]);
        assert!(sink.forget(9));
        assert_eq!(next(&sink, 9), [10], "what is copied is not copied again");
        assert!(!sink.forget(9));
        assert!(sink.forget(10));
        assert!(next(&sink, 10).is_empty());
    }

    #[test]
    fn nothing_is_taken_before_what_is_copied_is_forgotten() {
        let sink = sink(&[3, 4]);
        assert!(next(&sink, 3).is_empty());
        assert!(sink.forget(3));
        assert_eq!(next(&sink, 3), [4]);
    }
}
