//! [`Cgroup`]: the CPU limits of the process's control group, in version 1, version 2, or a mix of both.
//!
//! A control group (cgroup) is a directory in a tree of groups, which the kernel calls a hierarchy. `/proc/self/cgroup`
//! has the path of the process's group in each hierarchy. `/proc/self/mountinfo` has the mount point of each hierarchy,
//! and the part of the hierarchy that is visible there. In a container, the two files often disagree, because the path
//! may belong to another cgroup namespace. So if the group does not exist below the mount point, the mount point is
//! assumed to be the group. The quotas of all parents also limit the process, so the smallest quota of the group and
//! its parents counts.
//!
//! A controller is the part of the kernel that enforces one kind of limit. This module reads the controllers `cpu`
//! (quotas) and `cpuset` (allowed CPUs).

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{cpuset::CpuSet, sources::Sources};

/// Maximum number of levels (the group and its parents) whose limits are read. Kubernetes uses about six levels.
const LEVELS_MAX: usize = 32;

/// The period in µs if `cpu.cfs_period_us` can't be read: the kernel's default.
const PERIOD_US_DEFAULT: u64 = 100_000;

/// Version of the control group interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// Version 1: each controller can have a separate hierarchy.
    V1,
    /// Version 2: all controllers use the same hierarchy.
    V2,
}

/// CPU bandwidth: `quota_us` of CPU time in each `period_us` of wall time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuQuota {
    /// CPU time per period, µs.
    pub quota_us: u64,
    /// Length of a period, µs.
    pub period_us: u64,
}

/// Throttling counters of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuStat {
    /// Number of periods in which the group had threads to run.
    pub periods: u64,
    /// Number of periods in which the group used up its quota.
    pub throttled_periods: u64,
    /// Time for which the group's threads were stopped, summed over the CPUs, in µs.
    pub throttled_us: u64,
}

/// The CPU settings of the control group. A field is `None` if it is unknown. `quota` is also `None` if there is no
/// quota.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Version of the cpu controller, or of the cpuset controller if there is no cpu controller.
    pub version: Option<CgroupVersion>,
    /// Path of the group in the hierarchy of the controller whose version `version` is.
    pub path: Option<String>,
    /// Path of the group in the hierarchy of the cpuset controller. In version 1, each controller can have
    /// its own hierarchy.
    pub cpuset_path: Option<String>,
    /// Requested CPUs (`cpuset.cpus`). If empty, the group has the CPUs of its parent.
    pub cpuset: Option<CpuSet>,
    /// Granted CPUs (`cpuset.cpus.effective`, `cpuset.effective_cpus`).
    pub cpuset_effective: Option<CpuSet>,
    /// `cpuset.cpus.partition`: member, root or isolated.
    pub partition: Option<String>,
    /// The smallest quota of the group and its parents.
    pub quota: Option<CpuQuota>,
    /// Throttling counters of the group to which `quota` belongs, or of the process's group if there is no quota.
    pub stat: Option<CpuStat>,
    /// The file from which `stat` was read, relative to the root of the sources.
    pub(super) stat_file: Option<PathBuf>,
    /// The budget of real-time threads per period, in µs. Exists only in version 1, on kernels with
    /// `CONFIG_RT_GROUP_SCHED`. With 0, no process in the group may use `SCHED_FIFO`, even as root.
    pub rt_runtime_us: Option<i64>,
}

/// A controller's directories from the group of the process up to the mount point.
struct Hierarchy {
    version: CgroupVersion,
    path: String,
    levels: Vec<PathBuf>,
}

// ===== impl CgroupVersion =====

impl CgroupVersion {
    /// 1 or 2.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
        }
    }
}

// ===== impl CpuQuota =====

impl CpuQuota {
    /// The limit in thousandths of a CPU.
    #[must_use]
    pub fn millicpus(&self) -> u64 {
        self.quota_us
            .saturating_mul(1000)
            .checked_div(self.period_us)
            .unwrap_or(u64::MAX)
    }

    /// Parses a `cpu.max` file, such as `150000 100000`. Returns `None` for `max 100000`, which means no quota.
    fn from_v2(text: &str) -> Option<Self> {
        let mut fields = text.split_ascii_whitespace();
        Some(Self {
            quota_us: fields.next()?.parse().ok()?,
            period_us: fields.next()?.parse().ok()?,
        })
    }
}

