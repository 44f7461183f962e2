//! A few hundred short runs from fixed seeds, and every run that ever failed, again.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking and says what it did"
)]

use std::time::{Duration, Instant};

use unibus_sim::{Counts, run};

/// Seeds of one test run: the same ones, so that a failure is the change's.
const SEEDS: std::ops::Range<u64> = 1..301;
const STEPS: u64 = 250;
/// On a slow machine the run ends early, but not before it has done some.
const TIME: Duration = Duration::from_secs(20);
const SEEDS_MIN: u64 = 40;

#[test]
fn what_must_hold_does_from_every_seed() {
    let (started, mut total, mut seeds) = (Instant::now(), Counts::default(), 0);
    for seed in SEEDS {
        match run(seed, STEPS, false) {
            Ok(counts) => total.add(&counts),
            Err(failure) => panic!("{failure}"),
        }
        seeds += 1;
        if started.elapsed() > TIME && seeds >= SEEDS_MIN {
            break;
        }
    }
    println!("{seeds} seeds: {total:?}");
    // Runs in which nothing happens would prove nothing.
    assert!(
        total.published > seeds && total.deliveries > seeds,
        "{total:?}"
    );
    assert!(total.elections > seeds && total.crashes > 0, "{total:?}");
    assert!(total.granted > 0 && total.answered > 0, "{total:?}");
}

#[test]
fn runs_that_failed_once_hold() {
    let list = include_str!("../failed-seeds.txt");
    let lines = list
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default().trim());
    for line in lines.filter(|line| !line.is_empty()) {
        let (seed, steps) = line.split_once(' ').expect("seed and steps");
        let (seed, steps) = (
            seed.parse().expect("a seed"),
            steps.trim().parse().expect("steps"),
        );
        if let Err(failure) = run(seed, steps, false) {
            panic!("{failure}");
        }
    }
}

#[test]
fn a_seed_is_a_whole_run() {
    let twice = [7, 7].map(|seed| format!("{:?}", run(seed, 200, false)));
    assert_eq!(twice[0], twice[1]);
}
