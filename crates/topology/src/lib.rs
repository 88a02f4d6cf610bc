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
    warning::{Warning, WarningCode},
    watch::VerifyReport,
};
