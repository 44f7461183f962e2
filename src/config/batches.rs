//! Bounds of batches of messages (ADR-50): what may be written about them, and what they are.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

use super::ConfigError;
use super::limits::{limit, parse_size, size};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const GIB: u64 = 1024 * MIB;

/// What may be written about the bounds of batches. Defaults are [`BatchLimits`]'s.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Limits of batches")]
pub struct BatchArgs {
    /// Most fast batches of this node's publishers at a time; one more is refused [default: 1000]
    #[arg(long, value_name = "N", env = "UNIBUS_MAX_FAST_BATCHES")]
    pub max_fast_batches: Option<u64>,
    /// Most bytes of fast batches that wait to be stored; publishers wait while there are more
    /// [default: 32MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "UNIBUS_MAX_FAST_WAITING")]
    pub max_fast_waiting: Option<u64>,
    /// Most atomic batches of this node's publishers for one stream at a time; one more is refused
    /// [default: 50]
    #[arg(long, value_name = "N", env = "UNIBUS_MAX_ATOMIC_BATCHES")]
    pub max_atomic_batches: Option<u64>,
    /// Most bytes of atomic batches that are not committed yet; the batch that goes beyond is refused
    /// [default: 256MB]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, env = "UNIBUS_MAX_ATOMIC_STAGED")]
    pub max_atomic_staged: Option<u64>,
    /// Time after which a batch of either kind is given up that hears nothing, in milliseconds
    /// [default: 10000]
    #[arg(long, value_name = "MS", env = "UNIBUS_BATCH_TIMEOUT_MS")]
    pub batch_timeout_ms: Option<u64>,
}

/// The bounds of the batches that a node holds for its publishers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BatchLimits {
    /// Fast batches at once (`--max-fast-batches`, default 1,000).
    pub fast_max: usize,
    /// Bytes of messages of fast batches that wait for their series, over all batches
    /// (`--max-fast-waiting`, default 32 MiB).
    pub fast_waiting_bytes_max: usize,
    /// Atomic batches for one stream at once (`--max-atomic-batches`, default 50).
    pub atomic_per_stream_max: usize,
    /// Bytes of atomic batches that are not committed, over all of them (`--max-atomic-staged`, default
    /// 256 MiB).
    pub atomic_staged_bytes_max: usize,
    /// A batch that hears nothing for this long is given up (`--batch-timeout-ms`, default 10 s).
    pub idle_max: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            fast_max: 1000,
            fast_waiting_bytes_max: 32 << 20,
            atomic_per_stream_max: 50,
            atomic_staged_bytes_max: 256 << 20,
            idle_max: Duration::from_secs(10),
        }
    }
}

impl BatchLimits {
    /// Fills in defaults.
    ///
    /// # Errors
    /// [`ConfigError::Limit`] naming the flag, what was found and what is wanted.
    pub(super) fn new(set: &BatchArgs) -> Result<Self, ConfigError> {
        let counts = 1..=1_000_000;
        let of_counts = "from 1 to 1000000";
        let given = [
            (
                "--max-fast-batches",
                set.max_fast_batches,
                counts.clone(),
                of_counts,
            ),
            (
                "--max-fast-waiting",
                set.max_fast_waiting,
                64 * KIB..=64 * GIB,
                "from 64KB to 64GB",
            ),
            (
                "--max-atomic-batches",
                set.max_atomic_batches,
                counts,
                of_counts,
            ),
            (
                "--max-atomic-staged",
                set.max_atomic_staged,
                MIB..=64 * GIB,
                "from 1MB to 64GB",
            ),
            (
                "--batch-timeout-ms",
                set.batch_timeout_ms,
                100..=3_600_000,
                "from 100 to 3600000",
            ),
        ];
        check(given)?;
        let base = Self::default();
        Ok(Self {
            fast_max: size(set.max_fast_batches, base.fast_max),
            fast_waiting_bytes_max: size(set.max_fast_waiting, base.fast_waiting_bytes_max),
            atomic_per_stream_max: size(set.max_atomic_batches, base.atomic_per_stream_max),
            atomic_staged_bytes_max: size(set.max_atomic_staged, base.atomic_staged_bytes_max),
            idle_max: set
                .batch_timeout_ms
                .map_or(base.idle_max, Duration::from_millis),
        })
    }
}

/// A flag, what was given for it, what is allowed, and that in words.
pub(super) type Given = (&'static str, Option<u64>, RangeInclusive<u64>, &'static str);

/// Refuses the first that is given and out of its range.
pub(super) fn check<const N: usize>(given: [Given; N]) -> Result<(), ConfigError> {
    for (flag, found, range, wanted) in given {
        if let Some(found) = found.filter(|found| !range.contains(found)) {
            return Err(limit(flag, found, wanted));
        }
    }
    Ok(())
}
