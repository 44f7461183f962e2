//! Files of this host: where one is read from, where one is written to so that it appears whole or
//! not at all, and how far that has come.

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::AsyncRead;

use crate::error::{Attempt, Result, failed, wrong};
use crate::messages::stdin;
use crate::output;

/// Something to read: a file, or stdin.
pub(crate) struct Source {
    pub(crate) reader: Box<dyn AsyncRead + Send + Unpin>,
    /// In bytes; stdin does not say.
    pub(crate) size: Option<u64>,
    /// The file's own name; stdin has none.
    pub(crate) name: Option<String>,
}

impl Source {
    /// Opens a file; `-` is stdin.
    ///
    /// # Errors
    /// Where there is none that can be read.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            return Ok(Self {
                reader: Box::new(stdin()?),
                size: None,
                name: None,
            });
        }
        let what = || format!("can't read {}", path.display());
        let file = tokio::fs::File::open(path).await.or_wrong(what)?;
        let about = file.metadata().await.or_wrong(what)?;
        if !about.is_file() {
            return wrong(format!("{} is no file", path.display()));
        }
        let name = path.file_name().and_then(|name| name.to_str());
        Ok(Self {
            reader: Box::new(file),
            size: Some(about.len()),
            name: name.map(str::to_owned),
        })
    }
}

/// Where something goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    Stdout,
    File(PathBuf),
}

impl Target {
    /// Where `output` says (`-` is stdout), or a file of the name that its author gave it. That one may
    /// hold folders: only its last part becomes a file.
    ///
    /// # Errors
    /// Where the name can't be a file's, or the file is there and may not be replaced.
    pub(crate) fn of(output: Option<&Path>, name: &str, force: bool) -> Result<Self> {
        if output == Some(Path::new("-")) {
            if std::io::stdout().is_terminal() {
                output::tell("unibus: writing it to the terminal");
            }
            return Ok(Self::Stdout);
        }
        let last = Path::new(name).file_name();
        let Some(path) = output.or_else(|| last.map(Path::new)) else {
            return wrong(format!(
                "{name:?} can't be a file's name: add --output FILE"
            ));
        };
        if path.exists() && !force {
            return failed(format!("{} is there already: add --force", path.display()));
        }
        Ok(Self::File(path.to_owned()))
    }

    /// Whether what is written there appears where a bar would be.
    pub(crate) fn is_terminal(&self) -> bool {
        *self == Self::Stdout && std::io::stdout().is_terminal()
    }
}

/// Stdout as a file, for those who write it piece by piece; what they write they flush.
///
/// # Errors
/// Where it is closed.
pub(crate) fn stdout() -> Result<tokio::fs::File> {
    let handle = std::io::stdout().as_fd().try_clone_to_owned();
    let handle = handle.or_failed(|| "can't write to stdout".to_owned())?;
    Ok(tokio::fs::File::from_std(std::fs::File::from(handle)))
}

/// Writes a file that appears at `path` when all of it is written and synced.
///
/// # Errors
/// Those of `write`, and where the file can't be written.
pub(crate) async fn whole(
    path: &Path,
    write: impl AsyncFnOnce(&mut tokio::fs::File) -> Result,
) -> Result {
    let what = || format!("can't write {}", path.display());
    let temporary = path.with_file_name(format!(
        ".{}.{}.part",
        path.file_name().unwrap_or_default().to_string_lossy(),
        std::process::id()
    ));
    let folder = path.parent();
    if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty()) {
        tokio::fs::create_dir_all(folder).await.or_failed(what)?;
    }
    let file = tokio::fs::File::create_new(&temporary).await;
    let mut file = file.or_failed(what)?;
    let written = async {
        write(&mut file).await?;
        file.sync_all().await.or_failed(what)?;
        tokio::fs::rename(&temporary, path).await.or_failed(what)
    }
    .await;
    if written.is_err() {
        // The half that came is of no use; the error says what went wrong.
        let _gone = tokio::fs::remove_file(&temporary).await;
    }
    written
}

/// A bar that shows itself where a person watches and `wanted` says so; `None` as total: of unknown length.
pub(crate) fn progress(total: Option<u64>, wanted: bool) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::new(total),
        None => ProgressBar::no_length(),
    };
    if !wanted || !output::person_watches() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let known = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    let unknown = "{spinner} {bytes} {bytes_per_sec}";
    let template = if total.is_some() { known } else { unknown };
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Target;

    #[test]
    fn a_name_that_others_chose_stays_in_this_folder() {
        for (name, wanted) in [
            ("a.txt", Some("a.txt")),
            ("x/y/a.txt", Some("a.txt")),
            ("../../a.txt", Some("a.txt")),
            ("/etc/a.txt", Some("a.txt")),
            ("..", None),
            ("", None),
        ] {
            let target = Target::of(None, name, false).ok();
            let wanted = wanted.map(|path| Target::File(path.into()));
            assert_eq!(target, wanted, "{name:?}");
        }
        let stdout = Target::of(Some(Path::new("-")), "..", false).unwrap();
        assert_eq!(stdout, Target::Stdout);
    }
}
