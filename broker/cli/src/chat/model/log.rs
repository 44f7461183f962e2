//! What was said in one room, as far as it is kept here: a window of the room's stream that is bounded,
//! and moves to older or newer frames when somebody scrolls. Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};

use unibus_client::rooms::blob::BlobRef;
use unibus_client::rooms::frame::FrameId;
use unibus_proto::control::EndpointId;

/// Entries of a room that are kept at most.
pub(in crate::chat) const ENTRIES_MAX: usize = 500;
/// Messages of a room whose reactions are kept.
const REACTED_MAX: usize = 1000;
/// Different reactions to one message that are kept.
const REACTIONS_MAX: usize = 20;

/// Which part of a room's stream is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::chat) enum Part {
    /// The end.
    Last,
    /// Before this place.
    Before(u64),
    /// After this place.
    After(u64),
}

/// An entry: one row or several of what is shown.
#[derive(Clone, Debug)]
pub(in crate::chat) struct Entry {
    /// Its place in the stream.
    pub(in crate::chat) seq: Option<u64>,
    /// When it was said, by its sender's clock, or happened, by ours; Unix milliseconds.
    pub(in crate::chat) at_ms: u64,
    pub(in crate::chat) what: What,
}

/// What an entry is.
#[derive(Clone, Debug)]
pub(in crate::chat) enum What {
    Said(Said),
    /// The room or its members changed.
    Note {
        text: String,
        grave: bool,
    },
    /// Frames in a row that can't be read for the same reason.
    Unreadable {
        frames: usize,
        why: String,
    },
}

/// Something that somebody said.
#[derive(Clone, Debug)]
pub(in crate::chat) struct Said {
    pub(in crate::chat) id: FrameId,
    pub(in crate::chat) from: EndpointId,
    pub(in crate::chat) body: Body,
    pub(in crate::chat) reply_to: Option<FrameId>,
    pub(in crate::chat) thread: Option<FrameId>,
}

/// What was said. Texts are clean.
#[derive(Clone, Debug)]
pub(in crate::chat) enum Body {
    Text(String),
    File { file: Box<BlobRef>, name: String },
}

/// A reaction.
#[derive(Clone, Debug)]
pub(in crate::chat) struct Reaction {
    pub(in crate::chat) seq: Option<u64>,
    pub(in crate::chat) to: FrameId,
    /// Clean, and on one line.
    pub(in crate::chat) reaction: String,
    pub(in crate::chat) from: EndpointId,
}

/// Something that a stream told.
#[derive(Clone, Debug)]
pub(in crate::chat) enum Told {
    Entry(Entry),
    Reaction(Reaction),
}

impl Told {
    fn seq(&self) -> Option<u64> {
        match self {
            Self::Entry(entry) => entry.seq,
            Self::Reaction(reaction) => reaction.seq,
        }
    }
}

/// A page of a room's history.
#[derive(Clone, Debug, Default)]
pub(in crate::chat) struct Page {
    pub(in crate::chat) told: Vec<Told>,
    /// The place of its last frame.
    pub(in crate::chat) next: u64,
    /// What [`Part::Before`] takes for the page before; `None` = there is none.
    pub(in crate::chat) previous: Option<u64>,
}

/// The window.
#[derive(Debug, Default)]
pub(in crate::chat) struct Log {
    entries: VecDeque<Entry>,
    /// The key of the first entry; keys grow by one. They stay the same while the window moves.
    first: i64,
    reactions: HashMap<FrameId, BTreeMap<String, Vec<EndpointId>>>,
    /// In which order reactions came to messages.
    reacted: VecDeque<FrameId>,
    /// What [`Part::Before`] takes to get what is before the window; `None` = nothing is.
    older: Option<u64>,
    /// The window does not reach the end: newer frames were let go, or not taken.
    torn: bool,
    /// The last place that the stream told of.
    last_seq: u64,
    /// The last place in the window.
    window_seq: u64,
    loading: bool,
}

impl Log {
    /// The entries with their keys, oldest first.
    pub(in crate::chat) fn iter(&self) -> impl DoubleEndedIterator<Item = (i64, &Entry)> {
        let first = self.first;
        let keyed = move |(at, entry)| (first + at as i64, entry);
        self.entries.iter().enumerate().map(keyed)
    }

    pub(in crate::chat) fn entry(&self, key: i64) -> Option<&Entry> {
        let at = usize::try_from(key - self.first).ok()?;
        self.entries.get(at)
    }

    /// Something that was said and is in the window.
    pub(in crate::chat) fn said(&self, id: FrameId) -> Option<&Said> {
        self.iter_said()
            .find(|(_, said)| said.id == id)
            .map(|(_, said)| said)
    }

