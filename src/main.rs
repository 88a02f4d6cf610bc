//! The `tally` binary: parses the command line and runs the subcommand.

use std::process::ExitCode;

use tally::cli::Cli;

/// The allocator is mimalloc, because the NET threads allocate and free dozens of small objects for each call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::from_command_line() {
        Ok(cli) => cli.run(),
        Err(error) => error.report(),
    }
}
