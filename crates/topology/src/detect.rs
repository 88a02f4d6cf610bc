//! [`Machine`]: the CPUs, cores, caches, memory nodes and limits that the kernel reports.
//!
//! Detection never fails. A fact that can't be read is `None` or empty. If an important fact can't be read, there is
//! also a [`Warning`]. Every file is read below a root directory, so tests can simulate machines with trees of small
//! files.

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

/// Memory nodes with ids from this bound on are ignored. Linux has at most 1024 nodes on x86-64 (`MAX_NUMNODES`).
const NODE_ID_LIMIT: u32 = 1024;

/// Maximum number of cache directories read for one CPU. Machines have three to five.
const CACHES_MAX: u32 = 10;

/// Maximum number of devices of one class whose memory node is read.
const DEVICES_MAX: usize = 256;

/// The value of `cpuset.cpus.partition` for CPUs without load balancing.
const PARTITION_ISOLATED: &str = "isolated";

/// A physical core with at least one CPU that this process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Core {
    /// The allowed CPUs (hardware threads) of the core.
    pub cpus: CpuSet,
    /// All online CPUs of the core.
    pub siblings: CpuSet,
    /// Memory node of the core; `None` if it is unknown.
    pub node: Option<u32>,
    /// Index of the core's last-level cache in [`Machine::caches`]; `None` if it is unknown.
    pub cache: Option<usize>,
}

/// CPUs that share their last-level cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheGroup {
    /// The allowed CPUs of the group.
    pub cpus: CpuSet,
    /// Number of quiet cores of the group. On a quiet core, this process may use all CPUs, and none of them is CPU 0,
    /// on which interrupts usually run.
    pub quiet_cores: usize,
}

/// A memory (NUMA) node with allowed CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The kernel's number of the node.
    pub id: u32,
    /// The allowed CPUs of the node.
    pub cpus: CpuSet,
    /// Number of NVMe drives and network cards that the kernel reports for this node.
    pub devices: usize,
}

/// Facts about the kernel: its release, its real-time scheduling and its clock. A fact that can't be read is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kernel {
    /// Release, such as `6.18.0`.
    pub release: Option<String>,
    /// Whether real-time threads need a budget from their control group (`CONFIG_RT_GROUP_SCHED`).
    pub rt_group_sched: Option<bool>,
    /// Time in each period for which real-time threads may use the CPU, in µs. -1 means no limit.
    pub sched_rt_runtime_us: Option<i64>,
    /// Length of the period of `sched_rt_runtime_us`, in µs.
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
    /// CPUs that could be online at any time, including those that are not plugged in.
    pub possible: Option<CpuSet>,
    /// Isolated CPUs: the kernel does not balance load between them (`isolcpus`).
    pub isolated: Option<CpuSet>,
    /// CPUs on which the kernel stops its periodic timer interrupt (`nohz_full`).
    pub nohz_full: Option<CpuSet>,
    /// Memory nodes from which the process may allocate.
    pub mems_allowed: Option<CpuSet>,
    /// Physical cores with an allowed CPU, in ascending order of their first CPU.
    pub cores: Vec<Core>,
    /// Last-level caches with an allowed CPU, in ascending order of their first CPU.
    pub caches: Vec<CacheGroup>,
    /// Memory nodes with an allowed CPU, in ascending order of their ids.
    pub nodes: Vec<Node>,
    /// Allowed CPUs whose core has another CPU that is not allowed. Other processes may use that CPU, and slow down the
    /// core.
    pub foreign_siblings: CpuSet,
    /// Limits of the control group.
    pub cgroup: Cgroup,
    /// Facts about the kernel.
    pub kernel: Kernel,
    /// The description of the Kubernetes pod.
    pub pod: PodHints,
    /// A warning for each important fact that could not be read.
    pub warnings: Vec<Warning>,
}

// ===== impl Core =====

