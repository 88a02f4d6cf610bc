//! Tests of the detection of machines from files, with all kinds of control groups, and with malformed and missing files.

use std::path::Path;

use tally_topology::{CgroupVersion, CpuQuota, CpuSet, CpuStat, Machine, PodHints, Sources, WarningCode};
use tempfile::TempDir;

use super::support::tree::{Tree, put, set};

/// A tree of files with only the file of online CPUs. A test adds other files.
struct Files {
    directory: TempDir,
}

// ===== impl Files =====

impl Files {
    fn new(online: &str) -> Self {
        let files = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        files.with("sys/devices/system/cpu/online", online)
    }

    fn with(self, file: &str, text: &str) -> Self {
        put(self.directory.path(), file, text);
        self
    }

    fn sources(&self) -> Sources {
        Sources::below(self.directory.path(), PodHints::default())
    }

    fn machine(&self) -> Machine {
        Machine::detect(&self.sources(), None)
    }
}

/// A quota of `quota_us` in the default period.
fn quota(quota_us: u64) -> CpuQuota {
    CpuQuota {
        quota_us,
        period_us: 100_000,
    }
}

/// A machine with 8 CPUs, whose process is in a nested control group of version 2.
fn unified() -> Files {
    Files::new("0-7")
        .with("proc/self/cgroup", "0::/a.slice/b.scope")
        .with(
            "proc/self/mountinfo",
            "22 1 8:1 / / rw - ext4 /dev/root rw\n\
             31 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate",
        )
}

#[test]
fn version_2_uses_the_smallest_quota_of_the_parents() {
    let machine = unified()
        .with("sys/fs/cgroup/a.slice/cpu.max", "150000 100000")
        .with("sys/fs/cgroup/a.slice/cpuset.cpus.effective", "0-5")
        .with("sys/fs/cgroup/a.slice/b.scope/cpu.max", "400000 100000")
        .with(
            "sys/fs/cgroup/a.slice/b.scope/cpu.stat",
            "usage_usec 900\nnr_periods 10\nnr_throttled 4\nthrottled_usec 5000",
        )
        .machine();
    let cgroup = machine.cgroup;
    assert_eq!(cgroup.version, Some(CgroupVersion::V2));
    assert_eq!(cgroup.path.as_deref(), Some("/a.slice/b.scope"));
    assert_eq!(cgroup.quota, Some(quota(150_000)));
    assert_eq!(cgroup.quota.unwrap().millicpus(), 1500);
    assert_eq!(cgroup.cpuset_effective, Some(set("0-5")));
    // If the inner group has no quota, the quota of its parent counts.
    let inner_unlimited = unified()
        .with("sys/fs/cgroup/a.slice/cpu.max", "250000 100000")
        .with("sys/fs/cgroup/a.slice/b.scope/cpu.max", "max 100000");
    assert_eq!(inner_unlimited.machine().cgroup.quota, Some(quota(250_000)));
    let stat = CpuStat {
        periods: 10,
        throttled_periods: 4,
        throttled_us: 5000,
    };
    assert_eq!(cgroup.stat, Some(stat));
}

#[test]
fn version_2_partition_makes_cpus_exclusive() {
    let files = unified()
        .with("sys/fs/cgroup/a.slice/b.scope/cpuset.cpus", "2-3")
        .with("sys/fs/cgroup/a.slice/b.scope/cpuset.cpus.effective", "2-3")
        .with("sys/fs/cgroup/a.slice/b.scope/cpuset.cpus.partition", "isolated");
    let machine = files.machine();
    assert_eq!(machine.cgroup.cpuset, Some(set("2-3")));
    assert_eq!(machine.cgroup.partition.as_deref(), Some("isolated"));
    assert!(machine.is_exclusive());
}

#[test]
fn the_root_group_of_version_2_has_no_throttling_counters() {
    let machine = Files::new("0-1")
        .with("proc/self/cgroup", "0::/")
        .with("sys/fs/cgroup/cpu.stat", "usage_usec 900\nuser_usec 1")
        .machine();
    assert_eq!(machine.cgroup.stat, None);
    assert_eq!(machine.cgroup.quota, None);
    assert_eq!(machine.cgroup.version, Some(CgroupVersion::V2));
}

