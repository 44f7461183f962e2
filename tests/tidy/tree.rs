//! The source tree as the rules see it.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold source of ours.
const ROOTS: [&str; 5] = ["src", "broker", "raft", "tests", "fuzz"];

/// A file and its text.
pub(crate) struct Source {
    /// Relative to the workspace, with forward slashes.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The folder of the workspace.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of ours.
pub(crate) fn sources() -> Vec<Source> {
    let mut folders: Vec<PathBuf> = ROOTS.iter().map(|root| workspace().join(root)).collect();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            let name = path.file_name().and_then(|name| name.to_str());
            if path.is_dir() {
                if name != Some("target") {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8 source");
                let path = path.strip_prefix(workspace()).expect("inside");
                let path = path.to_string_lossy().replace('\\', "/");
                found.push(Source { path, text });
            }
        }
    }
    assert!(found.len() > 100, "the tree was not found: {}", found.len());
    found
}
