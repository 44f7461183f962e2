//! A short campaign against real nodes in network namespaces. Long ones are run by hand, as
//! `ops/faults/README.md` says.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says loudly that it was skipped"
)]

use std::path::PathBuf;
use std::time::Duration;

use unibus_nemesis::{Plan, obstacle, run};

#[test]
fn a_short_campaign_finds_nothing() {
    if let Some(why) = obstacle() {
        eprintln!("SKIPPED: no faults were made, because {why}");
        return;
    }
    let plan = Plan {
        binary: PathBuf::from(env!("CARGO_BIN_EXE_unibus-node")),
        previous: None,
        nodes: 3,
        seed: 1,
        faults_for: Duration::from_secs(20),
        kinds: Vec::new(),
        keep: None,
    };
    let outcome = run(&plan).expect("a run");
    eprintln!("{:?} {:?}", outcome.faults, outcome.operations);
    assert_eq!(outcome.findings, Vec::<String>::new());
    assert!(outcome.acknowledged > 50, "{:?}", outcome.operations);
}
