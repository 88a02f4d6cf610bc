//! The crash harness: runs the real binary under the load of several real clients, and kills it, stops it, fills its disk
//! and sets its clock. Afterwards no acknowledged transaction may be lost and none doubled, and each hold has ended once.

mod audit;
mod bank_data;
mod book;
mod clock;
mod expiry;
mod full_disk;
mod kills;
mod load;
mod stops;
mod watch;

use std::{
    env,
    hash::{BuildHasher, Hasher, RandomState},
    io::Write,
};

use crate::support::server::ServerOptions;

/// Environment variable with the seed of the random numbers, to repeat a run.
const SEED: &str = "TALLY_TEST_SEED";

/// The random number generator `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug)]
struct Random(u64);

// ===== impl Random =====

impl Random {
    fn new() -> Self {
        let seed = match env::var(SEED) {
            Ok(text) => text.parse().expect("a number"),
            Err(_) => RandomState::new().build_hasher().finish(),
        };
        println!("to repeat this run: {SEED}={seed}");
        Random(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn between(&mut self, from: usize, to: usize) -> usize {
        from + usize::try_from(self.below((to - from) as u64)).unwrap()
    }
}

/// Options of a server that often writes checkpoints and often begins new segments, so that a kill can also interrupt
/// this work. The sizes are the smallest ones that the settings allow.
fn small_files() -> ServerOptions {
    ServerOptions::default()
        .env("TALLY__STORE__SEGMENT_BYTES", "8MiB")
        .env("TALLY__STORE__BLOCK_BYTES_MAX", "2MiB")
        .env("TALLY__STORE__CHECKPOINT_BYTES", "1MiB")
}

/// Prints a line of the report. Writes directly to standard error, because the test harness hides the output of
/// `println!` if a test passes.
fn report(line: &str) {
    std::io::stderr()
        .write_all(format!("\ncrash: {line}\n").as_bytes())
        .unwrap();
}
