//! Ascending sequences in little memory: where they follow one another at equal distances (one subject
//! alone in a stream, or several in turn), as first, distance and count; else as differences of 32 bits.
//! Knows nothing of messages.

use std::collections::VecDeque;

/// A line that is shorter is kept as single numbers when it ends.
const LINE_MIN: u64 = 8;
/// Numbers of one list, after which a line may begin.
const LIST_MAX: usize = 256;

#[derive(Clone, Debug)]
enum Chunk {
    /// `first`, `first + step`, …: at least one.
    Line { first: u64, step: u64, count: u64 },
    /// `first` plus each of these, ascending: at least one.
    List { first: u64, more: VecDeque<u32> },
}

impl Chunk {
    fn len(&self) -> u64 {
        match self {
            Self::Line { count, .. } => *count,
            Self::List { more, .. } => more.len() as u64,
        }
    }

    fn get(&self, at: u64) -> Option<u64> {
        match self {
            Self::Line { first, step, count } => (at < *count).then(|| first + step * at),
            Self::List { first, more } => {
                let more = more.get(usize::try_from(at).ok()?)?;
                Some(first + u64::from(*more))
            }
        }
    }

    fn first(&self) -> u64 {
        self.get(0).unwrap_or(0)
    }

    fn last(&self) -> u64 {
        self.get(self.len().saturating_sub(1)).unwrap_or(0)
    }

    /// How many are below `bound`.
    fn below(&self, bound: u64) -> u64 {
        match self {
            Self::Line { first, step, count } => match bound.checked_sub(*first) {
                None | Some(0) => 0,
                Some(above) => above.div_ceil((*step).max(1)).min(*count),
            },
            Self::List { first, more } => {
                more.partition_point(|more| first + u64::from(*more) < bound) as u64
            }
        }
    }

    fn pop_front(&mut self) {
        match self {
            Self::Line { first, step, count } => {
                *first = first.saturating_add(*step);
                *count -= 1;
            }
            Self::List { more, .. } => drop(more.pop_front()),
        }
    }

    fn pop_back(&mut self) {
        match self {
            Self::Line { count, .. } => *count -= 1,
            Self::List { more, .. } => drop(more.pop_back()),
        }
    }

    fn iter(&self, from: u64, to: u64) -> impl DoubleEndedIterator<Item = u64> {
        (from..to).filter_map(|at| self.get(at))
    }
}

/// Ascending sequences. The ends can be taken off; those in the middle stay until [`Self::retain`].
#[derive(Clone, Debug, Default)]
pub(crate) struct Progressions {
    /// Ascending; none is empty.
    chunks: VecDeque<Chunk>,
    len: u64,
}

impl Progressions {
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn first(&self) -> Option<u64> {
        self.chunks.front().map(Chunk::first)
    }

    pub(crate) fn last(&self) -> Option<u64> {
        self.chunks.back().map(Chunk::last)
    }

    /// Adds a sequence greater than all others.
    pub(crate) fn push(&mut self, seq: u64) {
        self.len += 1;
        match self.chunks.back_mut() {
            Some(Chunk::Line { first, step, count }) => {
                if *count == 1 {
                    (*step, *count) = (seq - *first, 2);
                    return;
                }
                if seq == *first + *step * *count {
                    *count += 1;
                    return;
                }
                if *count < LINE_MIN {
                    self.break_line();
                    return self.push_to_list(seq);
                }
            }
            Some(Chunk::List { .. }) => return self.push_to_list(seq),
            None => {}
        }
        self.chunks.push_back(Chunk::Line {
            first: seq,
            step: 0,
            count: 1,
        });
    }

    /// Makes the last chunk, a short line, part of a list.
    fn break_line(&mut self) {
        let Some(line) = self.chunks.pop_back() else {
            return;
        };
        for seq in line.iter(0, line.len()) {
            match self.chunks.back_mut() {
                Some(Chunk::List { first, more }) if fits(*first, more, seq).is_some() => {
                    more.extend(fits(*first, more, seq));
                }
                _ => self.chunks.push_back(Chunk::List {
                    first: seq,
                    more: VecDeque::from([0]),
                }),
            }
        }
    }

    /// Adds to the last chunk, a list, or begins a line where that is full.
    fn push_to_list(&mut self, seq: u64) {
        if let Some(Chunk::List { first, more }) = self.chunks.back_mut()
            && let Some(offset) = fits(*first, more, seq)
        {
            more.push_back(offset);
            return;
        }
        self.chunks.push_back(Chunk::Line {
            first: seq,
            step: 0,
            count: 1,
        });
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        let (at, below) = self.place(seq);
        self.chunks.get(at).and_then(|chunk| chunk.get(below)) == Some(seq)
    }

    pub(crate) fn pop_front(&mut self) {
        if let Some(chunk) = self.chunks.front_mut() {
            chunk.pop_front();
            self.len -= 1;
            if chunk.len() == 0 {
                self.chunks.pop_front();
            }
        }
    }

