//! [`Role`]: the purpose of a thread.

use std::fmt;

/// The purpose of a thread, which decides the CPUs it runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Executes transactions. One thread is the only writer of the ledger.
    Exec,
    /// Writes and syncs the journal. Waits for the disk most of the time.
    Wal,
    /// Serves connections: one single-threaded runtime per thread.
    Net,
    /// Everything else: metrics, health, blocking calls, checkpoints, signals.
    Aux,
}

// ===== impl Role =====

impl Role {
    /// All roles, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Exec, Self::Wal, Self::Net, Self::Aux];

    /// The role's name in settings, metrics and thread names, in lower case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Wal => "wal",
            Self::Net => "net",
            Self::Aux => "aux",
        }
    }

    /// The settings key of the role's explicit CPU list.
    #[must_use]
    pub const fn cpus_field(self) -> &'static str {
        match self {
            Self::Exec => "affinity.cpus.exec",
            Self::Wal => "affinity.cpus.wal",
            Self::Net => "affinity.cpus.net",
            Self::Aux => "affinity.cpus.aux",
        }
    }

    /// Whether threads of the role may run under `SCHED_FIFO`. If a real-time thread does not block often, other
    /// threads on its CPU can't run. So only EXEC and WAL, which block often, may be real-time threads.
    #[must_use]
    pub const fn may_be_fifo(self) -> bool {
        matches!(self, Self::Exec | Self::Wal)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
