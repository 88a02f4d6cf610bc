//! Calls to the kernel for CPU masks, scheduling classes, real-time limits, and the capability `CAP_SYS_NICE`, which
//! real-time scheduling needs.
//!
//! CPU masks are arrays of 64-bit words with CPU 0 in bit 0 of word 0. The masks have room for [`MASK_BITS`] CPUs,
//! while `libc::cpu_set_t` has room for 1024. Functions for scheduling classes make raw system calls, because
//! `sched_setscheduler` of musl always fails with ENOSYS, and `sched_param` of musl has other fields than that of
//! glibc.

use std::io;

use libc::{c_int, c_long};

/// Number of bits of the mask passed to the kernel. Linux supports at most 8192 CPUs (`NR_CPUS` on x86-64).
pub const MASK_BITS: usize = 8192;

/// Number of 64-bit words of a full mask.
pub const MASK_WORDS: usize = MASK_BITS / 64;

// The kernel's mask is an array of `unsigned long`. With 64-bit longs it has the same layout as this module's words.
// With 32-bit longs the bytes are the same only on little-endian machines.
const _: () = assert!(cfg!(target_endian = "little") || cfg!(target_pointer_width = "64"));

/// The kernel's id of a thread. As an argument, 0 means the calling thread.
pub type Tid = i32;

/// The calling thread, for functions that take a [`Tid`].
pub const THIS_THREAD: Tid = 0;

/// Scheduling class of a thread as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheduler {
    /// Policy number without flags: 0 other, 1 fifo, 2 round-robin, 3 batch, 5 idle, 6 deadline.
    pub policy: i32,
    /// Whether threads that this thread starts get `SCHED_OTHER` (`SCHED_RESET_ON_FORK`).
    pub reset_on_fork: bool,
    /// Real-time priority, from 1 to 99. It is 0 for policies without a priority.
    pub priority: i32,
}

/// A soft and a hard resource limit; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The limit that the kernel enforces.
    pub soft: Option<u64>,
    /// The maximum to which an unprivileged process may raise the soft limit.
    pub hard: Option<u64>,
}

/// The kernel's `struct sched_param`, which has one field on every architecture.
#[repr(C)]
struct SchedParam {
    sched_priority: c_int,
}

/// The header that `capget` and `capset` take (linux/capability.h).
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: c_int,
}

/// One 32-bit slice of the capability sets; version 3 uses two slices.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// `CAP_SYS_NICE` is capability 23, which is in the first slice.
const CAP_SYS_NICE_BIT: u32 = 1 << 23;

// ===== affinity =====

/// Returns the CPUs on which thread `tid` may run, as [`MASK_WORDS`] mask words.
///
/// # Errors
/// `ESRCH` if the thread does not exist, `EINVAL` on a kernel built for more than [`MASK_BITS`] CPUs.
pub fn get_affinity(tid: Tid) -> io::Result<Vec<u64>> {
    let mut words = vec![0_u64; MASK_WORDS];
    // SAFETY: the pointer and the byte length describe `words`, which is alive, writable and aligned
    // for an array of longs; libc writes at most that many bytes.
    let rc = unsafe {
        libc::sched_getaffinity(
            tid,
            size_of_val(words.as_slice()),
            words.as_mut_ptr().cast::<libc::cpu_set_t>(),
        )
    };
    check(c_long::from(rc)).map(|_| words)
}

/// Restricts thread `tid` to the CPUs of `words`.
///
/// The kernel silently removes CPUs that the cpuset of the cgroup does not contain. Read the mask back to check the
/// result.
///
/// # Errors
/// `EINVAL` if no CPU of the mask is usable, `ESRCH` if the thread does not exist, `EPERM` for a thread of another
/// user.
pub fn set_affinity(tid: Tid, words: &[u64]) -> io::Result<()> {
    // SAFETY: the pointer and the byte length describe the borrowed slice, which libc only reads.
    let rc =
        unsafe { libc::sched_setaffinity(tid, size_of_val(words), words.as_ptr().cast::<libc::cpu_set_t>()) };
    check(c_long::from(rc)).map(|_| ())
}

/// Returns the kernel's id of the calling thread.
#[must_use]
pub fn gettid() -> Tid {
    // SAFETY: gettid takes no arguments and cannot fail.
    let tid = unsafe { libc::syscall(libc::SYS_gettid) };
    Tid::try_from(tid).unwrap_or_default()
}

/// Returns the CPU on which the calling thread runs at this moment.
///
/// # Errors
/// `ENOSYS` on a kernel without `getcpu`.
pub fn current_cpu() -> io::Result<u32> {
    // SAFETY: sched_getcpu takes no arguments and accesses no memory of this process.
    let cpu = unsafe { libc::sched_getcpu() };
    check(c_long::from(cpu)).map(|cpu| u32::try_from(cpu).unwrap_or_default())
}

