//! Compares the threads with the plan, and the plan with the machine.
//!
//! Masks change behind a process's back: the static CPU manager of Kubernetes rewrites cpusets, old
//! kernels reset masks when a group moves, an operator runs `taskset -p`. The host calls
//! [`CpuAffinityManager::verify_now`] every [`AffinityConfig::verify_interval`](super::AffinityConfig).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    cgroup::Cgroup,
    cpuset::CpuSet,
    detect::Machine,
    manager::{CpuAffinityManager, InForce},
    pin,
    plan::Plan,
    registry::Entry,
};

/// What one check found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Threads looked at.
    pub checked: usize,
    /// Threads that had the right mask and have lost it since.
    pub lost: usize,
    /// Threads whose mask was set right.
    pub reapplied: usize,
    /// Threads that still have another mask than planned.
    pub failed: usize,
    /// Whether the allowed CPUs or the quota have changed and a new plan is in force.
    pub replanned: bool,
}

/// State of one thread after a check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Kept,
    Reapplied,
    Failed,
    Ended,
}

// ===== impl CpuAffinityManager =====

impl CpuAffinityManager {
    /// Checks every registered thread now, makes a new plan if the machine has changed, and puts masks
    /// right. Never fails: what cannot be put right is counted and shown.
    pub fn verify_now(&self) -> VerifyReport {
        let mut report = VerifyReport {
            replanned: self.replan_if_changed(),
            ..VerifyReport::default()
        };
        let layout = self.in_force();
        for entry in self.shared.registry.entries() {
            let Some(wanted) = layout.plan.mask(entry.role, entry.index) else {
                report.checked = report.checked.saturating_add(1);
                continue;
            };
            // A new plan asks for other masks: only a thread that left its own old mask has lost it.
            let had = entry.pin.is_ok().then_some(entry.pin.wanted.as_ref()).flatten();
            let lost = had.is_some_and(|had| pin::mask_of(entry.tid).is_ok_and(|now| now != *had));
            let verdict = self.check(&entry, &wanted, &layout.plan.allowed);
            if verdict == Verdict::Ended {
                continue;
            }
            report.checked = report.checked.saturating_add(1);
            report.lost = report.lost.saturating_add(usize::from(lost));
            let (reapplied, failed) = (verdict == Verdict::Reapplied, verdict == Verdict::Failed);
            report.reapplied = report.reapplied.saturating_add(usize::from(reapplied));
            report.failed = report.failed.saturating_add(usize::from(failed));
        }
        self.count(report);
        report
    }

    /// Compares one thread with its place.
    fn check(&self, entry: &Entry, wanted: &CpuSet, allowed: &CpuSet) -> Verdict {
        let Ok(actual) = pin::mask_of(entry.tid) else {
            // Its guard removes it; this check came in between.
            return Verdict::Ended;
        };
        if actual == *wanted && entry.pin.is_ok() && entry.pin.wanted.as_ref() == Some(wanted) {
            return Verdict::Kept;
        }
        let outcome = pin::pin(entry.tid, wanted, allowed);
        let verdict = if outcome.is_ok() {
            Verdict::Reapplied
        } else {
            Verdict::Failed
        };
        // A thread that could never be placed was reported when it started, not every 10 s again.
        if outcome.is_ok() || entry.pin.is_ok() {
            tracing::warn!(
                thread = %entry.name, tid = entry.tid, found = %actual, %wanted,
                repaired = outcome.is_ok(), errno = outcome.errno, "thread had another CPU mask than planned"
            );
        }
        self.shared.registry.set_pin(entry.ticket, outcome);
        verdict
    }

    /// How long the host shall wait between two checks.
    #[must_use]
    pub fn verify_interval(&self) -> Duration {
        self.shared.config.verify_interval
    }

    fn count(&self, report: VerifyReport) {
        let add = |counter: &std::sync::atomic::AtomicU64, count: usize| {
            // Relaxed: counters that are only ever shown.
            counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        };
        add(&self.shared.affinity_lost, report.lost);
        add(&self.shared.affinity_reapplied, report.reapplied);
        add(
            &self.shared.layout_version,
            usize::from(report.replanned || report.reapplied > 0),
        );
    }

    /// Makes a new plan if allowed CPUs or limits are others than those of the plan in force.
    fn replan_if_changed(&self) -> bool {
        let old = self.in_force();
        let sources = &self.shared.sources;
        let cgroup = Cgroup::read(sources);
        let online = sources.online();
        if cgroup.same_limits(&old.machine.cgroup) && online == old.machine.online {
            return false;
        }
        let mask = self.mask_within(cgroup.cpuset_effective.as_ref());
        let machine = Machine::detect(sources, Some(mask));
        let (plan, changed) = match Plan::new(&machine, &self.shared.config) {
            Ok(plan) => {
                let changed = plan != old.plan;
                (plan, changed)
            }
            Err(error) => (old.plan.kept_because(&error), false),
        };
        if changed {
            tracing::warn!(old = %old.plan.summary(), new = %plan.summary(), "the allowed CPUs have changed");
        }
        *self.shared.in_force.write() = Arc::new(InForce { machine, plan });
        changed
    }

    /// The mask of the process if it were started now: what the operator narrowed stays narrow, and a
    /// process that had its whole cpuset gets the whole new one.
    fn mask_within(&self, granted: Option<&CpuSet>) -> CpuSet {
        let mask = &self.shared.mask;
        let Some(granted) = granted else {
            return mask.clone();
        };
        let at_start = self.shared.granted.as_ref();
        let narrowed = at_start.is_none_or(|at_start| !at_start.is_subset(mask));
        let kept = mask.intersection(granted);
        if narrowed && !kept.is_empty() {
            kept
        } else {
            granted.clone()
        }
    }
}
