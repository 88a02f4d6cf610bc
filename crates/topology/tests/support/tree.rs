//! Simulated machines: writes a short description of a machine as a tree of files in the kernel's format.

use std::{fs, path::Path};

use tally_topology::{AffinityConfig, CpuSet, Machine, Plan, PodHints, Sources};
use tempfile::TempDir;

/// The description of a machine. Lists are in cpuset syntax.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    /// The CPUs of each core. Every online CPU is in one core.
    cores: Vec<CpuSet>,
    /// The CPUs of each last-level cache.
    caches: Vec<CpuSet>,
    /// The CPUs of each memory node, from node 0 on.
    nodes: Vec<CpuSet>,
    /// Memory node of the NVMe drive; `None` if the machine has no drive.
    nvme_node: Option<u32>,
    isolated: String,
    /// Content of the control group's file `cpu.max`.
    cpu_max: Option<String>,
    /// The CPUs that the process may use; `None` if it may use all.
    mask: Option<CpuSet>,
    pod: PodHints,
}

pub(crate) fn set(list: &str) -> CpuSet {
    list.parse().unwrap()
}

// ===== impl Tree =====

impl Tree {
    /// A machine with `count` cores of one CPU each. The ids of the CPUs start at 0.
    pub(crate) fn cores(count: u32) -> Self {
        Self::of_cores((0..count).map(CpuSet::single).collect())
    }

    /// A machine with `count` cores of two CPUs each, numbered as on most servers: core i has the CPUs i and i + count.
    pub(crate) fn smt(count: u32) -> Self {
        Self::of_cores(
            (0..count)
                .map(|id| [id, id.saturating_add(count)].into_iter().collect())
                .collect(),
        )
    }

    pub(crate) fn of_cores(cores: Vec<CpuSet>) -> Self {
        Self {
            cores,
            ..Self::default()
        }
    }

    pub(crate) fn mask(mut self, list: &str) -> Self {
        self.mask = Some(set(list));
        self
    }

    pub(crate) fn nodes(mut self, lists: &[&str]) -> Self {
        self.nodes = lists.iter().map(|list| set(list)).collect();
        self
    }

    pub(crate) fn caches(mut self, lists: &[&str]) -> Self {
        self.caches = lists.iter().map(|list| set(list)).collect();
        self
    }

    pub(crate) fn nvme_node(mut self, node: u32) -> Self {
        self.nvme_node = Some(node);
        self
    }

    pub(crate) fn isolated(mut self, list: &str) -> Self {
        list.clone_into(&mut self.isolated);
        self
    }

    pub(crate) fn cpu_max(mut self, text: &str) -> Self {
        self.cpu_max = Some(text.to_owned());
        self
    }

    pub(crate) fn pod(mut self, pod: PodHints) -> Self {
        self.pod = pod;
        self
    }

    /// Writes the files and returns the directory with the sources that read it.
    pub(crate) fn write(&self) -> (TempDir, Sources) {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        let online = self.cores.iter().fold(CpuSet::new(), |all, core| all.union(core));
        let cpu = "sys/devices/system/cpu";
        put(root, &format!("{cpu}/online"), &online.to_string());
        put(root, &format!("{cpu}/possible"), &online.to_string());
        put(root, &format!("{cpu}/isolated"), &self.isolated);
        // Detection reads only the files of CPUs that the process may use. So only these files are written, and the
        // tree of a machine with 2048 CPUs stays small.
        let seen = self.mask.clone().unwrap_or_else(|| online.clone());
        for core in &self.cores {
            for id in core.intersection(&seen).iter() {
                let file = format!("{cpu}/cpu{id}/topology/thread_siblings_list");
                put(root, &file, &core.to_string());
                put(root, &format!("{cpu}/cpu{id}/cache/index0/level"), "1");
                put(
                    root,
                    &format!("{cpu}/cpu{id}/cache/index0/shared_cpu_list"),
                    &core.to_string(),
                );
            }
        }
        for cache in &self.caches {
            for id in cache.iter() {
                put(root, &format!("{cpu}/cpu{id}/cache/index1/level"), "3");
                put(
                    root,
                    &format!("{cpu}/cpu{id}/cache/index1/shared_cpu_list"),
                    &cache.to_string(),
                );
            }
        }
        self.write_nodes(root);
        self.write_group(root, &online);
        let sources = Sources::below(root, self.pod.clone());
        (directory, sources)
    }

    /// Detects the machine from its files.
    pub(crate) fn machine(&self) -> Machine {
        let (_directory, sources) = self.write();
        Machine::detect(&sources, self.mask.clone())
    }

    /// Makes a plan with the default settings.
    pub(crate) fn plan(&self) -> Plan {
        self.plan_with(&AffinityConfig::default())
    }

    pub(crate) fn plan_with(&self, config: &AffinityConfig) -> Plan {
        Plan::new(&self.machine(), config).unwrap()
    }

    fn write_nodes(&self, root: &Path) {
        let node = "sys/devices/system/node";
        let ids: CpuSet = (0_u32..).take(self.nodes.len()).collect();
        put(root, &format!("{node}/online"), &ids.to_string());
        for (id, cpus) in self.nodes.iter().enumerate() {
            put(root, &format!("{node}/node{id}/cpulist"), &cpus.to_string());
        }
        if let Some(id) = self.nvme_node {
            put(root, "sys/class/nvme/nvme0/device/numa_node", &id.to_string());
        }
        put(root, "sys/class/net/lo/device/numa_node", "-1");
    }

    fn write_group(&self, root: &Path, online: &CpuSet) {
        let mask = self.mask.as_ref().unwrap_or(online);
        let status = format!("Name:\ttally\nCpus_allowed_list:\t{mask}\nMems_allowed_list:\t0\n");
        put(root, "proc/thread-self/status", &status);
        put(root, "proc/self/cgroup", "0::/tally");
        put(
            root,
            "proc/self/mountinfo",
            "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw",
        );
        let group = "sys/fs/cgroup/tally";
        put(root, &format!("{group}/cpuset.cpus.effective"), &mask.to_string());
        if let Some(limit) = &self.cpu_max {
            put(root, &format!("{group}/cpu.max"), limit);
        }
    }
}

/// Writes one file, with a line end after the text, as the kernel does.
pub(crate) fn put(root: &Path, file: &str, text: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{text}\n")).unwrap();
}
