//! The `rowtide` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    rowtide::cli::run()
}
