//! [`Warning`]: a fact about the placement that makes the program slower or its latency less predictable.

use std::fmt;

use super::cpuset::CpuSet;

/// Kind of a [`Warning`]. The names that [`WarningCode::as_str`] returns never change, so alerts and runbooks can use
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarningCode {
    /// A file about the machine can't be read or parsed.
    Unreadable,
    /// Only one CPU is allowed, so all roles share it.
    SingleCpu,
    /// NET or AUX threads run on the physical core of EXEC.
    SharedCore,
    /// The other hyper-thread of an allowed CPU's core is not allowed, so another process may run on that
    /// hyper-thread.
    ForeignSibling,
    /// A CPU quota can stop a pinned thread at any time.
    Quota,
    /// Other processes seem to use the same CPUs, so threads are not pinned.
    SharedCpus,
    /// An explicit CPU list, or a part of it, was ignored.
    ListIgnored,
    /// Roles with explicit lists share CPUs.
    Overlap,
    /// Some allowed CPUs are isolated: the kernel does not balance load between them.
    Isolated,
    /// EXEC or WAL requested `SCHED_FIFO`, and the kernel refused.
    FifoRefused,
    /// A thread does not run on its planned CPUs.
    PinFailed,
    /// The machine has changed, and mode `strict` allows no plan for the new machine. The old plan stays in force.
    PlanKept,
    /// The kernel stops real-time threads for a part of each period.
    RtThrottling,
    /// AUX, which opens the store, runs on another memory node than EXEC.
    RemoteMemory,
    /// A CPU quota has stopped the process at least once since its start.
    Throttled,
}

/// The figures in the sentence of a [`Warning`], for the fields of log lines. A figure that the sentence does not have is
/// `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// The CPUs that the warning is about.
    pub cpus: Option<CpuSet>,
    /// The CPUs that the process may use.
    pub allowed: Option<CpuSet>,
    /// Number of CPUs in an explicit list.
    pub listed: Option<usize>,
    /// Number of CPUs in the list that can be used.
    pub limit: Option<usize>,
    /// CPU time in microseconds: of each period, or, with `periods`, of all periods together.
    pub time_us: Option<u64>,
    /// Length of a period in microseconds.
    pub period_us: Option<u64>,
    /// Number of periods.
    pub periods: Option<u64>,
    /// The memory node of EXEC.
    pub exec_node: Option<u32>,
    /// The memory node of AUX.
    pub aux_node: Option<u32>,
}

/// One fact that makes the program slower or its latency less predictable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The kind, for programs.
    pub code: WarningCode,
    /// A sentence, for people.
    pub detail: String,
    /// The figures in the sentence.
    pub figures: Figures,
}

// ===== impl WarningCode =====

impl WarningCode {
    /// The stable name, in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::SingleCpu => "single_cpu",
            Self::SharedCore => "shared_core",
            Self::ForeignSibling => "foreign_sibling",
            Self::Quota => "quota",
            Self::SharedCpus => "shared_cpus",
            Self::ListIgnored => "list_ignored",
            Self::Overlap => "overlap",
            Self::Isolated => "isolated",
            Self::FifoRefused => "fifo_refused",
            Self::PinFailed => "pin_failed",
            Self::PlanKept => "plan_kept",
            Self::RtThrottling => "rt_throttling",
            Self::RemoteMemory => "remote_memory",
            Self::Throttled => "throttled",
        }
    }

    /// What an operator can do about the warning. docs/pinning.md has the details.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Unreadable => "mount /proc and /sys into the container, or set affinity.cpus by hand",
            Self::SingleCpu => "give the process two CPUs or more",
            Self::SharedCore => "allow a second physical core",
            Self::ForeignSibling => {
                "allow both CPUs of the core; on Kubernetes: the kubelet's option full-pcpus-only"
            }
            Self::Quota => "remove the quota; exclusive CPUs limit the process as well",
            Self::SharedCpus => "give the process exclusive CPUs, or set affinity.mode = pin",
            Self::ListIgnored => "correct the list, or set affinity.mode = strict to make it an error",
            Self::Overlap => "list every CPU for one role only",
            Self::Isolated => "set affinity.mode = auto or pin",
            Self::FifoRefused => {
                "grant CAP_SYS_NICE or an RLIMIT_RTPRIO of the priority, and a real-time budget to the control group"
            }
            Self::PinFailed => {
                "look at the CPUs of the control group; the mask is tried again at every check"
            }
            Self::PlanKept => "restart with CPUs that strict allows, or set affinity.mode = pin",
            Self::RtThrottling => "nothing, as long as exec and wal block between bursts",
            Self::RemoteMemory => "list CPUs of one memory node for exec and aux",
            Self::Throttled => "raise or remove the quota: calls that it delays look slow to their callers",
        }
    }
}

// ===== impl Warning =====

impl Warning {
    /// Creates a warning of the kind `code` with the sentence `detail`.
    #[must_use]
    pub fn new(code: WarningCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            figures: Figures::default(),
        }
    }

    /// Adds the figures in the sentence.
    #[must_use]
    pub fn with(mut self, figures: Figures) -> Self {
        self.figures = figures;
        self
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}
