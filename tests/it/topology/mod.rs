//! Placement of threads: the table on made-up machines, and real threads on this one.

// `cfg(test)` is always true here; it tells clippy that helper functions are test code too.
use std::io::Write;

#[cfg(test)]
mod child;
#[cfg(test)]
mod confined;
#[cfg(test)]
mod detection;
#[cfg(test)]
mod fifo;
#[cfg(test)]
mod group;
#[cfg(test)]
mod process;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod quota;
#[cfg(test)]
mod snapshot;
mod table;
#[cfg(test)]
mod tree;
#[cfg(test)]
mod watch;

/// Says that a test could not be run here, past the harness, which keeps the output of tests that pass to itself.
pub(crate) fn skipped(why: &str) {
    // Nobody listens to standard error: then nobody is told.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
