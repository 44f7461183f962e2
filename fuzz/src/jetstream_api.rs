//! JSON of the JetStream API on its way into the state: streams and consumers that anybody asks for are
//! created or refused, alike on every replica, and a checkpoint keeps what was created.

use serde::de::DeserializeOwned;
use unibus_proto::jetstream::api::ConsumerAction;
use unibus_proto::jetstream::config::StreamConfig;
use unibus_proto::jetstream::consumer::ConsumerConfig;
use unibus_proto::jetstream::pull::PullRequest;
use unibus_state::command::{Command, ConsumerCreate, StreamPut};
use unibus_state::{CommandBatch, NullSink, RowOp, State, decode_entry, encode_entry};

/// Entries of one input at most.
const LINES_MAX: usize = 12;

/// Each line is a kind byte and JSON: `s` creates a stream, `u` updates it, `c` creates a consumer, `d`
/// creates or updates one, `m` publishes the rest, anything else is read as a pull request.
pub fn jetstream_api(data: &[u8]) {
    let (mut one, mut other) = (State::new(), State::new());
    for (at, line) in data
        .split(|byte| *byte == b'\n')
        .take(LINES_MAX)
        .enumerate()
    {
        let Some((kind, json)) = line.split_first() else {
            continue;
        };
        let mut batch = CommandBatch::new();
        let Some(()) = push(&mut batch, *kind, json) else {
            continue;
        };
        let index = at as u64 + 1;
        let bytes = encode_entry(index * 1_000_000_000, &[batch.freeze()]);
        let Ok(entry) = decode_entry(&bytes) else {
            panic!("what was encoded is not decoded");
        };
        let answers = one.apply(index, &entry, &mut NullSink);
        assert_eq!(answers, other.apply(index, &entry, &mut NullSink));
        other = reloaded(&mut other);
    }
    assert_eq!(one.digest(), other.digest(), "a checkpoint loses something");
}

fn push(batch: &mut CommandBatch, kind: u8, json: &[u8]) -> Option<()> {
    let command = match kind {
        b's' => Command::StreamCreate(put(json)?),
        b'u' => Command::StreamUpdate(put(json)?),
        b'c' => Command::ConsumerCreate(consumer(json, ConsumerAction::Create)?),
        b'd' => Command::ConsumerCreate(consumer(json, ConsumerAction::CreateOrUpdate)?),
        b'm' => return batch.push_append(b"a.b", 0, json, false).ok(),
        _ => {
            let _ = read::<PullRequest>(json);
            return None;
        }
    };
    batch.push(&command).ok()
}

fn read<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

fn put(json: &[u8]) -> Option<StreamPut> {
    Some(StreamPut {
        config: read::<StreamConfig>(json)?,
        privileged: false,
        replicas_max: 3,
        pedantic: false,
    })
}

fn consumer(json: &[u8], action: ConsumerAction) -> Option<ConsumerCreate> {
    Some(ConsumerCreate {
        stream: "S".into(),
        config: read::<ConsumerConfig>(json)?,
        action,
        generated_name: "made".into(),
        privileged: false,
    })
}

fn reloaded(state: &mut State) -> State {
    let mut rows = Vec::new();
    state.dump_rows(true, &mut |op| {
        if let RowOp::Put { key, value } = op {
            rows.push((key, value));
        }
    });
    let loaded = State::load_rows(rows.into_iter());
    assert!(loaded.is_ok(), "a dump does not load");
    loaded.unwrap_or_default()
}
