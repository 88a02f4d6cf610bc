//! Runs seeds on several threads, reports failures, and makes a failing configuration smaller.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{self, AssertUnwindSafe, catch_unwind},
    pin::Pin,
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use tally::mutation;
use tally_topology::{AffinityConfig, CpuAffinityManager, Mode};
use tokio::{runtime::Builder, task::unconstrained};

use crate::{
    arguments::{Options, parse_change},
    config::{Config, KNOBS, settings},
    world::{Failure, World},
};

/// The result of one run.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) failure: Option<Failure>,
    pub(crate) digest: u64,
    pub(crate) events: u64,
    pub(crate) turns: u64,
    pub(crate) last: Vec<String>,
}

/// How a seed failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// The run found a failure.
    Fails,
    /// Two runs were different.
    Differs,
}

/// Number of runs that the search for a smaller configuration may take.
const SHRINK_RUNS_MAX: usize = 400;

thread_local! {
    /// The place of the last caught panic.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
    /// Whether the thread is in a simulation, which catches panics.
    static CATCHES: Cell<bool> = const { Cell::new(false) };
}

/// Runs the seeds of `options`.
pub(crate) fn run(options: &Options) -> ExitCode {
    let affinity = affinity();
    let begun = now();
    let next = AtomicU64::new(options.seed);
    let end = options.seed + options.runs;
    let failed: Mutex<Vec<(Config, How)>> = Mutex::new(Vec::new());
    let [ran, turns, events] = [const { AtomicU64::new(0) }; 3];
    std::thread::scope(|scope| {
        for _ in 0..options.threads.min(options.runs) {
            scope.spawn(|| {
                mutation::plant(options.mutation.as_deref()).unwrap();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failed.lock().len() >= 3 {
                        break;
                    }
                    let config = configure(seed, &options.set);
                    let outcome = simulate(&config, &affinity, options.verbose);
                    ran.fetch_add(1, Ordering::Relaxed);
                    turns.fetch_add(outcome.turns, Ordering::Relaxed);
                    events.fetch_add(outcome.events, Ordering::Relaxed);
                    let how = if outcome.failure.is_some() {
                        Some(How::Fails)
                    } else {
                        (options.twice && differs(&config, &affinity, &outcome)).then_some(How::Differs)
                    };
                    if let Some(how) = how {
                        report(&config, how, &outcome, options);
                        failed.lock().push((config, how));
                    }
                }
            });
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let turns = turns.into_inner();
    println!(
        "{} seeds from {}, {} operations, {} events in {seconds:.1} s ({:.0} operations/s)",
        ran.into_inner(),
        options.seed,
        turns,
        events.into_inner(),
        turns as f64 / seconds
    );
    let failed = failed.into_inner();
    if failed.is_empty() {
        println!("no failure");
        return ExitCode::SUCCESS;
    }
    if !options.no_shrink {
        mutation::plant(options.mutation.as_deref()).unwrap();
        for (config, how) in failed.iter().take(1) {
            shrink(config, *how, &affinity, options);
        }
    }
    ExitCode::FAILURE
}

/// A placement that pins no thread.
pub(crate) fn affinity() -> CpuAffinityManager {
    CpuAffinityManager::detect(AffinityConfig {
        mode: Mode::Off,
        ..AffinityConfig::default()
    })
    .unwrap()
}

/// Whether another run of the same configuration is different.
fn differs(config: &Config, affinity: &CpuAffinityManager, outcome: &Outcome) -> bool {
    simulate(config, affinity, false).digest != outcome.digest
}

/// The configuration of a seed, with the changes of the command line.
pub(crate) fn configure(seed: u64, set: &[String]) -> Config {
    let mut config = Config::from_seed(seed);
    let settings = settings();
    for change in set {
        let (place, value) = parse_change(change, &settings).expect("the options were checked");
        (KNOBS[place].set)(&mut config, value);
    }
    config
}

/// Runs one simulation.
pub(crate) fn simulate(config: &Config, affinity: &CpuAffinityManager, verbose: bool) -> Outcome {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(unconstrained(async {
        let mut world = World::new(config, affinity, verbose);
        let result = catch(Box::pin(world.run())).await;
        Outcome {
            failure: result.err(),
            digest: world.trace.digest(),
            events: world.trace.events(),
            turns: world.turns,
            last: world.trace.last().cloned().collect(),
        }
    }))
}

/// Runs a simulation. A panic is a failure.
pub(crate) async fn catch(
    mut run: Pin<Box<dyn Future<Output = Result<(), Failure>> + '_>>,
) -> Result<(), Failure> {
    std::future::poll_fn(|context| {
        CATCHES.set(true);
        let polled = catch_unwind(AssertUnwindSafe(|| run.as_mut().poll(context)));
        CATCHES.set(false);
        polled.unwrap_or_else(|panic| std::task::Poll::Ready(Err(Failure(panic_text(&*panic)))))
    })
    .await
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic");
    PANIC.with_borrow(|place| format!("panic at {place}: {text}"))
}

/// Keeps the places of panics in simulations instead of printing them. Other panics are printed.
pub(crate) fn remember_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        if !CATCHES.get() {
            print(info);
            return;
        }
        let place = info.location().map_or_else(String::new, ToString::to_string);
        PANIC.with_borrow_mut(|last| *last = place);
    }));
}

