//! Running a harness without libFuzzer: replay of files, and a bounded, seeded walk around a
//! corpus.
//!
//! Owns the mutations. The walk is the same for the same seed and corpus, up to where its time
//! ends.

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest input that mutation makes.
const INPUT_BYTES_MAX: usize = 2048;

/// When a walk ends: whichever comes first.
#[derive(Copy, Clone, Debug)]
pub struct Budget {
    /// Inputs tried.
    pub iterations: u32,
    /// Time spent.
    pub time: Duration,
}

/// All files of a corpus folder in order of name.
pub fn read_corpus(folder: &Path) -> io::Result<Vec<Vec<u8>>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<_>>()?;
    paths.sort();
    paths.iter().map(std::fs::read).collect()
}

/// Replays the files that the program got as arguments.
pub fn replay_arguments(harness: fn(&[u8])) -> io::Result<()> {
    for path in std::env::args_os().skip(1) {
        harness(&std::fs::read(path)?);
    }
    Ok(())
}

/// Runs `harness` on every input of `corpus`, then on mutations of them made from `seed`. Panics
/// with the offending input, ready to be added to the corpus. Returns how many mutations were
/// tried.
pub fn explore(
    harness: fn(&[u8]),
    corpus: &[Vec<u8>],
    dictionary: &[&[u8]],
    seed: u64,
    budget: Budget,
) -> u32 {
    for input in corpus {
        run(harness, input);
    }
    let started = Instant::now();
    let mut random = Xorshift(seed.max(1));
    for iteration in 0..budget.iterations {
        if started.elapsed() >= budget.time {
            return iteration;
        }
        let mut input = pick(&mut random, corpus).cloned().unwrap_or_default();
        for _ in 0..=random.below(4) {
            mutate(&mut input, corpus, dictionary, &mut random);
        }
        input.truncate(INPUT_BYTES_MAX);
        run(harness, &input);
    }
    budget.iterations
}

fn run(harness: fn(&[u8]), input: &[u8]) {
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| harness(input)));
    if let Err(cause) = outcome {
        let text = cause
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| cause.downcast_ref::<&str>().copied())
            .unwrap_or("unknown panic");
        panic!("{text}\noffending input: b\"{}\"", input.escape_ascii());
    }
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], dictionary: &[&[u8]], random: &mut Xorshift) {
    let at = random.below(input.len() + 1);
    let end = at + random.below(input.len() + 1 - at);
    match random.below(8) {
        0 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        1 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.below(256) as u8;
            }
        }
        2 => input.insert(at, random.below(256) as u8),
        3 => drop(input.drain(at..end)),
        4 => {
            let copy = input[at..end].to_vec();
            input.splice(at..at, copy);
        }
        5 => {
            let other = pick(random, corpus).cloned().unwrap_or_default();
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            if let Some(word) = pick(random, dictionary) {
                let replaced = if random.below(2) == 0 {
                    at
                } else {
                    (at + word.len()).min(input.len())
                };
                input.splice(at..replaced, word.iter().copied());
            }
        }
    }
}

fn pick<'a, T>(random: &mut Xorshift, from: &'a [T]) -> Option<&'a T> {
    from.get(random.below(from.len().max(1)))
}

/// Marsaglia's xorshift64: enough to vary inputs, and the same everywhere.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}
