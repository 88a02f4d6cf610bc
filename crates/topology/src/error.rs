//! [`AffinityError`]: why a plan can't be made, or a thread can't be started.

use std::io;

use super::{cpuset::CpuSet, role::Role};

/// Why a plan can't be made, or a thread can't be started, as configured.
///
/// `CpusNotAllowed`, `InsufficientCpus` and `PinFailed` occur only in mode `strict`, `FifoFailed` only with
/// `fifo.required`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AffinityError {
    /// A setting is out of bounds.
    #[error("{field} = `{value}` is out of bounds: {bound}")]
    InvalidConfig {
        /// Full name of the field.
        field: &'static str,
        /// The value as configured.
        value: String,
        /// The permitted values.
        bound: &'static str,
    },
    /// `strict`: an explicit list contains CPUs that the process may not use.
    #[error("{field} = {list}: CPUs {offending} are not allowed (allowed: {allowed})")]
    CpusNotAllowed {
        /// Full name of the field.
        field: &'static str,
        /// The list as configured.
        list: CpuSet,
        /// The ids that are not allowed.
        offending: CpuSet,
        /// The ids that are allowed.
        allowed: CpuSet,
    },
    /// `strict`: there are too few CPUs to give EXEC a CPU that it does not share.
    #[error("affinity.mode = strict needs {needed} allowed CPUs, there are {allowed}")]
    InsufficientCpus {
        /// Number of CPUs that the process may use.
        allowed: usize,
        /// Minimum number of CPUs.
        needed: usize,
    },
    /// `strict`: a thread runs with a mask that differs from the planned one.
    #[error("{role} thread {index} should run on CPUs {wanted}, but may run on {actual}")]
    PinFailed {
        /// Role of the thread.
        role: Role,
        /// Index of the thread within the role.
        index: usize,
        /// The planned mask.
        wanted: CpuSet,
        /// The mask that the kernel reports.
        actual: CpuSet,
        /// The kernel's error; `None` if the kernel reported success, but removed CPUs that are not in the cpuset.
        #[source]
        source: Option<io::Error>,
    },
    /// `fifo.required`: the kernel refused the real-time class.
    #[error("{role} cannot run under SCHED_FIFO with priority {priority}")]
    FifoFailed {
        /// Role of the thread.
        role: Role,
        /// The requested priority.
        priority: u8,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The system can't start a thread.
    #[error("cannot start thread {name}")]
    SpawnFailed {
        /// Name of the thread.
        name: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The system can't create an async runtime.
    #[error("cannot build a runtime")]
    RuntimeFailed {
        /// The system's error.
        #[source]
        source: io::Error,
    },
}