#[expect(
    clippy::disallowed_types,
    reason = "real time, for the speed that is printed at the end"
)]
pub(crate) fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// The command that repeats the run, with all options on which the result depends.
fn command(config: &Config, options: &Options) -> String {
    let mut command = format!(
        "cargo test --workspace --features simulation --test sim -- --seed {}",
        config.seed
    );
    let difference = config.difference();
    if !difference.is_empty() {
        command.push_str(&format!(" {difference}"));
    }
    if let Some(mutation) = &options.mutation {
        command.push_str(&format!(" --mutation {mutation}"));
    }
    if options.twice {
        command.push_str(" --twice");
    }
    command
}

fn report(config: &Config, how: How, outcome: &Outcome, options: &Options) {
    let mut text = format!("\nseed {} failed", config.seed);
    for line in &outcome.last {
        text.push_str("\n  ");
        text.push_str(line);
    }
    if let Some(Failure(failure)) = &outcome.failure {
        text.push_str(&format!("\nFAILURE: {failure}"));
    }
    if how == How::Differs {
        text.push_str("\nFAILURE: two runs differ");
    }
    text.push_str(&format!("\nrepeat it: {}\n", command(config, options)));
    println!("{text}");
}

/// Makes every setting simpler as long as the run still fails in the same way.
fn shrink(config: &Config, how: How, affinity: &CpuAffinityManager, options: &Options) {
    println!("searching for a smaller configuration that still fails");
    let mut smallest = config.clone();
    let mut outcome = None;
    let mut runs = 0;
    let mut progress = true;
    while progress && runs < SHRINK_RUNS_MAX {
        progress = false;
        for knob in KNOBS {
            let value = (knob.get)(&smallest);
            let half = knob.simplest + (value.max(knob.simplest) - knob.simplest) / 2;
            for simpler in [knob.simplest, half] {
                if simpler == value {
                    continue;
                }
                let mut candidate = smallest.clone();
                (knob.set)(&mut candidate, simpler);
                runs += 1;
                let result = simulate(&candidate, affinity, false);
                let still_fails = match how {
                    How::Fails => result.failure.is_some(),
                    How::Differs => differs(&candidate, affinity, &result),
                };
                if still_fails {
                    smallest = candidate;
                    outcome = Some(result);
                    progress = true;
                    break;
                }
            }
        }
    }
    println!("after {runs} runs, the smallest configuration that still fails:");
    if let Some(outcome) = outcome {
        report(&smallest, how, &outcome, options);
    } else {
        println!("{}", command(&smallest, options));
    }
}
