//! `ops/configuration.md` is what the program says of its flags and commands.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory};
use unibus_node::cli::Cli;

use crate::{file, text};

const PATH: &str = "ops/configuration.md";
const WRITE: &str = "UNIBUS_WRITE_REFERENCE";

const HEAD: &str = "# Configuration reference\n\n\
    Made from the program by `UNIBUS_WRITE_REFERENCE=1 cargo test --test ops reference`; a test holds it \
    current. A flag wins over its variable. Sizes take KB, MB, GB (powers of 1024).\n";

#[test]
fn the_reference_is_current() {
    let made = render(Cli::command());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(file(PATH), &made).unwrap();
    }
    assert!(
        made == text(PATH),
        "{PATH} is not what the program says: run {WRITE}=1 cargo test --test ops reference"
    );
}

fn render(mut command: Command) -> String {
    command.build();
    let mut out = HEAD.to_owned();
    section(&mut out, &command, "unibus-node");
    out
}

fn section(out: &mut String, command: &Command, path: &str) {
    if command.is_hide_set() {
        return;
    }
    let about = command
        .get_about()
        .map(ToString::to_string)
        .unwrap_or_default();
    let _ = write!(out, "\n## {path}\n\n{}\n", sentence(&about));
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version"))
        .collect();
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in &arguments {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    for heading in headings {
        if let Some(heading) = heading {
            let _ = write!(out, "\n### {heading}\n");
        }
        out.push_str("\n| flag | variable | what it says |\n|---|---|---|\n");
        let own = arguments
            .iter()
            .filter(|arg| arg.get_help_heading() == heading);
        own.for_each(|arg| row(out, arg));
    }
    for sub in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        section(out, sub, &format!("{path} {}", sub.get_name()));
    }
}

fn row(out: &mut String, arg: &Arg) {
    let values = arg.get_value_names().unwrap_or_default();
    let value = values
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" ");
    let takes = arg.get_action().takes_values();
    let mut flag = match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("`-{short}`, `--{long}`"),
        (None, Some(long)) => format!("`--{long}`"),
        (Some(short), None) => format!("`-{short}`"),
        (None, None) => String::new(),
    };
    if takes {
        let _ = write!(flag, " `{value}`");
    }
    let variable = arg
        .get_env()
        .map(|name| format!("`{}`", name.to_string_lossy()));
    let help = arg.get_long_help().or_else(|| arg.get_help());
    let mut words = sentence(&help.map(ToString::to_string).unwrap_or_default());
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|v| v.to_string_lossy())
        .collect();
    if takes && !defaults.is_empty() && !arg.is_hide_default_value_set() {
        let _ = write!(words, " [default: {}]", defaults.join(","));
    }
    let _ = writeln!(
        out,
        "| {} | {} | {} |",
        flag.trim(),
        variable.unwrap_or_default(),
        words
    );
}

/// One line that fits into a table.
fn sentence(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
        .replace('<', "&lt;")
}
