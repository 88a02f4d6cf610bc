//! The simulation: the real engine under a seeded scheduler, on a simulated disk, with simulated clients and time. An oracle
//! checks that all answers are right.
//!
//! ```text
//! cargo test --features simulation --test sim -- --seed 1 --runs 2000
//! ```
//!
//! A seed always gives the same run. A run that fails prints the command that repeats it, the last events, and the
//! smallest configuration that still fails.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a test, but one without a test harness, so clippy does not know it"
)]

mod arguments;
mod brief;
mod calls;
mod clients;
mod clock;
mod config;
mod death;
mod examination;
mod hunt;
mod journal;
mod liveness;
mod oracle;
mod random;
mod records;
mod refusal;
mod replicas;
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
use tally::mutation::{MUTATIONS, MUTATIONS_OF_LEDGER, MUTATIONS_OF_REPLICATION};

use arguments::Options;

fn main() -> ExitCode {
    let options = Options::parse();
    let all = MUTATIONS
        .iter()
        .chain(MUTATIONS_OF_LEDGER)
        .chain(MUTATIONS_OF_REPLICATION);
    let mutations: Vec<&str> = all.map(|mutation| mutation.name).collect();
    if let Err(problem) = options.check(&config::settings(), &mutations) {
        eprintln!("sim: {problem}");
        return ExitCode::from(2);
    }
    if options.verbose {
        let log = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
        log.without_time()
            .with_ansi(false)
            .with_writer(std::io::stderr)
            .init();
    }
    runs::remember_panics();
    if options.mutations {
        hunt::run(&options)
    } else if options.replicas {
        replicas::run(&options)
    } else {
        runs::run(&options)
    }
}