    pub(crate) fn pop_back(&mut self) {
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.pop_back();
            self.len -= 1;
            if chunk.len() == 0 {
                self.chunks.pop_back();
            }
        }
    }

    /// Those from `seq` on, ascending.
    pub(crate) fn from(&self, seq: u64) -> impl Iterator<Item = u64> {
        let (at, mut skip) = self.place(seq);
        self.chunks
            .range(at.min(self.chunks.len())..)
            .flat_map(move |chunk| chunk.iter(std::mem::take(&mut skip), chunk.len()))
    }

    /// Those up to `seq`, descending.
    pub(crate) fn up_to(&self, seq: u64) -> impl Iterator<Item = u64> {
        let (at, taken) = self.place(seq.saturating_add(1));
        let part = self.chunks.get(at);
        let part = part
            .into_iter()
            .flat_map(move |chunk| chunk.iter(0, taken).rev());
        let whole = self.chunks.range(..at.min(self.chunks.len())).rev();
        part.chain(whole.flat_map(|chunk| chunk.iter(0, chunk.len()).rev()))
    }

    /// How many are not below `seq`.
    pub(crate) fn count_from(&self, seq: u64) -> u64 {
        let (at, below) = self.place(seq);
        let behind = self.chunks.range(at.min(self.chunks.len())..);
        behind.map(Chunk::len).sum::<u64>() - below
    }

    /// Keeps those of which `keep` says so.
    pub(crate) fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        for chunk in std::mem::take(self).chunks {
            for seq in chunk.iter(0, chunk.len()).filter(|seq| keep(*seq)) {
                self.push(seq);
            }
        }
    }

    /// The first place whose sequence is not below `seq`: chunk, and position in it.
    fn place(&self, seq: u64) -> (usize, u64) {
        let at = self.chunks.partition_point(|chunk| chunk.last() < seq);
        let below = self.chunks.get(at).map_or(0, |chunk| chunk.below(seq));
        (at, below)
    }

    #[cfg(test)]
    fn chunks(&self) -> usize {
        self.chunks.len()
    }
}

/// What a sequence is in a list that begins with `first`, if there is room for it.
fn fits(first: u64, more: &VecDeque<u32>, seq: u64) -> Option<u32> {
    let has_room = more.len() < LIST_MAX;
    u32::try_from(seq - first).ok().filter(|_| has_room)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(seqs: impl IntoIterator<Item = u64>) -> Progressions {
        let mut made = Progressions::default();
        seqs.into_iter().for_each(|seq| made.push(seq));
        made
    }

    /// Gaps that are equal for a while, then not, then huge.
    fn mixed() -> Vec<u64> {
        let mut seqs = Vec::new();
        let mut seq = 1;
        let mut mix = 7_u64;
        for round in 0..40_u64 {
            for _ in 0..(round * 7 % 30) {
                seqs.push(seq);
                mix = mix.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (mix >> 29);
                seq += match round % 3 {
                    0 => 1 + round,
                    1 => 1 + mix % 50,
                    _ => 1 + mix % (1 << 34),
                };
            }
        }
        seqs
    }

    fn agree(made: &Progressions, seqs: &[u64]) {
        assert_eq!(made.len(), seqs.len() as u64);
        assert_eq!(
            (made.first(), made.last()),
            (seqs.first().copied(), seqs.last().copied())
        );
        let probes = seqs.iter().step_by(11).chain(seqs.last());
        for probe in probes.flat_map(|seq| [seq.saturating_sub(1), *seq, seq + 1]) {
            let at = seqs.partition_point(|seq| *seq < probe);
            assert!(made.from(probe).eq(seqs[at..].iter().copied()), "{probe}");
            assert_eq!(made.count_from(probe), (seqs.len() - at) as u64);
            assert_eq!(made.contains(probe), seqs.contains(&probe));
            let to = seqs.partition_point(|seq| *seq <= probe);
            assert!(
                made.up_to(probe).eq(seqs[..to].iter().rev().copied()),
                "{probe}"
            );
        }
        assert!(made.from(0).eq(seqs.iter().copied()));
        assert_eq!(made.from(u64::MAX).next(), None);
        assert!(made.up_to(u64::MAX).eq(seqs.iter().rev().copied()));
    }

    #[test]
    fn agrees_with_a_list() {
        let mut seqs = mixed();
        let mut made = of(seqs.iter().copied());
        agree(&made, &seqs);
        while seqs.len() > 2 {
            for _ in 0..40.min(seqs.len() / 2) {
                made.pop_front();
                seqs.remove(0);
            }
            for _ in 0..30.min(seqs.len()) {
                made.pop_back();
                seqs.pop();
            }
            made.retain(|seq| !seq.is_multiple_of(5));
            seqs.retain(|seq| !seq.is_multiple_of(5));
            agree(&made, &seqs);
            let next = seqs.last().map_or(1, |last| last + 3);
            made.push(next);
            seqs.push(next);
        }
        made.pop_front();
        agree(&of([]), &[]);
    }

    #[test]
    fn equal_distances_take_one_chunk_and_others_few() {
        assert_eq!(of(1..=100_000).chunks(), 1);
        assert_eq!(of((0..100_000).map(|at| 17 + at * 1000)).chunks(), 1);
        let uneven = (1..=10_000_u64).map(|at| at * 10 + at * at % 7);
        assert!(of(uneven).chunks() <= 10_000 / LIST_MAX * 2 + 2);
    }
}
