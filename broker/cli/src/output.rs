//! How commands speak: data to stdout, talk to stderr. A reader that went away ends the command.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::{CliError, Result};

/// Bytes of data, as they are.
///
/// # Errors
/// [`CliError::ReaderGone`] when nobody reads any more.
pub(crate) fn bytes(data: &[u8]) -> Result {
    let mut stdout = std::io::stdout().lock();
    let done = stdout.write_all(data).and_then(|()| stdout.flush());
    done.map_err(|error| match error.kind() {
        std::io::ErrorKind::BrokenPipe => CliError::ReaderGone,
        _ => CliError::Failed(format!("can't write the output: {error}")),
    })
}

/// One line of data.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn say(line: &str) -> Result {
    bytes(format!("{line}\n").as_bytes())
}

/// A whole document as JSON, indented for people.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn json(document: &impl Serialize) -> Result {
    let text = serde_json::to_string_pretty(document);
    say(&text.map_err(|error| CliError::Failed(format!("can't write JSON: {error}")))?)
}

/// One record of a sequence as JSON on one line, so that a reader may act on each.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn json_line(record: &impl Serialize) -> Result {
    let text = serde_json::to_string(record);
    say(&text.map_err(|error| CliError::Failed(format!("can't write JSON: {error}")))?)
}

/// Rows under headings; on a terminal no wider than it is.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Result {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    table.set_content_arrangement(if std::io::stdout().is_terminal() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    });
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect();
    say(&lines.join("\n"))
}

/// What one thing is: names and values below a title; absent values are left out.
///
/// # Errors
/// As [`bytes`].
pub(crate) fn facts(title: &str, facts: &[(&str, String)]) -> Result {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = title.to_owned();
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(&format!("\n  {name:width$}  {value}"));
    }
    say(&text)
}

/// One line of talk.
pub(crate) fn tell(line: &str) {
    let _reader_gone = writeln!(std::io::stderr().lock(), "{line}");
}

/// Whether a person sees the talk, and would be glad of a progress bar.
pub(crate) fn person_watches() -> bool {
    std::io::stderr().is_terminal()
}

/// Asks a person to confirm what can't be undone.
///
/// # Errors
/// [`CliError::Wrong`] where nobody can be asked, or the answer is no.
pub(crate) fn confirm(question: &str, force: bool) -> Result {
    if force {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !person_watches() {
        return Err(CliError::Wrong(format!(
            "{question} This can't be undone, and nobody is here to be asked: add --force"
        )));
    }
    let _reader_gone = write!(std::io::stderr().lock(), "{question} [y/N] ");
    let mut answer = String::new();
    let read = std::io::stdin().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(CliError::Failed("nothing was changed".to_owned()))
}
