//! Campaigns from the command line: runs with seeds, or kills of the leader. Ends with status 1 when
//! something did not hold.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use unibus_nemesis::{Outcome, Plan, measure, obstacle, percentile_ms, picture, run, summary};

/// Breaks clusters of real nodes and checks what was promised.
#[derive(Parser)]
#[command(version, about)]
struct Args {
    /// The node's binary [default: unibus-node beside this program]
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    /// Nodes of a cluster: 3 or 5
    #[arg(long, default_value_t = 3, global = true, value_parser = clap::value_parser!(u64).range(3..=5))]
    nodes: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs with faults from seeds.
    Campaign {
        /// The first seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// How many runs, each with the next seed
        #[arg(long, default_value_t = 1)]
        runs: u64,
        /// Seconds in which faults are made in each run
        #[arg(long, default_value_t = 40)]
        seconds: u64,
        /// Only these faults, separated by commas: kill, pause, partition, one-way, bridge,
        /// slow-network, clock, disk-stall, disk-full, power, rolling-restart, damage, disk-lost,
        /// membership [default: all]
        #[arg(long, value_delimiter = ',')]
        faults: Vec<String>,
        /// The binary of an older version: the nodes begin with it and are moved to --binary one by
        /// one, between the faults
        #[arg(long)]
        previous: Option<PathBuf>,
        /// Folder for the summary and a picture of each run
        #[arg(long)]
        report: Option<PathBuf>,
        /// Folder in which a run with findings leaves the nodes' logs and data
        #[arg(long)]
        keep: Option<PathBuf>,
    },
    /// Kills the leader again and again; how long until writes succeed.
    LeaderKill {
        /// How often
        #[arg(long, default_value_t = 100)]
        kills: usize,
    },
}

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "a report")]
fn main() -> ExitCode {
    match work(Args::parse()) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(findings) => {
            println!("{findings} findings");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(args: Args) -> anyhow::Result<usize> {
    if let Some(why) = obstacle() {
        bail!("no lab can be made here: {why}");
    }
    let beside = std::env::current_exe()?.with_file_name("unibus-node");
    let binary = args.binary.unwrap_or(beside);
    if !binary.exists() {
        bail!(
            "there is no {}: build it, or name it with --binary",
            binary.display()
        );
    }
    let nodes = usize::try_from(args.nodes)?;
    match args.command {
        Command::LeaderKill { kills } => leader_kill(&binary, nodes, kills),
        Command::Campaign {
            seed,
            runs,
            seconds,
            faults,
            previous,
            report,
            keep,
        } => {
            let plan = |seed| Plan {
                binary: binary.clone(),
                previous: previous.clone(),
                nodes,
                seed,
                faults_for: Duration::from_secs(seconds),
                kinds: faults.clone(),
                keep: keep.clone(),
            };
            campaign((seed..seed.saturating_add(runs)).map(plan), report)
        }
    }
}

#[allow(clippy::print_stdout, reason = "a report")]
fn campaign(plans: impl Iterator<Item = Plan>, report: Option<PathBuf>) -> anyhow::Result<usize> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for plan in plans {
        let outcome = run(&plan).with_context(|| format!("seed {}", plan.seed))?;
        let faults: u64 = outcome.faults.values().sum();
        println!(
            "seed {}: {faults} faults, {} acknowledged, {} findings",
            outcome.seed,
            outcome.acknowledged,
            outcome.findings.len()
        );
        for finding in &outcome.findings {
            println!("  {finding}");
        }
        if let Some(folder) = &report {
            std::fs::create_dir_all(folder)?;
            let name = format!("{}-nodes-seed-{}.svg", outcome.nodes, outcome.seed);
            std::fs::write(folder.join(name), picture(&outcome))?;
        }
        outcomes.push(outcome);
        if let Some(folder) = &report {
            std::fs::write(folder.join("summary.md"), summary(&outcomes))?;
        }
    }
    println!("{}", summary(&outcomes));
    Ok(outcomes.iter().map(|outcome| outcome.findings.len()).sum())
}

#[allow(clippy::print_stdout, reason = "a report")]
fn leader_kill(binary: &std::path::Path, nodes: usize, kills: usize) -> anyhow::Result<usize> {
    let times = measure(binary, nodes, kills)?;
    println!(
        "{} kills of the leader of {nodes} nodes; first write acknowledged after: p50 {:.0} ms, p90 \
         {:.0} ms, p99 {:.0} ms, longest {:.0} ms",
        times.len(),
        percentile_ms(&times, 50),
        percentile_ms(&times, 90),
        percentile_ms(&times, 99),
        percentile_ms(&times, 100)
    );
    Ok(0)
}
