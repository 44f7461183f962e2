//! The last messages that a stream lost, in order, for cursors that keep counts: with it they stay exact
//! at the price of what changed. Of this memory only, not replicated; a cursor that is too far behind
//! counts again.

use std::collections::VecDeque;
use std::sync::Arc;

/// Removals remembered at most.
const REMOVALS_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct RemovalLog {
    /// Removals ever, remembered or not.
    count: u64,
    last: VecDeque<(u64, Arc<[u8]>)>,
}

impl RemovalLog {
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn note(&mut self, seq: u64, subject: Arc<[u8]>) {
        if self.last.len() == REMOVALS_MAX {
            self.last.pop_front();
        }
        self.last.push_back((seq, subject));
        self.count += 1;
    }

    /// Removals that nobody will ask for one by one.
    pub(crate) fn skip(&mut self, count: u64) {
        self.last.clear();
        self.count += count;
    }

    /// Sequences and subjects removed since the count was `mark`; `None` if some are forgotten.
    pub(crate) fn since(&self, mark: u64) -> Option<impl Iterator<Item = (u64, &[u8])>> {
        let fresh = usize::try_from(self.count.checked_sub(mark)?).ok()?;
        let from = self.last.len().checked_sub(fresh)?;
        Some(self.last.range(from..).map(|(seq, name)| (*seq, &**name)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_keeps_up_misses_nothing() {
        let mut log = RemovalLog::default();
        for seq in 1..=5 {
            log.note(seq, Arc::from(&b"a"[..]));
        }
        let seqs = |log: &RemovalLog, mark| {
            let since = log.since(mark)?;
            Some(since.map(|(seq, _)| seq).collect::<Vec<_>>())
        };
        assert_eq!(seqs(&log, 3), Some(vec![4, 5]));
        assert_eq!(seqs(&log, 5), Some(Vec::new()));
        assert_eq!(seqs(&log, 6), None, "another memory's mark");
        log.skip(10);
        assert_eq!(seqs(&log, 5), None);
        assert_eq!(seqs(&log, 15), Some(Vec::new()));
        for seq in 0..2000 {
            log.note(seq, Arc::from(&b"a"[..]));
        }
        assert_eq!(seqs(&log, 15), None);
        assert_eq!(seqs(&log, log.count() - 1024).unwrap().len(), 1024);
    }
}
