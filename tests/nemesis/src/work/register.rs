//! Keys of a bucket as registers: get, put and update at every node, judged for linearizability by the
//! WGL checker of `todc-utils`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, kv};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

use super::{Ctx, OP_TIMEOUT, rest};
use crate::history::{Ending, Micros};

/// The bucket.
pub(crate) const BUCKET: &str = "registers";
/// Keys used at a time.
const KEYS: usize = 3;
/// Operations on a key before another takes its place: what a checker can judge.
const KEY_OPS_MAX: usize = 120;
/// How long a key may be judged.
const JUDGE_TIMEOUT: Duration = Duration::from_secs(20);

/// An operation with all that is known of it once it is over. Values are unique; 0: no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Get(u64),
    Put(u64),
    /// Expected value, new value, and whether it was made; `None`: nobody knows.
    Update(u64, u64, Option<bool>),
}

/// An operation and its time; without an end it may take effect at any time later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    op: Op,
    client: usize,
    started: Micros,
    ended: Option<Micros>,
}

/// Histories by key.
#[derive(Debug, Default)]
pub(crate) struct Histories {
    keys: BTreeMap<String, Vec<Entry>>,
    /// Operations begun on each of the keys in use.
    begun: [usize; KEYS],
    next_value: u64,
}

impl Histories {
    fn key(&mut self, place: usize) -> String {
        self.begun[place] += 1;
        format!("k{place}-{}", self.begun[place] / KEY_OPS_MAX)
    }

    fn fresh(&mut self) -> u64 {
        self.next_value += 1;
        self.next_value
    }
}

struct Register;

impl Specification for Register {
    type State = u64;
    type Operation = Op;

    fn init() -> u64 {
        0
    }

    fn apply(op: &Op, state: &u64) -> (bool, u64) {
        match *op {
            Op::Get(value) => (value == *state, *state),
            Op::Put(value) => (true, value),
            Op::Update(expected, value, made) => {
                let fits = expected == *state;
                (
                    made.is_none_or(|made| made == fits),
                    if fits { value } else { *state },
                )
            }
        }
    }
}

pub(crate) async fn make(client: &async_nats::Client, replicas: usize) -> anyhow::Result<()> {
    let config = kv::Config {
        bucket: BUCKET.into(),
        history: 1,
        num_replicas: replicas,
        ..Default::default()
    };
    let context = jetstream::new(client.clone());
    context.create_key_value(config).await?;
    Ok(())
}

/// One client at one node.
pub(crate) async fn work(
    ctx: Ctx,
    client: async_nats::Client,
    (number, seed): (usize, u64),
    histories: Arc<Mutex<Histories>>,
) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let context = jetstream::new(client);
    while !ctx.is_stopped() {
        let Ok(bucket) = context.get_key_value(BUCKET).await else {
            rest(200).await;
            continue;
        };
        // The handle is made once; what the server says later comes with each operation.
        while !ctx.is_stopped() {
            let place = rng.random_range(0..KEYS);
            let key = histories.lock().key(place);
            let choice = rng.random_range(0..10);
            one(&ctx, &bucket, (number, choice), &key, &histories).await;
            rest(rng.random_range(10..60)).await;
        }
    }
}

async fn one(
    ctx: &Ctx,
    bucket: &kv::Store,
    (client, choice): (usize, u32),
    key: &str,
    histories: &Mutex<Histories>,
) {
    let Some((seen, revision)) = get(ctx, bucket, client, key, histories).await else {
        return;
    };
    match choice {
        0..=4 => {}
        5..=6 => {
            let value = histories.lock().fresh();
            let started = ctx.recorder.now();
            let put = bucket.put(key, value.to_string().into());
            let done = tokio::time::timeout(OP_TIMEOUT, put).await;
            let known = matches!(done, Ok(Ok(_)));
            note(
                ctx,
                histories,
                key,
                ("put", client),
                started,
                Op::Put(value),
                known,
            );
        }
        _ => {
            let value = histories.lock().fresh();
            let started = ctx.recorder.now();
            let update = bucket.update(key, value.to_string().into(), revision);
            let made = match tokio::time::timeout(OP_TIMEOUT, update).await {
                Ok(Ok(_)) => Some(true),
                Ok(Err(error)) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                    Some(false)
                }
                _ => None,
            };
            let op = Op::Update(seen, value, made);
            note(
                ctx,
                histories,
                key,
                ("update", client),
                started,
                op,
                made.is_some(),
            );
        }
    }
}

/// Value and revision; `None`: no answer, which says nothing.
async fn get(
    ctx: &Ctx,
    bucket: &kv::Store,
    client: usize,
    key: &str,
    histories: &Mutex<Histories>,
) -> Option<(u64, u64)> {
    let started = ctx.recorder.now();
    let Ok(Ok(entry)) = tokio::time::timeout(OP_TIMEOUT, bucket.entry(key)).await else {
        ctx.recorder.span("get", started, Ending::Unknown);
        return None;
    };
    let (value, revision) = match entry {
        Some(entry) => {
            let text = String::from_utf8_lossy(&entry.value).into_owned();
            (text.parse().unwrap_or(u64::MAX), entry.revision)
        }
        None => (0, 0),
    };
    note(
        ctx,
        histories,
        key,
        ("get", client),
        started,
        Op::Get(value),
        true,
    );
    Some((value, revision))
}

