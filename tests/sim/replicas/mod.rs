//! Three replicas in one run: the real engine, the real driver and the real protocol, each replica on its own simulated disk and with its
//! own clock, on a simulated log. One thread, one seed, always the same run.
//!
//! [`plan`] says what happens, [`cluster`] lets everybody take turns, [`faults`] disturbs them, [`sim_log`] is the log, [`history`] knows
//! what the clients know, and [`chain`] computes from the records of the log which blocks are accepted.

mod alarm;
mod chain;
mod client;
mod cluster;
mod faults;
mod history;
mod node;
mod peers;
mod plan;
mod run;
mod sim_link;
mod sim_log;

use std::{
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tally::mutation;
use tally_topology::CpuAffinityManager;
use tokio::{runtime::Builder, task::unconstrained};

use self::cluster::Cluster;
use crate::{
    arguments::Options,
    runs::{Outcome, affinity, catch, now},
};

/// Runs one simulation with replicas.
pub(crate) fn simulate(seed: u64, affinity: &CpuAffinityManager, verbose: bool) -> Outcome {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(unconstrained(async {
        let mut cluster = Cluster::new(seed, affinity, verbose);
        let result = catch(Box::pin(cluster.run())).await;
        Outcome {
            failure: result.err(),
            digest: cluster.trace.digest(),
            events: cluster.trace.events(),
            turns: cluster.turns,
            last: cluster.trace.last().cloned().collect(),
        }
    }))
}

/// Runs the seeds of `options`.
pub(crate) fn run(options: &Options) -> ExitCode {
    let affinity = affinity();
    let begun = now();
    let next = AtomicU64::new(options.seed);
    let end = options.seed + options.runs;
    let failed = Mutex::new(0);
    let [ran, turns, events] = [const { AtomicU64::new(0) }; 3];
    std::thread::scope(|scope| {
        for _ in 0..options.threads.min(options.runs) {
            scope.spawn(|| {
                mutation::plant(options.mutation.as_deref()).unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || *failed.lock() >= 3 {
                        break;
                    }
                    let outcome = simulate(seed, &affinity, options.verbose);
                    ran.fetch_add(1, Ordering::Relaxed);
                    turns.fetch_add(outcome.turns, Ordering::Relaxed);
                    events.fetch_add(outcome.events, Ordering::Relaxed);
                    let differs = options.twice
                        && outcome.failure.is_none()
                        && simulate(seed, &affinity, false).digest != outcome.digest;
                    if outcome.failure.is_some() || differs {
                        report(seed, differs, &outcome, options);
                        *failed.lock() += 1;
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let turns = turns.into_inner();
    println!(
        "{} seeds with replicas from {}, {turns} operations, {} events in {seconds:.1} s ({:.0} operations/s)",
        ran.into_inner(),
        options.seed,
        events.into_inner(),
        turns as f64 / seconds
    );
    if failed.into_inner() == 0 {
        println!("no failure");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn report(seed: u64, differs: bool, outcome: &Outcome, options: &Options) {
    let mut text = format!("\nseed {seed} failed");
    for line in &outcome.last {
        text.push_str("\n  ");
        text.push_str(line);
    }
    if let Some(failure) = &outcome.failure {
        text.push_str(&format!("\nFAILURE: {}", failure.0));
    }
    if differs {
        text.push_str("\nFAILURE: two runs differ");
    }
    text.push_str(&format!(
        "\nrepeat it: cargo test --workspace --features simulation --test sim -- --replicas --seed {seed}"
    ));
    if let Some(mutation) = &options.mutation {
        text.push_str(&format!(" --mutation {mutation}"));
    }
    if options.twice {
        text.push_str(" --twice");
    }
    println!("{text}\n");
}
