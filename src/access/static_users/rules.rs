//! From permissions as they are written to [`Permissions`] (nats-surface §1.12): a pure function that
//! says which entry is wrong. Knows nobody's name.

use thiserror::Error;
use unibus_proto::permissions::{Permissions, QueueRule, ResponseRule, SubjectSet};
use unibus_proto::subject::SubjectFilter;

use crate::config::auth::{PermissionRules, SubjectRules};

/// Most entries of one list, so that a generated configuration can't make each publish slow.
const ENTRIES_MAX: usize = 10_000;

/// Why permissions are of no use.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
pub enum RuleError {
    /// It is no subject.
    #[error(
        "{list} has {entry:?}, which is no subject; wanted tokens with '.' between them, '*' for one token, '>' at the end"
    )]
    Subject {
        /// `publish.allow` or another.
        list: &'static str,
        /// The entry.
        entry: String,
    },
    /// A queue where there is none.
    #[error("{list} has {entry:?} with a queue group; only subscriptions have one")]
    Queue {
        /// `publish.allow` or another.
        list: &'static str,
        /// The entry.
        entry: String,
    },
    /// Too many.
    #[error("{list} has {found} entries; at most {ENTRIES_MAX} are accepted")]
    TooMany {
        /// `publish.allow` or another.
        list: &'static str,
        /// How many there are.
        found: usize,
    },
}

/// What the rules allow. Without rules everything is.
pub(super) fn permissions(rules: Option<&PermissionRules>) -> Result<Permissions, RuleError> {
    let Some(rules) = rules else {
        return Ok(Permissions::all());
    };
    let mut publish = publish(&rules.publish)?;
    if rules.allow_responses.is_some() && publish.allow.is_none() {
        // Who may answer is a service: besides its answers it publishes what is named only.
        publish.allow = Some(Vec::new().into());
    }
    let responses = rules.allow_responses.map(|rule| ResponseRule {
        max_msgs: rule.max,
        expires: rule.expires,
    });
    Ok(Permissions {
        publish,
        subscribe: subscribe(&rules.subscribe)?,
        responses,
        deliveries: None,
    })
}

fn publish(rules: &SubjectRules) -> Result<SubjectSet, RuleError> {
    let plain = |list: &'static str, entries: &[String]| -> Result<Vec<SubjectFilter>, RuleError> {
        let parsed = parse_all(list, entries)?;
        if let Some(at) = parsed.iter().position(|(_, queue)| queue.is_some()) {
            let entry = entries[at].clone();
            return Err(RuleError::Queue { list, entry });
        }
        Ok(parsed.into_iter().map(|(subject, _)| subject).collect())
    };
    let allow = match &rules.allow {
        Some(entries) => Some(plain("publish.allow", entries)?.into()),
        None => None,
    };
    Ok(SubjectSet {
        allow,
        deny: plain("publish.deny", &rules.deny)?.into(),
        ..SubjectSet::all()
    })
}

fn subscribe(rules: &SubjectRules) -> Result<SubjectSet, RuleError> {
    let mut set = SubjectSet::all();
    if let Some(entries) = &rules.allow {
        let (subjects, queues) = split(parse_all("subscribe.allow", entries)?);
        set.allow = Some(subjects.into());
        set.allow_queues = queues;
    }
    let (subjects, queues) = split(parse_all("subscribe.deny", &rules.deny)?);
    set.deny = subjects.into();
    set.deny_queues = queues;
    Ok(set)
}

type Entry = (SubjectFilter, Option<SubjectFilter>);

fn split(entries: Vec<Entry>) -> (Vec<SubjectFilter>, Vec<QueueRule>) {
    let (mut subjects, mut queues) = (Vec::new(), Vec::new());
    for (subject, queue) in entries {
        match queue {
            None => subjects.push(subject),
            Some(queue) => queues.push(QueueRule { subject, queue }),
        }
    }
    (subjects, queues)
}

fn parse_all(list: &'static str, entries: &[String]) -> Result<Vec<Entry>, RuleError> {
    if entries.len() > ENTRIES_MAX {
        let found = entries.len();
        return Err(RuleError::TooMany { list, found });
    }
    entries.iter().map(|entry| parse(list, entry)).collect()
}

fn parse(list: &'static str, entry: &str) -> Result<Entry, RuleError> {
    let wrong = || RuleError::Subject {
        list,
        entry: entry.to_owned(),
    };
    let mut words = entry.split_ascii_whitespace();
    let mut next = || -> Result<Option<SubjectFilter>, RuleError> {
        words
            .next()
            .map(|word| word.parse().map_err(|_| wrong()))
            .transpose()
    };
    let subject = next()?.ok_or_else(wrong)?;
    let queue = next()?;
    match next()? {
        None => Ok((subject, queue)),
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect()
    }

    fn rules(allow: Option<&[&str]>, deny: &[&str]) -> SubjectRules {
        SubjectRules {
            allow: allow.map(list),
            deny: list(deny),
        }
    }

    #[test]
    fn no_rules_allow_everything_and_an_empty_list_nothing() {
        assert_eq!(permissions(None).unwrap(), Permissions::all());
        let empty = permissions(Some(&PermissionRules::default())).unwrap();
        assert!(empty.can_publish(b"a") && empty.can_subscribe(b">", None));
        let none = permissions(Some(&PermissionRules {
            publish: rules(Some(&[]), &[]),
            subscribe: rules(Some(&[]), &[]),
            allow_responses: None,
        }));
        let none = none.unwrap();
        assert!(!none.can_publish(b"a") && !none.can_subscribe(b"a", None));
    }

    #[test]
    fn both_directions_and_queues_are_read() {
        let permissions = permissions(Some(&PermissionRules {
            publish: rules(Some(&["a.*", "b.>"]), &["a.secret"]),
            subscribe: rules(Some(&["in.>", "work dev.*"]), &["in.x", "in.> prod"]),
            allow_responses: None,
        }));
        let permissions = permissions.unwrap();
        assert!(permissions.can_publish(b"a.b") && permissions.can_publish(b"b.c.d"));
        assert!(!permissions.can_publish(b"a.secret") && !permissions.can_publish(b"c"));
        assert!(permissions.can_subscribe(b"in.y", None));
        assert!(!permissions.can_subscribe(b"in.x", None));
        assert!(!permissions.can_subscribe(b"in.y", Some(b"prod")));
        assert!(permissions.can_subscribe(b"work", Some(b"dev.1")));
        assert!(!permissions.can_subscribe(b"work", None));
    }

    #[test]
    fn allowing_responses_takes_the_blanket_permission_to_publish() {
        let responder = permissions(Some(&PermissionRules {
            allow_responses: Some(crate::config::auth::ResponseRule::default()),
            ..PermissionRules::default()
        }));
        let responder = responder.unwrap();
        assert!(!responder.can_publish(b"a") && responder.responses.is_some());
    }

    #[test]
    fn an_entry_that_is_none_is_named() {
        let bad = |publish: SubjectRules| {
            permissions(Some(&PermissionRules {
                publish,
                ..PermissionRules::default()
            }))
            .unwrap_err()
            .to_string()
        };
        assert!(bad(rules(Some(&["a..b"]), &[])).contains("publish.allow has \"a..b\""));
        assert!(bad(rules(None, &["a b c"])).contains("publish.deny has \"a b c\""));
        assert!(bad(rules(None, &[" "])).contains("no subject"));
        assert!(bad(rules(None, &["a q"])).contains("queue group"));
    }
}
