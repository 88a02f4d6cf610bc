//! The process's start time and memory. The names of these metrics are those that Prometheus' client libraries use.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::metrics::{Families, MetricSource};

/// The kernel's report about this process.
const STATUS_FILE: &str = "/proc/self/status";

/// The metrics of the process.
#[derive(Debug, Clone, Copy)]
pub struct ProcessMetrics {
    started_at: SystemTime,
    started: Instant,
}

// ===== impl ProcessMetrics =====

impl ProcessMetrics {
    /// Notes the current time as the start of the process. Call it once, at the start of the process.
    #[must_use]
    pub fn started_now() -> Self {
        ProcessMetrics {
            started_at: SystemTime::now(),
            started: Instant::now(),
        }
    }

    /// Returns the time since the start. A change of the system clock does not affect it.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the start in seconds since the Unix epoch; 0 if the system clock was before the epoch.
    #[must_use]
    pub fn started_unix_seconds(&self) -> f64 {
        let since = self.started_at.duration_since(UNIX_EPOCH);
        since.unwrap_or_default().as_secs_f64()
    }
}

impl MetricSource for ProcessMetrics {
    fn collect(&self, families: &mut Families) {
        families.gauge(
            "process_start_time_seconds",
            "Start of the process, in seconds since the Unix epoch.",
            self.started_unix_seconds(),
        );
        if let Some(bytes) = resident_bytes() {
            families.gauge(
                "process_resident_memory_bytes",
                "Physical memory that the process uses, in bytes.",
                bytes as f64,
            );
        }
    }
}

/// Returns the physical memory that the process uses, in bytes; `None` if the kernel does not report it.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    resident(&fs::read_to_string(STATUS_FILE).ok()?)
}

/// Reads the resident memory from the text of [`STATUS_FILE`], and converts it from kibibytes to bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_converted_to_bytes_and_other_text_is_not() {
        let status = "Name:\ttally\nVmHWM:\t   20000 kB\nVmRSS:\t   12345 kB\nThreads:\t7\n";
        assert_eq!(resident(status), Some(12345 * 1024));
        for other in ["", "VmRSS:\t\n", "VmRSS:\t 12 MB\n", "VmRSS:\t-1 kB\n"] {
            assert_eq!(resident(other), None, "{other:?}");
        }
        assert!(resident_bytes().is_some_and(|bytes| bytes > 0));
    }
}
