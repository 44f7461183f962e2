//! Small rooms: length of files, and a first line that says what a file owns.

use crate::tree::sources;

/// Lines of one file at most.
const LINES_MAX: usize = 800;

#[test]
fn no_file_is_longer_than_its_limit() {
    let long: Vec<String> = sources()
        .iter()
        .map(|source| (source, source.text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(source, lines)| format!("{}: {lines} lines", source.path))
        .collect();
    assert!(long.is_empty(), "over {LINES_MAX} lines: {long:#?}");
}

#[test]
fn every_file_says_what_it_owns() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|source| {
            let first = source.text.lines().find(|line| !line.trim().is_empty());
            !first.is_some_and(|line| line.starts_with("//!") || line.starts_with("#!["))
        })
        .map(|source| source.path.clone())
        .collect();
    assert!(silent.is_empty(), "without a module doc: {silent:#?}");
}