fn note(
    ctx: &Ctx,
    histories: &Mutex<Histories>,
    key: &str,
    (kind, client): (&'static str, usize),
    started: Micros,
    op: Op,
    known: bool,
) {
    let ending = match op {
        Op::Update(_, _, Some(false)) => Ending::Refused,
        _ if known => Ending::Done,
        _ => Ending::Unknown,
    };
    ctx.recorder.span(kind, started, ending);
    let entry = Entry {
        op,
        client,
        started,
        ended: known.then(|| ctx.recorder.now()),
    };
    let mut histories = histories.lock();
    histories
        .keys
        .entry(key.to_owned())
        .or_default()
        .push(entry);
}

/// A history as the checker takes it: calls and responses in the order of their times; what nobody
/// knows the end of responds last of all.
fn actions(entries: &[Entry]) -> Vec<(usize, Action<Op>)> {
    let mut events: Vec<(Micros, u8, usize, Action<Op>)> = Vec::new();
    // A process has one operation at a time, so that one without an end is a process of its own.
    let processes = entries.iter().map(|entry| entry.client).max().unwrap_or(0) + 1;
    for (at, entry) in entries.iter().enumerate() {
        let process = if entry.ended.is_some() {
            entry.client
        } else {
            processes + at
        };
        let ended = entry.ended.unwrap_or(Micros::MAX);
        // At the same microsecond calls come first: they may overlap.
        events.push((entry.started, 0, process, Action::Call(entry.op)));
        events.push((ended, 1, process, Action::Response(entry.op)));
    }
    events.sort_by_key(|event| (event.0, event.1));
    let plain = events.into_iter();
    plain
        .map(|(_, _, process, action)| (process, action))
        .collect()
}

/// What does not hold, and keys that could not be judged in time.
pub(crate) fn judge(histories: &Histories) -> (Vec<String>, usize) {
    let (mut findings, mut unjudged) = (Vec::new(), 0);
    for (key, entries) in &histories.keys {
        let history = actions(entries);
        let (tell, told) = std::sync::mpsc::channel();
        // The checker has no limit of its own; a thread that takes too long is left behind.
        std::thread::spawn(move || {
            let fine = WGLChecker::<Register>::is_linearizable(History::from_actions(history));
            let _ = tell.send(fine);
        });
        match told.recv_timeout(JUDGE_TIMEOUT) {
            Ok(true) => {}
            Ok(false) => {
                let mut sorted = entries.clone();
                sorted.sort_by_key(|entry| entry.started);
                let lines: Vec<_> = sorted.iter().map(|entry| format!("  {entry:?}")).collect();
                findings.push(format!(
                    "key {key} is not linearizable:\n{}",
                    lines.join("\n")
                ));
            }
            Err(_) => unjudged += 1,
        }
    }
    (findings, unjudged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(op: Op, client: usize, started: Micros, ended: Option<Micros>) -> Entry {
        Entry {
            op,
            client,
            started,
            ended,
        }
    }

    fn is_fine(entries: Vec<Entry>) -> bool {
        let histories = Histories {
            keys: [("k".to_owned(), entries)].into(),
            ..Histories::default()
        };
        judge(&histories).0.is_empty()
    }

    #[test]
    fn a_stale_read_is_found_and_an_overlapping_one_is_not() {
        let put = |started, ended| entry(Op::Put(1), 0, started, Some(ended));
        assert!(!is_fine(vec![
            put(0, 10),
            entry(Op::Get(0), 1, 11, Some(12))
        ]));
        assert!(is_fine(vec![put(0, 10), entry(Op::Get(0), 1, 9, Some(12))]));
    }

    #[test]
    fn an_unknown_write_may_come_late_or_never_but_not_twice() {
        let lost = entry(Op::Put(1), 0, 0, None);
        let get = |value, at| entry(Op::Get(value), 1, at, Some(at + 1));
        assert!(is_fine(vec![lost, get(0, 5), get(0, 10)]));
        assert!(is_fine(vec![lost, get(0, 5), get(1, 10)]));
        assert!(!is_fine(vec![lost, get(1, 5), get(0, 10)]));
    }

    #[test]
    fn an_update_that_was_refused_must_have_met_another_value() {
        let put = entry(Op::Put(1), 0, 0, Some(1));
        let update = |made| entry(Op::Update(1, 2, made), 1, 5, Some(6));
        let get = |value| entry(Op::Get(value), 0, 8, Some(9));
        assert!(is_fine(vec![put, update(Some(true)), get(2)]));
        assert!(!is_fine(vec![put, update(Some(false)), get(1)]));
        assert!(!is_fine(vec![put, update(Some(true)), get(1)]));
    }
}
