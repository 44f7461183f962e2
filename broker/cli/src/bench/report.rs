//! The figures of a run, for people and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::AmountArgs;
use super::load::Times;
use crate::error::Result;
use crate::output;
use crate::text;

/// The percentiles that are told.
const PERCENTILES: [(&str, f64); 4] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];
const MEGABYTE: f64 = 1_000_000.0;

/// What one phase did.
pub(super) struct Report {
    what: String,
    clients: u16,
    size: u64,
    messages: u64,
    took: Duration,
    times: Times,
    lost: u64,
}

impl Report {
    /// The figures of a phase that took so long.
    pub(super) fn new(
        what: &str,
        amount: &AmountArgs,
        messages: u64,
        took: Duration,
        times: Times,
    ) -> Self {
        Self {
            what: what.to_owned(),
            clients: amount.clients,
            size: amount.size,
            messages,
            took,
            times,
            lost: 0,
        }
    }

    /// The same, where so many messages that should have come did not.
    pub(super) fn lost(mut self, lost: u64) -> Self {
        self.lost = lost;
        self
    }

    /// The same, done by so many clients.
    pub(super) fn by(mut self, clients: u16) -> Self {
        self.clients = clients;
        self
    }

    /// How many messages it was.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    fn per_second(&self) -> f64 {
        self.messages as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn megabytes_per_second(&self) -> f64 {
        self.per_second() * self.size as f64 / MEGABYTE
    }

    fn micros(&self, percentile: f64) -> f64 {
        self.times.value_at_percentile(percentile) as f64 / 1000.0
    }

    fn json(&self) -> Value {
        let mut record = json!({"phase": self.what, "clients": self.clients, "size": self.size,
            "messages": self.messages, "lost": self.lost, "seconds": self.took.as_secs_f64(),
            "msgs_per_s": self.per_second(), "mb_per_s": self.megabytes_per_second()});
        if !self.times.is_empty() {
            let mut latency = json!({"mean": self.times.mean() / 1000.0,
                "max": self.times.max() as f64 / 1000.0});
            for (name, percentile) in PERCENTILES {
                latency[name] = self.micros(percentile).into();
            }
            record["latency_us"] = latency;
        }
        record
    }

    fn row(&self) -> Vec<String> {
        let mut row = vec![
            self.what.clone(),
            self.clients.to_string(),
            text::count_shown(self.messages),
            text::size_shown(self.size),
            text::duration_shown(self.took),
            text::count_shown(self.per_second() as u64),
            format!("{:.1}", self.megabytes_per_second()),
        ];
        for (_, percentile) in &PERCENTILES[..3] {
            row.push(match self.times.is_empty() {
                true => String::new(),
                false => {
                    let nanos = self.times.value_at_percentile(*percentile);
                    text::duration_shown(Duration::from_nanos(nanos))
                }
            });
        }
        row
    }
}

/// Prints the figures.
///
/// # Errors
/// Where the output can't be written.
pub(super) fn print(reports: &[Report], json: bool) -> Result {
    if json {
        let all: Vec<Value> = reports.iter().map(Report::json).collect();
        return output::json(&all);
    }
    let headings = [
        "phase", "clients", "messages", "size", "time", "msgs/s", "MB/s", "p50", "p90", "p99",
    ];
    output::table(&headings, reports.iter().map(Report::row))?;
    for report in reports.iter().filter(|report| report.lost > 0) {
        let lost = text::count_shown(report.lost);
        output::tell(&format!(
            "unibus: {}: {lost} messages did not come",
            report.what
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Report;
    use crate::bench::AmountArgs;
    use crate::bench::load::times;

    #[test]
    fn figures_are_what_they_say() {
        let amount = AmountArgs {
            msgs: 10,
            time: None,
            size: 1000,
            clients: 2,
        };
        let mut latencies = times().unwrap();
        for micros in 1..=100 {
            latencies.record(micros * 1000).unwrap();
        }
        let took = Duration::from_secs(2);
        let json = Report::new("pub", &amount, 10_000, took, latencies).json();
        assert_eq!(json["msgs_per_s"], 5000.0);
        assert_eq!(json["mb_per_s"], 5.0);
        let p50 = json["latency_us"]["p50"].as_f64().unwrap();
        assert!((49.0..52.0).contains(&p50), "{p50}");
    }
}
