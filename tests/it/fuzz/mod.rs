//! The fuzz targets (`fuzz/`, CONTRIBUTING.md), without a fuzzer: each target checks its corpus, and pseudorandom mutations
//! of the corpus. The same runs give the same mutations.

mod config;
mod import;
mod messages;
mod recovery;

use std::{fs, panic::catch_unwind, path::PathBuf};

use crate::support::sim_disk;

/// A fuzz target.
struct Target {
    /// The name of the directory below `fuzz/corpus`.
    name: &'static str,
    check: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    /// Number of mutated inputs.
    mutated: usize,
}

/// Maximum number of changes of a mutated input.
const CHANGES_MAX: u64 = 6;
/// Longest mutated input, in bytes.
const INPUT_BYTES_MAX: usize = 4096;

/// A pseudorandom number generator: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
struct Random(u64);

// ===== impl Random =====

impl Random {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap()
    }

    /// Changes an input once. `other` is another input, of which a part may be taken.
    fn change(&mut self, input: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(input.len() + 1);
        let end = (at + 1 + self.below(8)).min(input.len());
        let byte = u8::try_from(self.next() % 256).unwrap();
        match self.below(7) {
            0 => {
                if let Some(place) = input.get_mut(at) {
                    *place ^= 1 << (byte % 8);
                }
            }
            1 => {
                if let Some(place) = input.get_mut(at) {
                    *place = byte;
                }
            }
            2 => input.insert(at, byte),
            3 => drop(input.drain(at..end)),
            4 => {
                let copy = input[at..end].to_vec();
                let to = self.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            5 => input.truncate(at),
            _ => {
                let from = self.below(other.len() + 1);
                let to = (from + self.below(64)).min(other.len());
                input.splice(at..end, other[from..to].iter().copied());
            }
        }
        input.truncate(INPUT_BYTES_MAX);
    }
}

// ===== impl Target =====

impl Target {
    fn run(&self) {
        let mut inputs: Vec<(String, Vec<u8>)> = (0..)
            .zip((self.seeds)())
            .map(|(number, seed): (usize, _)| (format!("seed-{number:03}"), seed))
            .collect();
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(self.name);
        if std::env::var_os("WRITE_CORPUS").is_some() {
            fs::create_dir_all(&directory).unwrap();
            for (name, seed) in &inputs {
                fs::write(directory.join(name), seed).unwrap();
            }
        }
        let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        assert!(!paths.is_empty(), "{} has no inputs", directory.display());
        inputs.extend(
            paths
                .iter()
                .map(|path| (path.display().to_string(), fs::read(path).unwrap())),
        );
        for (name, input) in &inputs {
            self.check(name, input);
        }
        let mut random = Random(1);
        for number in 0..self.mutated {
            let mut input = inputs[random.below(inputs.len())].1.clone();
            for _ in 0..=random.next() % CHANGES_MAX {
                let other = random.below(inputs.len());
                random.change(&mut input, &inputs[other].1);
            }
            self.check(&format!("mutation {number}"), &input);
        }
    }

    /// Checks an input. If that fails, the error names the input and shows it as Rust text, so that it can be added to the
    /// corpus.
    fn check(&self, name: &str, input: &[u8]) {
        let check = self.check;
        if catch_unwind(|| check(input)).is_err() {
            panic!("{}: {name} fails: b\"{}\"", self.name, input.escape_ascii());
        }
    }
}

#[test]
fn corpus_messages() {
    Target {
        name: "messages",
        check: messages::check,
        seeds: messages::seeds,
        mutated: 5000,
    }
    .run();
}

#[test]
fn corpus_import() {
    Target {
        name: "import",
        check: import::check,
        seeds: import::seeds,
        mutated: 5000,
    }
    .run();
}

#[test]
fn corpus_config() {
    Target {
        name: "config",
        check: config::check,
        seeds: config::seeds,
        mutated: 300,
    }
    .run();
}

#[test]
fn corpus_recovery() {
    Target {
        name: "recovery",
        check: recovery::check,
        seeds: recovery::seeds,
        // Each opens a directory of 24 MiB, because blocks are large without the feature `simulation`.
        mutated: 30,
    }
    .run();
}
