//! Compares the ledger with a simple model of its rules. Runs random histories, and checks all invariants after each step.

// This condition is always true here. Without the attribute, clippy would not know that the helpers are test code.
#![cfg(test)]

mod broken_logs;
mod checkpoint;
mod content;
mod details;
mod generators;
mod history;
mod memory_log;
mod model;
#[cfg(feature = "mutations")]
mod mutations;
mod world;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use generators::Random;
use proptest::prelude::*;
use world::World;

/// Number of steps of all histories together, unless the environment variable sets another number. Four of five steps are
/// requests; the others are blocks, checkpoints and restarts.
const STEPS_DEFAULT: u64 = 2_000_000;
/// The environment variable with the number of steps.
const STEPS_VARIABLE: &str = "TALLY_TEST_LEDGER_STEPS";
/// The environment variable with the seed of the first history.
const SEED_VARIABLE: &str = "TALLY_TEST_SEED";
/// Number of steps of a history.
const HISTORY_STEPS: u64 = 400;

/// Runs the history of a seed. Returns what it reached, or what went wrong.
fn history(seed: u64) -> Result<BTreeSet<String>, String> {
    let run = || {
        let mut random = Random(seed);
        let first = random.next();
        let steps: Vec<u64> = (0..HISTORY_STEPS).map(|_| random.next()).collect();
        let mut world = World::new();
        world.run(first, steps);
        world.reached
    };
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        text.unwrap_or_else(|| "a panic without a text".to_owned())
    })
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")),
    )
}

proptest! {
    /// Fewer steps than the test below runs, but a history that fails is shortened.
    #[test]
    fn the_ledger_agrees_with_the_model(first: u64, steps in proptest::collection::vec(any::<u64>(), 1..80)) {
        World::new().run(first, steps);
    }
}

/// `TALLY_TEST_LEDGER_STEPS` sets the number of steps, and `TALLY_TEST_SEED` the seed of the first history.
#[test]
fn random_histories_agree_with_the_model_and_reach_every_outcome() {
    let steps = number_from(STEPS_VARIABLE).unwrap_or(STEPS_DEFAULT);
    let seed = number_from(SEED_VARIABLE).unwrap_or(1);
    let next = AtomicU64::new(0);
    let histories = steps.div_ceil(HISTORY_STEPS);
    let run = || {
        let mut reached = BTreeSet::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= histories {
                return reached;
            }
            let seed = seed.wrapping_add(number);
            match history(seed) {
                Ok(mut more) => reached.append(&mut more),
                Err(error) => panic!("the history of {SEED_VARIABLE}={seed} fails: {error}"),
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, |threads| threads.get().min(4));
    let reached: BTreeSet<String> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let all = running.into_iter().flat_map(|thread| thread.join().unwrap());
        all.collect()
    });
    // Fewer steps may miss an outcome.
    let expected: BTreeSet<String> = include_str!("outcomes.txt").lines().map(str::to_owned).collect();
    let missing: Vec<_> = expected.difference(&reached).collect();
    let unexpected: Vec<_> = reached.difference(&expected).collect();
    assert!(
        (missing.is_empty() || steps < STEPS_DEFAULT) && unexpected.is_empty(),
        "missing: {missing:#?}, unexpected: {unexpected:#?}"
    );
}
