//! Pins threads to CPUs by role, and reports whether each thread still has its CPU mask.
//!
//! A thread that waits for a CPU may wait for longer than its own work takes. This crate detects the CPUs that the
//! process may use ([`Machine`]), decides which CPUs each [`Role`] gets ([`Plan`], a pure function), starts threads on
//! these CPUs ([`CpuAffinityManager::spawn`]), repairs masks that another process has changed
//! ([`CpuAffinityManager::verify_now`]), and reports the machine, the plan and all threads ([`TopologyInfo`]).
//!
//! ```no_run
//! use tally_topology::{AffinityConfig, AffinityError, CpuAffinityManager, Role};
//!
//! # fn main() -> Result<(), AffinityError> {
//! // In main, before any other thread is started: a thread inherits the CPU mask of the thread that starts it.
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
//! If there are too few CPUs, threads are not pinned, and the plan states why. Too few CPUs, and a thread that can't
//! get its planned CPUs, are errors only in mode `strict`. A thread that can't get `SCHED_FIFO` is an error only with
//! the setting `fifo.required`.
//!
//! **Inheritance.** Linux gives a new thread the mask of the thread that starts it. Start threads with
//! [`CpuAffinityManager::spawn`], from any thread. A thread started with `std::thread::spawn` on a NET thread would
//! share the single CPU of that NET thread. The async runtimes that this crate builds move the threads of their
//! blocking pools to the CPUs of AUX.
//!
//! **Memory.** Linux allocates a page on the memory node of the thread that first writes to the page, so EXEC should be
//! the first thread to write to the memory that EXEC uses. [`Plan::home_node`] is the memory node of EXEC.

mod cgroup;
mod config;
mod cpuset;
mod detect;
mod error;
mod layout;
mod manager;
mod pin;
mod plan;
mod pod;
mod registry;
mod role;
mod runtime;
mod sources;
mod stats;
pub mod sys;
mod throttle;
mod warning;
mod watch;

pub use self::{
    cgroup::{Cgroup, CgroupVersion, CpuQuota, CpuStat},
    config::{
        AffinityConfig, FIFO_PRIORITY_MAX, FifoConfig, Mode, NET_THREADS_LIMIT, NET_THREADS_MAX_DEFAULT,
        RTTIME_MAX, RTTIME_MIN, RoleCpus, VERIFY_INTERVAL_MAX, VERIFY_INTERVAL_MIN,
    },
    cpuset::{CPU_ID_LIMIT, CpuSet, CpuSetError, LIST_BYTES_MAX},
    detect::{CacheGroup, Core, Kernel, Machine, Node, startup_mask},
    error::AffinityError,
    manager::CpuAffinityManager,
    pin::{PinOutcome, policy_name},
    plan::{AUTO_CPUS_MIN, Placement, Plan, RolePlan, STRICT_CPUS_MIN},
    pod::{ENV_CPU_LIMIT, ENV_CPU_REQUEST, ENV_QOS_CLASS, PodHints},
    registry::THREADS_MAX,
    role::Role,
    runtime::{BLOCKING_THREAD_NAME, BLOCKING_THREADS_MAX, RoleHandle, ThreadGuard},
    sources::Sources,
    stats::{PlacementFigures, RoleFigures, RoleInfo, ThreadInfo, TopologyInfo},
    throttle::Throttled,
    warning::{Figures, Warning, WarningCode},
    watch::VerifyReport,
};
