//! Sets the mask or the scheduling class of a thread, and reads back the result.

use std::io;

use core_affinity::CoreId;

use super::{config::FifoConfig, cpuset::CpuSet};
use crate::sys::affinity::{self, THIS_THREAD, Tid};

/// Number of CPUs that fit into the `cpu_set_t` of the crate `core_affinity`.
const CORE_AFFINITY_CPUS: u32 = 1024;

/// The name that [`policy_name`] returns for `SCHED_FIFO`.
pub(super) const FIFO: &str = "fifo";

/// The result of setting a mask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PinOutcome {
    /// The planned mask; `None` if masks are not changed.
    pub wanted: Option<CpuSet>,
    /// The mask that the kernel reports.
    pub actual: Option<CpuSet>,
    /// Error number of the call, if it failed.
    pub errno: Option<i32>,
}

// ===== impl PinOutcome =====

impl PinOutcome {
    /// Returns whether the thread has the planned mask. Returns `true` if masks are not changed.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.wanted.is_none() || self.wanted == self.actual
    }

    /// Returns the error of the call, if it failed.
    #[must_use]
    pub fn error(&self) -> Option<io::Error> {
        self.errno.map(io::Error::from_raw_os_error)
    }
}

/// Pins thread `tid` to `wanted`. If the kernel refuses, the thread gets the mask `fallback` instead. Without the
/// fallback, the thread would keep the mask that it inherited, which may be a single CPU.
#[must_use]
pub(super) fn pin(tid: Tid, wanted: &CpuSet, fallback: &CpuSet) -> PinOutcome {
    let errno = match apply(tid, wanted) {
        Ok(()) => None,
        Err(error) => {
            // If this call also fails, the mask that is read back shows the failure.
            let _ = affinity::set_affinity(tid, fallback.words());
            error.raw_os_error()
        }
    };
    PinOutcome {
        wanted: Some(wanted.clone()),
        actual: mask_of(tid).ok(),
        errno,
    }
}

/// Returns the mask of thread `tid`.
///
/// # Errors
/// `ESRCH` if the thread has ended.
pub(super) fn mask_of(tid: Tid) -> io::Result<CpuSet> {
    affinity::get_affinity(tid).map(CpuSet::from_words)
}

/// Moves the calling thread to `SCHED_FIFO`. Lowers `RLIMIT_RTTIME` first, so that the kernel ends a process whose
/// real-time thread never blocks.
///
/// # Errors
/// Usually `EPERM`: the thread has no `CAP_SYS_NICE` and `RLIMIT_RTPRIO` is too low, or the control group has no
/// real-time budget.
pub(super) fn become_fifo(config: &FifoConfig) -> io::Result<()> {
    let rttime_us = u64::try_from(config.rttime_max.as_micros()).unwrap_or(u64::MAX);
    affinity::lower_rttime_limit(rttime_us)?;
    affinity::with_sys_nice(|| affinity::set_fifo(THIS_THREAD, i32::from(config.priority)))
}

/// Returns the name of a scheduling policy number.
#[must_use]
pub const fn policy_name(policy: i32) -> &'static str {
    match policy {
        0 => "other",
        1 => FIFO,
        2 => "round_robin",
        3 => "batch",
        5 => "idle",
        6 => "deadline",
        7 => "ext",
        _ => "unknown",
    }
}

/// Sets the mask. If the calling thread gets a single CPU, uses the crate `core_affinity`. `core_affinity` reports a
/// failure without an error number, so after a failure this function makes the system call itself, to get the error
/// number.
fn apply(tid: Tid, wanted: &CpuSet) -> io::Result<()> {
    let core = (tid == THIS_THREAD).then(|| single(wanted)).flatten();
    if core.is_some_and(set_for_current) {
        return Ok(());
    }
    affinity::set_affinity(tid, wanted.words())
}

#[expect(
    clippy::disallowed_methods,
    reason = "only this module may call it; after a failure, `apply` makes the system call to get the errno"
)]
fn set_for_current(core: CoreId) -> bool {
    core_affinity::set_for_current(core)
}

/// Returns the CPU of a set with one CPU. Returns `None` for other sets, and if `core_affinity` has no room for the
/// CPU.
fn single(set: &CpuSet) -> Option<CoreId> {
    let id = set.first().filter(|id| *id < CORE_AFFINITY_CPUS)?;
    (set.len() == 1).then_some(CoreId { id: id as usize })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn for_a_cpu_that_does_not_exist_the_thread_gets_the_fallback_and_errno_is_reported() {
        thread::spawn(|| {
            let before = mask_of(THIS_THREAD).unwrap();
            let outcome = pin(THIS_THREAD, &CpuSet::single(8000), &before);
            assert!(!outcome.is_ok());
            assert_eq!(outcome.errno, Some(libc::EINVAL));
            assert_eq!(outcome.actual, Some(before));
            assert!(outcome.error().unwrap().to_string().contains("22"));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_refused_thread_does_not_keep_an_inherited_single_cpu() {
        thread::spawn(|| {
            let all = mask_of(THIS_THREAD).unwrap();
            let first = CpuSet::single(all.first().unwrap());
            assert!(pin(THIS_THREAD, &first, &all).is_ok());
            let inherited = thread::spawn(move || {
                assert_eq!(mask_of(THIS_THREAD).unwrap(), first);
                pin(THIS_THREAD, &CpuSet::single(8000), &all).actual == Some(all)
            });
            assert!(inherited.join().unwrap());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn core_affinity_is_used_only_for_one_cpu_below_its_limit() {
        assert_eq!(single(&CpuSet::single(3)), Some(CoreId { id: 3 }));
        assert_eq!(single(&CpuSet::single(1024)), None);
        assert_eq!(single(&"1-2".parse().unwrap()), None);
        assert_eq!(single(&CpuSet::new()), None);
    }

    #[test]
    fn an_outcome_without_a_planned_mask_is_ok() {
        assert!(PinOutcome::default().is_ok());
    }
}
