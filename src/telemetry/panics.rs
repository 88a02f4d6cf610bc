//! Counts panics for a metric. Without this count, a caught panic, such as a panic of a connection's task, would be
//! visible only in the log.

use std::{
    panic,
    sync::atomic::{AtomicU64, Ordering},
};

use super::metrics::{Families, MetricSource};

static PANICS: AtomicU64 = AtomicU64::new(0);

/// The metric of the number of panics in the process. It also counts caught panics.
#[derive(Debug, Clone, Copy)]
pub struct PanicMetrics;

/// Installs a panic hook that counts the panic and then calls the hook that was installed before.
pub(super) fn count() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        // Write no log line here, because the logger itself may have panicked.
        PANICS.fetch_add(1, Ordering::Relaxed);
        report(panic);
    }));
}

impl MetricSource for PanicMetrics {
    fn collect(&self, families: &mut Families) {
        families.counter(
            "tally_panics_total",
            "Panics in the process. Any panic is a bug.",
            PANICS.load(Ordering::Relaxed) as f64,
        );
    }
}
