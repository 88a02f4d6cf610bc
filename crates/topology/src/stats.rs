//! [`TopologyInfo`]: the machine, the plan and every thread, measured at the time of the call.

use std::{io, sync::atomic::Ordering, time::Duration};

use super::{
    cgroup::Cgroup,
    cpuset::CpuSet,
    detect::Machine,
    manager::CpuAffinityManager,
    pin,
    plan::Plan,
    registry::Entry,
    role::Role,
    warning::{Warning, WarningCode},
};
use crate::sys::{
    affinity::{self, Limit, Tid},
    proc,
};

/// A report of the machine, the plan and all threads. Roles are in the order of [`Role::ALL`]; threads are ordered by
/// role and index.
#[derive(Debug, Clone)]
pub struct TopologyInfo {
    /// The version of the masks, from 1. Each new plan and each check that repaired masks increments the version.
    pub layout_version: u64,
    /// The machine, with the current limits and throttling counters.
    pub machine: Machine,
    /// Whether the allowed CPUs seem to belong to this process alone. See [`Machine::is_exclusive`].
    pub exclusive: bool,
    /// The plan in force and its reasons.
    pub plan: Plan,
    /// The roles, in the order of [`Role::ALL`].
    pub roles: [RoleInfo; 4],
    /// The registered threads.
    pub threads: Vec<ThreadInfo>,
    /// Number of threads of the process that are not registered: threads of libraries, and the main thread unless
    /// [`CpuAffinityManager::enter`] registered it.
    pub unregistered_threads: usize,
    /// Number of threads that were not registered because [`THREADS_MAX`](super::THREADS_MAX) threads were registered.
    pub register_overflow: u64,
    /// Number of times that a check found a mask that had changed since this crate set it.
    pub affinity_lost: u64,
    /// Number of times that a mask was repaired.
    pub affinity_reapplied: u64,
    /// `RLIMIT_RTPRIO` of the process.
    pub rtprio_limit: Option<Limit>,
    /// All warnings: from the detection, from the plan, and about the threads.
    pub warnings: Vec<Warning>,
}

/// The threads of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleInfo {
    /// The role.
    pub role: Role,
    /// CPUs of the role.
    pub cpus: CpuSet,
    /// The reason for these CPUs.
    pub why: &'static str,
    /// Number of registered threads of the role.
    pub threads: usize,
    /// Whether the role has more threads than CPUs. If so, threads share CPUs.
    pub oversubscribed: bool,
    /// Whether every thread has its planned mask. `true` if the role has no threads.
    pub pinned_ok: bool,
}

/// One thread. If the description of a field does not say otherwise, `None` means that the value is unknown, usually
/// because the thread has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThreadInfo {
    /// The role of the thread.
    pub role: Role,
    /// The number of the thread within its role, from 0.
    pub index: usize,
    /// The name of the thread.
    pub name: String,
    /// The kernel's id of the thread.
    pub tid: Tid,
    /// The mask that the plan gives the thread; `None` if the plan changes no masks.
    pub wanted: Option<CpuSet>,
    /// The mask that the kernel reports.
    pub actual: Option<CpuSet>,
    /// CPU on which the thread last ran.
    pub last_cpu: Option<u32>,
    /// Memory node of `last_cpu`.
    pub node: Option<u32>,
    /// Whether the thread has its planned mask. `true` if the plan changes no masks.
    pub pinned_ok: bool,
    /// Error number of the last attempt to set the mask; `None` if the attempt succeeded.
    pub errno: Option<i32>,
    /// Scheduling policy that the kernel reports, by the names of [`policy_name`](super::policy_name).
    pub policy: &'static str,
    /// Whether threads that this thread starts get the policy `other`.
    pub reset_on_fork: bool,
    /// Real-time priority that the kernel reports; 0 if the policy has no priority.
    pub priority: i32,
    /// The `SCHED_FIFO` priority that the thread requested; `None` if it requested none.
    pub fifo_requested: Option<u8>,
    /// The error number with which the kernel refused `SCHED_FIFO`; `None` if the kernel did not refuse.
    pub fifo_errno: Option<i32>,
    /// Number of voluntary context switches.
    pub voluntary_switches: Option<u64>,
    /// Number of times that the thread was preempted.
    pub involuntary_switches: Option<u64>,
    /// Number of moves to another CPU.
    pub migrations: Option<u64>,
}

