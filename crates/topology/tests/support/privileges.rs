//! Finds out the privileges of this process, and prints the message of a test that is skipped.

use std::{io::Write, thread};

use tally_topology::sys::affinity::{self, THIS_THREAD};

/// Returns whether a thread of this process may use `SCHED_FIFO`. Tries this on a new thread.
pub(crate) fn fifo_allowed() -> bool {
    thread::spawn(|| affinity::with_sys_nice(|| affinity::set_fifo(THIS_THREAD, 1)).is_ok())
        .join()
        .unwrap()
}

/// Returns the command that starts a program without real-time privileges. Returns an empty command if this process has
/// no real-time privileges.
pub(crate) fn unprivileged() -> &'static [&'static str] {
    if fifo_allowed() {
        &[
            "prlimit",
            "--rtprio=0:0",
            "setpriv",
            "--inh-caps=-sys_nice",
            "--bounding-set=-sys_nice",
        ]
    } else {
        &[]
    }
}

/// Prints that a test is skipped, and why. Writes to standard error directly, because the test harness hides the output
/// of passing tests.
pub(crate) fn skipped(why: &str) {
    // If standard error is closed, the message is lost.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
