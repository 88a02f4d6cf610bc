//! What this process may do, and how a test says that it could not be run.

use std::{io::Write, thread};

use tally_topology::sys::affinity::{self, THIS_THREAD};

/// Whether the kernel lets a thread of this process become real-time, tried on a thread of its own.
pub(crate) fn fifo_allowed() -> bool {
    thread::spawn(|| affinity::with_sys_nice(|| affinity::set_fifo(THIS_THREAD, 1)).is_ok())
        .join()
        .unwrap()
}

/// A wrapper that takes real-time rights away, if this process has them.
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

/// Says that a test could not be run here, past the harness, which keeps the output of tests that pass to itself.
pub(crate) fn skipped(why: &str) {
    // Nobody listens to standard error: then nobody is told.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
