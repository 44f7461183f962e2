//! Where consumers deliver that copies are made through: between the delivery engine and the task that
//! copies, beside the broker. On other nodes than the leader there is none.
//!
//! A sink is opened before its consumer is reset and takes what comes from delivery 1 on without a gap:
//! whatever the consumer was acknowledged for up to a place was in the sink.

use std::collections::hash_map::Entry;
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

#[derive(Debug, Default)]
struct Inside {
    /// In the order of delivery.
    queue: VecDeque<Taken>,
    /// The last delivery that was taken; 0 = the first is waited for.
    last: u64,
    /// A delivery was missed.
    torn: bool,
}

/// What one consumer delivered and is not copied yet.
#[derive(Debug, Default)]
pub(in crate::jetstream) struct Sink(Mutex<Inside>);

impl Sink {
    /// How many messages it has room for.
    pub(in crate::jetstream) fn room(&self) -> usize {
        SINK_MESSAGES_MAX.saturating_sub(self.0.lock().queue.len())
    }

    /// Takes the messages of a turn. True if there is something new to do about it.
    pub(in crate::jetstream) fn put(&self, steps: &[Step]) -> bool {
        let mut inside = self.0.lock();
        let mut news = false;
        for step in steps {
            if let Step::Message(delivery) = step {
                news |= inside.put(delivery.consumer_seq, delivery.seq, delivery.location);
            }
        }
        news
    }

    /// Whether a delivery was missed: the consumer has to begin again.
    pub(super) fn is_torn(&self) -> bool {
        self.0.lock().torn
    }

    /// The consumer is about to begin again.
    pub(super) fn mend(&self) {
        let mut inside = self.0.lock();
        inside.torn = false;
        inside.last = 0;
    }

    /// Hands on what is to be copied next, as long as `take` wants it and the consumer did not go back.
    pub(super) fn each_after(&self, after: u64, mut take: impl FnMut(u64, Location) -> bool) {
        let mut last = after;
        for taken in &self.0.lock().queue {
            if taken.seq <= last || !take(taken.seq, taken.place) {
                break;
            }
            last = taken.seq;
        }
    }

    /// Takes off what is at the front and copied: everything up to `seq` is. True if there was something.
    pub(super) fn forget(&self, seq: u64) -> bool {
        let queue = &mut self.0.lock().queue;
        let copied = queue.iter().take_while(|taken| taken.seq <= seq).count();
        queue.drain(..copied);
        copied > 0
    }
}

impl Inside {
    fn put(&mut self, consumer_seq: u64, seq: u64, place: Location) -> bool {
        if consumer_seq == 1 {
            // The consumer began again: from its ack floor, or where somebody put it.
            (self.last, self.torn) = (0, false);
        } else if self.last == 0 || self.torn {
            return false;
        } else if consumer_seq != self.last + 1 {
            self.torn = true;
            return true;
        }
        self.last = consumer_seq;
        self.queue.push_back(Taken { seq, place });
        true
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

    /// `None`: another copy has it.
    pub(super) fn open(&self, key: Key) -> Option<Arc<Sink>> {
        match self.0.write().entry(key) {
            Entry::Occupied(_) => None,
            Entry::Vacant(free) => Some(Arc::clone(free.insert(Arc::default()))),
        }
    }

    pub(super) fn close(&self, key: &Key) {
        self.0.write().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use unibus_state::{BlockId, Location, StreamUid};

    use super::{Sink, Sinks};

    /// Deliveries as (number, stream sequence); whether each was news.
    fn put(sink: &Sink, deliveries: &[(u64, u64)]) -> Vec<bool> {
        let place = Location {
            stream: StreamUid(1),
            block: BlockId(1),
            offset: 0,
            len: 1,
        };
        let mut inside = sink.0.lock();
        let put = deliveries.iter();
        put.map(|(number, seq)| inside.put(*number, *seq, place))
            .collect()
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
        let sink = Sink::default();
        put(&sink, &[(1, 3), (2, 4), (3, 9), (1, 4), (2, 9), (3, 10)]);
        assert_eq!(next(&sink, 2), [3, 4, 9]);
        assert!(sink.forget(9));
        assert_eq!(next(&sink, 9), [10], "what is copied is not copied again");
        assert!(!sink.forget(9));
        assert!(sink.forget(10));
        assert!(next(&sink, 10).is_empty());
    }

    #[test]
    fn nothing_is_taken_before_what_is_copied_is_forgotten() {
        let sink = Sink::default();
        put(&sink, &[(1, 3), (2, 4)]);
        assert!(next(&sink, 3).is_empty());
        assert!(sink.forget(3));
        assert_eq!(next(&sink, 3), [4]);
    }

    #[test]
    fn nothing_is_taken_after_a_gap() {
        let sink = Sink::default();
        assert_eq!(
            put(&sink, &[(7, 7), (8, 8)]),
            [false, false],
            "from before the reset"
        );
        put(&sink, &[(1, 7), (2, 8)]);
        assert!(!sink.is_torn());
        assert_eq!(put(&sink, &[(4, 10), (5, 11)]), [true, false]);
        assert!(sink.is_torn());
        assert_eq!(next(&sink, 0), [7, 8]);
        sink.mend();
        assert!(!sink.is_torn());
        put(&sink, &[(6, 12), (1, 9), (2, 10)]);
        assert_eq!(next(&sink, 0), [7, 8, 9, 10]);
    }

    #[test]
    fn a_consumer_delivers_to_one_copy() {
        let sinks = Sinks::default();
        let key = || ("S".into(), "c".into());
        assert!(sinks.open(key()).is_some());
        assert!(sinks.open(key()).is_none());
        sinks.close(&key());
        assert!(sinks.open(key()).is_some());
    }
}