/// The figures for metrics, measured at the time of the call of [`CpuAffinityManager::figures`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacementFigures {
    /// The roles, in the order of [`Role::ALL`].
    pub roles: [RoleFigures; 4],
    /// Number of times that a check found a mask that had changed since this crate set it.
    pub affinity_lost: u64,
    /// Number of times that a mask was repaired.
    pub affinity_reapplied: u64,
    /// See [`TopologyInfo::layout_version`].
    pub layout_version: u64,
    /// Number of periods in which the control group was throttled since its creation; `None` if the kernel has no
    /// counter.
    pub throttled_periods: Option<u64>,
    /// Time for which the control group was throttled since its creation, summed over its CPUs; `None` if the kernel
    /// has no counter.
    pub throttled: Option<Duration>,
}

/// The threads of one role, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleFigures {
    /// The role.
    pub role: Role,
    /// Number of registered threads of the role.
    pub threads: usize,
    /// Whether every thread has its planned mask. `true` if the role has no threads.
    pub affinity_ok: bool,
    /// Whether every thread that requested `SCHED_FIFO` runs under it. `true` if no thread requested it.
    pub fifo_ok: bool,
}

// ===== impl CpuAffinityManager =====

impl CpuAffinityManager {
    /// Measures the figures for metrics. Costs two system calls for each registered thread, and reads one small file.
    #[must_use]
    pub fn figures(&self) -> PlacementFigures {
        let shared = &self.shared;
        let entries = shared.registry.entries();
        let has_mask = |entry: &Entry| {
            let wanted = entry.pin.wanted.as_ref();
            wanted.is_none_or(|wanted| pin::mask_of(entry.tid).is_ok_and(|actual| actual == *wanted))
        };
        let has_fifo = |entry: &Entry| {
            entry.fifo_priority.is_none()
                || affinity::get_scheduler(entry.tid)
                    .is_ok_and(|scheduler| pin::policy_name(scheduler.policy) == pin::FIFO)
        };
        let roles = Role::ALL.map(|role| {
            let own = || entries.iter().filter(|entry| entry.role == role);
            RoleFigures {
                role,
                threads: own().count(),
                affinity_ok: own().all(has_mask),
                fifo_ok: own().all(has_fifo),
            }
        });
        let stat = self.in_force().machine.cgroup.read_stat(&shared.sources);
        PlacementFigures {
            roles,
            affinity_lost: shared.affinity_lost.load(Ordering::Relaxed),
            affinity_reapplied: shared.affinity_reapplied.load(Ordering::Relaxed),
            layout_version: shared.layout_version.load(Ordering::Relaxed),
            throttled_periods: stat.map(|stat| stat.throttled_periods),
            throttled: stat.map(|stat| Duration::from_micros(stat.throttled_us)),
        }
    }

    /// Measures the limits and all threads. Reads a few small files in `/proc` for each thread.
    #[must_use]
    pub fn topology(&self) -> TopologyInfo {
        let shared = &self.shared;
        let layout = self.in_force();
        let mut machine = layout.machine.clone();
        machine.cgroup = Cgroup::read(&shared.sources);
        let threads: Vec<ThreadInfo> = shared
            .registry
            .entries()
            .into_iter()
            .map(|entry| self.observe(entry, &machine))
            .collect();
        let roles = Role::ALL.map(|role| RoleInfo::of(role, &layout.plan, &threads));
        let mut warnings = machine.warnings.clone();
        warnings.extend(layout.plan.warnings.iter().cloned());
        warnings.extend(threads.iter().flat_map(ThreadInfo::warnings));
        warnings.extend(shared.throttle.warning());
        TopologyInfo {
            layout_version: shared.layout_version.load(Ordering::Relaxed),
            exclusive: machine.is_exclusive(),
            machine,
            plan: layout.plan.clone(),
            roles,
            unregistered_threads: self.unregistered(&threads),
            threads,
            register_overflow: shared.registry.overflow(),
            affinity_lost: shared.affinity_lost.load(Ordering::Relaxed),
            affinity_reapplied: shared.affinity_reapplied.load(Ordering::Relaxed),
            rtprio_limit: affinity::rtprio_limit().ok(),
            warnings,
        }
    }