    /// What was said, with keys, oldest first.
    pub(in crate::chat) fn iter_said(&self) -> impl DoubleEndedIterator<Item = (i64, &Said)> {
        self.iter().filter_map(|(key, entry)| match &entry.what {
            What::Said(said) => Some((key, said)),
            _ => None,
        })
    }

    /// How many frames of the window belong to the thread that began with `root`.
    pub(in crate::chat) fn replies(&self, root: FrameId) -> usize {
        self.iter_said()
            .filter(|(_, said)| said.thread == Some(root))
            .count()
    }

    /// The reactions to a message, and who reacted.
    pub(in crate::chat) fn reactions(
        &self,
        id: FrameId,
    ) -> Option<&BTreeMap<String, Vec<EndpointId>>> {
        self.reactions.get(&id)
    }

    pub(in crate::chat) fn torn(&self) -> bool {
        self.torn
    }

    pub(in crate::chat) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The part before the window, once: until it came, nothing more is wanted.
    pub(in crate::chat) fn want_older(&mut self) -> Option<Part> {
        let part = Part::Before(self.older?);
        (!std::mem::replace(&mut self.loading, true)).then_some(part)
    }

    /// The part behind the window, likewise.
    pub(in crate::chat) fn want_newer(&mut self) -> Option<Part> {
        let wanted = self.torn && !std::mem::replace(&mut self.loading, true);
        wanted.then_some(Part::After(self.window_seq))
    }

    /// The end, where the window does not reach it.
    pub(in crate::chat) fn want_end(&mut self) -> Option<Part> {
        let wanted = self.torn && !std::mem::replace(&mut self.loading, true);
        wanted.then_some(Part::Last)
    }

    pub(in crate::chat) fn loading(&self) -> bool {
        self.loading
    }

    /// Nothing was said before the window.
    pub(in crate::chat) fn has_beginning(&self) -> bool {
        self.older.is_none()
    }

    /// What was wanted does not come.
    pub(in crate::chat) fn not_loaded(&mut self) {
        self.loading = false;
    }

    /// Takes something that just came; answers whether it is new.
    pub(in crate::chat) fn hear(&mut self, told: Told) -> bool {
        if let Some(seq) = told.seq() {
            if seq <= self.last_seq {
                return false;
            }
            self.last_seq = seq;
        }
        match told {
            Told::Reaction(reaction) => self.react(reaction),
            Told::Entry(entry) if !self.torn => {
                self.window_seq = entry.seq.unwrap_or(self.window_seq);
                self.push_back(entry);
                self.drop_front();
            }
            // It comes back with the end of the stream.
            Told::Entry(_) => {}
        }
        true
    }

    /// Takes a page that was wanted.
    pub(in crate::chat) fn load(&mut self, part: Part, page: Page) {
        self.loading = false;
        let Page {
            told,
            next,
            previous,
        } = page;
        let mut entries = Vec::new();
        for told in told {
            match told {
                Told::Reaction(reaction) => self.react(reaction),
                Told::Entry(entry) => {
                    if !entries.last_mut().is_some_and(|last| merge(last, &entry)) {
                        entries.push(entry);
                    }
                }
            }
        }
        match part {
            Part::Before(_) => {
                self.older = previous;
                for entry in entries.into_iter().rev() {
                    self.entries.push_front(entry);
                    self.first -= 1;
                }
                self.drop_back();
            }
            Part::After(_) => self.extend(entries, next),
            Part::Last => {
                self.first += i64::try_from(self.entries.len()).unwrap_or(0);
                self.entries.clear();
                self.older = previous;
                self.extend(entries, next);
            }
        }
    }

    fn extend(&mut self, entries: Vec<Entry>, next: u64) {
        for entry in entries {
            self.push_back(entry);
        }
        self.window_seq = next;
        self.last_seq = self.last_seq.max(next);
        self.torn = self.window_seq < self.last_seq;
        self.drop_front();
    }

    fn push_back(&mut self, entry: Entry) {
        let last = self.entries.back_mut();
        if !last.is_some_and(|last| merge(last, &entry)) {
            self.entries.push_back(entry);
        }
    }

    fn drop_front(&mut self) {
        while self.entries.len() > ENTRIES_MAX {
            self.entries.pop_front();
            self.first += 1;
            let kept = self.entries.iter().find_map(|entry| entry.seq);
            self.older = kept.filter(|seq| *seq > 1);
        }
    }

    fn drop_back(&mut self) {
        while self.entries.len() > ENTRIES_MAX {
            self.entries.pop_back();
            let kept = self.entries.iter().rev().find_map(|entry| entry.seq);
            self.window_seq = kept.unwrap_or(self.window_seq);
            self.torn = true;
        }
    }