// ===== impl CpuStat =====

impl CpuStat {
    /// Parses a `cpu.stat` file. Returns `None` if the file has no throttling counters, as in the root group of version
    /// 2.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut stat = None;
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            let Ok(value) = value.trim().parse::<u64>() else {
                continue;
            };
            let known = || stat.unwrap_or_default();
            stat = match key {
                "nr_periods" => Some(Self {
                    periods: value,
                    ..known()
                }),
                "nr_throttled" => Some(Self {
                    throttled_periods: value,
                    ..known()
                }),
                "throttled_usec" => Some(Self {
                    throttled_us: value,
                    ..known()
                }),
                // Version 1 counts nanoseconds, so the value is converted to microseconds.
                "throttled_time" => Some(Self {
                    throttled_us: value / 1000,
                    ..known()
                }),
                _ => stat,
            };
        }
        stat
    }

    /// Returns the difference to the earlier counters `before`. Each difference is at least 0, because the counters may
    /// now belong to a newer group.
    pub(super) const fn since(&self, before: &Self) -> Self {
        Self {
            periods: self.periods.saturating_sub(before.periods),
            throttled_periods: self.throttled_periods.saturating_sub(before.throttled_periods),
            throttled_us: self.throttled_us.saturating_sub(before.throttled_us),
        }
    }
}

// ===== impl Cgroup =====

impl Cgroup {
    /// Reads the control group of the calling process from `sources`.
    #[must_use]
    pub fn read(sources: &Sources) -> Self {
        let groups = sources.text("proc/self/cgroup").unwrap_or_default();
        let mounts = sources.text("proc/self/mountinfo").unwrap_or_default();
        let find = |controller| Hierarchy::find(sources, &groups, &mounts, controller);
        let (cpu, cpuset) = (find("cpu"), find("cpuset"));
        let mut cgroup = Self::default();
        if let Some(hierarchy) = cpu.as_ref().or(cpuset.as_ref()) {
            cgroup.version = Some(hierarchy.version);
            cgroup.path = Some(hierarchy.path.clone());
        }
        if let Some(hierarchy) = &cpu {
            let (level, quota) = hierarchy.tightest(sources).unzip();
            cgroup.quota = quota;
            cgroup.stat_file = hierarchy.stat_file(sources, level);
            cgroup.stat = cgroup.read_stat(sources);
            cgroup.rt_runtime_us = hierarchy.nearest(sources, "cpu.rt_runtime_us");
        }
        if let Some(hierarchy) = &cpuset {
            let effective = match hierarchy.version {
                CgroupVersion::V1 => "cpuset.effective_cpus",
                CgroupVersion::V2 => "cpuset.cpus.effective",
            };
            cgroup.cpuset_path = Some(hierarchy.path.clone());
            cgroup.cpuset = hierarchy.nearest(sources, "cpuset.cpus");
            cgroup.cpuset_effective = hierarchy.nearest(sources, effective);
            cgroup.partition = hierarchy.nearest(sources, "cpuset.cpus.partition");
        }
        cgroup
    }

    /// Reads the current throttling counters.
    pub(super) fn read_stat(&self, sources: &Sources) -> Option<CpuStat> {
        CpuStat::parse(&sources.text(self.stat_file.as_ref()?)?)
    }

    /// Whether `other` has the same CPUs and the same quota. Counters may differ.
    pub(super) fn same_limits(&self, other: &Self) -> bool {
        self.quota == other.quota
            && self.cpuset_effective == other.cpuset_effective
            && self.partition == other.partition
    }
}

// ===== impl Hierarchy =====

