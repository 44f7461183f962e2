//! Subjects of the JetStream API: `$JS.API.…` text → the request it names.
//!
//! Pure parsing. It never decides whether a stream exists or a caller may do something.

/// What every API subject starts with.
pub(super) const API_PREFIX: &str = "$JS.API.";

/// The request named by an API subject. Stream and consumer names are as written by the client and
/// not checked here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Endpoint<'a> {
    AccountInfo,
    StreamCreate(&'a str),
    StreamUpdate(&'a str),
    StreamNames,
    StreamList,
    StreamInfo(&'a str),
    StreamDelete(&'a str),
    StreamPurge(&'a str),
    StreamSnapshot(&'a str),
    StreamRestore(&'a str),
    MessageGet(&'a str),
    MessageDelete(&'a str),
    ConsumerCreate(ConsumerTarget<'a>),
    ConsumerInfo {
        stream: &'a str,
        consumer: &'a str,
    },
    ConsumerNames(&'a str),
    ConsumerList(&'a str),
    ConsumerDelete {
        stream: &'a str,
        consumer: &'a str,
    },
    ConsumerNext {
        stream: &'a str,
        consumer: &'a str,
    },
    ConsumerPause {
        stream: &'a str,
        consumer: &'a str,
    },
    ConsumerUnpin {
        stream: &'a str,
        consumer: &'a str,
    },
    ConsumerReset {
        stream: &'a str,
        consumer: &'a str,
    },
    ConsumerStepdown {
        stream: &'a str,
        consumer: &'a str,
    },
    DirectGet {
        stream: &'a str,
        subject: Option<&'a str>,
    },
    /// The stream's group is to be led by another node.
    StreamStepdown(&'a str),
    /// The cluster is to be led by another node.
    MetaStepdown,
    /// A request of nats-server that this version does not serve; carries its response type.
    Unsupported(&'static str),
    /// Not a request of the API at all.
    Unknown,
}

/// Which of the four ways to name a consumer a create request uses.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct ConsumerTarget<'a> {
    pub(super) stream: &'a str,
    /// The name in the subject: with the durable and the named forms.
    pub(super) name: Option<&'a str>,
    /// The filter in the subject: with the longest form only.
    pub(super) filter: Option<&'a str>,
    /// `CONSUMER.DURABLE.CREATE`.
    pub(super) durable: bool,
}

/// Reads an API subject. Anything that is not UTF-8 or not of the table is [`Endpoint::Unknown`].
pub(super) fn parse(subject: &[u8]) -> Endpoint<'_> {
    let Some(rest) = std::str::from_utf8(subject)
        .ok()
        .and_then(|text| text.strip_prefix(API_PREFIX))
    else {
        return Endpoint::Unknown;
    };
    match rest {
        "INFO" => return Endpoint::AccountInfo,
        "META.LEADER.STEPDOWN" => return Endpoint::MetaStepdown,
        "SERVER.REMOVE" => return Endpoint::Unsupported("meta_server_remove_response"),
        _ => {}
    }
    if let Some(rest) = rest.strip_prefix("STREAM.") {
        return stream_endpoint(rest);
    }
    if let Some(rest) = rest.strip_prefix("CONSUMER.") {
        return consumer_endpoint(rest);
    }
    match rest.strip_prefix("DIRECT.GET.") {
        Some(target) => match target.split_once('.') {
            Some((stream, subject)) => Endpoint::DirectGet {
                stream,
                subject: Some(subject),
            },
            None => Endpoint::DirectGet {
                stream: target,
                subject: None,
            },
        },
        None => Endpoint::Unknown,
    }
}

fn stream_endpoint(rest: &str) -> Endpoint<'_> {
    match rest {
        "NAMES" => return Endpoint::StreamNames,
        "LIST" => return Endpoint::StreamList,
        _ => {}
    }
    let Some((verb, target)) = rest.split_once('.') else {
        return Endpoint::Unknown;
    };
    let (verb, stream) = match (verb, target.split_once('.')) {
        ("MSG", Some((verb @ ("GET" | "DELETE"), stream))) => (verb, stream),
        ("LEADER", Some(("STEPDOWN", stream))) if !stream.contains('.') => {
            return Endpoint::StreamStepdown(stream);
        }
        ("PEER", Some(("REMOVE", _))) => {
            return Endpoint::Unsupported("stream_remove_peer_response");
        }
        (_, Some(_)) => return Endpoint::Unknown,
        (verb, None) => {
            return match verb {
                "CREATE" => Endpoint::StreamCreate(target),
                "UPDATE" => Endpoint::StreamUpdate(target),
                "INFO" => Endpoint::StreamInfo(target),
                "DELETE" => Endpoint::StreamDelete(target),
                "PURGE" => Endpoint::StreamPurge(target),
                "SNAPSHOT" => Endpoint::StreamSnapshot(target),
                "RESTORE" => Endpoint::StreamRestore(target),
                _ => Endpoint::Unknown,
            };
        }
    };
    if stream.contains('.') {
        return Endpoint::Unknown;
    }
    match verb {
        "GET" => Endpoint::MessageGet(stream),
        _ => Endpoint::MessageDelete(stream),
    }
}

fn consumer_endpoint(rest: &str) -> Endpoint<'_> {
    if let Some(target) = rest.strip_prefix("CREATE.") {
        return Endpoint::ConsumerCreate(create_target(target));
    }
    if let Some(target) = rest.strip_prefix("DURABLE.CREATE.") {
        return match pair(target) {
            Some((stream, name)) => Endpoint::ConsumerCreate(ConsumerTarget {
                stream,
                name: Some(name),
                filter: None,
                durable: true,
            }),
            None => Endpoint::Unknown,
        };
    }
    if let Some(target) = rest.strip_prefix("MSG.NEXT.") {
        return match pair(target) {
            Some((stream, consumer)) => Endpoint::ConsumerNext { stream, consumer },
            None => Endpoint::Unknown,
        };
    }
    if let Some(target) = rest.strip_prefix("LEADER.STEPDOWN.") {
        return match pair(target) {
            Some((stream, consumer)) => Endpoint::ConsumerStepdown { stream, consumer },
            None => Endpoint::Unknown,
        };
    }
    let Some((verb, target)) = rest.split_once('.') else {
        return Endpoint::Unknown;
    };
    match (verb, pair(target)) {
        ("INFO", Some((stream, consumer))) => Endpoint::ConsumerInfo { stream, consumer },
        ("DELETE", Some((stream, consumer))) => Endpoint::ConsumerDelete { stream, consumer },
        ("PAUSE", Some((stream, consumer))) => Endpoint::ConsumerPause { stream, consumer },
        ("UNPIN", Some((stream, consumer))) => Endpoint::ConsumerUnpin { stream, consumer },
        ("RESET", Some((stream, consumer))) => Endpoint::ConsumerReset { stream, consumer },
        ("NAMES", None) if !target.contains('.') => Endpoint::ConsumerNames(target),
        ("LIST", None) if !target.contains('.') => Endpoint::ConsumerList(target),
        _ => Endpoint::Unknown,
    }
}

/// `<stream>`, `<stream>.<name>` or `<stream>.<name>.<filter…>`; a filter has any number of tokens.
fn create_target(target: &str) -> ConsumerTarget<'_> {
    let mut parts = target.splitn(3, '.');
    ConsumerTarget {
        stream: parts.next().unwrap_or_default(),
        name: parts.next(),
        filter: parts.next(),
        durable: false,
    }
}

/// Exactly two tokens.
fn pair(target: &str) -> Option<(&str, &str)> {
    let (first, second) = target.split_once('.')?;
    (!second.contains('.')).then_some((first, second))
}

#[cfg(test)]
mod tests {
    use super::{ConsumerTarget, Endpoint, parse};

    #[test]
    fn stream_requests() {
        assert_eq!(parse(b"$JS.API.INFO"), Endpoint::AccountInfo);
        assert_eq!(
            parse(b"$JS.API.STREAM.CREATE.S"),
            Endpoint::StreamCreate("S")
        );
        assert_eq!(
            parse(b"$JS.API.STREAM.UPDATE.S"),
            Endpoint::StreamUpdate("S")
        );
        assert_eq!(parse(b"$JS.API.STREAM.NAMES"), Endpoint::StreamNames);
        assert_eq!(parse(b"$JS.API.STREAM.LIST"), Endpoint::StreamList);
        assert_eq!(
            parse(b"$JS.API.STREAM.INFO.KV_b"),
            Endpoint::StreamInfo("KV_b")
        );
        assert_eq!(
            parse(b"$JS.API.STREAM.MSG.GET.S"),
            Endpoint::MessageGet("S")
        );
        assert_eq!(
            parse(b"$JS.API.STREAM.MSG.DELETE.S"),
            Endpoint::MessageDelete("S")
        );
        assert_eq!(parse(b"$JS.API.STREAM.MSG.GET.S.x"), Endpoint::Unknown);
        assert_eq!(parse(b"$JS.API.STREAM.INFO.a.b"), Endpoint::Unknown);
    }

    #[test]
    fn consumer_create_has_four_forms() {
        let target = |stream, name, filter, durable| {
            Endpoint::ConsumerCreate(ConsumerTarget {
                stream,
                name,
                filter,
                durable,
            })
        };
        assert_eq!(
            parse(b"$JS.API.CONSUMER.CREATE.S"),
            target("S", None, None, false)
        );
        assert_eq!(
            parse(b"$JS.API.CONSUMER.CREATE.S.c"),
            target("S", Some("c"), None, false)
        );
        assert_eq!(
            parse(b"$JS.API.CONSUMER.CREATE.KV_b.c.$KV.b.*.>"),
            target("KV_b", Some("c"), Some("$KV.b.*.>"), false)
        );
        assert_eq!(
            parse(b"$JS.API.CONSUMER.DURABLE.CREATE.S.d"),
            target("S", Some("d"), None, true)
        );
    }

    #[test]
    fn consumer_and_direct_requests() {
        assert_eq!(
            parse(b"$JS.API.CONSUMER.INFO.S.c"),
            Endpoint::ConsumerInfo {
                stream: "S",
                consumer: "c"
            }
        );
        assert_eq!(
            parse(b"$JS.API.CONSUMER.MSG.NEXT.S.c"),
            Endpoint::ConsumerNext {
                stream: "S",
                consumer: "c"
            }
        );
        assert_eq!(
            parse(b"$JS.API.CONSUMER.NAMES.S"),
            Endpoint::ConsumerNames("S")
        );
        assert_eq!(
            parse(b"$JS.API.DIRECT.GET.KV_b.$KV.b.k"),
            Endpoint::DirectGet {
                stream: "KV_b",
                subject: Some("$KV.b.k")
            }
        );
        assert_eq!(
            parse(b"$JS.API.DIRECT.GET.KV_b"),
            Endpoint::DirectGet {
                stream: "KV_b",
                subject: None
            }
        );
    }

    #[test]
    fn the_rest_is_unknown_or_unsupported() {
        assert_eq!(
            parse(b"$JS.API.STREAM.LEADER.STEPDOWN.S"),
            Endpoint::StreamStepdown("S")
        );
        assert_eq!(
            parse(b"$JS.API.META.LEADER.STEPDOWN"),
            Endpoint::MetaStepdown
        );
        assert_eq!(parse(b"$JS.API.NOPE"), Endpoint::Unknown);
        assert_eq!(parse(b"$JS.API.STREAM"), Endpoint::Unknown);
        assert_eq!(parse(b"$JS.API.STREAM.\xff"), Endpoint::Unknown);
        assert_eq!(
            parse(b"$JS.API.STREAM.SNAPSHOT.S"),
            Endpoint::StreamSnapshot("S")
        );
        assert_eq!(
            parse(b"$JS.API.STREAM.RESTORE.S"),
            Endpoint::StreamRestore("S")
        );
        assert_eq!(
            parse(b"$JS.API.CONSUMER.PAUSE.S.c"),
            Endpoint::ConsumerPause {
                stream: "S",
                consumer: "c"
            }
        );
    }
}
