//! The command line: one binary with subcommands. [`exit`] lists the exit codes.

mod bench;
mod circuit;
mod client_args;
mod config;
mod effective;
pub mod exit;
mod health;
mod import;
mod output;
mod serve;
mod show;
mod token;
mod top;
mod topology;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use self::exit::fail;
use crate::{sys::limits::ignore_file_size_signal, version::LONG_VERSION};

pub use self::{
    client_args::{ClientArgs, Credentials},
    output::OutputFormat,
};

/// A durable double-entry ledger behind gRPC, with bounded latency.
#[derive(Debug, Parser)]
#[command(name = "tally", version, long_version = LONG_VERSION, propagate_version = true)]
pub struct Cli {
    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the service. Without options it listens on 127.0.0.1:50051 and keeps its data in ./tally-data.
    Serve(serve::ServeArgs),
    /// Show the settings that `serve` would use with the same options, and where each value comes from.
    Config(config::ConfigArgs),
    /// Check whether a service is serving. Exit code 0 if it is, 1 if not.
    Health(health::HealthArgs),
    /// Import transactions from files, in the order of the files. Importing a file again does not apply its transactions again.
    Import(import::ImportArgs),
    /// Show the CPU pinning plan for this machine or, with --endpoint, the pinning of a running service.
    Topology(topology::TopologyArgs),
    /// Show statistics of a service: circuits, batches, ledger.
    Stats(show::StatsArgs),
    /// Show a live view of a service in the terminal.
    Top(top::TopArgs),
    /// Show, watch or change the circuits of a service.
    Circuit(circuit::CircuitArgs),
    /// Create a bearer token, and its line for the tokens file.
    Token(token::TokenArgs),
    /// Check every block of a data directory. No service may have the directory open.
    Verify(verify::VerifyArgs),
    /// Load a service and measure its throughput and latency.
    Bench(bench::BenchArgs),
    /// Run the echo server, the baseline of `tally bench`.
    #[command(hide = true)]
    Echo(bench::EchoArgs),
}

// ===== impl Cli =====

impl Cli {
    /// Runs the subcommand.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Err(error) = ignore_file_size_signal() {
            return fail(exit::SOFTWARE, &error);
        }
        match self.command {
            Command::Serve(args) => serve::run(&args, &effective::variables(&Cli::command())),
            Command::Config(args) => config::run(&args, &effective::variables(&Cli::command())),
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
