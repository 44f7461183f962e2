//! Why a command ended without doing what it was asked, and the exit status that says so.

use std::fmt::Display;

use thiserror::Error;

/// Status of a command that did not work.
pub(crate) const FAILED: u8 = 1;
/// Status of a command that is wrong as it was typed.
pub(crate) const WRONG: u8 = 2;

/// Why a command ended; its text is what a person reads.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    /// The command, a flag or a file it names is wrong; nothing was done.
    #[error("{0}")]
    Wrong(String),
    /// It was tried and did not work.
    #[error("{0}")]
    Failed(String),
    /// Whoever read the output closed it (`| head`): no mistake of anybody's.
    #[error("the reader of the output is gone")]
    ReaderGone,
}

/// What a command returns.
pub(crate) type Result<T = ()> = std::result::Result<T, CliError>;

impl CliError {
    /// The exit status of the program.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Wrong(_) => WRONG,
            Self::Failed(_) => FAILED,
            Self::ReaderGone => 0,
        }
    }
}

/// A command that is wrong.
pub(crate) fn wrong<T>(text: impl Into<String>) -> Result<T> {
    Err(CliError::Wrong(text.into()))
}

/// A command that did not work.
pub(crate) fn failed<T>(text: impl Into<String>) -> Result<T> {
    Err(CliError::Failed(text.into()))
}

/// Says what was attempted when an error comes from below.
pub(crate) trait Attempt<T> {
    /// The error as [`CliError::Failed`]: `what: reason`.
    fn or_failed(self, what: impl FnOnce() -> String) -> Result<T>;
    /// The error as [`CliError::Wrong`]: `what: reason`.
    fn or_wrong(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Display> Attempt<T> for std::result::Result<T, E> {
    fn or_failed(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| CliError::Failed(reason(&what(), &error.to_string())))
    }

    fn or_wrong(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| CliError::Wrong(format!("{}: {error}", what())))
    }
}

/// `what: why`, with what a person can do about the reasons that libraries only name.
fn reason(what: &str, why: &str) -> String {
    let hint = if why.contains("no responders") || why.contains("jetstream is not available") {
        "; the server offers no streams (JetStream is off), or they have no leader at the moment"
    } else if why.contains("timed out") || why.contains("deadline has elapsed") {
        "; --timeout gives it longer"
    } else {
        ""
    };
    format!("{what}: {why}{hint}")
}

#[cfg(test)]
mod tests {
    use super::{Attempt, CliError};

    #[test]
    fn what_a_library_names_is_explained() {
        let error: Result<(), &str> = Err("request failed: no responders");
        let text = error.or_failed(|| "can't list".into()).unwrap_err();
        assert!(text.to_string().contains("JetStream is off"), "{text}");
        assert_eq!(text.status(), 1);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(CliError::ReaderGone.status(), 0);
        assert_eq!(CliError::Wrong(String::new()).status(), 2);
    }
}
