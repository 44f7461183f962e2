//! A configuration file → options: reads files and the environment, and words every mistake.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::conf::{self, Sources};
use super::directives;
use super::flags::Flags;
use super::options::Options;

/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The file system and the process's environment.
struct Here;

impl Sources for Here {
    fn read(&self, path: &Path) -> Result<String, String> {
        let failed = |error: std::io::Error| format!("{} can't be read: {error}", path.display());
        let mut text = String::new();
        let file = File::open(path).map_err(failed)?;
        let read = file
            .take(FILE_BYTES_MAX + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if read as u64 > FILE_BYTES_MAX {
            return Err(format!(
                "{} is larger than {FILE_BYTES_MAX} bytes",
                path.display()
            ));
        }
        Ok(text)
    }

    fn environment(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// The options that flags and the file that they name ask for together.
///
/// # Errors
/// Every mistake, one a line.
pub(super) fn options(flags: &Flags) -> Result<Options, String> {
    let mut options = match &flags.config {
        Some(path) => read(path)?,
        None => Options::default(),
    };
    options.apply(flags).map_err(|error| error.to_string())?;
    Ok(options)
}

fn read(path: &Path) -> Result<Options, String> {
    let map = conf::parse(path, &Here).map_err(|error| error.to_string())?;
    directives::read(&map).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}
