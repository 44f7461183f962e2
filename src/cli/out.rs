//! The two ways a command speaks: data to stdout, talk to stderr. A reader that went away (`| head`)
//! is no error.

use std::io::Write;

/// One line of data.
pub(super) fn say(line: &str) {
    let mut stdout = std::io::stdout().lock();
    // The reader of a pipe may be gone; there is nobody left to tell.
    let _reader_gone = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

/// One line of talk.
pub(super) fn tell(line: &str) {
    let _reader_gone = writeln!(std::io::stderr().lock(), "{line}");
}
