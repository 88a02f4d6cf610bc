//! Tests with real threads of this process.
//!
//! The manager gets a simulated machine that has the real CPUs of the test process. So CPU quotas of the build machine
//! do not affect the tests.

use std::{fs, io, sync::mpsc, thread};

use tally_topology::{
    AffinityConfig, AffinityError, CpuAffinityManager, CpuSet, Mode, Role, RoleHandle, Sources, startup_mask,
    sys::affinity::{self, THIS_THREAD},
};
use tempfile::TempDir;

use super::support::tree::Tree;

/// A manager for the real CPUs, and the files of the simulated machine.
struct Bench {
    manager: CpuAffinityManager,
    _files: TempDir,
}

/// A placed thread that waits until the test ends it.
struct Waiting {
    handle: RoleHandle<()>,
    end: mpsc::Sender<()>,
}

// ===== impl Bench =====

impl Bench {
    fn new(config: AffinityConfig) -> Self {
        let (files, sources) = real_cpus().write();
        Self::over(files, sources, config)
    }

    fn over(files: TempDir, sources: Sources, config: AffinityConfig) -> Self {
        let manager = CpuAffinityManager::detect_from(sources, startup_mask(), config).unwrap();
        Self {
            manager,
            _files: files,
        }
    }

    fn pinning() -> Self {
        Self::new(AffinityConfig {
            mode: Mode::Pin,
            ..AffinityConfig::default()
        })
    }

    fn waiting(&self, role: Role, index: usize) -> Waiting {
        let (end, ended) = mpsc::channel();
        let name = format!("tally-{role}-{index}");
        let handle = self
            .manager
            .spawn(role, index, &name, move || {
                // An error of the channel also means that the test has ended.
                let _ = ended.recv();
            })
            .unwrap();
        Waiting { handle, end }
    }
}

// ===== impl Waiting =====

impl Waiting {
    fn end(self) {
        self.end.send(()).unwrap();
        self.handle.join().unwrap();
    }
}

/// Makes a simulated machine of single-thread cores from the CPUs of this process.
fn real_cpus() -> Tree {
    Tree::of_cores(startup_mask().unwrap().iter().map(CpuSet::single).collect())
}

/// Reads the mask of a thread from `/proc`, without the code under test.
fn mask_in_proc(tid: i32) -> CpuSet {
    let status = fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .unwrap();
    line.parse().unwrap()
}

/// Returns whether this process may use several CPUs. If not, prints that the test is skipped.
fn several_cpus() -> bool {
    let several = startup_mask().unwrap().len() >= 2;
    if !several {
        super::support::privileges::skipped("needs two CPUs, this process has one");
    }
    several
}

#[test]
fn every_thread_has_its_planned_mask() {
    let bench = Bench::pinning();
    let plan = bench.manager.plan();
    let threads: Vec<Waiting> = Role::ALL.into_iter().map(|role| bench.waiting(role, 0)).collect();
    for (role, thread) in Role::ALL.into_iter().zip(&threads) {
        let wanted = plan.mask(role, 0).unwrap();
        assert_eq!(mask_in_proc(thread.handle.tid()), wanted, "{role}");
    }
    let topology = bench.manager.topology();
    assert_eq!(topology.threads.len(), 4);
    for (thread, waiting) in topology.threads.iter().zip(&threads) {
        assert_eq!(thread.tid, waiting.handle.tid());
        assert_eq!(thread.wanted, plan.mask(thread.role, 0));
        assert_eq!(thread.actual, thread.wanted);
        assert!(thread.pinned_ok);
        assert_eq!((thread.errno, thread.policy, thread.priority), (None, "other", 0));
        assert!(thread.actual.as_ref().unwrap().contains(thread.last_cpu.unwrap()));
        assert!(thread.voluntary_switches.is_some());
    }
    assert!(
        topology
            .roles
            .iter()
            .all(|role| role.threads == 1 && role.pinned_ok)
    );
    assert!(
        topology.unregistered_threads >= 1,
        "the test thread is not registered"
    );
    assert_eq!(
        (
            topology.layout_version,
            topology.affinity_lost,
            topology.affinity_reapplied
        ),
        (1, 0, 0)
    );
    let figures = bench.manager.figures();
    assert!(
        figures
            .roles
            .iter()
            .all(|role| role.threads == 1 && role.affinity_ok && role.fifo_ok)
    );
    assert_eq!((figures.affinity_lost, figures.layout_version), (0, 1));
    threads.into_iter().for_each(Waiting::end);
    assert_eq!(bench.manager.topology().threads, []);
}

