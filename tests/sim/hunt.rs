//! The search for deliberate bugs: each bug is planted in turn, and the simulation must find it within a number of seeds.

use std::{
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

use parking_lot::Mutex;
use tally::mutation::{self, MUTATIONS, MUTATIONS_OF_REPLICATION, Mutation};
use tally_topology::CpuAffinityManager;

use crate::{
    arguments::{Options, ROUND_SEEDS},
    replicas,
    runs::{affinity, configure, simulate},
};

/// How a bug was found.
struct Finding {
    mutation: &'static Mutation,
    /// The number of seeds that each search took; `None` if the search found nothing.
    seeds: Vec<Option<u64>>,
    /// The failure that the last search found.
    seen: String,
}

/// Bugs of the replicated store that are too rare for the runs with replicas. The model of the protocol finds the first one, and
/// `it replication::` finds the second one.
const NOT_HUNTED: [&str; 2] = ["serve_a_visible_claim", "lead_while_resigning"];

/// Plants every bug, and prints how fast each was found.
pub(crate) fn run(options: &Options) -> ExitCode {
    let affinity = affinity();
    let bugs: Vec<&Mutation> = if options.replicas {
        let hunted = |bug: &&Mutation| !NOT_HUNTED.contains(&bug.name);
        MUTATIONS_OF_REPLICATION.iter().filter(hunted).collect()
    } else {
        MUTATIONS.iter().collect()
    };
    let next = AtomicUsize::new(0);
    let findings = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                while let Some(&mutation) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    mutation::plant(Some(mutation.name)).unwrap();
                    let mut finding = Finding {
                        mutation,
                        seeds: Vec::new(),
                        seen: String::new(),
                    };
                    for round in 0..options.rounds {
                        let first = options.seed + round * ROUND_SEEDS;
                        let found = (0..options.runs).find_map(|run| {
                            let failure = failure_of(first + run, options, &affinity)?;
                            Some((run + 1, failure))
                        });
                        let (seeds, seen) = found.unzip();
                        finding.seeds.push(seeds);
                        finding.seen = seen.unwrap_or_default();
                    }
                    mutation::plant(None).unwrap();
                    findings.lock().push(finding);
                }
            });
        }
    });
    let mut findings = findings.into_inner();
    findings.sort_by_key(|finding| finding.mutation.name);
    for finding in &findings {
        println!("{}", finding.row(options.runs));
    }
    let missed = findings
        .iter()
        .filter(|finding| finding.seeds.contains(&None))
        .count();
    println!(
        "{} deliberate bugs, {missed} not found within {} seeds",
        findings.len(),
        options.runs
    );
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What a run of this seed finds.
fn failure_of(seed: u64, options: &Options, affinity: &CpuAffinityManager) -> Option<String> {
    let outcome = if options.replicas {
        replicas::simulate(seed, affinity, false)
    } else {
        simulate(&configure(seed, &options.set), affinity, false)
    };
    outcome.failure.map(|failure| failure.0)
}

impl Finding {
    /// The bug's row in the table of `docs/durability.md`.
    fn row(&self, runs: u64) -> String {
        let mut seeds: Vec<u64> = self.seeds.iter().map(|seeds| seeds.unwrap_or(u64::MAX)).collect();
        seeds.sort_unstable();
        let text = |seeds: u64| {
            if seeds == u64::MAX {
                format!("more than {runs}")
            } else {
                seeds.to_string()
            }
        };
        let (median, most) = (seeds[seeds.len() / 2], seeds[seeds.len() - 1]);
        let mut seen = self.seen.replace('\n', " ");
        if let Some((cut, _)) = seen.char_indices().nth(120) {
            seen.truncate(cut);
        }
        format!(
            "| `{}` | {} | {} | {} | {seen} |",
            self.mutation.name,
            self.mutation.what,
            text(median),
            text(most)
        )
    }
}
