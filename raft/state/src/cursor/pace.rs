//! When the next message may go: at the speed it was stored with (`replay: original`), and not faster
//! than the consumer's rate limit.

/// Idle time that a rate limit lets a consumer catch up with, nanoseconds.
const RATE_CREDIT_NS: u64 = 100_000_000;
const BITS_PER_BYTE: u64 = 8;
const SECOND_NS: u64 = 1_000_000_000;

#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// Replay up to this sequence keeps the original gaps.
    replay_to: Option<u64>,
    /// When the last message was sent, and when it had been stored.
    last: Option<(u64, u64)>,
    rate_bps: u64,
    /// The rate limit is used up until then.
    busy_until_ns: u64,
}

impl Pace {
    pub(super) fn new(replay_to: Option<u64>, rate_bps: u64) -> Self {
        Self {
            replay_to,
            rate_bps,
            ..Self::default()
        }
    }

    pub(super) fn set_rate(&mut self, rate_bps: u64) {
        self.rate_bps = rate_bps;
        self.busy_until_ns = 0;
    }

    /// When this message may go.
    pub(super) fn ready_at(&self, seq: u64, ts_ns: u64) -> u64 {
        let replayed = match (self.replay_to, self.last) {
            (Some(to), Some((sent_ns, stored_ns))) if seq <= to => {
                sent_ns.saturating_add(ts_ns.saturating_sub(stored_ns))
            }
            _ => 0,
        };
        replayed.max(self.busy_until_ns)
    }

    pub(super) fn sent(&mut self, now_ns: u64, ts_ns: u64, bytes: u64) {
        if self.replay_to.is_some() {
            self.last = Some((now_ns, ts_ns));
        }
        if self.rate_bps > 0 {
            let from = self
                .busy_until_ns
                .max(now_ns.saturating_sub(RATE_CREDIT_NS));
            let bits = bytes.saturating_mul(BITS_PER_BYTE);
            let cost = u128::from(bits) * u128::from(SECOND_NS) / u128::from(self.rate_bps);
            let cost = u64::try_from(cost).unwrap_or(u64::MAX);
            self.busy_until_ns = from.saturating_add(cost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_those_of_the_originals() {
        let mut pace = Pace::new(Some(3), 0);
        assert_eq!(pace.ready_at(1, 500), 0, "the first goes at once");
        pace.sent(10_000, 500, 1);
        assert_eq!(pace.ready_at(2, 750), 10_250);
        pace.sent(11_000, 750, 1);
        assert_eq!(pace.ready_at(3, 700), 11_000, "clocks may go back");
        assert_eq!(
            pace.ready_at(4, 999_999),
            0,
            "what came later is not replayed"
        );
    }

    #[test]
    fn the_rate_is_kept_over_time() {
        let mut pace = Pace::new(None, 8_000_000);
        let mut now = 10 * SECOND_NS;
        let start = now;
        for seq in 0..100 {
            now = now.max(pace.ready_at(seq, 0));
            pace.sent(now, 0, 10_000);
        }
        // A million bytes at a million bytes a second, less the credit and the last message.
        assert_eq!(
            now - start,
            SECOND_NS - RATE_CREDIT_NS - 10_000_000 / 1_000 * 1_000
        );
    }
}
