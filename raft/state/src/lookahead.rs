//! The next messages of a filter, several at a time: by walking the index where matches are dense, by
//! subject where they are rare, so that a consumer never pays for what it skips with every delivery.

use std::collections::{BinaryHeap, VecDeque};

use unibus_proto::subject;

use crate::stream::{Stream, matches_any};

/// Messages looked up at once.
const LOOKAHEAD_MAX: usize = 256;
/// Index entries that cost as much as one subject.
const ENTRIES_PER_SUBJECT: u64 = 4;

impl Stream {
    /// The next sequences from `from_seq` on that match one of `filters` (none = everything), ascending.
    /// `expected`: how many there are in all; some are found if there are any.
    pub(crate) fn next_seqs_for<F: AsRef<[u8]>>(
        &self,
        filters: &[F],
        from_seq: u64,
        expected: u64,
        out: &mut VecDeque<u64>,
    ) {
        let live = self.blocks.iter_from(from_seq);
        if filters.is_empty() {
            out.extend(live.map(|(seq, ..)| seq).take(LOOKAHEAD_MAX));
        } else if self.is_dense(filters, from_seq, expected) {
            let matching = live
                .filter(|(_, _, entry)| matches_any(filters, self.subjects.name(entry.subject)));
            out.extend(matching.map(|(seq, ..)| seq).take(LOOKAHEAD_MAX));
        } else {
            out.extend(self.first_of_subjects(filters, from_seq));
        }
    }

    /// Whether walking over what does not match costs less than going through the subjects.
    fn is_dense<F: AsRef<[u8]>>(&self, filters: &[F], from_seq: u64, expected: u64) -> bool {
        let tail = (self.last_seq() + 1).saturating_sub(from_seq);
        let gap = tail / expected.max(1) + 1;
        let walked = gap.saturating_mul(LOOKAHEAD_MAX as u64).min(tail);
        let wild = |filter: &F| subject::has_wildcard(filter.as_ref());
        let subjects = if filters.iter().any(wild) {
            self.subjects.len()
        } else {
            filters.len()
        };
        walked <= (subjects + LOOKAHEAD_MAX) as u64 * ENTRIES_PER_SUBJECT
    }

    fn first_of_subjects<F: AsRef<[u8]>>(&self, filters: &[F], from_seq: u64) -> Vec<u64> {
        let live = |seq| self.blocks.is_live(seq);
        let mut first = BinaryHeap::new();
        self.visit_ids(filters, |id| {
            let seqs = self.subjects.seqs(id);
            let mut next = seqs.next_from(from_seq, live);
            while let Some(seq) = next {
                if first.len() == LOOKAHEAD_MAX {
                    if first.peek().is_some_and(|last| *last < seq) {
                        return;
                    }
                    first.pop();
                }
                first.push(seq);
                next = seqs.next_from(seq + 1, live);
            }
        });
        first.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use unibus_proto::jetstream::config::StreamConfig;

    use super::*;
    use crate::command::AppendRef;
    use crate::location::{NullSink, StreamUid};
    use crate::stream::Context;

    /// One in `rare` messages is on `b.<n>`, the others on `a.<n>`.
    fn stream(messages: u64, rare: u64) -> Stream {
        let mut stream = Stream::new(StreamUid(1), StreamConfig::default(), 0);
        let mut ctx = Context {
            now_ns: 1,
            rules: crate::rules::Rules::NEWEST,
            work: 0,
            sink: &mut NullSink,
        };
        for at in 0..messages {
            let kind = if at % rare == 0 { 'b' } else { 'a' };
            let subject = format!("{kind}.{}", at % 7);
            let append = AppendRef {
                subject: subject.as_bytes(),
                header_len: 0,
                data: b"",
                privileged: false,
            };
            stream.append(append, &mut ctx);
        }
        stream
    }

    fn all(stream: &Stream, filters: &[&str]) -> Vec<u64> {
        let (mut found, mut from) = (Vec::new(), 1);
        loop {
            let expected = stream.num_pending(filters, from, false);
            let mut out = VecDeque::new();
            stream.next_seqs_for(filters, from, expected, &mut out);
            assert!(out.len() <= LOOKAHEAD_MAX);
            let Some(last) = out.back() else {
                assert_eq!(expected, 0);
                return found;
            };
            from = last + 1;
            found.extend(out);
        }
    }

    #[test]
    fn rare_and_dense_matches_are_all_found_in_order() {
        for rare in [1, 2, 50, 900] {
            let stream = stream(3000, rare);
            for filters in [&["b.*"][..], &["b.1", "b.3"], &["b.>", "a.2"], &[]] {
                let expected: Vec<u64> = (1..=3000)
                    .filter(|seq| {
                        let view = stream.message(*seq).unwrap();
                        filters.is_empty() || matches_any(filters, view.subject)
                    })
                    .collect();
                assert_eq!(all(&stream, filters), expected, "{rare} {filters:?}");
            }
        }
    }

    #[test]
    fn both_ways_are_taken() {
        let dense = |rare: u64, filter: &str| {
            let stream = stream(3000, rare);
            let expected = stream.num_pending(&[filter], 1, false);
            stream.is_dense(&[filter], 1, expected)
        };
        assert!(dense(1, "b.*"));
        assert!(!dense(900, "b.*"));
    }
}
