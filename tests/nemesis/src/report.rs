//! What a campaign did, for people: a summary in words and numbers, and a picture of each run.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::campaign::Outcome;
use crate::history::{Ending, Micros, Notes};

/// Width of the picture of a run, without its margin, pixels.
const WIDTH: f64 = 1000.0;
const LEFT: f64 = 90.0;
const LANE: f64 = 26.0;
const CHART: f64 = 70.0;
/// Operations are counted by this much time.
const BUCKET_US: Micros = 250_000;

const COLOURS: [(&str, &str); 15] = [
    ("kill", "#c0392b"),
    ("power", "#7b241c"),
    ("pause", "#d68910"),
    ("partition", "#2471a3"),
    ("one-way", "#5dade2"),
    ("bridge", "#1a5276"),
    ("slow-network", "#48c9b0"),
    ("clock", "#8e44ad"),
    ("disk-stall", "#7d6608"),
    ("disk-full", "#a04000"),
    ("rolling-restart", "#566573"),
    ("upgrade", "#aab7b8"),
    ("damage", "#6c3483"),
    ("disk-lost", "#17202a"),
    ("membership", "#1e8449"),
];

/// The picture of one run: what was done to whom, who led, and what clients got done.
#[must_use]
pub fn picture(outcome: &Outcome) -> String {
    let notes = &outcome.notes;
    let spans = notes.spans.iter().map(|span| span.ended);
    let end = spans
        .chain(notes.faults.iter().map(|fault| fault.ended))
        .max();
    let end = end.unwrap_or(1).max(1);
    let x = |at: Micros| LEFT + WIDTH * at as f64 / end as f64;
    let lanes = outcome.nodes as f64 * LANE;
    let height = 60.0 + lanes + 2.0 * (CHART + 30.0) + 78.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {height:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">Seed {}: {} nodes, {} faults, {} findings</text>\n",
        LEFT + WIDTH + 30.0,
        outcome.seed,
        outcome.nodes,
        notes.faults.len(),
        outcome.findings.len(),
    );
    let top = 40.0;
    for node in 0..outcome.nodes {
        let y = top + node as f64 * LANE;
        let middle = y + LANE * 0.65;
        let _ = writeln!(
            svg,
            "<text x=\"10\" y=\"{middle:.0}\">n{node}</text>\
             <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{WIDTH}\" height=\"{:.1}\" fill=\"#f4f6f7\"/>",
            LANE - 4.0
        );
    }
    draw_faults(&mut svg, notes, top, &x);
    draw_leaders(&mut svg, notes, (top, end), &x);
    let below = top + lanes + 24.0;
    let writes = ["append", "put", "update"];
    draw_counts(&mut svg, notes, ("writes", &writes), (below, end), &x);
    let reads = ["get", "delivery", "double ack"];
    let lower = below + CHART + 30.0;
    draw_counts(
        &mut svg,
        notes,
        ("reads, deliveries, acks", &reads),
        (lower, end),
        &x,
    );
    draw_axis(&mut svg, lower + CHART + 16.0, end, &x);
    draw_legend(&mut svg, lower + CHART + 40.0);
    svg.push_str("</svg>\n");
    svg
}

fn draw_faults(svg: &mut String, notes: &Notes, top: f64, x: &impl Fn(Micros) -> f64) {
    for fault in &notes.faults {
        let colour = colour(fault.kind);
        for node in &fault.nodes {
            let y = top + *node as f64 * LANE;
            let (left, right) = (x(fault.started), x(fault.ended));
            let _ = writeln!(
                svg,
                "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\" \
                 fill=\"{colour}\" fill-opacity=\"0.75\"><title>{} {}</title></rect>",
                (right - left).max(1.5),
                LANE - 4.0,
                fault.kind,
                fault.detail
            );
        }
    }
}

/// A line below the lane of who leads.
fn draw_leaders(
    svg: &mut String,
    notes: &Notes,
    (top, end): (f64, Micros),
    x: &impl Fn(Micros) -> f64,
) {
    for (at, (since, leader)) in notes.leaders.iter().enumerate() {
        let Some(leader) = leader else { continue };
        let until = notes.leaders.get(at + 1).map_or(end, |(next, _)| *next);
        let y = top + (*leader as f64 + 1.0) * LANE - 4.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"black\" \
             stroke-width=\"3\"><title>leads</title></line>",
            x(*since),
            x(until.min(end))
        );
    }
}

