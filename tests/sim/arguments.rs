//! The command line of the simulation, and the checks of its arguments.

use std::ops::RangeInclusive;

use clap::Parser;

/// Runs the simulation.
#[derive(Debug, Clone, Parser)]
#[command(name = "sim")]
pub(crate) struct Options {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Number of seeds, one after the other.
    #[arg(long, default_value_t = 1)]
    pub(crate) runs: u64,
    /// Number of threads. The threads share the seeds.
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: u64,
    /// Changes a setting of the configuration that the seed gives, as in `--set deaths=0`.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Prints every event of the run.
    #[arg(long)]
    pub(crate) verbose: bool,
    /// Runs every seed twice, and compares the runs event by event.
    #[arg(long)]
    pub(crate) twice: bool,
    /// Runs three replicas on a simulated log instead of one service. The seed gives everything; `--set` changes nothing.
    #[arg(long)]
    pub(crate) replicas: bool,
    /// Plants a deliberate bug (src/mutation.rs), which the simulation must find.
    #[arg(long)]
    pub(crate) mutation: Option<String>,
    /// Plants every deliberate bug in turn, and prints after how many seeds each was found. Each must be found within
    /// `--runs` seeds, from each of `--rounds` first seeds.
    #[arg(long)]
    pub(crate) mutations: bool,
    /// How often `--mutations` searches for each bug, each time from other seeds.
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: u64,
    /// Does not search for a smaller configuration that still fails.
    #[arg(long)]
    pub(crate) no_shrink: bool,
}

/// A setting that `--set` can change.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) bounds: RangeInclusive<u64>,
}

/// Seeds between the first seeds of two searches for the same bug.
pub(crate) const ROUND_SEEDS: u64 = 1_000_000;
/// Maximum number of threads.
const THREADS_MAX: u64 = 256;

// ===== impl Options =====

impl Options {
    /// Checks what clap can't check. `settings` are the settings that `--set` can change, and `mutations` the names of
    /// all deliberate bugs.
    ///
    /// # Errors
    /// One line that says what is wrong.
    pub(crate) fn check(&self, settings: &[Setting], mutations: &[&str]) -> Result<(), String> {
        check_number("threads", self.threads, &(1..=THREADS_MAX))?;
        check_number("runs", self.runs, &(1..=u64::MAX))?;
        check_number("rounds", self.rounds, &(1..=u64::MAX))?;
        self.check_seeds()?;
        for change in &self.set {
            parse_change(change, settings)?;
        }
        match &self.mutation {
            Some(_) if self.mutations => {
                Err("--mutations plants every bug, so --mutation can't be given, too".to_owned())
            }
            Some(name) if !mutations.contains(&name.as_str()) => Err(format!(
                "--mutation {name}: there is no such bug; MUTATIONS in src/mutation.rs lists all"
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks that every seed fits into 64 bits, also the seeds after the last one, at which the threads notice the end.
    fn check_seeds(&self) -> Result<(), String> {
        let rounds = if self.mutations { self.rounds - 1 } else { 0 };
        let seeds = rounds
            .checked_mul(ROUND_SEEDS)
            .and_then(|seeds| seeds.checked_add(self.runs))
            .and_then(|seeds| seeds.checked_add(self.threads));
        if seeds.is_some_and(|seeds| self.seed.checked_add(seeds).is_some()) {
            return Ok(());
        }
        Err(format!(
            "--seed {} and --runs {} lead beyond the largest seed, {}; choose a smaller seed or fewer runs",
            self.seed,
            self.runs,
            u64::MAX
        ))
    }
}

/// Reads a change of a setting: its place in `settings`, and its new value.
///
/// # Errors
/// One line that says what is wrong.
pub(crate) fn parse_change(change: &str, settings: &[Setting]) -> Result<(usize, u64), String> {
    let Some((name, value)) = change.split_once('=') else {
        return Err(format!("--set {change}: write NAME=VALUE, as in --set deaths=0"));
    };
    let Some(place) = settings.iter().position(|setting| setting.name == name) else {
        return Err(format!(
            "--set {change}: there is no setting {name}; tests/sim/config.rs lists all"
        ));
    };
    let bounds = &settings[place].bounds;
    match value.parse() {
        Ok(number) if bounds.contains(&number) => Ok((place, number)),
        Ok(_) | Err(_) => Err(format!(
            "--set {change}: the value must be a number from {} to {}",
            bounds.start(),
            bounds.end()
        )),
    }
}

fn check_number(name: &str, number: u64, bounds: &RangeInclusive<u64>) -> Result<(), String> {
    if bounds.contains(&number) {
        return Ok(());
    }
    Err(format!(
        "--{name} {number}: the number must be from {} to {}",
        bounds.start(),
        bounds.end()
    ))
}
