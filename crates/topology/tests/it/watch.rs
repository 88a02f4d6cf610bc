//! Tests in which the machine changes while threads run. `verify_now` must make a new plan and move the threads.
//!
//! The threads and their masks are real. The limits come from files that the tests rewrite.

use std::{fs, path::Path, sync::mpsc};

use tally_topology::{
    AffinityConfig, CpuAffinityManager, CpuSet, Mode, Placement, Role, RoleHandle, Sources, WarningCode,
    startup_mask, sys::affinity::Tid,
};

use super::support::tree::{Tree, put};

const GROUP: &str = "sys/fs/cgroup/tally";

fn manager(sources: Sources, mask: Option<CpuSet>) -> CpuAffinityManager {
    CpuAffinityManager::detect_from(sources, mask, AffinityConfig::default()).unwrap()
}

/// Makes a manager in mode `pin`, which pins even with few CPUs.
fn pinning(sources: Sources, mask: Option<CpuSet>) -> CpuAffinityManager {
    let config = AffinityConfig {
        mode: Mode::Pin,
        ..AffinityConfig::default()
    };
    CpuAffinityManager::detect_from(sources, mask, config).unwrap()
}

fn waiting(manager: &CpuAffinityManager, role: Role) -> (RoleHandle<()>, mpsc::Sender<()>) {
    let (end, ended) = mpsc::channel();
    let body = move || {
        // An error of the channel also means that the test has ended.
        let _ = ended.recv();
    };
    (manager.spawn(role, 0, role.as_str(), body).unwrap(), end)
}

/// Changes the CPUs that the control group grants.
fn grant(root: &Path, cpus: &CpuSet) {
    put(root, &format!("{GROUP}/cpuset.cpus.effective"), &cpus.to_string());
}

fn mask_in_proc(tid: Tid) -> CpuSet {
    let status = fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    line.parse().unwrap()
}

/// Returns the real CPUs of this process. If there is only one, prints that the test is skipped and returns `None`.
fn two_real_cpus() -> Option<CpuSet> {
    let mask = startup_mask().unwrap();
    if mask.len() < 2 {
        super::support::privileges::skipped(&format!("needs two CPUs, this process has {mask}"));
        return None;
    }
    Some(mask)
}

#[test]
fn a_cpuset_that_shrinks_and_grows_moves_the_threads() {
    let Some(all) = two_real_cpus() else {
        return;
    };
    let first = CpuSet::single(all.first().unwrap());
    let (files, sources) = Tree::of_cores(all.iter().map(CpuSet::single).collect()).write();
    let manager = pinning(sources, Some(all.clone()));
    let (handle, end) = waiting(&manager, Role::Exec);
    let at_start = mask_in_proc(handle.tid());
    assert_eq!(at_start.len(), 1);
    assert_ne!(at_start, first);

    grant(files.path(), &first);
    let report = manager.verify_now();
    assert!(report.replanned);
    assert_eq!(
        (report.checked, report.lost, report.reapplied, report.failed),
        (1, 0, 1, 0)
    );
    assert_eq!(mask_in_proc(handle.tid()), first);
    let topology = manager.topology();
    assert_eq!(topology.layout_version, 2);
    assert_eq!(topology.plan.why, "degraded: single_cpu");
    assert_eq!(topology.threads[0].wanted, Some(first));

    grant(files.path(), &all);
    assert!(manager.verify_now().replanned);
    assert_eq!(mask_in_proc(handle.tid()), at_start);
    assert_eq!(manager.topology().layout_version, 3);
    assert_eq!(
        manager.topology().affinity_lost,
        0,
        "the manager itself changed the mask"
    );

    assert!(!manager.verify_now().replanned);
    end.send(()).unwrap();
    handle.join().unwrap();
}

