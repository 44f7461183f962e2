//! The subscription index against a plain list of filters.

use unibus_proto::sublist::{Handle, Matches, Sublist};

/// Tokens of filters; the last two are wildcards there. Long ones lie outside the index's small
/// nodes.
const TOKENS: [&str; 8] = [
    "a",
    "b",
    "c",
    "aa",
    "a-token-that-is-longer-than-a-node-has-room-for",
    "_INBOX",
    "*",
    ">",
];

const QUEUES: [Option<&str>; 4] = [None, None, Some("q"), Some("another-queue")];

/// Bounds memory and time for one input.
const STEPS_MAX: usize = 512;

struct Subscription {
    filter: String,
    queue: Option<&'static str>,
    id: usize,
    handle: Handle,
}

#[derive(Default)]
struct Pair {
    index: Sublist<usize>,
    list: Vec<Subscription>,
    matches: Matches<usize>,
}

/// Bytes are a script: subscribe, unsubscribe or publish, with subjects from a small alphabet.
pub fn sublist(data: &[u8]) {
    let mut script = data.iter().copied();
    let mut pair = Pair::default();
    for id in 0..STEPS_MAX {
        let Some(step) = script.next() else { break };
        match step % 4 {
            0 | 1 => pair.subscribe(&mut script, id),
            2 => pair.unsubscribe(usize::from(step / 4)),
            _ => pair.publish(&subject(&mut script)),
        }
    }
    while !pair.list.is_empty() {
        pair.unsubscribe(0);
    }
    assert!(pair.index.is_empty());
    assert_eq!(pair.index.nodes_in_use(), 0, "an empty index keeps nodes");
}

impl Pair {
    fn subscribe(&mut self, script: &mut impl Iterator<Item = u8>, id: usize) {
        let filter = filter(script);
        let queue = QUEUES[usize::from(script.next().unwrap_or(0)) % QUEUES.len()];
        let inserted = self
            .index
            .insert(filter.as_bytes(), queue.map(str::as_bytes), id);
        assert_eq!(self.index.find(filter.as_bytes()), Some(inserted.handle));
        let mut text = Vec::new();
        self.index.filter_of(inserted.handle, &mut text);
        assert_eq!(text, filter.as_bytes());
        self.list.push(Subscription {
            filter,
            queue,
            id,
            handle: inserted.handle,
        });
        assert_eq!(inserted.members, self.members_like(self.list.len() - 1));
        assert_eq!(self.index.len(), self.list.len());
    }

    fn unsubscribe(&mut self, choice: usize) {
        if self.list.is_empty() {
            return;
        }
        let at = choice % self.list.len();
        let left_expected = self.members_like(at) - 1;
        let gone = self.list.remove(at);
        let queue = gone.queue.map(str::as_bytes);
        let left = self.index.remove(gone.handle, queue, |&id| id == gone.id);
        assert_eq!(
            left,
            Some(left_expected),
            "{} {:?}",
            gone.filter,
            gone.queue
        );
    }

    /// How many subscriptions have the filter and queue of the one at `at`.
    fn members_like(&self, at: usize) -> usize {
        let one = &self.list[at];
        let same = |other: &&Subscription| other.filter == one.filter && other.queue == one.queue;
        self.list.iter().filter(same).count()
    }

    fn publish(&mut self, subject: &str) {
        self.matches.clear();
        self.index.matches(subject.as_bytes(), &mut self.matches);
        let mut plain = std::mem::take(&mut self.matches.plain);
        plain.sort_unstable();
        assert_eq!(
            plain,
            self.takers(subject, None),
            "plain takers of {subject}"
        );
        let mut names: Vec<_> = self
            .matches
            .queues
            .iter()
            .map(|(name, _)| name.to_vec())
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(
            names.len(),
            self.matches.queues.len(),
            "a queue is listed twice"
        );
        for queue in ["q", "another-queue"] {
            let found = self
                .matches
                .queues
                .iter()
                .find(|(name, _)| **name == *queue.as_bytes());
            let mut members = found
                .map(|(_, members)| members.clone())
                .unwrap_or_default();
            members.sort_unstable();
            let expected = self.takers(subject, Some(queue));
            assert_eq!(
                found.is_some(),
                !expected.is_empty(),
                "empty group for {subject}"
            );
            assert_eq!(members, expected, "{queue} of {subject}");
        }
        let any = self.list.iter().any(|one| takes(&one.filter, subject));
        assert_eq!(self.index.has_match(subject.as_bytes()), any, "{subject}");
    }

    fn takers(&self, subject: &str, queue: Option<&str>) -> Vec<usize> {
        let mut ids: Vec<usize> = self
            .list
            .iter()
            .filter(|one| one.queue == queue && takes(&one.filter, subject))
            .map(|one| one.id)
            .collect();
        ids.sort_unstable();
        ids
    }
}

/// Whether a filter takes a subject: obviously right, and slow.
fn takes(filter: &str, subject: &str) -> bool {
    let filter: Vec<&str> = filter.split('.').collect();
    let subject: Vec<&str> = subject.split('.').collect();
    if subject.contains(&"") {
        return false;
    }
    let open = filter.last() == Some(&">");
    let fixed = if open { filter.len() - 1 } else { filter.len() };
    if subject.len() < filter.len() || (!open && subject.len() > filter.len()) {
        return false;
    }
    (0..fixed).all(|i| filter[i] == "*" || filter[i] == subject[i])
}

/// One to six tokens; `>` only as the last one.
fn filter(script: &mut impl Iterator<Item = u8>) -> String {
    let mut tokens = words(script);
    let rest = tokens.iter().position(|&token| token == ">");
    if let Some(at) = rest {
        tokens.truncate(at + 1);
    }
    tokens.join(".")
}

/// One to six tokens, wildcards as literals, now and then an empty one.
fn subject(script: &mut impl Iterator<Item = u8>) -> String {
    let mut tokens = words(script);
    if script.next().unwrap_or(1) == 0 {
        tokens.push("");
    }
    tokens.join(".")
}

fn words(script: &mut impl Iterator<Item = u8>) -> Vec<&'static str> {
    let count = 1 + script.next().unwrap_or(0) % 6;
    (0..count)
        .map(|_| TOKENS[usize::from(script.next().unwrap_or(0)) % TOKENS.len()])
        .collect()
}
