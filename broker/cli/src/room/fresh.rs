//! Which messages are to be acted upon: whoever has a frame can publish it again, with its signature, and what
//! answers or passes on would do it twice.

use std::collections::{HashSet, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use unibus_client::rooms::frame::{FrameId, Header};

/// How far apart the time that a sender has signed may be from that of storing, in milliseconds: attempts of the
/// sender's client, and clocks that are not quite right.
const APART_MS_MAX: u64 = 120_000;
/// Messages that are remembered: as many as may come while they could be taken for new.
const SEEN_MAX: usize = 65_536;

/// The messages that were acted upon, since this began to listen.
#[derive(Debug)]
pub(crate) struct Fresh {
    began_ms: u64,
    seen: HashSet<FrameId>,
    /// With when they were stored, the oldest first.
    order: VecDeque<(u64, FrameId)>,
}

impl Fresh {
    /// When this began, in Unix milliseconds.
    pub(crate) fn began_ms(&self) -> u64 {
        self.began_ms
    }

    /// Begins now. What was said before, by its sender's clock, was for others.
    pub(crate) fn now() -> Self {
        Self::since(unix_ms())
    }

    fn since(began_ms: u64) -> Self {
        Self {
            began_ms,
            seen: HashSet::new(),
            order: VecDeque::new(),
        }
    }

    /// Whether a message is to be acted upon.
    ///
    /// # Errors
    /// Why it is not, for people.
    pub(crate) fn take(&mut self, header: &Header, stored_ms: Option<u64>) -> Result<(), String> {
        let stored_ms = stored_ms.unwrap_or_else(unix_ms);
        let (id, sent_ms) = (header.id, header.sent_ms);
        if sent_ms < self.began_ms {
            return Err(format!("{id} was said before this began to listen"));
        }
        let apart = stored_ms.abs_diff(sent_ms);
        if apart > APART_MS_MAX {
            return Err(format!(
                "{id} came {} s from when its sender says: it is not the first time, or a clock is wrong",
                apart / 1000
            ));
        }
        if !self.seen.insert(id) {
            return Err(format!("{id} came once more"));
        }
        self.order.push_back((stored_ms, id));
        while let Some((at, oldest)) = self.order.front()
            // Signed up to that long after it was stored, and taken for new up to that long after.
            && (at + 2 * APART_MS_MAX < stored_ms || self.order.len() > SEEN_MAX)
        {
            self.seen.remove(oldest);
            self.order.pop_front();
        }
        Ok(())
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use unibus_client::Identity;
    use unibus_client::rooms::frame::FrameKind;

    use super::*;

    fn header(number: u64, sent_ms: u64) -> Header {
        Header {
            id: FrameId::new(number, [0; 10]),
            room: "r".parse().unwrap(),
            epoch: 1,
            from: Identity::from_secrets([1; 32], [1; 32])
                .unwrap()
                .endpoint()
                .clone(),
            kind: FrameKind::message(),
            sent_ms,
            thread: None,
            reply_to: None,
        }
    }

    #[test]
    fn what_comes_again_is_not_acted_upon() {
        let began = 10 * APART_MS_MAX;
        let mut fresh = Fresh::since(began);
        let one = header(1, began + 5);
        assert_eq!(fresh.take(&one, Some(began + 6)), Ok(()));
        for (again, stored_ms, words) in [
            (one.clone(), began + 7, "once more"),
            (one, began + 3 * APART_MS_MAX, "not the first time"),
            (header(2, began - 1), began, "before this"),
            (header(3, began + 3 * APART_MS_MAX), began, "clock"),
        ] {
            let refused = fresh.take(&again, Some(stored_ms)).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
        // A sender whose clock is a little ahead.
        assert_eq!(fresh.take(&header(4, began + 9), Some(began)), Ok(()));
        // Memory is bounded, by number and by time.
        for number in 0..SEEN_MAX as u64 {
            let next = header(100 + number, began);
            assert_eq!(fresh.take(&next, Some(began)), Ok(()));
        }
        assert_eq!((fresh.seen.len(), fresh.order.len()), (SEEN_MAX, SEEN_MAX));
        let much_later = began + 3 * APART_MS_MAX;
        let last = header(99, much_later);
        assert_eq!(fresh.take(&last, Some(much_later)), Ok(()));
        assert_eq!((fresh.seen.len(), fresh.order.len()), (1, 1));
    }
}
