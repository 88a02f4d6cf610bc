//! Tests of `SCHED_FIFO` for EXEC and WAL. The tests that need the privilege are skipped without it.

use std::{sync::mpsc, thread};

use tally_topology::{
    AffinityConfig, AffinityError, CpuAffinityManager, FifoConfig, Role, WarningCode, startup_mask,
    sys::affinity::{self, THIS_THREAD},
};

use super::support::{
    privileges::{fifo_allowed, skipped},
    tree::{Tree, put},
};

/// Policy number of `SCHED_OTHER`.
const OTHER: i32 = 0;

/// Settings that request `SCHED_FIFO`. `required` makes a refusal by the kernel an error.
pub(crate) fn fifo(required: bool) -> AffinityConfig {
    AffinityConfig {
        fifo: FifoConfig {
            enabled: true,
            priority: 2,
            required,
            ..FifoConfig::default()
        },
        ..AffinityConfig::default()
    }
}

#[test]
fn exec_and_wal_get_fifo_and_the_threads_that_they_start_do_not() {
    if !fifo_allowed() {
        skipped("this process may not use SCHED_FIFO");
        return;
    }
    let cores = startup_mask()
        .unwrap()
        .iter()
        .map(tally_topology::CpuSet::single)
        .collect();
    let (_files, sources) = Tree::of_cores(cores).write();
    let manager = CpuAffinityManager::detect_from(sources, startup_mask(), fifo(true)).unwrap();
    assert!(
        !manager.spin_allowed(),
        "a spinning real-time thread would starve its CPU"
    );
    let mut threads = Vec::new();
    for role in Role::ALL {
        let (end, ended) = mpsc::channel::<()>();
        let body = move || {
            // An error of the channel also means that the test has ended.
            let _ = ended.recv();
            let child = || affinity::get_scheduler(THIS_THREAD).unwrap();
            thread::spawn(child).join().unwrap()
        };
        threads.push((manager.spawn(role, 0, role.as_str(), body).unwrap(), end));
    }
    let topology = manager.topology();
    let seen: Vec<_> = topology
        .threads
        .iter()
        .map(|thread| {
            (
                thread.policy,
                thread.priority,
                thread.reset_on_fork,
                thread.fifo_requested,
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("fifo", 2, true, Some(2)),
            ("fifo", 2, true, Some(2)),
            ("other", 0, false, None),
            ("other", 0, false, None),
        ]
    );
    let rttime_us = affinity::rttime_limit().unwrap().soft;
    assert!(rttime_us.is_some_and(|us| u128::from(us) <= FifoConfig::default().rttime_max.as_micros()));
    for (handle, end) in threads {
        end.send(()).unwrap();
        let child = handle.join().unwrap();
        assert_eq!((child.policy, child.priority), (OTHER, 0));
    }
}

#[test]
fn the_plan_warns_of_the_limit_of_real_time_threads() {
    let (files, sources) = Tree::cores(4).write();
    put(files.path(), "proc/sys/kernel/sched_rt_runtime_us", "950000");
    put(files.path(), "proc/sys/kernel/sched_rt_period_us", "1000000");
    let manager = CpuAffinityManager::detect_from(sources, None, fifo(false)).unwrap();
    assert_eq!(
        manager.plan().warnings[0].to_string(),
        "rt_throttling: a busy real-time thread gets 950000 µs of each 1000000 µs"
    );
    assert!(!manager.spin_allowed());
}

#[test]
fn a_control_group_without_real_time_budget_is_a_warning() {
    let (files, sources) = Tree::cores(4).write();
    put(files.path(), "proc/self/cgroup", "1:cpu:/tally");
    put(files.path(), "proc/self/mountinfo", "");
    put(files.path(), "sys/fs/cgroup/cpu/tally/cpu.rt_runtime_us", "0");
    let manager = CpuAffinityManager::detect_from(sources, None, fifo(false)).unwrap();
    assert_eq!(manager.plan().warnings[0].code, WarningCode::FifoRefused);
}

#[test]
fn the_priority_of_interrupt_threads_is_out_of_bounds() {
    let mut config = fifo(false);
    config.fifo.priority = 50;
    let error = CpuAffinityManager::detect(config).unwrap_err();
    assert!(matches!(
        error,
        AffinityError::InvalidConfig {
            field: "affinity.fifo.priority",
            ..
        }
    ));
}