#[test]
fn a_thread_that_panics_is_unregistered() {
    let bench = Bench::pinning();
    let handle = bench
        .manager
        .spawn(Role::Aux, 0, "tally-panics", || {
            std::panic::resume_unwind(Box::new("on purpose"))
        })
        .unwrap();
    let outcome: thread::Result<()> = handle.join();
    assert_eq!(outcome.unwrap_err().downcast_ref(), Some(&"on purpose"));
    assert_eq!(bench.manager.topology().threads, []);
}

#[test]
fn more_threads_than_cpus_are_reported_as_oversubscribed() {
    let bench = Bench::pinning();
    let threads = [bench.waiting(Role::Exec, 0), bench.waiting(Role::Exec, 1)];
    let topology = bench.manager.topology();
    assert!(topology.roles[0].oversubscribed == (topology.roles[0].cpus.len() < 2));
    assert_eq!(topology.roles[0].threads, 2);
    threads.into_iter().for_each(Waiting::end);
}

#[test]
fn blocking_threads_and_their_children_are_not_on_the_cpu_of_net() {
    let bench = Bench::pinning();
    let manager = bench.manager.clone();
    let masks = bench
        .manager
        .spawn_async(Role::Net, 0, "tally-net-0", move || async move {
            let own = affinity::gettid();
            let blocking = tokio::task::spawn_blocking(move || {
                let tid = affinity::gettid();
                let child = thread::spawn(|| mask_in_proc(affinity::gettid())).join().unwrap();
                let roles: Vec<_> = manager
                    .topology()
                    .threads
                    .iter()
                    .map(|thread| thread.role)
                    .collect();
                (mask_in_proc(tid), child, roles)
            });
            (mask_in_proc(own), blocking.await.unwrap())
        })
        .unwrap()
        .join()
        .unwrap()
        .unwrap();
    let (net, (blocking, child, roles)) = masks;
    let plan = bench.manager.plan();
    assert_eq!(Some(net), plan.mask(Role::Net, 0));
    assert_eq!(Some(&blocking), plan.mask(Role::Aux, 0).as_ref());
    assert_eq!(child, blocking);
    assert_eq!(roles, [Role::Net, Role::Aux]);
    assert_eq!(bench.manager.topology().threads, []);
}

#[test]
fn a_thread_started_from_a_pinned_one_gets_its_own_mask() {
    let bench = Bench::pinning();
    let manager = bench.manager.clone();
    let mask = bench
        .manager
        .spawn(Role::Exec, 0, "tally-exec", move || {
            let inner = manager.spawn(Role::Aux, 0, "tally-aux", || mask_in_proc(affinity::gettid()));
            inner.unwrap().join().unwrap()
        })
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(Some(mask), bench.manager.plan().mask(Role::Aux, 0));
}

