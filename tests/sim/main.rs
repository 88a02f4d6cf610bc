//! The simulation: the real engine under a seeded scheduler, on a simulated disk, with simulated clients and time, and
//! an oracle that knows what must be true.
//!
//! ```text
//! cargo test --features simulation --test sim -- --seed 1 --runs 2000
//! ```
//!
//! One seed is one run, always the same. A run that fails prints the command that repeats it, the last events, and the
//! smallest configuration that still fails.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a test, but one without a test harness, so clippy does not know it"
)]

mod brief;
mod calls;
mod clients;
mod clock;
mod config;
mod death;
mod hunt;
mod oracle;
mod random;
mod runs;
mod service;
#[path = "../../crates/journal/tests/support/sim_disk/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod sim_disk;
mod slow_log;
mod trace;
mod workload;
mod world;

use std::process::ExitCode;

use clap::Parser;

/// Runs the simulation.
#[derive(Debug, Clone, Parser)]
#[command(name = "sim")]
pub(crate) struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Number of seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Number of threads. Each runs other seeds.
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Changes a setting of the configuration that the seed gives, as in `--set deaths=0`.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Prints every event of the run.
    #[arg(long)]
    verbose: bool,
    /// Runs every seed twice, and compares the runs event by event.
    #[arg(long)]
    twice: bool,
    /// Plants a deliberate bug (src/mutation.rs), which the simulation must find.
    #[arg(long)]
    mutation: Option<String>,
    /// Plants every deliberate bug in turn, and prints after how many seeds each was found. Each must be found within
    /// `--runs` seeds, from each of `--rounds` first seeds.
    #[arg(long)]
    mutations: bool,
    /// How often `--mutations` searches for each bug, each time from other seeds.
    #[arg(long, default_value_t = 1)]
    rounds: u64,
    /// Does not search for a smaller configuration that still fails.
    #[arg(long)]
    no_shrink: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    runs::remember_panics();
    if options.mutations {
        hunt::run(&options)
    } else {
        runs::run(&options)
    }
}
