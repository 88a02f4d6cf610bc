//! The `tally` binary.

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};
use tally::cli::{Cli, exit};

/// NET makes and frees some dozens of small objects for each call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            // A closed pipe is no error worth a word.
            let _closed = error.print();
            if asked {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(exit::USAGE)
            }
        }
    }
}