#[test]
fn a_mask_changed_from_outside_is_repaired_and_counted() {
    if !several_cpus() {
        return;
    }
    let bench = Bench::pinning();
    let thread = bench.waiting(Role::Exec, 0);
    let tid = thread.handle.tid();
    let wanted = bench.manager.plan().mask(Role::Exec, 0).unwrap();
    let other = bench.manager.plan().allowed.difference(&wanted);
    let clean = bench.manager.verify_now();
    assert_eq!((clean.checked, clean.lost, clean.reapplied), (1, 0, 0));

    affinity::set_affinity(tid, other.words()).unwrap();
    assert_eq!(mask_in_proc(tid), other);
    assert!(!bench.manager.topology().threads[0].pinned_ok);
    let ok = || bench.manager.figures().roles.map(|role| role.affinity_ok);
    assert_eq!(ok(), [false, true, true, true]);

    let report = bench.manager.verify_now();
    assert_eq!((report.lost, report.reapplied, report.failed), (1, 1, 0));
    assert_eq!(mask_in_proc(tid), wanted);
    let topology = bench.manager.topology();
    assert!(topology.threads[0].pinned_ok);
    assert_eq!((topology.affinity_lost, topology.affinity_reapplied), (1, 1));
    assert_eq!(topology.layout_version, 2, "masks were set again");
    assert_eq!(ok(), [true; 4]);

    assert_eq!(bench.manager.verify_now().lost, 0);
    thread.end();
}

#[test]
fn mode_off_touches_no_mask() {
    let bench = Bench::new(AffinityConfig {
        mode: Mode::Off,
        ..AffinityConfig::default()
    });
    let before = startup_mask().unwrap();
    let thread = bench.waiting(Role::Exec, 0);
    assert_eq!(mask_in_proc(thread.handle.tid()), before);
    let first = CpuSet::single(before.first().unwrap());
    affinity::set_affinity(thread.handle.tid(), first.words()).unwrap();
    assert_eq!(bench.manager.verify_now().reapplied, 0);
    assert_eq!(mask_in_proc(thread.handle.tid()), first);
    thread.end();
}

#[test]
fn a_missing_cpu_is_an_error_only_in_strict() {
    // The simulated machine has CPUs that the real machine does not have.
    let simulated = || Tree::of_cores(vec![CpuSet::single(8000), CpuSet::single(8001)]);
    let with_mode = |mode| AffinityConfig {
        mode,
        ..AffinityConfig::default()
    };
    let manager = |mode| {
        let (files, sources) = simulated().write();
        let manager = CpuAffinityManager::detect_from(sources, None, with_mode(mode)).unwrap();
        (manager, files)
    };

    let (lenient, _files) = manager(Mode::Pin);
    let mask = startup_mask().unwrap();
    let ran = lenient.spawn(Role::Exec, 0, "tally-exec", {
        let lenient = lenient.clone();
        move || (mask_in_proc(affinity::gettid()), lenient.topology())
    });
    let (actual, topology) = ran.unwrap().join().unwrap();
    assert_eq!(actual, mask, "the thread runs on the allowed CPUs");
    assert_eq!(topology.threads[0].errno, Some(libc::EINVAL));
    assert!(!topology.threads[0].pinned_ok);
    assert_eq!(
        topology.warnings.last().unwrap().to_string(),
        format!(
            "pin_failed: tally-exec should run on CPUs 8001, but may run on {mask} (Invalid argument (os error 22))"
        )
    );

    let (strict, _files) = manager(Mode::Strict);
    let refused = strict.spawn(Role::Exec, 0, "tally-exec", || ()).unwrap_err();
    let AffinityError::PinFailed { wanted, source, .. } = refused else {
        panic!("unexpected error: {refused}");
    };
    assert_eq!(wanted, CpuSet::single(8001));
    assert_eq!(source.unwrap().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(strict.topology().threads, []);
}

#[test]
fn a_thread_that_spawn_did_not_start_can_be_registered_and_unregistered() {
    let bench = Bench::pinning();
    let manager = bench.manager.clone();
    thread::spawn(move || {
        let guard = manager.enter(Role::Aux, 0, "main").unwrap();
        assert_eq!(manager.topology().threads[0].name, "main");
        assert_eq!(
            Some(mask_in_proc(affinity::gettid())),
            manager.plan().mask(Role::Aux, 0)
        );
        drop(guard);
        assert_eq!(manager.topology().threads, []);
    })
    .join()
    .unwrap();
}

#[test]
fn an_empty_mask_is_an_invalid_input() {
    let error = affinity::set_affinity(THIS_THREAD, &[0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}
