//! The command line: one binary, subcommands.
//!
//! Exit codes: 0 done, 1 a check failed, 64 usage, 65 a file to import is malformed, 69 the service is not there, 70 a
//! bug, 74 the disk, 78 the configuration.

mod bench;
mod circuit;
mod client_args;
mod health;
mod import;
mod serve;
mod show;
mod token;
mod top;
mod topology;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::sys::limits::ignore_file_size_signal;

pub use self::client_args::{ClientArgs, Credentials, OutputFormat};

/// The build that this is: version and commit.
pub const LONG_VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("TALLY_COMMIT"), ")");

/// `sysexits.h`, as far as it is used.
pub mod exit {
    /// A check failed.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 64;
    /// The service is not there.
    pub const UNAVAILABLE: u8 = 69;
    /// A bug.
    pub const SOFTWARE: u8 = 70;
    /// The disk.
    pub const IO: u8 = 74;
    /// The configuration.
    pub const CONFIG: u8 = 78;
}

/// A double-entry ledger behind gRPC that keeps its latency promise.
#[derive(Debug, Parser)]
#[command(name = "tally", version, long_version = LONG_VERSION, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the service. With no options: on 127.0.0.1:50051, data in ./tally-data.
    Serve(serve::ServeArgs),
    /// Ask a service whether it is serving: exit code 0 if it is.
    Health(health::HealthArgs),
    /// Import files of transactions, in their order. Importing again applies nothing twice.
    Import(import::ImportArgs),
    /// Show what pinning would do on this machine, and why; or, with --endpoint, what a service did.
    Topology(topology::TopologyArgs),
    /// Show a service's breaker, batches and ledger.
    Stats(show::StatsArgs),
    /// A service, live in the terminal.
    Top(top::TopArgs),
    /// Look at the circuits of a service, follow them, or change them.
    Circuit(circuit::CircuitArgs),
    /// Make a bearer token, and the line for the file of tokens.
    Token(token::TokenArgs),
    /// Check a data directory from the first block to the last. No service may have it open.
    Verify(verify::VerifyArgs),
    /// Load a service and measure it.
    Bench(bench::BenchArgs),
    /// The baseline of the benchmark: a bare gRPC server that echoes.
    #[command(hide = true)]
    Echo(bench::EchoArgs),
}

// ===== impl Cli =====

impl Cli {
    /// Does it.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Err(error) = ignore_file_size_signal() {
            return fail(exit::SOFTWARE, &error);
        }
        match self.command {
            Command::Serve(args) => serve::run(&args),
            Command::Health(args) => health::run(&args),
            Command::Import(args) => import::run(&args),
            Command::Topology(args) => topology::run(&args),
            Command::Stats(args) => show::stats(&args),
            Command::Top(args) => top::run(&args),
            Command::Circuit(args) => circuit::run(&args),
            Command::Token(args) => token::run(&args),
            Command::Verify(args) => verify::run(&args),
            Command::Bench(args) => bench::run(&args),
            Command::Echo(args) => bench::run_echo(&args),
        }
    }
}

/// Reports an error and its causes on standard error, and says with which code to exit.
#[expect(clippy::print_stderr, reason = "the command line's own channel for errors")]
pub(crate) fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprintln!("tally: {}", with_causes(error));
    ExitCode::from(code)
}

/// An error with its causes, each told once: many errors repeat their cause's words.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        source = cause.source();
    }
    text
}

/// Runs a client's future to its end.
pub(crate) fn block_on<F: Future<Output = ExitCode>>(future: F) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(future),
        Err(error) => fail(exit::SOFTWARE, &error),
    }
}
