//! Prints the plan for this machine, starts three pinned threads, and shows the CPUs on which they may run.
//!
//! `cargo run -p tally-topology --example plan`

#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::sync::{Arc, Barrier};

use tally_topology::{AffinityConfig, AffinityError, CpuAffinityManager, Mode, Role};

fn main() -> Result<(), AffinityError> {
    // The mode is `pin`, because `auto` would not pin on a small machine.
    let config = AffinityConfig {
        mode: Mode::Pin,
        ..AffinityConfig::default()
    };
    let affinity = CpuAffinityManager::detect(config)?;
    println!("{}", affinity.plan());

    // The threads wait until the main thread has printed their masks.
    let seen = Arc::new(Barrier::new(4));
    let mut threads = Vec::new();
    for (role, name) in [
        (Role::Exec, "tally-exec"),
        (Role::Wal, "tally-wal"),
        (Role::Net, "tally-net-0"),
    ] {
        let seen = Arc::clone(&seen);
        threads.push(affinity.spawn(role, 0, name, move || {
            seen.wait();
        })?);
    }
    for thread in affinity.topology().threads {
        let list = |cpus: Option<_>| {
            cpus.map_or_else(
                || "any".to_owned(),
                |cpus: tally_topology::CpuSet| cpus.to_string(),
            )
        };
        println!(
            "{:<12} planned on {:<6} allowed on {:<6} as planned: {}",
            thread.name,
            list(thread.wanted),
            list(thread.actual),
            thread.pinned_ok
        );
    }
    seen.wait();
    for thread in threads {
        // A thread that panicked has printed its message.
        drop(thread.join());
    }
    Ok(())
}