    fn react(&mut self, reaction: Reaction) {
        let Reaction { to, from, .. } = reaction;
        if !self.reactions.contains_key(&to) {
            self.reacted.push_back(to);
            if self.reacted.len() > REACTED_MAX
                && let Some(oldest) = self.reacted.pop_front()
            {
                self.reactions.remove(&oldest);
            }
        }
        let all = self.reactions.entry(to).or_default();
        if all.len() >= REACTIONS_MAX && !all.contains_key(&reaction.reaction) {
            return;
        }
        let who = all.entry(reaction.reaction).or_default();
        if !who.contains(&from) {
            who.push(from);
        }
    }
}

/// Makes one entry of two that say the same; answers whether they did.
fn merge(last: &mut Entry, next: &Entry) -> bool {
    match (&mut last.what, &next.what) {
        (
            What::Unreadable { frames, why },
            What::Unreadable {
                frames: more,
                why: same,
            },
        ) if why == same => {
            *frames += more;
            last.seq = next.seq;
            true
        }
        (What::Note { text, .. }, What::Note { text: same, .. }) if text == same => {
            last.at_ms = next.at_ms;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(seq: u64) -> Told {
        Told::Entry(Entry {
            seq: Some(seq),
            at_ms: seq,
            what: What::Said(Said {
                id: FrameId::new(seq, [0; 10]),
                from: "00112233445566778899aabbccddeeff".parse().unwrap(),
                body: Body::Text(format!("message {seq}")),
                reply_to: None,
                thread: None,
            }),
        })
    }

    fn page(from: u64, to: u64) -> Page {
        Page {
            told: (from..=to).map(said).collect(),
            next: to,
            previous: (from > 1).then_some(from),
        }
    }

    fn seqs(log: &Log) -> Vec<u64> {
        log.iter().filter_map(|(_, entry)| entry.seq).collect()
    }

    #[test]
    fn the_window_is_bounded_and_older_frames_come_back() {
        let mut log = Log::default();
        log.load(Part::Last, page(951, 1000));
        for seq in 1001..=2000 {
            assert!(log.hear(said(seq)));
        }
        assert_eq!(seqs(&log), (1501..=2000).collect::<Vec<_>>());
        assert_eq!(log.want_older(), Some(Part::Before(1501)));
        assert_eq!(log.want_older(), None, "one page at a time");
        let key = log.iter().next().unwrap().0;
        log.load(Part::Before(1501), page(1451, 1500));
        assert_eq!(seqs(&log), (1451..=1950).collect::<Vec<_>>());
        assert_eq!(log.entry(key).unwrap().seq, Some(1501), "keys stay");
        assert!(log.torn());
    }

    #[test]
    fn a_torn_window_takes_nothing_new_until_its_end_came_back() {
        let mut log = Log::default();
        log.load(Part::Last, page(101, 600));
        log.want_older();
        log.load(Part::Before(101), page(51, 100));
        assert!(log.torn() && log.hear(said(601)));
        assert_eq!(seqs(&log).last(), Some(&550));
        assert_eq!(log.want_newer(), Some(Part::After(550)));
        log.load(Part::After(550), page(551, 600));
        assert!(log.torn(), "601 is missing");
        assert_eq!(log.want_end(), Some(Part::Last));
        log.load(Part::Last, page(552, 601));
        assert!(!log.torn() && !log.hear(said(601)) && log.hear(said(602)));
        assert_eq!(seqs(&log), (552..=602).collect::<Vec<_>>());
    }

    #[test]
    fn reactions_find_messages_that_come_later() {
        let mut log = Log::default();
        let reaction = |reaction: &str| Reaction {
            seq: None,
            to: FrameId::new(7, [0; 10]),
            reaction: reaction.into(),
            from: "00112233445566778899aabbccddeeff".parse().unwrap(),
        };
        log.hear(Told::Reaction(reaction("+1")));
        log.hear(Told::Reaction(reaction("+1")));
        log.hear(said(7));
        let found = log.reactions(FrameId::new(7, [0; 10])).unwrap();
        assert_eq!(found["+1"].len(), 1);
        for at in 0..100 {
            log.hear(Told::Reaction(reaction(&at.to_string())));
        }
        assert_eq!(
            log.reactions(FrameId::new(7, [0; 10])).unwrap().len(),
            REACTIONS_MAX
        );
    }

    #[test]
    fn what_can_not_be_read_is_one_entry() {
        let mut log = Log::default();
        for seq in 1..=9 {
            log.hear(Told::Entry(Entry {
                seq: Some(seq),
                at_ms: 0,
                what: What::Unreadable {
                    frames: 1,
                    why: "no key".into(),
                },
            }));
        }
        assert_eq!(log.iter().count(), 1);
        let (_, entry) = log.iter().next().unwrap();
        assert!(matches!(entry.what, What::Unreadable { frames: 9, .. }));
    }
}
