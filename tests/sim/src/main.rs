//! Runs seeds: a range of them, or one with everything it does. Ends with status 1 if something did not
//! hold.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

/// Simulates clusters from seeds and checks what must hold.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many seeds to run, counted from the first.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Steps of faults in each run, before everything has to come to rest.
    #[arg(long, default_value_t = 1500)]
    steps: u64,
    /// Tell every step on stderr.
    #[arg(long)]
    trace: bool,
}

#[allow(clippy::print_stdout, reason = "a report")]
fn main() -> ExitCode {
    let args = Args::parse();
    let started = Instant::now();
    let (mut failures, mut total) = (0, unibus_sim::Counts::default());
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        match unibus_sim::run(seed, args.steps, args.trace) {
            Ok(counts) => total.add(&counts),
            Err(failure) => {
                failures += 1;
                println!("{failure}");
            }
        }
    }
    println!(
        "{} seeds, {failures} failures, {:.1} s\n{total:#?}",
        args.seeds,
        started.elapsed().as_secs_f64()
    );
    ExitCode::from(u8::from(failures > 0))
}
