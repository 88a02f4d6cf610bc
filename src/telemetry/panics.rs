//! Counts panics. Where one is caught, the rest of the process goes on and looks well: a connection's task, for one.

use std::{
    panic,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{Families, MetricSource};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// How many panics there were in the process, caught or not.
#[derive(Debug, Clone, Copy)]
pub struct PanicFigures;

/// Counts panics from now on, and has each of them reported as before.
pub(super) fn count() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // Nothing but the count: what panicked may have been the log.
        PANICS.fetch_add(1, Ordering::Relaxed);
        report(panic);
    }));
}

impl MetricSource for PanicFigures {
    fn collect(&self, families: &mut Families) {
        families.counter(
            "tally_panics_total",
            "Panics of the process: a bug if above 0.",
            PANICS.load(Ordering::Relaxed) as f64,
        );
    }
}
