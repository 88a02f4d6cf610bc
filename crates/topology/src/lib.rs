//! Which thread runs on which CPU, and proof of it.
//!
//! A latency promise is broken by the scheduler as easily as by the program. This module finds out what
//! the process may use ([`Machine`]), decides which CPUs each [`Role`] gets ([`Plan`], a pure
//! function), starts threads in their place ([`CpuAffinityManager::spawn`]), keeps them there
//! ([`CpuAffinityManager::verify_now`]) and shows all of it ([`TopologyInfo`]).
//!
//! ```no_run
//! use tally_topology::{AffinityConfig, AffinityError, CpuAffinityManager, Role};
//!
//! # fn main() -> Result<(), AffinityError> {
//! // In main, before any other thread: a thread started by a pinned one inherits its single CPU.
//! let affinity = CpuAffinityManager::detect(AffinityConfig::default())?;
//! let exec = affinity.spawn(Role::Exec, 0, "tally-exec", || { /* the single writer */ })?;
//! for index in 0..affinity.net_threads() {
//!     let name = format!("tally-net-{index}");
//!     affinity.spawn_async(Role::Net, index, &name, || async { /* serve */ })?;
//! }
//! println!("{}", affinity.plan());
//! # let _ = exec.join();
//! # Ok(()) }
//! ```
//!
//! Too few CPUs never stop the service: it runs without pins and says why. Only what the operator calls
//! `strict` or `required` can fail.
//!
//! **Inheritance.** Linux gives a new thread the mask of the thread that starts it. Start threads by
//! [`CpuAffinityManager::spawn`], from wherever; a bare `std::thread::spawn` on a NET thread would
//! compete with it for its only CPU. Blocking pools of runtimes built here are taken care of.
//!
//! **Memory.** Linux places a page on the node of the thread that first writes to it, so EXEC should
//! allocate and touch its arenas itself; [`Plan::home_node`] says where that will be.

mod cgroup;
mod config;
mod cpuset;
mod detect;
mod layout;
mod pin;
mod plan;
mod pod;
mod registry;
mod role;
mod runtime;
mod stats;
pub mod sys;
mod throttle;
mod warning;
mod watch;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
};

use parking_lot::RwLock;

pub use self::{
    cgroup::{Cgroup, CgroupVersion, CpuQuota, CpuStat},
    config::{
        AffinityConfig, FIFO_PRIORITY_MAX, FifoConfig, Mode, NET_THREADS_LIMIT, NET_THREADS_MAX_DEFAULT,
        RTTIME_MAX, RTTIME_MIN, RoleCpus, VERIFY_INTERVAL_MAX, VERIFY_INTERVAL_MIN,
    },
    cpuset::{CPU_ID_LIMIT, CpuSet, CpuSetError, LIST_BYTES_MAX},
    detect::{CacheGroup, Core, Kernel, Machine, Node, Sources, startup_mask},
    pin::{PinOutcome, policy_name},
    plan::{AUTO_CPUS_MIN, Placement, Plan, RolePlan, STRICT_CPUS_MIN},
    pod::{ENV_CPU_LIMIT, ENV_CPU_REQUEST, ENV_QOS_CLASS, PodHints},
    registry::THREADS_MAX,
    role::Role,
    runtime::{BLOCKING_THREAD_NAME, BLOCKING_THREADS_MAX, RoleHandle, ThreadGuard},
    stats::{PlacementFigures, RoleFigures, RoleInfo, ThreadInfo, TopologyInfo},
    throttle::Throttled,
    warning::{Warning, WarningCode},
    watch::VerifyReport,
};

use self::{registry::Registry, throttle::ThrottleWatch};

/// Places threads and keeps them in place. Clones are cheap and share everything.
#[derive(Debug, Clone)]
pub struct CpuAffinityManager {
    shared: Arc<Shared>,
}