#[test]
fn after_a_quota_is_set_threads_are_fenced() {
    let Some(all) = two_real_cpus() else {
        return;
    };
    // The simulated machine has two CPUs that the process may not use. If a process may use the whole machine, `auto`
    // pins only with four CPUs or more. On a part of a machine, as here, `auto` pins with two CPUs, too.
    let cores = all.iter().chain([8000, 8001]).map(CpuSet::single).collect();
    let (files, sources) = Tree::of_cores(cores).mask(&all.to_string()).write();
    let manager = manager(sources, Some(all.clone()));
    let (handle, end) = waiting(&manager, Role::Exec);
    assert_eq!(mask_in_proc(handle.tid()).len(), 1);

    put(files.path(), &format!("{GROUP}/cpu.max"), "50000 100000");
    assert!(manager.verify_now().replanned);
    assert_eq!(manager.plan().placement, Placement::Fence);
    assert_eq!(mask_in_proc(handle.tid()), all);
    end.send(()).unwrap();
    handle.join().unwrap();
}

#[test]
fn a_mask_narrowed_at_start_stays_narrow() {
    let (files, sources) = Tree::cores(8).write();
    let manager = manager(sources, Some("2-5".parse().unwrap()));
    assert_eq!(
        manager.plan().summary(),
        "pin exec=5 wal=4 net=2-3(2) aux=2 spare= spin"
    );

    grant(files.path(), &"0-4".parse().unwrap());
    assert!(manager.verify_now().replanned);
    assert_eq!(manager.plan().allowed.to_string(), "2-4");

    grant(files.path(), &"6-7".parse().unwrap());
    assert!(manager.verify_now().replanned);
    assert_eq!(
        manager.plan().allowed.to_string(),
        "6-7",
        "no CPU of the mask at start is granted any more"
    );
}

#[test]
fn a_process_that_had_its_whole_cpuset_gets_the_whole_new_one() {
    let (files, sources) = Tree::cores(8).write();
    grant(files.path(), &"2-5".parse().unwrap());
    let manager = manager(sources, Some("2-5".parse().unwrap()));
    grant(files.path(), &"2-7".parse().unwrap());
    assert!(manager.verify_now().replanned);
    assert_eq!(manager.plan().allowed.to_string(), "2-7");
}

#[test]
fn a_cpu_that_goes_offline_is_no_longer_used() {
    let (files, sources) = Tree::cores(4).write();
    let manager = pinning(sources, Some("0-3".parse().unwrap()));
    put(files.path(), "sys/devices/system/cpu/online", "0-2");
    assert!(manager.verify_now().replanned);
    assert_eq!(
        manager.plan().summary(),
        "pin exec=2 wal=0 net=1(1) aux=0 spare= spin"
    );
}

#[test]
fn throttling_counters_are_current_and_cause_no_new_plan() {
    let (files, sources) = Tree::cores(4).write();
    let manager = manager(sources, None);
    assert_eq!(manager.topology().machine.cgroup.stat, None);
    put(
        files.path(),
        &format!("{GROUP}/cpu.stat"),
        "nr_periods 9\nnr_throttled 2\nthrottled_usec 77",
    );
    let stat = manager.topology().machine.cgroup.stat.unwrap();
    assert_eq!(
        (stat.periods, stat.throttled_periods, stat.throttled_us),
        (9, 2, 77)
    );
    assert!(!manager.verify_now().replanned);
}

#[test]
fn if_strict_allows_no_new_plan_the_old_plan_stays_in_force() {
    let (files, sources) = Tree::cores(4).write();
    let config = AffinityConfig {
        mode: Mode::Strict,
        ..AffinityConfig::default()
    };
    let manager = CpuAffinityManager::detect_from(sources, None, config).unwrap();
    let before = manager.plan();
    grant(files.path(), &CpuSet::single(0));
    assert!(!manager.verify_now().replanned);
    assert!(!manager.verify_now().replanned);
    assert_eq!(manager.plan().summary(), before.summary());
    let codes: Vec<WarningCode> = manager
        .topology()
        .warnings
        .iter()
        .map(|warning| warning.code)
        .collect();
    assert_eq!(codes, [WarningCode::PlanKept]);
}
