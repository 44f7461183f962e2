//! What a client may publish to and subscribe to.
//!
//! Owns the decision (nats-surface §1.12) as a pure function of filters. Must never know who the client
//! is or where the filters came from.

mod deliveries;
mod filters;

use std::time::Duration;

pub use deliveries::{DeliveryRule, Reading};
pub use filters::Filters;

use crate::subject::{SubjectError, SubjectFilter, has_wildcard, is_subset, matches};

/// Both directions. `Default` allows everything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Permissions {
    /// For PUB and HPUB.
    pub publish: SubjectSet,
    /// For SUB.
    pub subscribe: SubjectSet,
    /// Answers to delivered requests, besides `publish`; `None` = none.
    pub responses: Option<ResponseRule>,
    /// For what consumers deliver, besides `subscribe`; `None` = as in nats-server, who may subscribe
    /// gets it.
    pub deliveries: Option<DeliveryRule>,
}

/// `allow_responses`: a client may publish to the reply subject of a message that it was delivered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ResponseRule {
    /// Answers to one request; `None` = any number.
    pub max_msgs: Option<u32>,
    /// How long after the request; `None` = as long as the connection lives.
    pub expires: Option<Duration>,
}

impl Default for ResponseRule {
    /// One answer within two minutes, as in nats-server.
    fn default() -> Self {
        Self {
            max_msgs: Some(1),
            expires: Some(Duration::from_secs(120)),
        }
    }
}

/// A set of subjects: what `allow` selects, less what `deny` selects.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SubjectSet {
    /// `None` = every subject; an empty list = none.
    pub allow: Option<Filters>,
    /// Subscriptions allowed besides `allow`, where each `*` of a rule stands for one LITERAL token:
    /// `_INBOX.*.>` lets `_INBOX.abc.>` through and neither `_INBOX.*.>` nor `_INBOX.>`, which would
    /// harvest what is meant for others. Publishing takes no notice of it.
    pub allow_literal: Filters,
    /// Wins over all that is allowed.
    pub deny: Filters,
    /// Queue groups that may be joined: where a rule's subject covers the filter, the queue has to
    /// match such a rule, whatever `allow` says; plain subscriptions go by `allow` alone.
    pub allow_queues: Vec<QueueRule>,
    /// Queue subscriptions refused. Wins over both allow lists.
    pub deny_queues: Vec<QueueRule>,
}

/// `"subject queue"` in NATS configuration; both parts may have wildcards.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueueRule {
    /// The subscribed filter has to be within this one.
    pub subject: SubjectFilter,
    /// The queue name has to match this one.
    pub queue: SubjectFilter,
}

impl QueueRule {
    /// `"subject queue"`.
    ///
    /// # Errors
    /// When one of the two is no filter.
    pub fn new(subject: &str, queue: &str) -> Result<Self, SubjectError> {
        Ok(Self {
            subject: subject.parse()?,
            queue: queue.parse()?,
        })
    }

    fn is_for(&self, queue: &[u8]) -> bool {
        let rule = self.queue.as_bytes();
        rule == queue || matches(rule, queue)
    }
}

impl Permissions {
    /// Everything is allowed.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Nothing is allowed.
    #[must_use]
    pub fn none() -> Self {
        Self {
            publish: SubjectSet::none(),
            subscribe: SubjectSet::none(),
            ..Self::default()
        }
    }

    /// Whether the literal `subject` may be published to.
    #[must_use]
    pub fn can_publish(&self, subject: &[u8]) -> bool {
        self.publish.contains(subject)
    }

    /// Whether `filter` may be subscribed to. A wildcard filter that only overlaps a deny is allowed;
    /// [`Self::delivery_denied`] then decides for each message.
    #[must_use]
    pub fn can_subscribe(&self, filter: &[u8], queue: Option<&[u8]>) -> bool {
        let set = &self.subscribe;
        let about = |rule: &&QueueRule| is_subset(filter, rule.subject.as_bytes());
        let mut rules = set.allow_queues.iter().filter(about).peekable();
        let allowed = match queue {
            Some(queue) if rules.peek().is_some() => rules.any(|rule| rule.is_for(queue)),
            _ => {
                set.allow.as_ref().is_none_or(|allow| allow.covers(filter))
                    || set.allow_literal.covers_literally(filter)
            }
        };
        let refuses = |queue| {
            set.deny_queues
                .iter()
                .filter(about)
                .any(|r| r.is_for(queue))
        };
        // nats-server lets a queue rule in a deny list lift the plain denies of the same subject; a
        // deny that is written down holds here.
        allowed && !set.deny.covers(filter) && !queue.is_some_and(refuses)
    }

    /// Whether deliveries to a subscription with `filter` have to be checked one by one.
    #[must_use]
    pub fn needs_delivery_check(&self, filter: &[u8]) -> bool {
        has_wildcard(filter) && self.subscribe.deny.collides(filter)
    }

    /// Whether a message with the literal `subject` must not reach this client's wildcard subscription.
    #[must_use]
    pub fn delivery_denied(&self, subject: &[u8]) -> bool {
        self.subscribe.deny.matches(subject)
    }
}

impl SubjectSet {
    /// Every subject.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// No subject.
    #[must_use]
    pub fn none() -> Self {
        Self::allowing(Vec::new())
    }

    /// Only what these filters select.
    #[must_use]
    pub fn allowing(allow: Vec<SubjectFilter>) -> Self {
        Self {
            allow: Some(allow.into()),
            ..Self::default()
        }
    }

