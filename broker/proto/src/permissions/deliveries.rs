//! Who may have what a consumer delivers: the right to read, asked at the moment of delivery.

use smallvec::SmallVec;

use super::{Filters, Permissions};

/// What the names of inboxes begin with, those with a prefix of their client's choice too.
const INBOXES: &[u8] = b"_INBOX";

/// Bytes of a request's subject that need no allocation.
const REQUEST_INLINE: usize = 256;

/// What one may ask who may read everything that the consumer delivers; the consumer's name follows.
const OF_CONSUMER: [&[u8]; 3] = [
    b"$JS.API.CONSUMER.MSG.NEXT.",
    b"$JS.API.CONSUMER.CREATE.",
    b"$JS.API.CONSUMER.DURABLE.CREATE.",
];

/// What one may ask who may read the whole stream; its name follows.
const OF_STREAM: [&[u8]; 3] = [
    b"$JS.API.CONSUMER.CREATE.",
    b"$JS.API.STREAM.MSG.GET.",
    b"$JS.API.DIRECT.GET.",
];

/// Requests of those who may read some subjects of a stream: before a consumer's name and the subject,
/// and before the stream's name and the subject.
const SOME_BY_CONSUMER: &[u8] = b"$JS.API.CONSUMER.CREATE.";
const SOME_BY_STREAM: &[u8] = b"$JS.API.DIRECT.GET.";

/// A consumer outlives the grant of whoever made it, and anybody may listen on an inbox. Where this rule
/// holds, what a consumer delivers reaches only those who may read it then; `named` are the subjects
/// that were granted by name, where the grant is enough (workers that only listen).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DeliveryRule {
    /// Subscriptions within these are not looked at, unless they are inboxes.
    pub named: Filters,
}

/// What somebody may read of what a consumer delivers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reading {
    /// Whatever it delivers.
    All,
    /// The message in question; the next one may differ.
    This,
    /// Not this one.
    Nothing,
}

impl Permissions {
    /// Whether what consumers deliver to a subscription with `filter` has to be looked at, one by one.
    #[must_use]
    pub fn guards_deliveries(&self, filter: &[u8]) -> bool {
        self.deliveries
            .as_ref()
            .is_some_and(|rule| filter.starts_with(INBOXES) || !rule.named.covers(filter))
    }

    /// What may be read of what the consumer `names` (`<stream>.<consumer>`) delivers, `subject` being
    /// that of the message in hand: as much as could be asked for.
    #[must_use]
    pub fn reading(&self, names: &[u8], subject: &[u8]) -> Reading {
        let dot = names.iter().position(|byte| *byte == b'.');
        let stream = &names[..dot.unwrap_or(names.len())];
        let may = |parts: &[&[u8]]| {
            let mut request: SmallVec<[u8; REQUEST_INLINE]> = SmallVec::new();
            for part in parts {
                request.extend_from_slice(part);
            }
            self.can_publish(&request)
        };
        if OF_CONSUMER.iter().any(|request| may(&[request, names]))
            || OF_STREAM.iter().any(|request| may(&[request, stream]))
        {
            Reading::All
        } else if may(&[SOME_BY_CONSUMER, names, b".", subject])
            || may(&[SOME_BY_STREAM, stream, b".", subject])
        {
            Reading::This
        } else {
            Reading::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DeliveryRule, Reading};
    use crate::permissions::{Permissions, SubjectSet};

    fn publisher(allow: &[&str]) -> Permissions {
        let allow = allow.iter().map(|text| text.parse().unwrap()).collect();
        Permissions {
            publish: SubjectSet::allowing(allow),
            ..Permissions::all()
        }
    }

    #[test]
    fn who_may_ask_may_read() {
        for (grant, reading) in [
            ("$JS.API.CONSUMER.MSG.NEXT.S.>", Reading::All),
            ("$JS.API.CONSUMER.MSG.NEXT.S.c", Reading::All),
            ("$JS.API.CONSUMER.CREATE.S", Reading::All),
            ("$JS.API.CONSUMER.CREATE.S.>", Reading::All),
            ("$JS.API.CONSUMER.DURABLE.CREATE.S.c", Reading::All),
            ("$JS.API.STREAM.MSG.GET.S", Reading::All),
            ("$JS.API.DIRECT.GET.S", Reading::All),
            ("$JS.API.>", Reading::All),
            (">", Reading::All),
            ("$JS.API.CONSUMER.CREATE.S.*.a.>", Reading::This),
            ("$JS.API.CONSUMER.CREATE.S.c.a.b", Reading::This),
            ("$JS.API.DIRECT.GET.S.a.*", Reading::This),
            ("$JS.API.CONSUMER.CREATE.S.*.b.>", Reading::Nothing),
            ("$JS.API.CONSUMER.MSG.NEXT.S.other", Reading::Nothing),
            ("$JS.API.CONSUMER.MSG.NEXT.OTHER.>", Reading::Nothing),
            ("$JS.API.CONSUMER.CREATE.OTHER.S.>", Reading::Nothing),
            ("$JS.API.STREAM.INFO.S", Reading::Nothing),
            ("$JS.ACK.S.>", Reading::Nothing),
            ("a.>", Reading::Nothing),
        ] {
            assert_eq!(
                publisher(&[grant]).reading(b"S.c", b"a.b"),
                reading,
                "{grant}"
            );
        }
        let mut denied = publisher(&[">"]);
        denied.publish.deny = vec!["$JS.API.*.*.S.>", "$JS.API.*.*.*.S", "$JS.API.*.*.S"]
            .into_iter()
            .chain(["$JS.API.*.*.*.S.>"])
            .map(|text| text.parse().unwrap())
            .collect();
        assert_eq!(denied.reading(b"S.c", b"a.b"), Reading::Nothing);
        assert_eq!(denied.reading(b"T.c", b"a.b"), Reading::All);
    }

    #[test]
    fn names_that_are_none_are_nobodys() {
        let one = publisher(&["$JS.API.CONSUMER.MSG.NEXT.S.>"]);
        for names in ["", ".", "S", "S.", ".c"] {
            assert_eq!(
                one.reading(names.as_bytes(), b"a"),
                Reading::Nothing,
                "{names}"
            );
        }
    }

    #[test]
    fn inboxes_are_looked_at_and_subjects_granted_by_name_are_not() {
        let mut permissions = Permissions::all();
        assert!(!permissions.guards_deliveries(b"_INBOX.a"));
        let named = ["work.>", "_INBOX_own.>"];
        permissions.deliveries = Some(DeliveryRule {
            named: named.iter().map(|text| text.parse().unwrap()).collect(),
        });
        for guarded in [
            "_INBOX.a",
            "_INBOX.a.>",
            "_INBOX_own.a",
            "room.a",
            ">",
            "*.a",
        ] {
            assert!(
                permissions.guards_deliveries(guarded.as_bytes()),
                "{guarded}"
            );
        }
        for free in ["work.a", "work.*", "work.>"] {
            assert!(!permissions.guards_deliveries(free.as_bytes()), "{free}");
        }
    }
}
