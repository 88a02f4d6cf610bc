//! [`Machine`]: the CPUs, cores, caches, memory nodes and limits that the kernel reports.
//!
//! Detection never fails: a fact that can't be read is `None` or empty, and the important ones also cause a [`Warning`]. Every file is read
//! below a root directory, so that tests can simulate machines with trees of small files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    cgroup::Cgroup,
    cpuset::{CPU_ID_LIMIT, CpuSet},
    pod::PodHints,
    sources::Sources,
    warning::{Warning, WarningCode},
};
use crate::sys::affinity;

/// Bound of the memory node ids that are read (`MAX_NUMNODES` is 1024 on x86-64).
const NODE_ID_LIMIT: u32 = 1024;

/// Maximum number of cache directories read for one CPU. Machines have three to five.
const CACHES_MAX: u32 = 10;

/// Maximum number of devices of one class whose memory node is read.
const DEVICES_MAX: usize = 256;

/// The value of `cpuset.cpus.partition` for CPUs without load balancing.
const PARTITION_ISOLATED: &str = "isolated";

/// A physical core, as far as this process may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// Its allowed CPUs (hardware threads).
    pub cpus: CpuSet,
    /// All of its online CPUs.
    pub siblings: CpuSet,
    /// Memory node.
    pub node: Option<u32>,
    /// Index into [`Machine::caches`].
    pub cache: Option<usize>,
}

/// CPUs that share their last-level cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheGroup {
    /// Its allowed CPUs.
    pub cpus: CpuSet,
    /// Number of its cores that belong to this process completely and do not contain CPU 0.
    pub quiet_cores: usize,
}

/// A memory (NUMA) node with allowed CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Number of the node.
    pub id: u32,
    /// Its allowed CPUs.
    pub cpus: CpuSet,
    /// Number of NVMe drives and network cards that the kernel reports for this node.
    pub devices: usize,
}

/// Facts about the kernel that decide what real-time scheduling can do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Release, such as `6.18.0`.
    pub release: Option<String>,
    /// `CONFIG_RT_GROUP_SCHED`: real-time threads need a budget from their control group.
    pub rt_group_sched: Option<bool>,
    /// Real-time threads may use this much of each period, µs; -1 is all of it.
    pub sched_rt_runtime_us: Option<i64>,
    /// Length of that period, µs.
    pub sched_rt_period_us: Option<i64>,
    /// Clock source, such as `tsc` or `kvm-clock`.
    pub clock_source: Option<String>,
}

/// The machine as this process may use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// CPUs on which the process may run: the online CPUs of its mask at start.
    pub allowed: CpuSet,
    /// Online CPUs.
    pub online: Option<CpuSet>,
    /// CPUs that could be plugged in.
    pub possible: Option<CpuSet>,
    /// CPUs without load balancing (`isolcpus`).
    pub isolated: Option<CpuSet>,
    /// CPUs without periodic tick (`nohz_full`).
    pub nohz_full: Option<CpuSet>,
    /// Memory nodes from which the process may allocate.
    pub mems_allowed: Option<CpuSet>,
    /// Physical cores with an allowed CPU, ascending by first CPU.
    pub cores: Vec<Core>,
    /// Last-level caches with an allowed CPU, ascending by first CPU.
    pub caches: Vec<CacheGroup>,
    /// Memory nodes with an allowed CPU, ascending.
    pub nodes: Vec<Node>,
    /// Allowed CPUs on a core of which another CPU is not allowed, so that other processes may use the core.
    pub foreign_siblings: CpuSet,
    /// Limits of the control group.
    pub cgroup: Cgroup,
    /// Kernel facts.
    pub kernel: Kernel,
    /// The description of the Kubernetes pod.
    pub pod: PodHints,
    /// Facts that could not be read.
    pub warnings: Vec<Warning>,
}

// ===== impl Core =====

impl Core {
    /// Whether a CPU of the core is not allowed, so that another process may run on it.
    #[must_use]
    pub fn is_lone(&self) -> bool {
        self.cpus != self.siblings
    }
}

// ===== impl Machine =====

impl Machine {
    /// Detects the machine for a process with the CPU mask `mask` (see [`startup_mask`]).
    #[must_use]
    pub fn detect(sources: &Sources, mask: Option<CpuSet>) -> Self {
        let mut machine = Self {
            online: sources.online(),
            possible: sources.cpus("possible"),
            isolated: sources.cpus("isolated"),
            nohz_full: sources.cpus("nohz_full"),
            mems_allowed: sources.status_list("Mems_allowed_list"),
            cgroup: Cgroup::read(sources),
            kernel: Kernel::read(sources),
            pod: sources.pod.clone(),
            ..Self::default()
        };
        machine.pod.learn_from_path(machine.cgroup.path.as_deref());
        // The file exists only in kernels that are built with real-time budgets.
        let budget = machine.cgroup.rt_runtime_us.map(|_| true);
        machine.kernel.rt_group_sched = machine.kernel.rt_group_sched.or(budget);
        machine.allowed = machine.usable(mask.or_else(|| sources.status_list("Cpus_allowed_list")));
        machine.read_cores(sources);
        machine.read_nodes(sources);
        machine
    }