    /// Everything but what these filters select.
    #[must_use]
    pub fn denying(deny: Vec<SubjectFilter>) -> Self {
        Self {
            deny: deny.into(),
            ..Self::default()
        }
    }

    /// Whether the set has the literal `subject`.
    #[must_use]
    pub fn contains(&self, subject: &[u8]) -> bool {
        self.allow
            .as_ref()
            .is_none_or(|allow| allow.matches(subject))
            && !self.deny.matches(subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(list: &[&str]) -> Vec<SubjectFilter> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn subscriber(allow: &[&str], deny: &[&str]) -> Permissions {
        let subscribe = SubjectSet {
            deny: filters(deny).into(),
            ..SubjectSet::allowing(filters(allow))
        };
        Permissions {
            subscribe,
            ..Permissions::all()
        }
    }

    #[test]
    fn deny_wins_over_allow() {
        let mut set = SubjectSet::allowing(filters(&["a.>"]));
        set.deny = filters(&["a.secret.*"]).into();
        let permissions = Permissions {
            publish: set,
            ..Permissions::all()
        };
        assert!(permissions.can_publish(b"a.b"));
        assert!(!permissions.can_publish(b"a.secret.x"));
        assert!(!permissions.can_publish(b"b"));
        assert!(Permissions::all().can_publish(b"anything"));
        assert!(!Permissions::none().can_publish(b"anything"));
    }

    #[test]
    fn a_subscription_has_to_be_within_what_is_allowed() {
        let permissions = subscriber(&["a.*", "b.>"], &[]);
        for good in ["a.b", "a.*", "b.x.y", "b.>", "b.*.c"] {
            assert!(permissions.can_subscribe(good.as_bytes(), None), "{good}");
        }
        for bad in ["a.>", ">", "*.b", "a", "b", "c"] {
            assert!(!permissions.can_subscribe(bad.as_bytes(), None), "{bad}");
        }
    }

    #[test]
    fn an_overlap_with_a_deny_is_filtered_at_delivery() {
        let permissions = subscriber(&[">"], &["a.secret"]);
        assert!(permissions.can_subscribe(b"a.*", None));
        assert!(permissions.needs_delivery_check(b"a.*"));
        assert!(!permissions.needs_delivery_check(b"b.*"));
        assert!(!permissions.can_subscribe(b"a.secret", None));
        assert!(permissions.delivery_denied(b"a.secret"));
        assert!(!permissions.delivery_denied(b"a.open"));
    }

    #[test]
    fn a_literal_rule_admits_inboxes_and_no_harvest() {
        let mut permissions = subscriber(&["a"], &["_INBOX.denied.>"]);
        permissions.subscribe.allow_literal = filters(&["_INBOX.*", "_INBOX.*.>"]).into();
        for good in [
            "a",
            "_INBOX.x",
            "_INBOX.x.*",
            "_INBOX.x.>",
            "_INBOX.x.*.1",
            "_INBOX.x.1.2",
            "_INBOX.x*",
        ] {
            assert!(permissions.can_subscribe(good.as_bytes(), None), "{good}");
            assert!(
                permissions.can_subscribe(good.as_bytes(), Some(b"q")),
                "{good}"
            );
        }
        for bad in [
            ">",
            "*",
            "*.>",
            "*.x",
            "*.x.>",
            "*.*.>",
            "_INBOX",
            "_INBOX.>",
            "_INBOX.*",
            "_INBOX.*.>",
            "_INBOX.*.*",
            "_INBOX.*.1",
            "_INBOX.",
            "_INBOX..>",
            "_INBOX.denied.1",
            "_INBOX.denied.>",
            "_INBOXES.x",
            "_inbox.x",
            "b",
        ] {
            assert!(!permissions.can_subscribe(bad.as_bytes(), None), "{bad}");
            assert!(
                !permissions.can_subscribe(bad.as_bytes(), Some(b"q")),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_literal_rule_says_nothing_about_publishing() {
        let mut set = SubjectSet::none();
        set.allow_literal = filters(&["_INBOX.*", "_INBOX.*.>"]).into();
        assert!(!set.contains(b"_INBOX.x") && !set.contains(b"_INBOX.x.1"));
    }

    #[test]
    fn queue_rules_say_which_groups_may_be_joined() {
        let mut permissions = subscriber(&["a", "c"], &["c.secret"]);
        let rule = |subject: &str, queue: &str| QueueRule::new(subject, queue).unwrap();
        permissions.subscribe.allow_queues = vec![
            rule("b.>", "dev.*"),
            rule("c", "v1"),
            rule("c", "v1.>"),
            rule("c", "*.dev"),
        ];
        permissions.subscribe.deny_queues = vec![rule("a", "prod"), rule("c.>", "x")];
        for (filter, queue) in [
            ("b.x", "dev.1"),
            ("a", "dev.1"),
            ("c", "v1"),
            ("c", "v1.2.3"),
            ("c", "blue.dev"),
        ] {
            assert!(permissions.can_subscribe(filter.as_bytes(), Some(queue.as_bytes())));
        }
        for (filter, queue) in [
            ("b.x", "ops"),
            ("a", "prod"),
            // Allowed as such, but only these groups may be joined.
            ("c", "prod"),
            // The plain deny holds although another queue is named beside it.
            ("c.secret", "y"),
        ] {
            assert!(!permissions.can_subscribe(filter.as_bytes(), Some(queue.as_bytes())));
        }
        assert!(!permissions.can_subscribe(b"b.x", None) && permissions.can_subscribe(b"c", None));
    }
}
