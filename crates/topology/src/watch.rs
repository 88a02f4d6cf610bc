//! Compares the threads with the plan, and the plan with the machine.
//!
//! Masks can change while threads run: the static CPU manager of Kubernetes rewrites cpusets, old kernels reset masks
//! when a process moves to another control group, and an operator can run `taskset -p`. The program that uses this
//! crate calls [`CpuAffinityManager::verify_now`] every [`AffinityConfig::verify_interval`](super::AffinityConfig).

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

/// The result of one check.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Number of threads checked.
    pub checked: usize,
    /// Number of threads whose mask was as planned at the last check, and had changed since then.
    pub lost: usize,
    /// Number of threads whose mask was repaired.
    pub reapplied: usize,
    /// Number of threads whose mask could not be repaired.
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
    /// Makes a new plan if the machine has changed, checks every registered thread, and repairs masks. Never fails:
    /// counts and reports masks that can't be repaired.
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
            // If the plan is new, most masks differ from the new plan. A mask counts as lost only if it differs from
            // the mask that this crate set last.
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

    /// Compares the mask of one thread with `wanted`, and sets the mask if it differs.
    fn check(&self, entry: &Entry, wanted: &CpuSet, allowed: &CpuSet) -> Verdict {
        let Ok(actual) = pin::mask_of(entry.tid) else {
            // The thread has just ended. Its guard removes the entry.
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
        // If a thread could not be placed at its start, a warning was logged at that time. The checks do not repeat it.
        if outcome.is_ok() || entry.pin.is_ok() {
            tracing::warn!(
                thread = %entry.name, tid = entry.tid, found = %actual, %wanted,
                repaired = outcome.is_ok(), errno = outcome.errno, "the CPU mask of a thread differed from the plan"
            );
        }
        self.shared.registry.set_pin(entry.ticket, outcome);
        verdict
    }

    /// The time to wait between two calls of [`Self::verify_now`].
    #[must_use]
    pub fn verify_interval(&self) -> Duration {
        self.shared.config.verify_interval
    }

    fn count(&self, report: VerifyReport) {
        let add = |counter: &std::sync::atomic::AtomicU64, count: usize| {
            // Relaxed: the counters order no other memory access.
            counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        };
        add(&self.shared.affinity_lost, report.lost);
        add(&self.shared.affinity_reapplied, report.reapplied);
        add(
            &self.shared.layout_version,
            usize::from(report.replanned || report.reapplied > 0),
        );
    }

    /// Makes a new plan if the allowed CPUs or the limits have changed. Returns whether the new plan differs from the
    /// old plan.
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
            Err(error) => (old.plan.kept_in_force(&error), false),
        };
        if changed {
            tracing::warn!(old = %old.plan.summary(), new = %plan.summary(), "the allowed CPUs have changed");
        }
        *self.shared.in_force.write() = Arc::new(InForce { machine, plan });
        changed
    }

    /// Returns the CPU mask that the process would have if it were started now, with the CPUs `granted` by its control
    /// group. If the mask at start did not contain all granted CPUs, an operator had narrowed the mask. In this
    /// case, returns the CPUs of that mask that are still granted. Otherwise returns all CPUs that are granted now.
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
