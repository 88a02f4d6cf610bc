//! The `tally` binary: parses the command line and runs the subcommand.

use std::{io, process::ExitCode};

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
            let printed = error.print();
            match printed {
                // There is no place to report that a text on standard error can't be written.
                _ if !requested => ExitCode::from(exit::USAGE),
                // A reader such as `head` has closed the pipe, because it needs no more output. This is not an error.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => exit::unwritten(&error),
                Ok(()) | Err(_) => ExitCode::SUCCESS,
            }
        }
    }
}
