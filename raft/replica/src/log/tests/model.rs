//! Random operations on two groups, with reopening, against plain vectors.

use std::collections::BTreeMap;

use futures::future::BoxFuture;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use proptest::prelude::*;

use super::{all, entry, fast_dir, log_id, open, small, start, vote};
use crate::log::{GroupLog, Log, LogOptions};
use crate::transport::GroupId;
use crate::types::{Entry, LogId, Vote};

#[derive(Clone, Debug)]
enum Step {
    Append { group: u32, sizes: Vec<usize> },
    Truncate { group: u32, back: u64 },
    Purge { group: u32, part: u64 },
    Vote { group: u32 },
    Commit { group: u32 },
    Read { group: u32, from: u64, count: u64 },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..2u32;
    prop_oneof![
        6 => (group.clone(), prop::collection::vec(0..400usize, 1..6))
            .prop_map(|(group, sizes)| Step::Append { group, sizes }),
        1 => (group.clone(), 0..6u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        2 => (group.clone(), 0..100u64).prop_map(|(group, part)| Step::Purge { group, part }),
        1 => group.clone().prop_map(|group| Step::Vote { group }),
        1 => group.clone().prop_map(|group| Step::Commit { group }),
        2 => (group, 0..200u64, 0..20u64)
            .prop_map(|(group, from, count)| Step::Read { group, from, count }),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Default)]
struct Model {
    term: u64,
    entries: Vec<Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

impl Model {
    /// A hint on an entry that is not there is not believed.
    fn usable_hint(&self) -> Option<LogId> {
        self.committed.filter(|committed| {
            let is_purged = self
                .purged
                .is_some_and(|purged| committed.index <= purged.index);
            is_purged || self.entries.iter().any(|entry| entry.log_id == *committed)
        })
    }

    fn next(&self) -> u64 {
        let last = self.entries.last().map(|entry| entry.log_id);
        last.or(self.purged).map_or(0, |last| last.index + 1)
    }
}

async fn check(log: &Log, models: &BTreeMap<u32, Model>) {
    for (id, model) in models {
        let mut group = log.group(GroupId(*id));
        assert_eq!(all(&mut group).await, model.entries);
        let state = group.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, model.purged);
        let last = model.entries.last().map(|entry| entry.log_id);
        assert_eq!(state.last_log_id, last.or(model.purged));
        assert_eq!(group.read_vote().await.unwrap(), model.vote);
        assert_eq!(group.read_committed().await.unwrap(), model.usable_hint());
        assert_eq!(group.live_bytes() == 0, model.entries.is_empty());
    }
}

/// The log under test, the models, and the appends not yet answered.
struct Driver {
    dir: tempfile::TempDir,
    options: LogOptions,
    log: Option<Log>,
    models: BTreeMap<u32, Model>,
    waiting: Vec<BoxFuture<'static, std::io::Result<()>>>,
}

impl Driver {
    fn log(&self) -> &Log {
        self.log.as_ref().unwrap()
    }

    /// The model of a group and its log.
    fn both(&mut self, group: u32) -> (&mut Model, GroupLog) {
        let log = self.log().group(GroupId(group));
        (self.models.entry(group).or_default(), log)
    }

    async fn reopen(&mut self) {
        for answer in self.waiting.drain(..) {
            answer.await.unwrap();
        }
        self.log = None;
        let (log, report) = open(self.dir.path(), self.options.clone());
        assert_eq!(report.cut, None);
        check(&log, &self.models).await;
        self.log = Some(log);
    }

    async fn append(&mut self, group: u32, sizes: Vec<usize>) {
        let (model, mut log) = self.both(group);
        let entries: Vec<Entry> = (model.next()..)
            .zip(sizes)
            .map(|(index, size)| entry(model.term, index, size))
            .collect();
        model.entries.extend(entries.clone());
        let answer = start(&mut log, entries).await;
        self.waiting.push(Box::pin(answer));
    }

    async fn truncate(&mut self, group: u32, back: u64) {
        let (model, mut log) = self.both(group);
        let keep = model.entries.len().saturating_sub(back as usize);
        model.entries.truncate(keep);
        model.term += 1;
        let last = model.entries.last().map(|entry| entry.log_id);
        log.truncate_after(last.or(model.purged)).await.unwrap();
    }

    async fn purge(&mut self, group: u32, part: u64) {
        let (model, mut log) = self.both(group);
        let count = model.entries.len() * part as usize / 100;
        if let Some(last) = model.entries.drain(..count).next_back() {
            model.purged = Some(last.log_id);
            log.purge(last.log_id).await.unwrap();
        }
    }

    async fn read(&mut self, group: u32, from: u64, count: u64) {
        let (model, mut log) = self.both(group);
        let expected: Vec<Entry> = model
            .entries
            .iter()
            .filter(|entry| (from..from + count).contains(&entry.log_id.index))
            .cloned()
            .collect();
        let read = log.try_get_log_entries(from..from + count).await.unwrap();
        assert_eq!(read, expected);
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append { group, sizes } => self.append(group, sizes).await,
            Step::Truncate { group, back } => self.truncate(group, back).await,
            Step::Purge { group, part } => self.purge(group, part).await,
            Step::Vote { group } => {
                let (model, mut log) = self.both(group);
                model.term += 1;
                let vote = vote(model.term, model.term.is_multiple_of(2));
                model.vote = Some(vote);
                log.save_vote(&vote).await.unwrap();
            }
            Step::Commit { group } => {
                let (model, mut log) = self.both(group);
                // By turns the last entry and one that is not there (yet).
                let at = model.next().saturating_sub(model.term % 2);
                model.committed = Some(log_id(model.term, at));
                log.save_committed(model.committed).await.unwrap();
            }
            Step::Read { group, from, count } => self.read(group, from, count).await,
            Step::Reopen => self.reopen().await,
        }
    }
}

async fn run(steps: Vec<Step>, options: LogOptions) {
    let dir = fast_dir();
    let log = open(dir.path(), options.clone()).0;
    let mut driver = Driver {
        dir,
        options,
        log: Some(log),
        models: BTreeMap::new(),
        waiting: Vec::new(),
    };
    for step in steps {
        driver.step(step).await;
    }
    check(driver.log(), &driver.models).await;
    driver.reopen().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_behaves_like_vectors(
        steps in prop::collection::vec(step(), 1..80),
        segment_bytes in prop::sample::select(vec![1024u64, 2048, 8192]),
        cache_bytes in prop::sample::select(vec![0usize, 500, 1 << 20]),
    ) {
        let options = LogOptions { segment_bytes, cache_bytes, ..small() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(run(steps, options));
    }
}
