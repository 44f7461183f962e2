//! Answers that a client owes: where it may publish to because it was asked there (`allow_responses`).
//!
//! Owns the reply subjects that were delivered to one connection, bounded by number and age. Must never
//! know what else the client may do.

use std::collections::HashMap;

use unibus_proto::permissions::ResponseRule;

/// Requests of one connection that may be open at once, as in nats-server; the oldest half goes first.
const REPLIES_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) struct Replies {
    rule: ResponseRule,
    known: HashMap<Box<[u8]>, Reply>,
}

#[derive(Copy, Clone, Debug)]
struct Reply {
    /// When it was asked for, in [`crate::clock`] nanoseconds.
    asked: u64,
    answers: u32,
}

impl Replies {
    pub(crate) fn new(rule: ResponseRule) -> Self {
        Self {
            rule,
            known: HashMap::new(),
        }
    }

    pub(crate) const fn set_rule(&mut self, rule: ResponseRule) {
        self.rule = rule;
    }

    /// A message with this reply subject was delivered.
    pub(crate) fn ask(&mut self, reply: &[u8], now: u64) {
        if self.known.len() >= REPLIES_MAX {
            self.make_room(now);
        }
        let reply = Box::from(reply);
        self.known.insert(
            reply,
            Reply {
                asked: now,
                answers: 0,
            },
        );
    }

    /// Whether one more answer may go to `subject`; counts it.
    pub(crate) fn answer(&mut self, subject: &[u8], now: u64) -> bool {
        let rule = self.rule;
        let Some(reply) = self.known.get_mut(subject) else {
            return false;
        };
        reply.answers = reply.answers.saturating_add(1);
        let over = rule.max_msgs.is_some_and(|max| reply.answers > max);
        if over || is_late(rule, *reply, now) {
            self.known.remove(subject);
            return false;
        }
        true
    }

    fn make_room(&mut self, now: u64) {
        let rule = self.rule;
        self.known.retain(|_, reply| !is_late(rule, *reply, now));
        if self.known.len() < REPLIES_MAX {
            return;
        }
        let mut ages: Vec<u64> = self.known.values().map(|reply| reply.asked).collect();
        let middle = ages.len() / 2;
        let (_, &mut median, _) = ages.select_nth_unstable(middle);
        self.known.retain(|_, reply| reply.asked > median);
    }
}

fn is_late(rule: ResponseRule, reply: Reply, now: u64) -> bool {
    let age = u128::from(now.saturating_sub(reply.asked));
    rule.expires.is_some_and(|longest| age > longest.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const RULE: ResponseRule = ResponseRule {
        max_msgs: Some(2),
        expires: Some(Duration::from_nanos(100)),
    };

    #[test]
    fn answers_are_counted_and_expire() {
        let mut replies = Replies::new(RULE);
        assert!(!replies.answer(b"r", 0));
        replies.ask(b"r", 10);
        assert!(replies.answer(b"r", 20) && replies.answer(b"r", 110));
        assert!(!replies.answer(b"r", 20), "the third");
        replies.ask(b"r", 200);
        assert!(!replies.answer(b"r", 301), "late");
    }

    #[test]
    fn asked_again_counts_anew() {
        let mut replies = Replies::new(RULE);
        replies.ask(b"r", 1);
        assert!(replies.answer(b"r", 1) && replies.answer(b"r", 1));
        replies.ask(b"r", 2);
        assert!(replies.answer(b"r", 2));
    }

    #[test]
    fn many_open_requests_push_out_the_oldest() {
        let mut replies = Replies::new(ResponseRule {
            max_msgs: None,
            expires: None,
        });
        for at in 0..(3 * REPLIES_MAX as u64) {
            replies.ask(format!("r{at}").as_bytes(), at);
            assert!(replies.known.len() <= REPLIES_MAX);
        }
        assert!(!replies.answer(b"r0", 0));
        let last = format!("r{}", 3 * REPLIES_MAX - 1);
        assert!(replies.answer(last.as_bytes(), u64::MAX));
    }
}