#[test]
fn version_1_beside_an_empty_version_2() {
    let machine = Files::new("0-7")
        .with("proc/self/cgroup", "3:cpuset:/pinned\n2:cpu,cpuacct:/tally\n0::/")
        .with(
            "proc/self/mountinfo",
            "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
        )
        .with("sys/fs/cgroup/cpu,cpuacct/tally/cpu.cfs_quota_us", "250000")
        .with("sys/fs/cgroup/cpu,cpuacct/tally/cpu.cfs_period_us", "50000")
        .with("sys/fs/cgroup/cpu,cpuacct/tally/cpu.rt_runtime_us", "0")
        .with("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1")
        .with(
            "sys/fs/cgroup/cpu,cpuacct/tally/cpu.stat",
            "nr_periods 3\nnr_throttled 1\nthrottled_time 7000",
        )
        .with("sys/fs/cgroup/cpuset/pinned/cpuset.cpus", "2-5")
        .with("sys/fs/cgroup/cpuset/pinned/cpuset.effective_cpus", "2-4")
        .machine();
    let cgroup = &machine.cgroup;
    assert_eq!(cgroup.version, Some(CgroupVersion::V1));
    assert_eq!(
        (cgroup.path.as_deref(), cgroup.cpuset_path.as_deref()),
        (Some("/tally"), Some("/pinned"))
    );
    assert_eq!(cgroup.quota.unwrap().millicpus(), 5000);
    assert_eq!(cgroup.rt_runtime_us, Some(0));
    assert_eq!(
        machine.kernel.rt_group_sched,
        Some(true),
        "only a kernel with CONFIG_RT_GROUP_SCHED has the file cpu.rt_runtime_us"
    );
    assert_eq!(cgroup.stat.unwrap().throttled_us, 7);
    assert_eq!(cgroup.cpuset, Some(set("2-5")));
    assert_eq!(cgroup.cpuset_effective, Some(set("2-4")));
}

#[test]
fn a_container_sees_its_group_at_the_mount_point() {
    // The path in `cgroup` is the path on the host. This group is mounted at the mount point, so no part of the path
    // exists below the mount point.
    let mounted = Files::new("0-7")
        .with("proc/self/cgroup", "4:cpu:/docker/abc")
        .with(
            "proc/self/mountinfo",
            "50 49 0:29 /docker/abc /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu",
        )
        .with("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000");
    assert_eq!(mounted.machine().cgroup.quota, Some(quota(300_000)));

    // The path is not visible in the container, and `mountinfo` can't be read.
    let hidden = Files::new("0-7")
        .with("proc/self/cgroup", "0::/kubepods.slice/pod1/abc")
        .with("sys/fs/cgroup/cpu.max", "200000 100000");
    assert_eq!(hidden.machine().cgroup.quota, Some(quota(200_000)));

    // The group is outside of the process's cgroup namespace.
    let outside = Files::new("0-7")
        .with("proc/self/cgroup", "0::/../../sibling")
        .with("sys/fs/cgroup/cpu.max", "100000 100000");
    assert_eq!(outside.machine().cgroup.quota, Some(quota(100_000)));
}

#[test]
fn the_path_of_the_kubelet_shows_the_class_of_the_pod() {
    let class = |path: &str| {
        let files = Files::new("0-7").with("proc/self/cgroup", &format!("0::{path}"));
        files.machine().pod.qos_class
    };
    let slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-1.scope";
    assert_eq!(class(slice).as_deref(), Some("Burstable"));
    assert_eq!(
        class("/kubepods/besteffort/pod1/1").as_deref(),
        Some("BestEffort")
    );
    assert_eq!(class("/kubepods/pod1/1").as_deref(), Some("Guaranteed"));
    assert_eq!(class("/system.slice/tally.service"), None);
}

#[test]
fn cpus_are_exclusive_if_they_are_a_part_of_the_machine_and_no_quota_is_smaller() {
    let part = Tree::cores(8).mask("2-3");
    assert!(part.machine().is_exclusive());
    assert!(!Tree::cores(8).machine().is_exclusive(), "the whole machine");
    assert!(
        part.clone().cpu_max("200000 100000").machine().is_exclusive(),
        "the quota is as large as the two allowed CPUs"
    );
    assert!(!part.clone().cpu_max("150000 100000").machine().is_exclusive());
    let limited = PodHints {
        kubernetes: true,
        cpu_limit_milli: Some(1500),
        ..PodHints::default()
    };
    assert!(
        !part.pod(limited).machine().is_exclusive(),
        "a container with a fractional limit gets CPUs of the shared pool"
    );
}

#[test]
fn a_mask_narrowed_by_hand_is_not_exclusive() {
    // The process was started with taskset, and its control group grants all CPUs.
    let files = unified().with("sys/fs/cgroup/a.slice/b.scope/cpuset.cpus.effective", "0-7");
    let machine = Machine::detect(&files.sources(), Some(set("2-3")));
    assert_eq!(machine.allowed, set("2-3"));
    assert!(!machine.is_exclusive());
}