/// Why a wish of the operator cannot be met. Outside `strict` and `required` only `InvalidConfig`,
/// `SpawnFailed` and `RuntimeFailed` occur.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AffinityError {
    /// A configured value is out of bounds.
    #[error("{field} = `{value}` is out of bounds: {bound}")]
    InvalidConfig {
        /// Full name of the field.
        field: &'static str,
        /// The value as written.
        value: String,
        /// What is accepted.
        bound: &'static str,
    },
    /// `strict`: an explicit list names CPUs that the process may not use.
    #[error("{field}: CPUs {offending} are not allowed (allowed: {allowed})")]
    CpusNotAllowed {
        /// Full name of the field.
        field: &'static str,
        /// The ids in question.
        offending: CpuSet,
        /// What would be accepted.
        allowed: CpuSet,
    },
    /// `strict`: too few CPUs to keep the single writer apart.
    #[error("affinity.mode = strict needs {needed} allowed CPUs, there are {allowed}")]
    InsufficientCpus {
        /// CPUs that the process may use.
        allowed: usize,
        /// CPUs that it would need.
        needed: usize,
    },
    /// `strict`: the kernel gave a thread another mask.
    #[error("{role} thread {index} should run on CPUs {wanted} and runs on {actual}")]
    PinFailed {
        /// Role of the thread.
        role: Role,
        /// Its number within the role.
        index: usize,
        /// The planned mask.
        wanted: CpuSet,
        /// The mask read back.
        actual: CpuSet,
        /// The kernel's reason; none when it silently cut the mask to the cpuset.
        #[source]
        source: Option<io::Error>,
    },
    /// `fifo.required`: the kernel refused the real-time class.
    #[error("{role} cannot run under SCHED_FIFO with priority {priority}")]
    FifoFailed {
        /// Role of the thread.
        role: Role,
        /// The priority asked for.
        priority: u8,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
    /// The system cannot start a thread.
    #[error("cannot start thread {name}")]
    SpawnFailed {
        /// Name of the thread.
        name: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The system cannot give a runtime what it needs.
    #[error("cannot build a runtime")]
    RuntimeFailed {
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// What all clones share.
#[derive(Debug)]
struct Shared {
    config: AffinityConfig,
    sources: Sources,
    /// Where the threads of this very process are looked up, even if the machine is a made-up one.
    own_proc: PathBuf,
    /// Mask of the process at start: later no thread can be asked, they are all placed.
    mask: CpuSet,
    /// CPUs granted by the control group at start.
    granted: Option<CpuSet>,
    /// Replaced as a whole by `verify_now` only; readers take the `Arc` and let go of the lock.
    in_force: RwLock<Arc<InForce>>,
    registry: Registry,
    /// Blocking-pool threads started so far, which numbers them.
    blocking_started: AtomicUsize,
    /// Written by `verify_now`, read by `topology`.
    affinity_lost: AtomicU64,
    /// Written by `verify_now`, read by `topology`.
    affinity_reapplied: AtomicU64,
    /// Grows with every new plan and every check that set a mask right. Written by `verify_now`.
    layout_version: AtomicU64,
    throttle: ThrottleWatch,
}

/// A machine and the plan for it.
#[derive(Debug)]
struct InForce {
    machine: Machine,
    plan: Plan,
}

// ===== impl CpuAffinityManager =====

impl CpuAffinityManager {
    /// Looks at the machine and plans. Call it in `main` before any other thread exists.
    ///
    /// # Errors
    /// Those of [`Plan::new`].
    pub fn detect(config: AffinityConfig) -> Result<Self, AffinityError> {
        Self::detect_from(Sources::host(), startup_mask(), config)
    }

    /// As [`Self::detect`], for a machine described by `sources` and a process with mask `mask`.
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
            tracing::warn!(code = warning.code.as_str(), "{}", warning.detail);
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

    /// The plan in force.
    #[must_use]
    pub fn plan(&self) -> Plan {
        self.in_force().plan.clone()
    }

    /// How many NET threads to start: one per CPU of the NET set.
    #[must_use]
    pub fn net_threads(&self) -> usize {
        self.in_force().plan.net_threads
    }

    /// Whether EXEC may poll instead of blocking, see [`Plan::spin_allowed`].
    #[must_use]
    pub fn spin_allowed(&self) -> bool {
        self.in_force().plan.spin_allowed
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.shared.in_force.read())
    }
}