impl Hierarchy {
    /// Finds the hierarchy of `controller`. If version 1 has the controller, returns the hierarchy of version 1,
    /// because on such a machine the hierarchy of version 2 does not have this controller.
    fn find(sources: &Sources, groups: &str, mounts: &str, controller: &str) -> Option<Self> {
        let mut unified = None;
        let mut legacy = None;
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            if controllers.is_empty() {
                unified = Some(path);
            } else if controllers.split(',').any(|name| name == controller) {
                legacy = Some(path);
            }
        }
        let (version, path) = match (legacy, unified) {
            (Some(path), _) => (CgroupVersion::V1, path),
            (None, Some(path)) => (CgroupVersion::V2, path),
            (None, None) => return None,
        };
        let (visible, mount) = mount_of(mounts, version, controller);
        let inner = path.strip_prefix(visible.trim_end_matches('/')).unwrap_or("");
        Some(Self {
            version,
            path: path.to_owned(),
            levels: levels(sources, &mount, inner),
        })
    }

    /// Returns the value of `file` at the first level that has the file, from the process's group upwards.
    fn nearest<T: FromStr>(&self, sources: &Sources, file: &str) -> Option<T> {
        self.levels
            .iter()
            .find_map(|level| sources.text(level.join(file)))
            .and_then(|text| text.trim().parse().ok())
    }

    /// Returns the level with the smallest quota, and the quota. Returns `None` if no level has a quota.
    fn tightest(&self, sources: &Sources) -> Option<(&Path, CpuQuota)> {
        let at = |level: &PathBuf| match self.version {
            CgroupVersion::V2 => CpuQuota::from_v2(&sources.text(level.join("cpu.max"))?),
            CgroupVersion::V1 => Some(CpuQuota {
                // The value -1 means "no limit". It can't be parsed as an unsigned number, so the result is `None`.
                quota_us: sources.value(level.join("cpu.cfs_quota_us"))?,
                period_us: sources
                    .value(level.join("cpu.cfs_period_us"))
                    .unwrap_or(PERIOD_US_DEFAULT),
            }),
        };
        self.levels
            .iter()
            .filter_map(|level| Some((level.as_path(), at(level)?)))
            .min_by_key(|(_, quota)| quota.millicpus())
    }

    /// Returns the file with the throttling counters of `throttler`, the level that has the quota. If there is no such
    /// file, returns the first file of the process's group and its parents.
    fn stat_file(&self, sources: &Sources, throttler: Option<&Path>) -> Option<PathBuf> {
        let levels = self.levels.iter().map(PathBuf::as_path);
        let mut files = throttler
            .into_iter()
            .chain(levels)
            .map(|level| level.join("cpu.stat"));
        files.find(|file| sources.text(file).is_some())
    }
}

// ===== helpers =====

/// Returns the visible part of the hierarchy and its mount point. Returns the usual mount point if `mounts` does not
/// contain the hierarchy.
///
/// proc_pid_mountinfo(5) describes the lines of `mounts`: field 4 is the root within the file system, field 5 is the
/// mount point. After a field `-` follow the type, the source and the options. In version 1, the options contain the
/// controllers.
fn mount_of(mounts: &str, version: CgroupVersion, controller: &str) -> (String, String) {
    let carries = |kind: &str, options: &str| match version {
        CgroupVersion::V2 => kind == "cgroup2",
        CgroupVersion::V1 => kind == "cgroup" && options.split(',').any(|name| name == controller),
    };
    let found = mounts.lines().find_map(|line| {
        let (place, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let (kind, _, options) = (system.next()?, system.next()?, system.next()?);
        let mut place = place.split(' ').skip(3);
        let (visible, mount) = (place.next()?, place.next()?);
        carries(kind, options).then(|| (visible.to_owned(), mount.to_owned()))
    });
    found.unwrap_or_else(|| {
        let mount = match version {
            CgroupVersion::V1 => format!("/sys/fs/cgroup/{controller}"),
            CgroupVersion::V2 => "/sys/fs/cgroup".to_owned(),
        };
        ("/".to_owned(), mount)
    })
}

/// Returns the directories of the group and its parents up to the mount point, relative to the root of `sources`.
fn levels(sources: &Sources, mount: &str, inner: &str) -> Vec<PathBuf> {
    let mount = Path::new(mount.trim_start_matches('/'));
    let inner = inner.trim_matches('/');
    let outside = inner.split('/').any(|part| part == "..");
    let group = mount.join(inner);
    let lowest = if outside || !sources.is_directory(&group) {
        mount
    } else {
        group.as_path()
    };
    lowest
        .ancestors()
        .take_while(|level| level.starts_with(mount))
        .take(LEVELS_MAX)
        .map(Path::to_path_buf)
        .collect()
}