    /// Whether the process may use every CPU that is online; `true` when that is unknown.
    #[must_use]
    pub fn is_whole_machine(&self) -> bool {
        self.online
            .as_ref()
            .is_none_or(|online| online.is_subset(&self.allowed))
    }

    /// Whether the allowed CPUs seem to belong to this process alone. The kernel does not report it, so it is inferred: they are a part
    /// of the machine, granted by a cpuset, without a binding quota, and the pod's description does not contradict.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        let partition = self.cgroup.partition.as_deref();
        if matches!(partition, Some("root" | PARTITION_ISOLATED)) {
            return true;
        }
        let granted = self.cgroup.cpuset_effective.as_ref().unwrap_or(&self.allowed);
        let part = self
            .online
            .as_ref()
            .is_some_and(|online| !online.is_subset(granted));
        part && !self.quota_binds() && self.limit_fits() && self.pod.shares_because().is_none()
    }

    /// Whether the container's CPU limit equals the number of allowed CPUs; `true` without a limit.
    fn limit_fits(&self) -> bool {
        self.pod
            .cpu_limit_milli
            .is_none_or(|limit| limit == self.allowed_millicpus())
    }

    /// Allowed CPUs without load balancing: by the kernel's command line, or because the cpuset is an isolated partition. A thread
    /// that may run on several of them stays on the one on which it started.
    #[must_use]
    pub fn isolated_allowed(&self) -> CpuSet {
        if self.cgroup.partition.as_deref() == Some(PARTITION_ISOLATED) {
            return self.allowed.clone();
        }
        let isolated = self.isolated.as_ref();
        isolated.map_or_else(CpuSet::new, |isolated| isolated.intersection(&self.allowed))
    }

    /// Whether a quota is smaller than the capacity of the allowed CPUs.
    #[must_use]
    pub fn quota_binds(&self) -> bool {
        self.cgroup
            .quota
            .is_some_and(|quota| quota.millicpus() < self.allowed_millicpus())
    }

    /// The memory node of an allowed CPU.
    #[must_use]
    pub fn node_of(&self, cpu: u32) -> Option<u32> {
        let node = self.nodes.iter().find(|node| node.cpus.contains(cpu))?;
        Some(node.id)
    }

    fn allowed_millicpus(&self) -> u64 {
        u64::try_from(self.allowed.len()).map_or(u64::MAX, |cpus| cpus.saturating_mul(1000))
    }

    /// Number of quiet cores of the cache group with this index, see [`CacheGroup::quiet_cores`].
    pub(super) fn quiet_cores(&self, cache: usize) -> usize {
        self.caches.get(cache).map_or(0, |group| group.quiet_cores)
    }

    /// The online CPUs of the mask. Without a usable mask: all online CPUs, or CPU 0 if they are unknown.
    fn usable(&mut self, mask: Option<CpuSet>) -> CpuSet {
        let online = self.online.clone();
        if online.is_none() {
            self.unreadable("sys/devices/system/cpu/online");
        }
        let allowed = match (mask, online) {
            (Some(mask), Some(online)) if mask.intersects(&online) => mask.intersection(&online),
            (Some(mask), _) if !mask.is_empty() => mask,
            (_, Some(online)) => online,
            (_, None) => CpuSet::new(),
        };
        if allowed.is_empty() {
            self.unreadable("the CPU mask of the process");
            return CpuSet::single(0);
        }
        allowed
    }

    fn unreadable(&mut self, what: &str) {
        self.warnings.push(Warning::new(
            WarningCode::Unreadable,
            format!("cannot read {what}"),
        ));
    }

    /// Groups the allowed CPUs by core and by last-level cache.
    fn read_cores(&mut self, sources: &Sources) {
        let mut unknown = CpuSet::new();
        let mut grouped = CpuSet::new();
        for cpu in self.allowed.iter() {
            if grouped.contains(cpu) {
                continue;
            }
            let siblings = sources
                .cpus(&format!("cpu{cpu}/topology/thread_siblings_list"))
                .filter(|siblings| siblings.contains(cpu))
                .unwrap_or_else(|| {
                    unknown.insert(cpu);
                    CpuSet::single(cpu)
                });
            let cpus = siblings.intersection(&self.allowed);
            grouped = grouped.union(&cpus);
            if cpus != siblings {
                self.foreign_siblings = self.foreign_siblings.union(&cpus);
            }
            let cache = last_level_cache(sources, cpu)
                .map(|shared| shared.intersection(&self.allowed).union(&cpus))
                .map(|group| index_of(&mut self.caches, group));
            let core = Core {
                cpus,
                siblings,
                node: None,
                cache,
            };
            let group = cache.and_then(|index| self.caches.get_mut(index));
            if let Some(group) = group.filter(|_| !core.is_lone() && !core.cpus.contains(0)) {
                group.quiet_cores = group.quiet_cores.saturating_add(1);
            }
            self.cores.push(core);
        }
        if !unknown.is_empty() {
            self.unreadable(&format!("the core of CPU {unknown}: each counts as a core"));
        }
    }

    /// Finds the memory node of each core.
    fn read_nodes(&mut self, sources: &Sources) {
        let directory = Path::new("sys/devices/system/node");
        let online: CpuSet = sources.value(directory.join("online")).unwrap_or_default();
        let devices = device_nodes(sources);
        for id in online.iter().take_while(|id| *id < NODE_ID_LIMIT) {
            let cpus: CpuSet = sources
                .value(directory.join(format!("node{id}/cpulist")))
                .unwrap_or_default();
            let cpus = cpus.intersection(&self.allowed);
            if cpus.is_empty() {
                continue;
            }
            for core in &mut self.cores {
                if core.cpus.first().is_some_and(|cpu| cpus.contains(cpu)) {
                    core.node = Some(id);
                }
            }
            self.nodes.push(Node {
                id,
                cpus,
                devices: devices.iter().filter(|node| **node == id).count(),
            });
        }
    }
}

