//! [`CpuAffinityManager`]: the machine, the plan in force, and the registered threads.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
};

use parking_lot::RwLock;

use super::{
    config::AffinityConfig,
    cpuset::CpuSet,
    detect::{Machine, startup_mask},
    error::AffinityError,
    plan::Plan,
    registry::Registry,
    sources::Sources,
    throttle::{ThrottleWatch, Throttled},
};

/// Starts threads on their planned CPUs and keeps them there. Clones are cheap and share all state.
#[derive(Debug, Clone)]
pub struct CpuAffinityManager {
    pub(super) shared: Arc<Shared>,
}

/// The state that all clones share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: AffinityConfig,
    pub(super) sources: Sources,
    /// The directory `/proc`, in which the threads of this process are looked up. Tests with a simulated machine
    /// use the real `/proc`, too.
    pub(super) own_proc: PathBuf,
    /// CPU mask of the process at start. It must be read at start, because the threads get other masks later.
    pub(super) mask: CpuSet,
    /// CPUs that the control group granted at start.
    pub(super) granted: Option<CpuSet>,
    /// The machine and the plan that is in force. Only `verify_now` replaces them. Readers clone the `Arc` and release
    /// the lock.
    pub(super) in_force: RwLock<Arc<InForce>>,
    pub(super) registry: Registry,
    /// Number of blocking-pool threads started so far. This is the index of the next blocking-pool thread.
    pub(super) blocking_started: AtomicUsize,
    /// Number of times that a check found a mask that had changed since this crate set it. Written by `verify_now`.
    pub(super) affinity_lost: AtomicU64,
    /// Number of times that a mask was repaired. Written by `verify_now`.
    pub(super) affinity_reapplied: AtomicU64,
    /// Incremented by each new plan and by each check that repaired a mask. Written by `verify_now`.
    pub(super) layout_version: AtomicU64,
    pub(super) throttle: ThrottleWatch,
}

/// The machine and its plan.
#[derive(Debug)]
pub(super) struct InForce {
    pub(super) machine: Machine,
    pub(super) plan: Plan,
}

// ===== impl CpuAffinityManager =====

impl CpuAffinityManager {
    /// Detects the machine and makes a plan. Call this method in `main` before any other thread is
    /// started.
    ///
    /// # Errors
    /// Those of [`Plan::new`].
    pub fn detect(config: AffinityConfig) -> Result<Self, AffinityError> {
        Self::detect_from(Sources::host(), startup_mask(), config)
    }

    /// Does the same as [`Self::detect`], for the machine that `sources` describes and a process with the CPU mask
    /// `mask`.
    ///
    /// # Errors
    /// Those of [`Plan::new`].
    pub fn detect_from(
        sources: Sources,
        mask: Option<CpuSet>,
        config: AffinityConfig,
    ) -> Result<Self, AffinityError> {
        let machine = Machine::detect(&sources, mask.clone());
        let plan = Plan::new(&machine, &config)?;
        tracing::info!(allowed = %plan.allowed, plan = %plan.summary(), why = %plan.why, "CPU placement");
        for warning in machine.warnings.iter().chain(&plan.warnings) {
            let figures = &warning.figures;
            tracing::warn!(
                warning = warning.code.as_str(),
                detail = warning.detail,
                cpus = figures.cpus.as_ref().map(tracing::field::display),
                allowed = figures.allowed.as_ref().map(tracing::field::display),
                listed = figures.listed,
                limit = figures.limit,
                time_us = figures.time_us,
                period_us = figures.period_us,
                periods = figures.periods,
                exec_node = figures.exec_node,
                aux_node = figures.aux_node,
                "the placement of the threads costs speed or predictability"
            );
        }
        let throttle = ThrottleWatch::since(machine.cgroup.stat);
        let shared = Shared {
            config,
            sources,
            own_proc: PathBuf::from("/proc"),
            mask: mask.unwrap_or_else(|| machine.allowed.clone()),
            granted: machine.cgroup.cpuset_effective.clone(),
            in_force: RwLock::new(Arc::new(InForce { machine, plan })),
            registry: Registry::default(),
            blocking_started: AtomicUsize::new(0),
            affinity_lost: AtomicU64::new(0),
            affinity_reapplied: AtomicU64::new(0),
            layout_version: AtomicU64::new(1),
            throttle,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Returns the plan in force.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.in_force().plan.clone()
    }

    /// Returns the number of NET threads to start: one per CPU of NET.
    #[must_use]
    pub fn net_threads(&self) -> usize {
        self.in_force().plan.net_threads
    }

    /// Returns whether EXEC may poll instead of blocking, see [`Plan::spin_allowed`].
    #[must_use]
    pub fn spin_allowed(&self) -> bool {
        self.in_force().plan.spin_allowed
    }

    /// Returns how long the CPU quota stopped the process since the last call. Returns `None` if the quota did not stop
    /// the process, or if there is no quota. If there is a quota, the call reads one small file; otherwise it reads no
    /// file.
    pub fn sample_throttling(&self) -> Option<Throttled> {
        let layout = self.in_force();
        let cgroup = &layout.machine.cgroup;
        cgroup.quota?;
        self.shared.throttle.take(cgroup.read_stat(&self.shared.sources)?)
    }

    pub(super) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.shared.in_force.read())
    }
}
