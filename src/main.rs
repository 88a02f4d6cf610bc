//! The `tally` binary: parses the command line and runs the subcommand.

use std::process::ExitCode;

use clap::error::ErrorKind;
use tally::cli::{Cli, exit};

/// The allocator is mimalloc, because the NET threads allocate and free dozens of small objects for each call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::from_command_line() {
        Ok(cli) => cli.run(),
        Err(error) => {
            let requested = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // Printing fails if the reader of the output has closed the pipe. There is no place to report that error.
            let _failed = error.print();
            if requested {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::USAGE)
            }
        }
    }
}
