//! What time alone does to a stream: messages that are too old or have outlived their own limit go, and
//! the last one of a subject may leave a marker.

use crate::entries::{MARKER, NEVER};
use crate::header_scan::format_seconds;
use crate::stream::{Context, Stream};

impl Stream {
    /// When time alone will change this stream.
    #[must_use]
    pub fn next_deadline_ns(&self) -> Option<u64> {
        if let Some(restoring) = &self.restoring {
            return Some(restoring.deadline_ns());
        }
        if self.config.sealed {
            return None;
        }
        if self.sweep_from.is_some() {
            return Some(0);
        }
        let own = self.by_expiry.first().map(|(expiry, _)| *expiry);
        let age = self
            .age_head()
            .map(|(_, ts_ns)| ts_ns.saturating_add(self.max_age_ns()));
        match (own, age) {
            (Some(own), Some(age)) => Some(own.min(age)),
            (own, age) => own.or(age),
        }
    }

    pub(crate) fn max_age_ns(&self) -> u64 {
        u64::try_from(self.config.max_age).unwrap_or(0)
    }

    /// The oldest message that the maximum age will remove.
    fn age_head(&self) -> Option<(u64, u64)> {
        if self.config.max_age <= 0 {
            return None;
        }
        let from = self.age_cursor.max(self.first_seq);
        let mut rest = self.blocks.iter_from(from);
        rest.find(|(_, _, entry)| !entry.has(NEVER))
            .map(|(seq, _, entry)| (seq, entry.ts_ns()))
    }

    /// Notes what survives the maximum age, so that it is looked at once and not after every entry.
    pub(crate) fn pass_lasting(&mut self) {
        if self.config.max_age > 0 {
            let aging = self.age_head().map(|(seq, _)| seq);
            self.age_cursor = aging.unwrap_or_else(|| self.last_seq.saturating_add(1));
        }
    }

    /// Removes what is due, at most `budget` messages. Returns how many went.
    pub(crate) fn expire(&mut self, budget: usize, ctx: &mut Context<'_>) -> usize {
        let mut gone = 0;
        while gone < budget && !self.config.sealed {
            let own = self
                .by_expiry
                .first()
                .copied()
                .filter(|(at, _)| *at <= ctx.now_ns);
            let age = self.age_head().filter(|(seq, ts_ns)| {
                self.age_cursor = *seq;
                ts_ns.saturating_add(self.max_age_ns()) <= ctx.now_ns
            });
            let Some(seq) = own.map(|(_, seq)| seq).or_else(|| age.map(|(seq, _)| seq)) else {
                break;
            };
            if !self.expire_one(seq, ctx) {
                break;
            }
            gone += 1;
        }
        gone
    }

    /// Removes one due message; false when it is not there.
    fn expire_one(&mut self, seq: u64, ctx: &mut Context<'_>) -> bool {
        let marker_ttl = u64::try_from(self.config.subject_delete_marker_ttl).unwrap_or(0);
        let Some((_, entry)) = self.blocks.find(seq) else {
            if let Some(expiry) = self.expiry_of.remove(&seq) {
                self.by_expiry.remove(&(expiry, seq));
            }
            return false;
        };
        let last_of_subject = self.subjects.seqs(entry.subject).len() == 1;
        let marked = (marker_ttl > 0 && last_of_subject && !entry.has(MARKER))
            .then(|| self.subjects.name(entry.subject).to_vec());
        self.remove(seq, ctx);
        if let Some(subject) = marked {
            let header = format!(
                "NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: {}\r\nNats-Rollup: sub\r\n\r\n",
                format_seconds(marker_ttl)
            );
            let expiry = ctx.now_ns.saturating_add(marker_ttl);
            let header_len = crate::codec::len_u32(header.len());
            self.store(
                &subject,
                header_len,
                header.as_bytes(),
                MARKER,
                Some(expiry),
                ctx,
            );
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use unibus_proto::jetstream::config::StreamConfig;

    use super::*;
    use crate::command::AppendRef;
    use crate::location::{NullSink, StreamUid};
    use crate::rules::Rules;

    #[test]
    fn what_outlives_the_maximum_age_is_passed_once() {
        let config = StreamConfig {
            name: "S".into(),
            subjects: vec!["a".into()],
            allow_msg_ttl: true,
            max_age: 1_000_000_000,
            ..StreamConfig::default()
        };
        let mut stream = Stream::new(StreamUid(1), config, 0);
        let mut ctx = Context {
            now_ns: 10,
            rules: Rules::NEWEST,
            work: 0,
            sink: &mut NullSink,
        };
        let mut publish = |stream: &mut Stream, block: &[u8]| {
            let append = AppendRef {
                subject: b"a",
                header_len: block.len() as u32,
                data: block,
                privileged: false,
            };
            stream.append(append, &mut ctx);
            stream.pass_lasting();
            (stream.age_cursor, stream.next_deadline_ns())
        };
        let lasting = b"NATS/1.0\r\nNats-TTL: never\r\n\r\n";
        for seq in 1..=100 {
            assert_eq!(publish(&mut stream, lasting), (seq + 1, None));
        }
        let due = Some(1_000_000_010);
        assert_eq!(publish(&mut stream, b""), (101, due));
        assert_eq!(publish(&mut stream, lasting), (101, due));
    }
}