// ===== scheduling class =====

/// Returns the scheduling class of thread `tid`.
///
/// # Errors
/// `ESRCH` if the thread does not exist.
pub fn get_scheduler(tid: Tid) -> io::Result<Scheduler> {
    let mut param = SchedParam { sched_priority: 0 };
    // SAFETY: both calls take a thread id by value; the second writes one `sched_param` through a
    // pointer to a local of that layout.
    let (policy, rc) = unsafe {
        (
            libc::syscall(libc::SYS_sched_getscheduler, tid),
            libc::syscall(libc::SYS_sched_getparam, tid, &raw mut param),
        )
    };
    let policy = check(policy)?;
    check(rc)?;
    let policy = c_int::try_from(policy).unwrap_or_default();
    Ok(Scheduler {
        policy: policy & !libc::SCHED_RESET_ON_FORK,
        reset_on_fork: policy & libc::SCHED_RESET_ON_FORK != 0,
        priority: param.sched_priority,
    })
}

/// Moves thread `tid` to `SCHED_FIFO` with `priority`. Threads that this thread starts get `SCHED_OTHER`
/// (`SCHED_RESET_ON_FORK`).
///
/// # Errors
/// - `EPERM` if the thread has no `CAP_SYS_NICE` and `RLIMIT_RTPRIO` is below `priority`, or if the cgroup has no
///   real-time budget.
/// - `EINVAL` if `priority` is not from 1 to 99.
/// - `ESRCH` if the thread does not exist.
pub fn set_fifo(tid: Tid, priority: i32) -> io::Result<()> {
    let param = SchedParam {
        sched_priority: priority,
    };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads one `sched_param` through a pointer to a local of that layout.
    let rc = unsafe { libc::syscall(libc::SYS_sched_setscheduler, tid, policy, &raw const param) };
    check(rc).map(|_| ())
}

// ===== resource limits =====

/// Returns `RLIMIT_RTPRIO`: the highest real-time priority that this process may request without privilege.
///
/// # Errors
/// Those of `getrlimit`. No error is expected.
pub fn rtprio_limit() -> io::Result<Limit> {
    get_limit(Resource::RtPrio)
}

/// Returns `RLIMIT_RTTIME` in µs: how long a real-time thread may run without blocking before it gets `SIGXCPU`.
///
/// # Errors
/// Those of `getrlimit`. No error is expected.
pub fn rttime_limit() -> io::Result<Limit> {
    get_limit(Resource::RtTime)
}

/// Lowers the soft `RLIMIT_RTTIME` of the process to `soft_us` microseconds. Does not change a limit that is already
/// lower.
///
/// # Errors
/// Those of `getrlimit` and `setrlimit`. No error is expected, because lowering the limit needs no privilege.
pub fn lower_rttime_limit(soft_us: u64) -> io::Result<()> {
    let current = rttime_limit()?;
    if current.soft.is_some_and(|soft| soft <= soft_us) {
        return Ok(());
    }
    let soft = current.hard.map_or(soft_us, |hard| hard.min(soft_us));
    let value = libc::rlimit {
        rlim_cur: soft,
        rlim_max: current.hard.unwrap_or(libc::RLIM_INFINITY),
    };
    // SAFETY: setrlimit reads one `rlimit` through a pointer to a local.
    let rc = unsafe { libc::setrlimit(libc::RLIMIT_RTTIME, &raw const value) };
    check(c_long::from(rc)).map(|_| ())
}

/// The resource limits that this module uses. A separate type is needed, because the type of libc's constants differs
/// between C libraries.
#[derive(Clone, Copy)]
enum Resource {
    RtPrio,
    RtTime,
}

fn get_limit(resource: Resource) -> io::Result<Limit> {
    let mut value = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let target = &raw mut value;
    // SAFETY: getrlimit writes one `rlimit` through a pointer to a local.
    let rc = unsafe {
        match resource {
            Resource::RtPrio => libc::getrlimit(libc::RLIMIT_RTPRIO, target),
            Resource::RtTime => libc::getrlimit(libc::RLIMIT_RTTIME, target),
        }
    };
    check(c_long::from(rc))?;
    let bounded = |limit: u64| (limit != libc::RLIM_INFINITY).then_some(limit);
    Ok(Limit {
        soft: bounded(value.rlim_cur),
        hard: bounded(value.rlim_max),
    })
}

// ===== capabilities =====