#[test]
fn cores_caches_and_nodes_of_the_allowed_part() {
    let machine = Tree::smt(4)
        .mask("1,5,2")
        .caches(&["0-1,4-5", "2-3,6-7"])
        .nodes(&["0-1,4-5", "2-3,6-7"])
        .machine();
    let cores: Vec<_> = machine
        .cores
        .iter()
        .map(|core| {
            (
                core.cpus.to_string(),
                core.siblings.to_string(),
                core.node,
                core.cache,
            )
        })
        .collect();
    assert_eq!(
        cores,
        [
            ("1,5".to_owned(), "1,5".to_owned(), Some(0), Some(0)),
            ("2".to_owned(), "2,6".to_owned(), Some(1), Some(1)),
        ]
    );
    assert_eq!(machine.foreign_siblings, set("2"));
    let caches: Vec<_> = machine
        .caches
        .iter()
        .map(|group| (group.cpus.to_string(), group.quiet_cores))
        .collect();
    assert_eq!(caches, [("1,5".to_owned(), 1), ("2".to_owned(), 0)]);
    assert_eq!(machine.node_of(2), Some(1));
    assert_eq!(machine.node_of(3), None, "not an allowed CPU");
    assert_eq!(machine.warnings, []);
}

#[test]
fn offline_cpus_of_the_mask_are_left_out() {
    let files = Files::new("0,2-3");
    let machine = Machine::detect(&files.sources(), Some(set("0-3")));
    assert_eq!(machine.allowed, set("0,2-3"));
    assert!(machine.is_whole_machine());
}

#[test]
fn without_readable_files_the_machine_has_one_cpu_and_warnings() {
    let sources = Sources::below("/nonexistent", PodHints::default());
    let machine = Machine::detect(&sources, None);
    assert_eq!(machine.allowed, CpuSet::single(0));
    assert_eq!(machine.cores.len(), 1);
    assert_eq!(machine.cgroup.version, None);
    assert!(
        machine
            .warnings
            .iter()
            .all(|warning| warning.code == WarningCode::Unreadable)
    );
    assert_eq!(machine.warnings.len(), 3);

    let machine = Machine::detect(&sources, Some(set("4-6")));
    assert_eq!(machine.allowed, set("4-6"));
    assert_eq!(
        machine.warnings.last().unwrap().to_string(),
        "unreadable: cannot read the cores of CPUs 4-6, so each of these CPUs counts as a core"
    );
}

#[test]
fn malformed_files_are_unknown_facts() {
    let machine = unified()
        .with("sys/devices/system/cpu/online", "4-2,x")
        .with("sys/devices/system/cpu/nohz_full", "(null)")
        .with("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "5")
        .with("sys/devices/system/node/online", "0-9999")
        .with("sys/fs/cgroup/a.slice/b.scope/cpu.max", "a lot")
        .with("proc/sys/kernel/sched_rt_runtime_us", "never")
        .machine();
    assert_eq!(machine.online, None);
    assert_eq!(machine.nohz_full, None);
    assert_eq!(machine.cgroup.quota, None);
    assert_eq!(machine.kernel.sched_rt_runtime_us, None);
    assert_eq!(
        machine.cores[0].siblings,
        CpuSet::single(0),
        "a list of siblings without the CPU itself is ignored"
    );
}

#[test]
fn the_facts_about_the_kernel_are_read() {
    let kernel = Files::new("0")
        .with("proc/sys/kernel/osrelease", "6.18.0-test")
        .with("proc/sys/kernel/sched_rt_runtime_us", "950000")
        .with("proc/sys/kernel/sched_rt_period_us", "1000000")
        .with("boot/config-6.18.0-test", "CONFIG_SMP=y\nCONFIG_RT_GROUP_SCHED=y")
        .with(
            "sys/devices/system/clocksource/clocksource0/current_clocksource",
            "tsc",
        )
        .machine()
        .kernel;
    assert_eq!(kernel.release.as_deref(), Some("6.18.0-test"));
    assert_eq!(kernel.rt_group_sched, Some(true));
    assert_eq!(kernel.sched_rt_runtime_us, Some(950_000));
    assert_eq!(kernel.clock_source.as_deref(), Some("tsc"));

    let kernel = Files::new("0")
        .with("proc/sys/kernel/osrelease", "1")
        .with(
            "boot/config-1",
            "CONFIG_SMP=y\n# CONFIG_RT_GROUP_SCHED is not set",
        )
        .with("proc/sys/kernel/sched_rt_runtime_us", "-1")
        .machine()
        .kernel;
    assert_eq!(kernel.rt_group_sched, Some(false));
    assert_eq!(kernel.sched_rt_runtime_us, Some(-1));
}

#[test]
fn the_machine_of_this_process_is_read_without_warning_about_its_mask() {
    let mask = tally_topology::startup_mask().unwrap();
    let machine = Machine::detect(&Sources::host(), Some(mask.clone()));
    assert_eq!(machine.allowed, mask);
    let cores = machine
        .cores
        .iter()
        .fold(CpuSet::new(), |all, core| all.union(&core.cpus));
    assert_eq!(cores, mask, "every CPU is in a core");
    assert!(Path::new("/proc/self/cgroup").exists() == machine.cgroup.version.is_some());
}
