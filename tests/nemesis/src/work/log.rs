//! Append to a stream: what was acknowledged is there, once, in the order of its writer, and nothing
//! that nobody sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Context as _;
use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use parking_lot::Mutex;

use super::{Ctx, OP_TIMEOUT, rest};
use crate::history::Ending;

/// The stream.
pub(crate) const STREAM: &str = "LOG";

/// What writers know.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Sequence and value of what was acknowledged, by writer, in order.
    acknowledged: BTreeMap<usize, Vec<(u64, String)>>,
    /// Everything that was ever sent.
    sent: BTreeSet<String>,
}

pub(crate) async fn make(client: &async_nats::Client, replicas: usize) -> anyhow::Result<()> {
    let config = stream::Config {
        name: STREAM.into(),
        subjects: vec!["log.>".into()],
        num_replicas: replicas,
        allow_direct: true,
        ..Default::default()
    };
    jetstream::new(client.clone()).create_stream(config).await?;
    Ok(())
}

/// One writer: numbers in order, each sent again with the same message id until it is acknowledged.
pub(crate) async fn write(
    ctx: Ctx,
    client: async_nats::Client,
    writer: usize,
    written: Arc<Mutex<Written>>,
) {
    let context = jetstream::new(client);
    let mut n = 0;
    while !ctx.is_stopped() {
        let value = format!("{writer}-{n}");
        written.lock().sent.insert(value.clone());
        let started = ctx.recorder.now();
        match append(&context, writer, &value).await {
            Ok(seq) => {
                ctx.recorder.span("append", started, Ending::Done);
                let mut written = written.lock();
                written
                    .acknowledged
                    .entry(writer)
                    .or_default()
                    .push((seq, value));
                n += 1;
            }
            Err(_) => {
                ctx.recorder.span("append", started, Ending::Unknown);
                rest(50).await;
            }
        }
        rest(10).await;
    }
}

async fn append(context: &jetstream::Context, writer: usize, value: &str) -> anyhow::Result<u64> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", value);
    let subject = format!("log.{writer}");
    let publish = async {
        let ack = context
            .publish_with_headers(subject, headers, value.to_owned().into())
            .await?;
        anyhow::Ok(ack.await?)
    };
    let ack = tokio::time::timeout(OP_TIMEOUT, publish).await??;
    Ok(ack.sequence)
}

/// Reads the whole stream at a node: value by sequence.
pub(crate) async fn read(client: &async_nats::Client) -> anyhow::Result<BTreeMap<u64, String>> {
    let context = jetstream::new(client.clone());
    let mut stream = context.get_stream(STREAM).await?;
    let last = stream.info().await?.state.last_sequence;
    let mut found = BTreeMap::new();
    for seq in 1..=last {
        let message = stream.direct_get(seq).await;
        let message = message.with_context(|| format!("sequence {seq} of {last}"))?;
        found.insert(seq, String::from_utf8_lossy(&message.payload).into_owned());
    }
    Ok(found)
}

/// What does not hold of the stream as one node shows it.
pub(crate) fn judge(node: &str, stored: &BTreeMap<u64, String>, written: &Written) -> Vec<String> {
    let mut findings = Vec::new();
    let mut places: BTreeMap<&str, u64> = BTreeMap::new();
    for (seq, value) in stored {
        if !written.sent.contains(value) {
            findings.push(format!("{node}: {value:?} at {seq} was never sent"));
        }
        if let Some(before) = places.insert(value, *seq) {
            findings.push(format!("{node}: {value:?} is at {before} and at {seq}"));
        }
    }
    for (writer, acknowledged) in &written.acknowledged {
        let mut last = 0;
        for (seq, value) in acknowledged {
            if stored.get(seq) != Some(value) {
                let found = stored.get(seq);
                findings.push(format!(
                    "{node}: {value:?} was acknowledged at {seq}, where {found:?} is"
                ));
            }
            if *seq <= last {
                findings.push(format!("writer {writer}: {value:?} at {seq} after {last}"));
            }
            last = *seq;
        }
    }
    findings
}

impl Written {
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
            .values()
            .map(|list| list.len() as u64)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Written {
        Written {
            acknowledged: [(0, vec![(1, "0-0".into()), (3, "0-1".into())])].into(),
            sent: ["0-0", "0-1", "1-0"].map(String::from).into(),
        }
    }

    fn stored(values: &[&str]) -> BTreeMap<u64, String> {
        (1..).zip(values.iter().map(ToString::to_string)).collect()
    }

    #[test]
    fn a_right_log_has_no_findings() {
        let log = stored(&["0-0", "1-0", "0-1"]);
        assert_eq!(judge("n", &log, &written()), Vec::<String>::new());
    }

    #[test]
    fn loss_phantoms_copies_and_disorder_are_found() {
        for (wrong, finding) in [
            (&["0-0", "1-0"][..], "was acknowledged at 3"),
            (&["0-0", "9-9", "0-1"], "never sent"),
            (&["0-0", "0-0", "0-1"], "is at 1 and at 2"),
            (&["0-1", "1-0", "0-0"], "was acknowledged at 1"),
        ] {
            let found = judge("n", &stored(wrong), &written()).join("\n");
            assert!(found.contains(finding), "{wrong:?}: {found}");
        }
        let mut disorder = written();
        disorder
            .acknowledged
            .insert(1, vec![(3, "0-1".into()), (1, "0-0".into())]);
        let found = judge("n", &stored(&["0-0", "1-0", "0-1"]), &disorder).join("\n");
        assert!(found.contains("after 3"), "{found}");
    }
}