/// How many operations ended when, and of those how many without an answer.
fn draw_counts(
    svg: &mut String,
    notes: &Notes,
    (title, kinds): (&str, &[&str]),
    (top, end): (f64, Micros),
    x: &impl Fn(Micros) -> f64,
) {
    let mut buckets: BTreeMap<Micros, (u64, u64)> = BTreeMap::new();
    for span in notes.spans.iter().filter(|span| kinds.contains(&span.kind)) {
        let bucket = buckets.entry(span.ended / BUCKET_US).or_default();
        match span.ending {
            Ending::Unknown => bucket.1 += 1,
            _ => bucket.0 += 1,
        }
    }
    let most = buckets.values().map(|(done, lost)| done + lost).max();
    let scale = CHART / most.unwrap_or(1).max(1) as f64;
    let per_second = most.unwrap_or(0) * 1_000_000 / BUCKET_US;
    let bottom = top + CHART;
    let _ = writeln!(
        svg,
        "<text x=\"10\" y=\"{:.0}\">{per_second}/s</text>\
         <text x=\"{LEFT}\" y=\"{:.0}\">{title} (red: no answer)</text>",
        top + 10.0,
        top - 5.0
    );
    for (bucket, (done, lost)) in buckets {
        let (left, right) = (
            x(bucket * BUCKET_US),
            x(((bucket + 1) * BUCKET_US).min(end)),
        );
        let width = (right - left - 0.5).max(0.5);
        let (high, low) = (done as f64 * scale, lost as f64 * scale);
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{high:.1}\" fill=\"#27ae60\"/>\
             <rect x=\"{left:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{low:.1}\" fill=\"#c0392b\"/>",
            bottom - high,
            bottom - high - low
        );
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{}\" y2=\"{bottom}\" stroke=\"#7f8c8d\"/>",
        LEFT + WIDTH
    );
}

fn draw_axis(svg: &mut String, y: f64, end: Micros, x: &impl Fn(Micros) -> f64) {
    let seconds = end / 1_000_000;
    let step = (seconds / 10).max(1);
    for second in (0..=seconds).step_by(usize::try_from(step).unwrap_or(1)) {
        let _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{y:.0}\" text-anchor=\"middle\">{second} s</text>",
            x(second * 1_000_000)
        );
    }
}

fn draw_legend(svg: &mut String, mut y: f64) {
    let mut left = LEFT;
    for (name, colour) in COLOURS {
        let width = 26.0 + name.len() as f64 * 7.0;
        if left + width > LEFT + WIDTH {
            (left, y) = (LEFT, y + 18.0);
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.0}\" y=\"{:.0}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"{y:.0}\">{name}</text>",
            y - 9.0,
            left + 14.0
        );
        left += width;
    }
}

fn colour(kind: &str) -> &'static str {
    let found = COLOURS.iter().find(|(name, _)| *name == kind);
    found.map_or("#95a5a6", |(_, colour)| colour)
}

/// All runs of a campaign in Markdown.
#[must_use]
pub fn summary(outcomes: &[Outcome]) -> String {
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    let mut operations: BTreeMap<&str, [u64; 3]> = BTreeMap::new();
    for outcome in outcomes {
        for (kind, count) in &outcome.faults {
            *faults.entry(kind).or_default() += count;
        }
        for (kind, counts) in &outcome.operations {
            let total = operations.entry(kind).or_default();
            total
                .iter_mut()
                .zip(counts)
                .for_each(|(sum, count)| *sum += count);
        }
    }
    let acknowledged: u64 = outcomes.iter().map(|outcome| outcome.acknowledged).sum();
    let findings: usize = outcomes.iter().map(|outcome| outcome.findings.len()).sum();
    let unjudged: usize = outcomes.iter().map(|outcome| outcome.unjudged).sum();
    let mut text = format!(
        "Runs: {}. Faults: {}. Messages acknowledged, and found at every node afterwards: \
         {acknowledged}. Keys too long to judge in time: {unjudged}. Findings: {findings}.\n\n\
         | fault | times |\n|---|---|\n",
        outcomes.len(),
        faults.values().sum::<u64>(),
    );
    for (kind, count) in &faults {
        let _ = writeln!(text, "| {kind} | {count} |");
    }
    text.push_str(
        "\n| operation | done | refused | no answer | p50 ms | p99 ms |\n|---|---|---|---|---|---|\n",
    );
    for (kind, [done, refused, unknown]) in &operations {
        let spans = outcomes.iter().flat_map(|outcome| &outcome.notes.spans);
        let times: Vec<Duration> = spans
            .filter(|span| span.kind == *kind && span.ending == Ending::Done)
            .map(|span| Duration::from_micros(span.ended - span.started))
            .collect();
        let _ = writeln!(
            text,
            "| {kind} | {done} | {refused} | {unknown} | {:.0} | {:.0} |",
            percentile_ms(&times, 50),
            percentile_ms(&times, 99)
        );
    }
    text.push_str("\n| seed | nodes | faults | acknowledged | frames lost | findings |\n|---|---|---|---|---|---|\n");
    for outcome in outcomes {
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} |",
            outcome.seed,
            outcome.nodes,
            outcome.faults.values().sum::<u64>(),
            outcome.acknowledged,
            outcome.frames_lost,
            outcome.findings.len()
        );
    }
    for outcome in outcomes {
        for finding in &outcome.findings {
            let _ = writeln!(text, "\nSeed {}: {finding}", outcome.seed);
        }
    }
    text
}

/// Percentile of durations, milliseconds.
#[must_use]
pub fn percentile_ms(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted
        .get(at)
        .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
}