// ===== impl Kernel =====

impl Kernel {
    fn read(sources: &Sources) -> Self {
        let kernel = Path::new("proc/sys/kernel");
        let line = |path: &Path| sources.text(path).map(|text| text.trim().to_owned());
        let release = line(&kernel.join("osrelease"));
        let options = release
            .as_deref()
            .and_then(|release| read_options(sources, release));
        Self {
            rt_group_sched: options.map(|text| text.contains("\nCONFIG_RT_GROUP_SCHED=y")),
            release,
            sched_rt_runtime_us: sources.value(kernel.join("sched_rt_runtime_us")),
            sched_rt_period_us: sources.value(kernel.join("sched_rt_period_us")),
            clock_source: line(Path::new(
                "sys/devices/system/clocksource/clocksource0/current_clocksource",
            )),
        }
    }
}

// ===== helpers =====

/// The CPU mask of the calling thread. Call it in `main` before any other thread is started: a thread inherits the mask of the
/// thread that starts it, so under a pinned thread the mask would be a single CPU.
#[must_use]
pub fn startup_mask() -> Option<CpuSet> {
    affinity::get_affinity(affinity::THIS_THREAD)
        .map(CpuSet::from_words)
        .ok()
}

/// The build options of the running kernel, if the distribution installs them as plain text. `/proc/config.gz` is not read: that
/// would need a decompressor for a single flag.
fn read_options(sources: &Sources, release: &str) -> Option<String> {
    /// Real files have about 300 KiB.
    const OPTIONS_BYTES_MAX: u64 = 1024 * 1024;
    let path = sources.root.join(format!("boot/config-{release}"));
    let size = fs::metadata(&path).ok()?.len();
    (size <= OPTIONS_BYTES_MAX).then_some(())?;
    fs::read_to_string(path).ok()
}

/// The CPUs that share the highest-level cache with `cpu`.
fn last_level_cache(sources: &Sources, cpu: u32) -> Option<CpuSet> {
    let cache = |index: u32| {
        let directory = PathBuf::from(format!("sys/devices/system/cpu/cpu{cpu}/cache/index{index}"));
        let level: u32 = sources.value(directory.join("level"))?;
        let shared: CpuSet = sources.value(directory.join("shared_cpu_list"))?;
        Some((level, shared))
    };
    (0..CACHES_MAX)
        .map_while(cache)
        .filter(|(level, _)| *level >= 2)
        .max_by_key(|(level, _)| *level)
        .map(|(_, shared)| shared)
}

/// Returns the index of the group of `cpus`. Appends the group if it is new.
fn index_of(groups: &mut Vec<CacheGroup>, cpus: CpuSet) -> usize {
    if let Some(index) = groups.iter().position(|known| known.cpus == cpus) {
        return index;
    }
    groups.push(CacheGroup { cpus, quiet_cores: 0 });
    groups.len().saturating_sub(1)
}

/// The memory nodes of NVMe drives and network cards, one entry per device.
fn device_nodes(sources: &Sources) -> Vec<u32> {
    ["sys/class/nvme", "sys/class/net"]
        .into_iter()
        .filter_map(|class| fs::read_dir(sources.root.join(class)).ok())
        .flat_map(|entries| entries.take(DEVICES_MAX).flatten())
        // -1 means "no node" and does not parse as unsigned.
        .filter_map(|entry| sources.value(entry.path().join("device/numa_node")))
        .filter(|node| *node < CPU_ID_LIMIT)
        .collect()
}
