//! The privileges of this process, and the message of a test that can't run here.

use std::{io::Write, thread};

use tally_topology::sys::affinity::{self, THIS_THREAD};

/// Returns whether the kernel lets a thread of this process become a real-time thread. Tries it on a new thread.
pub(crate) fn fifo_allowed() -> bool {
    thread::spawn(|| affinity::with_sys_nice(|| affinity::set_fifo(THIS_THREAD, 1)).is_ok())
        .join()
        .unwrap()
}

/// Returns a wrapper program that removes real-time privileges, if this process has them.
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

/// Prints that a test can't run here. Writes to standard error directly, because the test harness hides the output of passing tests.
pub(crate) fn skipped(why: &str) {
    // If standard error is closed, the message is lost.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