    /// Measures one thread.
    fn observe(&self, entry: Entry, machine: &Machine) -> ThreadInfo {
        let sample = proc::read_thread(&self.shared.own_proc, entry.tid).unwrap_or_default();
        let scheduler = affinity::get_scheduler(entry.tid).ok();
        let actual = pin::mask_of(entry.tid).ok();
        let pinned_ok = entry.pin.wanted.is_none() || entry.pin.wanted == actual;
        ThreadInfo {
            role: entry.role,
            index: entry.index,
            name: entry.name,
            tid: entry.tid,
            pinned_ok,
            wanted: entry.pin.wanted,
            actual,
            last_cpu: sample.last_cpu,
            node: sample.last_cpu.and_then(|cpu| machine.node_of(cpu)),
            errno: entry.pin.errno,
            policy: scheduler.map_or("unknown", |scheduler| pin::policy_name(scheduler.policy)),
            reset_on_fork: scheduler.is_some_and(|scheduler| scheduler.reset_on_fork),
            priority: scheduler.map_or(0, |scheduler| scheduler.priority),
            fifo_requested: entry.fifo_priority,
            fifo_errno: entry.fifo_errno,
            voluntary_switches: sample.voluntary_switches,
            involuntary_switches: sample.involuntary_switches,
            migrations: sample.migrations,
        }
    }

    fn unregistered(&self, threads: &[ThreadInfo]) -> usize {
        let registered = |tid: &Tid| threads.iter().any(|thread| thread.tid == *tid);
        proc::thread_ids(&self.shared.own_proc)
            .map_or(0, |ids| ids.iter().filter(|tid| !registered(tid)).count())
    }
}

// ===== impl RoleInfo =====

impl RoleInfo {
    fn of(role: Role, plan: &Plan, threads: &[ThreadInfo]) -> Self {
        let place = plan.role(role);
        let own = || threads.iter().filter(|thread| thread.role == role);
        let count = own().count();
        Self {
            role,
            cpus: place.cpus.clone(),
            why: place.why,
            threads: count,
            oversubscribed: count > place.cpus.len(),
            pinned_ok: own().all(|thread| thread.pinned_ok),
        }
    }
}

// ===== impl ThreadInfo =====

impl ThreadInfo {
    fn warnings(&self) -> Vec<Warning> {
        let reason = |errno: Option<i32>| {
            errno.map_or_else(
                || "no error".to_owned(),
                |errno| io::Error::from_raw_os_error(errno).to_string(),
            )
        };
        let list = |set: &Option<CpuSet>| set.clone().unwrap_or_default();
        let mut warnings = Vec::new();
        if !self.pinned_ok {
            let detail = format!(
                "{} should run on CPUs {}, but may run on {} ({})",
                self.name,
                list(&self.wanted),
                list(&self.actual),
                reason(self.errno)
            );
            warnings.push(Warning::new(WarningCode::PinFailed, detail));
        }
        if self.fifo_requested.is_some() && self.policy != pin::FIFO {
            let detail = format!(
                "{} runs under {}: {}",
                self.name,
                self.policy,
                reason(self.fifo_errno)
            );
            warnings.push(Warning::new(WarningCode::FifoRefused, detail));
        }
        warnings
    }
}
