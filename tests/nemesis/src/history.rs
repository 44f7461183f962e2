//! What clients did and saw, with times, so that it can be judged afterwards and drawn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

/// Microseconds since the run began.
pub(crate) type Micros = u64;

/// How an operation ended, as its client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    /// Surely without effect.
    Refused,
    /// May have had its effect.
    Unknown,
}

/// One operation, for the picture and the counts.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) kind: &'static str,
    pub(crate) started: Micros,
    pub(crate) ended: Micros,
    pub(crate) ending: Ending,
}

/// Something that was done to the cluster.
#[derive(Clone, Debug)]
pub(crate) struct FaultSpan {
    pub(crate) kind: &'static str,
    pub(crate) nodes: Vec<usize>,
    pub(crate) started: Micros,
    pub(crate) ended: Micros,
    pub(crate) detail: String,
}

/// Takes notes from all clients.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    start: Instant,
    inner: Arc<Mutex<Notes>>,
}

#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) spans: Vec<Span>,
    pub(crate) faults: Vec<FaultSpan>,
    /// Who led, as far as was seen, and since when.
    pub(crate) leaders: Vec<(Micros, Option<usize>)>,
    /// What did not hold.
    pub(crate) findings: Vec<String>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            inner: Arc::default(),
        }
    }

    pub(crate) fn now(&self) -> Micros {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    pub(crate) fn span(&self, kind: &'static str, started: Micros, ending: Ending) {
        let ended = self.now();
        let span = Span {
            kind,
            started,
            ended,
            ending,
        };
        self.inner.lock().spans.push(span);
    }

    pub(crate) fn fault(&self, fault: FaultSpan) {
        self.inner.lock().faults.push(fault);
    }

    pub(crate) fn leader(&self, leader: Option<usize>) {
        let now = self.now();
        let mut notes = self.inner.lock();
        if notes.leaders.last().is_none_or(|(_, last)| *last != leader) {
            notes.leaders.push((now, leader));
        }
    }

    pub(crate) fn finding(&self, what: String) {
        self.inner.lock().findings.push(what);
    }

    pub(crate) fn finish(&self) -> Notes {
        std::mem::take(&mut *self.inner.lock())
    }
}

impl Notes {
    /// Operations by kind: done, refused, unknown.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, [u64; 3]> {
        let mut counts: BTreeMap<&'static str, [u64; 3]> = BTreeMap::new();
        for span in &self.spans {
            let place = match span.ending {
                Ending::Done => 0,
                Ending::Refused => 1,
                Ending::Unknown => 2,
            };
            counts.entry(span.kind).or_default()[place] += 1;
        }
        counts
    }
}
