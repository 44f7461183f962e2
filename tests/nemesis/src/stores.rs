//! What is done to what a node has on disk: one file is damaged, or all is gone.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rand::RngExt;
use rand::rngs::SmallRng;

/// Bits that one damage flips, at most.
const FLIPS_MAX: usize = 8;
/// Bytes that a lost sector leaves as zeros.
const SECTOR: u64 = 4096;

/// Damages one file of a node that does not run: of a kind that is there, whichever file of it. Answers
/// with what was done to which. The store only: identities beside it are checked by hand when they are
/// damaged, because a node must not make itself a new one.
///
/// # Errors
/// When there is no file, or it can't be written.
pub(crate) fn damage(data: &Path, rng: &mut SmallRng) -> anyhow::Result<String> {
    let store = data.join("store");
    let mut kinds: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for path in files(&store)? {
        kinds.entry(kind_of(&store, &path)).or_default().push(path);
    }
    let kinds: Vec<_> = kinds.into_iter().collect();
    anyhow::ensure!(!kinds.is_empty(), "no file in {}", store.display());
    let (kind, paths) = &kinds[rng.random_range(0..kinds.len())];
    let path = &paths[rng.random_range(0..paths.len())];
    let done = damage_file(path, rng).with_context(|| path.display().to_string())?;
    let name = path.strip_prefix(&store).unwrap_or(path).display();
    Ok(format!("{kind}: {name}: {done}"))
}

/// A store that holds nothing any more.
pub(crate) fn lose(data: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(data.join("store")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Files that are not empty, in an order that does not depend on the file system.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_dir() {
                folders.push(entry.path());
            } else if about.len() > 0 {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Where it lies and how its name ends: `log/wal`, or its name where that has no end.
fn kind_of(store: &Path, path: &Path) -> String {
    let inside = path.strip_prefix(store).unwrap_or(path);
    let folder = inside.components().next().map(|part| part.as_os_str());
    let end = path.extension().or_else(|| path.file_name());
    let text = |part: Option<&std::ffi::OsStr>| {
        part.map_or(String::new(), |part| part.to_string_lossy().into_owned())
    };
    format!("{}/{}", text(folder), text(end))
}

fn damage_file(path: &Path, rng: &mut SmallRng) -> anyhow::Result<String> {
    let file = File::options().read(true).write(true).open(path)?;
    let bytes = file.metadata()?.len();
    let done = match rng.random_range(0..3) {
        0 => {
            let flips = rng.random_range(1..=FLIPS_MAX);
            for _ in 0..flips {
                let at = rng.random_range(0..bytes);
                let mut byte = [0];
                file.read_exact_at(&mut byte, at)?;
                byte[0] ^= 1 << rng.random_range(0..8);
                file.write_all_at(&byte, at)?;
            }
            format!("{flips} bits of {bytes} bytes flipped")
        }
        1 => {
            let at = rng.random_range(0..bytes) / SECTOR * SECTOR;
            let lost = SECTOR.min(bytes - at);
            file.write_all_at(&vec![0; usize::try_from(lost)?], at)?;
            format!("{lost} of {bytes} bytes zeroed at {at}")
        }
        _ => {
            let keep = rng.random_range(0..bytes);
            file.set_len(keep)?;
            format!("cut from {bytes} to {keep} bytes")
        }
    };
    file.sync_all()?;
    Ok(done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn one_file_of_the_store_is_damaged_and_nothing_else() {
        for seed in 0..64 {
            let data = tempfile::tempdir().unwrap();
            let store = data.path().join("store");
            std::fs::create_dir_all(store.join("log")).unwrap();
            let before = vec![7; 10_000];
            let names = ["log/1.wal", "log/2.wal", "vote", "../internal.json"];
            for name in names {
                std::fs::write(store.join(name), &before).unwrap();
            }
            let mut rng = SmallRng::seed_from_u64(seed);
            let told = damage(data.path(), &mut rng).unwrap();
            let changed: Vec<_> = names
                .iter()
                .filter(|name| std::fs::read(store.join(name)).unwrap() != before)
                .collect();
            assert!(
                changed.len() == 1 && told.contains(*changed[0]),
                "{told}: {changed:?}"
            );
        }
    }
}
