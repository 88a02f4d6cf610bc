//! What an operator should know about the placement, as code plus sentence.

use std::fmt;

/// Kind of a [`Warning`]; the word of [`WarningCode::as_str`] is stable for alerts and run books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarningCode {
    /// A file about the machine cannot be read or understood.
    Unreadable,
    /// Only one CPU is allowed: all roles share it.
    SingleCpu,
    /// Network or background work runs on the physical core of EXEC.
    SharedCore,
    /// The hyper-thread next to an allowed CPU belongs to somebody else.
    ForeignSibling,
    /// A CPU quota can stop a pinned thread in the middle of its work.
    Quota,
    /// The CPUs are shared with other containers, so nothing is pinned.
    SharedCpus,
    /// An explicit CPU list was not followed.
    ListIgnored,
    /// Roles with explicit lists share CPUs.
    Overlap,
    /// Allowed CPUs intersect the kernel's isolated ones, where nothing balances load.
    Isolated,
    /// EXEC or WAL asked for `SCHED_FIFO` and did not get it.
    FifoRefused,
    /// A thread could not be placed as planned.
    PinFailed,
    /// The machine has changed and `strict` allows no plan for it: the old one stays in force.
    PlanKept,
    /// The kernel takes real-time threads off their CPU for a part of each period.
    RtThrottling,
}

/// One fact that costs speed or predictability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Kind, for programs.
    pub code: WarningCode,
    /// Sentence, for people.
    pub detail: String,
}

// ===== impl WarningCode =====

impl WarningCode {
    /// A stable word in snake case.
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
        }
    }
}

// ===== impl Warning =====

impl Warning {
    /// A warning of `code` with the sentence `detail`.
    #[must_use]
    pub fn new(code: WarningCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}
