//! Whose turn it is to be copied. One round takes so many copies; the next goes on behind them, and a copy
//! that was refused rests, so that neither many busy copies nor a full stream keep others waiting.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::ways::CopyId;

/// Pause after a batch that was refused (a full stream) or could not be proposed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Turns of one leadership.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Where the last round ended; `None`: it saw everything.
    after: Option<CopyId>,
    /// Copies that are not tried again before this time.
    resting: HashMap<CopyId, Instant>,
}

impl Turns {
    /// The copies that may be looked at, in the order of their turns.
    pub(super) fn order<T>(&self, mut all: Vec<T>, id: impl Fn(&T) -> CopyId) -> Vec<T> {
        let last = self.after.as_ref();
        let last = last.and_then(|after| all.iter().position(|copy| id(copy) == *after));
        if let Some(last) = last {
            all.rotate_left(last + 1);
        }
        if !self.resting.is_empty() {
            let now = Instant::now();
            all.retain(|copy| {
                self.resting
                    .get(&id(copy))
                    .is_none_or(|until| *until <= now)
            });
        }
        all
    }

    /// A round is over; with `Some`, it ended there because it was full.
    pub(super) fn end(&mut self, after: Option<CopyId>) {
        self.after = after;
        let now = Instant::now();
        self.resting.retain(|_, until| *until > now);
    }

    /// A copy was refused.
    pub(super) fn rest(&mut self, id: CopyId) {
        self.resting.insert(id, Instant::now() + RETRY_PAUSE);
    }

    /// When the first of those that rest is tried again.
    pub(super) fn next_retry(&self) -> Option<Instant> {
        self.resting.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{CopyId, Turns};

    fn id(name: &str) -> CopyId {
        (Arc::from(name), "O > >".to_owned())
    }

    fn order(turns: &Turns) -> String {
        turns.order(vec!["a", "b", "c"], |name| id(name)).concat()
    }

    #[test]
    fn a_full_round_is_followed_by_those_behind_it() {
        let mut turns = Turns::default();
        assert_eq!(order(&turns), "abc");
        turns.end(Some(id("a")));
        assert_eq!(order(&turns), "bca");
        turns.end(Some(id("c")));
        assert_eq!(order(&turns), "abc");
        turns.end(Some(id("gone")));
        assert_eq!(order(&turns), "abc");
    }

    #[test]
    fn who_was_refused_lets_the_others_go_on() {
        let mut turns = Turns::default();
        turns.rest(id("a"));
        assert_eq!(order(&turns), "bc");
        turns.end(Some(id("a")));
        assert_eq!(order(&turns), "bc");
        assert!(turns.next_retry().is_some());
    }
}
