//! Measures apply alone: `cargo run --profile release -p unibus-state --example appends`. Prints appends
//! per second for 128-byte messages on one core, for a few numbers of subjects.

use std::io::Write;
use std::time::Instant;

use unibus_proto::jetstream::config::StreamConfig;
use unibus_state::command::{Command, StreamPut};
use unibus_state::{CommandBatch, EncodedBatch, NullSink, State, decode_entry, encode_entry};

const MESSAGES: u64 = 500_000;
const BATCH: u64 = 500;

#[allow(
    clippy::disallowed_methods,
    reason = "a measurement reads the clock; the crate does not"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (subjects, per_subject) in [(1u64, -1), (10_000, -1), (10_000, 1)] {
        let mut state = State::new();
        let config = StreamConfig {
            name: "S".into(),
            subjects: vec!["bench.>".into()],
            max_msgs_per_subject: per_subject,
            ..StreamConfig::default()
        };
        let put = StreamPut {
            config,
            privileged: false,
            replicas_max: 1,
            pedantic: false,
        };
        let create = encode_entry(1, &[EncodedBatch::of(&Command::StreamCreate(put))?]);
        state.apply(1, &decode_entry(&create)?, &mut NullSink);
        let mut entries = Vec::new();
        for start in (0..MESSAGES).step_by(BATCH as usize) {
            let mut batch = CommandBatch::new();
            for n in start..start + BATCH {
                let subject = format!("bench.key.{}", n * 7919 % subjects);
                batch.push_append(subject.as_bytes(), 0, &[b'x'; 128], false)?;
            }
            entries.push(encode_entry(start + 2, &[batch.freeze()]));
        }
        let begin = Instant::now();
        for (index, entry) in (2u64..).zip(&entries) {
            state.apply(index, &decode_entry(entry)?, &mut NullSink);
        }
        let rate = MESSAGES as f64 / begin.elapsed().as_secs_f64();
        writeln!(
            std::io::stdout(),
            "{subjects} subjects, {per_subject} per subject: {rate:.0} appends/s"
        )?;
    }
    Ok(())
}
