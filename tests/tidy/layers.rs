//! The table of ARCHITECTURE.md "who may import what", held against the source.

use std::fs;

use crate::tree::{Source, sources, workspace};

/// A folder, and the crates its source must not name.
const BANS: [(&str, &[&str]); 11] = [
    (
        "broker/proto/src/",
        &[
            "tokio",
            "std::fs",
            "std::net",
            "unibus_broker",
            "unibus_raft",
            "unibus_state",
            "unibus_node",
        ],
    ),
    (
        "raft/state/src/",
        &[
            "tokio",
            "std::fs",
            "std::net",
            "unibus_broker",
            "unibus_raft",
            "unibus_node",
            "openraft",
        ],
    ),
    (
        "broker/server/src/",
        &[
            "unibus_state",
            "unibus_raft",
            "unibus_node",
            "quinn",
            "hyper",
            "sled",
            "openraft",
        ],
    ),
    (
        "broker/cli/src/",
        &[
            "unibus_broker",
            "unibus_state",
            "unibus_raft",
            "unibus_node",
        ],
    ),
    (
        "broker/bindings/src/",
        &[
            "unibus_broker",
            "unibus_state",
            "unibus_raft",
            "unibus_node",
            "async_nats",
        ],
    ),
    (
        "broker/cli/src/chat/model/",
        &[
            "tokio",
            "std::fs",
            "std::net",
            "std::time",
            "crossterm",
            "ratatui",
            "async_nats",
        ],
    ),
    (
        "broker/cli/src/chat/view",
        &[
            "tokio",
            "std::fs",
            "std::net",
            "std::time",
            "crossterm",
            "async_nats",
        ],
    ),
    (
        "raft/replica/src/",
        &["unibus_broker", "unibus_node", "quinn", "hyper"],
    ),
    (
        "broker/keyfile/src/",
        &[
            "unibus_proto",
            "unibus_client",
            "unibus_broker",
            "unibus_state",
            "unibus_raft",
            "unibus_node",
            "tokio",
            "std::net",
        ],
    ),
    (
        "broker/client/src/",
        &[
            "unibus_broker",
            "unibus_state",
            "unibus_raft",
            "unibus_node",
        ],
    ),
    (
        "broker/client/src/rooms/",
        &["tokio", "std::fs", "std::net", "hyper", "async_nats"],
    ),
];

/// Source without its comments.
fn code(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source
        .text
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
}

/// Whether `line` names the path `name` (`name::…` or `use name;`), not a longer word that ends so.
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = &line[at + name.len()..];
        let starts =
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '"');
        starts
            && (after.starts_with("::")
                || (line.trim_start().starts_with("use ") && after.starts_with(';')))
    })
}

#[test]
fn no_layer_names_one_above_it() {
    let mut found = Vec::new();
    for source in sources() {
        for (folder, banned) in BANS
            .iter()
            .filter(|(folder, _)| source.path.starts_with(folder))
        {
            for (at, line) in code(&source) {
                for name in banned.iter().filter(|name| names(line, name)) {
                    found.push(format!(
                        "{}:{at} names {name}, banned in {folder}",
                        source.path
                    ));
                }
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn openraft_and_sled_stay_in_the_replica() {
    let mut found = Vec::new();
    for source in sources() {
        if source.path.starts_with("raft/replica/") || source.path.starts_with("tests/tidy/") {
            continue;
        }
        for (at, line) in code(&source) {
            if names(line, "openraft") || names(line, "sled") {
                found.push(format!("{}:{at}", source.path));
            }
        }
    }
    assert!(found.is_empty(), "outside raft/replica: {found:#?}");
}

#[test]
fn the_pure_crates_depend_on_nothing_that_does_io() {
    for manifest in ["broker/proto/Cargo.toml", "raft/state/Cargo.toml"] {
        let text = fs::read_to_string(workspace().join(manifest)).expect("a manifest");
        let dependencies = text
            .split("[dependencies]")
            .nth(1)
            .and_then(|rest| rest.split("\n[").next())
            .expect("a dependencies table");
        for banned in [
            "tokio", "quinn", "hyper", "rand", "rustls", "sled", "openraft", "socket2", "mio",
        ] {
            let named = dependencies.lines().any(|line| {
                line.split(['.', '=', ' '])
                    .next()
                    .is_some_and(|name| name == banned)
            });
            assert!(!named, "{manifest} depends on {banned}");
        }
    }
}

#[test]
fn the_rule_sees_what_it_should() {
    assert!(names("use tokio::net;", "tokio"));
    assert!(names("    let x = std::fs::read(p);", "std::fs"));
    assert!(names("use sled;", "sled"));
    assert!(!names("use tokio_util::x;", "tokio"));
    assert!(!names("my_tokio::x", "tokio"));
    assert!(!names("\"tokio::x\"", "tokio"));
}
