//! What happened in a simulation: the last events for a person, and a digest of all events for the comparison of runs.

use std::{
    collections::VecDeque,
    fmt::{self, Write},
    hash::{DefaultHasher, Hasher},
    time::Duration,
};

/// The events of a simulation.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    last: VecDeque<String>,
    digest: DefaultHasher,
    events: u64,
    /// Prints each event when it happens.
    verbose: bool,
}

/// Number of events that are kept.
const LAST_MAX: usize = 60;

// ===== impl Trace =====

impl Trace {
    /// Makes an empty trace. A `verbose` one prints each event when it happens.
    pub(crate) fn new(verbose: bool) -> Self {
        Trace {
            verbose,
            ..Trace::default()
        }
    }

    pub(crate) fn note(&mut self, now: Duration, event: fmt::Arguments<'_>) {
        let mut line = if self.last.len() >= LAST_MAX {
            self.last.pop_front().unwrap_or_default()
        } else {
            String::new()
        };
        line.clear();
        let _ = write!(line, "{:>12.6} s  {event}", now.as_secs_f64());
        self.digest.write(line.as_bytes());
        self.events += 1;
        if self.verbose {
            eprintln!("{line}");
        }
        self.last.push_back(line);
    }

    /// The last events.
    pub(crate) fn last(&self) -> impl Iterator<Item = &String> {
        self.last.iter()
    }

    /// A number that differs if any event of the run differs.
    pub(crate) fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub(crate) const fn events(&self) -> u64 {
        self.events
    }
}
