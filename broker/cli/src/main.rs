//! The program `unibus`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    unibus_cli::main()
}