impl Core {
    /// Whether a CPU of the core is not allowed. If so, another process may run on that CPU.
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
        // The file `cpu.rt_runtime_us` exists only in kernels with `CONFIG_RT_GROUP_SCHED`.
        let budget = machine.cgroup.rt_runtime_us.map(|_| true);
        machine.kernel.rt_group_sched = machine.kernel.rt_group_sched.or(budget);
        machine.allowed = machine.usable(mask.or_else(|| sources.status_list("Cpus_allowed_list")));
        machine.read_cores(sources);
        machine.read_nodes(sources);
        machine
    }

    /// Whether the process may use every CPU that is online. `true` if the online CPUs are unknown.
    #[must_use]
    pub fn is_whole_machine(&self) -> bool {
        self.online
            .as_ref()
            .is_none_or(|online| online.is_subset(&self.allowed))
    }

    /// Whether the allowed CPUs seem to belong to this process alone. The kernel does not report this fact, so
    /// this method infers it. Returns `true` if the cpuset is the root of a partition. Also returns `true` if the
    /// cpuset is a part of the machine, no quota is smaller than the capacity of the allowed CPUs, and the description
    /// of the pod gives no reason to assume shared CPUs.
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

    /// Whether the container's CPU limit equals the number of allowed CPUs. `true` if the limit is unknown.
    fn limit_fits(&self) -> bool {
        self.pod
            .cpu_limit_milli
            .is_none_or(|limit| limit == self.allowed_millicpus())
    }

    /// The allowed CPUs that are isolated, by the kernel's command line or because the cpuset is an isolated partition.
    /// The kernel does not balance load between isolated CPUs: a thread that may run on several of them stays on the
    /// CPU on which it started.
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

    /// Returns the memory node of an allowed CPU; `None` if the CPU is not allowed or the node is unknown.
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

    /// Returns the online CPUs of the mask. If the online CPUs are unknown, or no CPU of the mask is online, returns
    /// the mask. Without a mask, returns all online CPUs, or CPU 0 if the online CPUs are unknown.
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
            self.unreadable(&format!(
                "the cores of CPUs {unknown}, so each of these CPUs counts as a core"
            ));
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

/// Returns the CPU mask of the calling thread, or `None` if the kernel reports an error. Call this function in `main`
/// before any other thread is started: a thread inherits the mask of the thread that starts it, so a thread that was
/// started by a pinned thread has a mask of a single CPU.
#[must_use]
pub fn startup_mask() -> Option<CpuSet> {
    affinity::get_affinity(affinity::THIS_THREAD)
        .map(CpuSet::from_words)
        .ok()
}

/// Returns the build options of the running kernel, if the distribution installs them as plain text. Does not read
/// `/proc/config.gz`, because that would need a decompressor for a single flag.
fn read_options(sources: &Sources, release: &str) -> Option<String> {
    /// Files of distributions have about 300 KiB.
    const OPTIONS_BYTES_MAX: u64 = 1024 * 1024;
    let path = sources.root.join(format!("boot/config-{release}"));
    let size = fs::metadata(&path).ok()?.len();
    (size <= OPTIONS_BYTES_MAX).then_some(())?;
    fs::read_to_string(path).ok()
}

/// Returns the CPUs that share the last-level cache with `cpu`. Returns `None` if the cache can't be read, or is of
/// level 1.
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

/// Returns the index of the cache group of `cpus`. Appends the group if it does not exist.
fn index_of(groups: &mut Vec<CacheGroup>, cpus: CpuSet) -> usize {
    if let Some(index) = groups.iter().position(|known| known.cpus == cpus) {
        return index;
    }
    groups.push(CacheGroup { cpus, quiet_cores: 0 });
    groups.len().saturating_sub(1)
}

/// Returns the memory nodes of NVMe drives and network cards, with one entry per device.
fn device_nodes(sources: &Sources) -> Vec<u32> {
    ["sys/class/nvme", "sys/class/net"]
        .into_iter()
        .filter_map(|class| fs::read_dir(sources.root.join(class)).ok())
        .flat_map(|entries| entries.take(DEVICES_MAX).flatten())
        // The value -1 means "no node". It can't be parsed as an unsigned number, so the device is skipped.
        .filter_map(|entry| sources.value(entry.path().join("device/numa_node")))
        .filter(|node| *node < CPU_ID_LIMIT)
        .collect()
}
