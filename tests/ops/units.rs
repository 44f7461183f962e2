//! The systemd unit, judged by systemd where it is there; and that the files for containers name flags
//! and variables that exist.

use std::process::Command;

use clap::CommandFactory;
use unibus_node::cli::Cli;

use crate::{file, text};

const UNIT: &str = "ops/systemd/unibus-node.service";
/// systemd's own scale, from 0 (confined) to 10.
const EXPOSURE_MAX: &str = "2.0";

#[test]
fn systemd_has_nothing_to_say_against_the_unit() {
    if Command::new("systemd-analyze")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED: systemd-analyze is not on this machine");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("unibus-node.service");
    let binary = env!("CARGO_BIN_EXE_unibus-node");
    std::fs::write(&unit, text(UNIT).replace("/usr/bin/unibus-node", binary)).unwrap();
    let judge = |arguments: &[&str]| {
        let run = Command::new("systemd-analyze")
            .args(arguments)
            .arg(&unit)
            .output();
        let run = run.unwrap();
        let said = [run.stdout, run.stderr].concat();
        (
            run.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    };
    let (valid, said) = judge(&["verify", "--man=no"]);
    assert!(valid, "{said}");
    let threshold = format!("--threshold={}", EXPOSURE_MAX.replace('.', ""));
    let (confined, said) = judge(&["security", "--offline=true", &threshold]);
    assert!(confined, "{said}");
}

/// Every variable that the program reads.
fn variables() -> Vec<String> {
    let command = Cli::command();
    let own = command.get_arguments().filter_map(|arg| arg.get_env());
    own.map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn files_name_variables_that_the_program_reads() {
    let known = variables();
    for path in [
        UNIT,
        "ops/systemd/unibus.env.example",
        "ops/container/compose.yaml",
        "ops/container/Containerfile",
    ] {
        let content = text(path);
        let words =
            content.split(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit());
        for word in words.filter(|word| word.starts_with("UNIBUS_")) {
            assert!(known.iter().any(|name| name == word), "{path}: {word}");
        }
    }
    assert!(file("ops/systemd/unibus.sysusers.conf").exists());
}

#[test]
fn the_runbook_finds_its_variables_in_the_units_settings() {
    let settings = text("ops/systemd/unibus.env.example");
    let runbook = text("ops/runbook.md");
    let used = runbook.split('$').skip(1).filter_map(|rest| {
        let rest = rest.trim_start_matches('{');
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_')?;
        Some(&rest[..end]).filter(|name| name.starts_with("UNIBUS_"))
    });
    let used: std::collections::BTreeSet<&str> = used.collect();
    assert!(used.len() > 2, "{used:?}");
    for name in used {
        let is_set = settings
            .lines()
            .any(|line| line.starts_with(&format!("{name}=")));
        assert!(
            is_set,
            "{name} is in the runbook and not in unibus.env.example"
        );
    }
}

/// Open files that a node wants for its default limits of connections.
const OPEN_FILES_MIN: u64 = 65_536 + 3 * 1024;

#[test]
fn units_allow_for_as_many_files_as_the_default_limits_want() {
    for (path, name) in [
        (UNIT, "LimitNOFILE="),
        ("ops/container/compose.yaml", "nofile: "),
    ] {
        let content = text(path);
        let mut lines = content.lines();
        let value = lines.find_map(|line| line.trim().strip_prefix(name));
        let files: u64 = value.unwrap_or(path).parse().unwrap();
        assert!(files >= OPEN_FILES_MIN, "{path}: {files}");
    }
}