/// Runs `action` with the capability `CAP_SYS_NICE` in the calling thread's effective set, if the capability is in
/// the permitted set.
///
/// Capabilities belong to a thread, so other threads of the process get no capability. Afterwards, the effective set is
/// restored. The file capability `cap_sys_nice+p` puts the capability into the permitted set, but not into the
/// effective set. A binary with this file capability starts even if the container runtime drops the capability. If the
/// capability is not permitted, `action` runs without it.
///
/// # Errors
/// Those of `action`, `capget` and `capset`. If a call of `capset` fails, that call changes no set.
pub fn with_sys_nice<T>(action: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = capabilities()?;
    let [low, high] = before;
    let missing = low.effective & CAP_SYS_NICE_BIT == 0;
    if !missing || low.permitted & CAP_SYS_NICE_BIT == 0 {
        return action();
    }
    let raised = CapData {
        effective: low.effective | CAP_SYS_NICE_BIT,
        ..low
    };
    set_capabilities([raised, high])?;
    let outcome = action();
    set_capabilities(before)?;
    outcome
}

fn capabilities() -> io::Result<[CapData; 2]> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 of the interface reads one header and writes two data slices. The two pointers point to a
    // header and to two slices.
    let rc = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
    check(rc).map(|_| data)
}

fn set_capabilities(data: [CapData; 2]) -> io::Result<()> {
    let mut header = CapHeader {
        version: CAPABILITY_VERSION_3,
        pid: 0,
    };
    // SAFETY: version 3 of the interface reads one header and two data slices. The two pointers point to a header and
    // to two slices.
    let rc = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
    check(rc).map(|_| ())
}

/// Converts a negative result into the error that errno holds.
fn check(rc: c_long) -> io::Result<c_long> {
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_can_be_set_and_an_empty_mask_is_refused() {
        let before = get_affinity(THIS_THREAD).unwrap();
        assert!(before.iter().any(|word| *word != 0));
        set_affinity(THIS_THREAD, &before).unwrap();
        assert_eq!(get_affinity(gettid()).unwrap(), before);

        let nothing = [0_u64; 4];
        let error = set_affinity(THIS_THREAD, &nothing).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(get_affinity(THIS_THREAD).unwrap(), before);
    }

    #[test]
    fn an_unknown_thread_is_the_error_esrch() {
        let missing = Tid::MAX;
        let error = get_affinity(missing).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        let error = get_scheduler(missing).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn scheduler_of_a_test_thread_has_no_priority() {
        let scheduler = get_scheduler(THIS_THREAD).unwrap();
        assert_eq!(scheduler.priority, 0);
        assert!(!scheduler.reset_on_fork);
    }

    #[test]
    fn priority_out_of_range_is_refused_even_with_privilege() {
        let error = with_sys_nice(|| set_fifo(THIS_THREAD, 100)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(get_scheduler(THIS_THREAD).unwrap().policy, libc::SCHED_OTHER);
    }

    #[test]
    fn the_current_cpu_is_in_the_mask() {
        let mask = get_affinity(THIS_THREAD).unwrap();
        let cpu = current_cpu().unwrap() as usize;
        assert_ne!(mask[cpu / 64] & (1 << (cpu % 64)), 0);
    }

    /// Removes `CAP_SYS_NICE` from the effective set of the calling thread. If `from_permitted` is true, also removes
    /// it from the permitted set.
    fn drop_sys_nice(from_permitted: bool) {
        let [mut low, high] = capabilities().unwrap();
        low.effective &= !CAP_SYS_NICE_BIT;
        if from_permitted {
            low.permitted &= !CAP_SYS_NICE_BIT;
        }
        set_capabilities([low, high]).unwrap();
    }

    #[test]
    fn a_permitted_capability_is_effective_only_during_the_call() {
        std::thread::spawn(|| {
            let fifo = || set_fifo(THIS_THREAD, 1);
            if rtprio_limit().unwrap().soft != Some(0) || with_sys_nice(fifo).is_err() {
                println!("SKIPPED: needs CAP_SYS_NICE and an RLIMIT_RTPRIO of 0");
                return;
            }
            drop_sys_nice(false);
            assert_eq!(
                set_fifo(THIS_THREAD, 2).unwrap_err().raw_os_error(),
                Some(libc::EPERM)
            );
            with_sys_nice(|| set_fifo(THIS_THREAD, 2)).unwrap();
            let scheduler = Scheduler {
                policy: libc::SCHED_FIFO,
                reset_on_fork: true,
                priority: 2,
            };
            assert_eq!(get_scheduler(THIS_THREAD).unwrap(), scheduler);
            let [low, _] = capabilities().unwrap();
            assert_eq!(low.effective & CAP_SYS_NICE_BIT, 0);

            drop_sys_nice(true);
            let refused = with_sys_nice(|| set_fifo(THIS_THREAD, 3)).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_limit_of_real_time_is_only_lowered() {
        lower_rttime_limit(60_000_000).unwrap();
        let soft = rttime_limit().unwrap().soft.unwrap();
        assert!(soft <= 60_000_000);
        lower_rttime_limit(soft.saturating_add(1)).unwrap();
        assert_eq!(rttime_limit().unwrap().soft, Some(soft));
    }
}
