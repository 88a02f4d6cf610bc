//! The `tally` binary.

use std::process::ExitCode;

use clap::error::ErrorKind;
use tally::cli::{Cli, exit};

/// mimalloc, because NET allocates and frees dozens of small objects for each call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::from_command_line() {
        Ok(cli) => cli.run(),
        Err(error) => {
            let requested = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Printing fails if the reader has closed the pipe. There is nowhere to report that.
            let _failed = error.print();
            if requested {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::USAGE)
            }
        }
    }
}
