//! [`Cgroup`]: the CPU limits of the process's control group, in version 1, version 2, or a mix of both.
//!
//! `/proc/self/cgroup` has the path of the group for each controller. `/proc/self/mountinfo` has the mount point of each hierarchy
//! and the part of it that is visible. Inside a container the two often disagree, because of another cgroup namespace; a
//! group that does not exist below the mount point is therefore assumed to be the mount point itself. The limits of parents
//! apply, too, so the smallest quota of the group and its parents counts.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{cpuset::CpuSet, sources::Sources};

/// Maximum number of levels whose limits are read. Kubernetes has about six.
const LEVELS_MAX: usize = 32;

/// `cpu.cfs_period_us` when it cannot be read: the kernel's default.
const PERIOD_US_DEFAULT: u64 = 100_000;

/// Interface generation of the CPU controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
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
    /// Periods in which the group was runnable.
    pub periods: u64,
    /// Periods in which it ran into the quota.
    pub throttled_periods: u64,
    /// Time for which its threads were stopped, µs.
    pub throttled_us: u64,
}

/// The CPU settings of the control group. `None` is unknown; for `quota` it is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// Version of the cpu controller, or of the cpuset controller if there is no cpu controller.
    pub version: Option<CgroupVersion>,
    /// Path of the group in the hierarchy of that controller.
    pub path: Option<String>,
    /// Path of the group in the hierarchy of the cpuset controller. In version 1 this is another hierarchy.
    pub cpuset_path: Option<String>,
    /// Requested CPUs (`cpuset.cpus`). Empty: those of the parent.
    pub cpuset: Option<CpuSet>,
    /// Granted CPUs (`cpuset.cpus.effective`, `cpuset.effective_cpus`).
    pub cpuset_effective: Option<CpuSet>,
    /// `cpuset.cpus.partition`: member, root or isolated.
    pub partition: Option<String>,
    /// The smallest quota of the group and its parents.
    pub quota: Option<CpuQuota>,
    /// Throttling counters of the group that has the quota `quota`, or of the process's group without a quota.
    pub stat: Option<CpuStat>,
    /// The file of `stat`, relative to the root of the sources.
    pub(super) stat_file: Option<PathBuf>,
    /// Version 1 with `CONFIG_RT_GROUP_SCHED`: real-time budget per period, µs. 0 forbids `SCHED_FIFO`
    /// to every process in the group, also to those of root.
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

    /// `cpu.max`: `max 100000` or `150000 100000`.
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
    /// Parses a `cpu.stat` file. `None` if it has no throttling counters, as in the root group of version 2.
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
                // Version 1 counts nanoseconds.
                "throttled_time" => Some(Self {
                    throttled_us: value / 1000,
                    ..known()
                }),
                _ => stat,
            };
        }
        stat
    }

    /// The difference to the earlier counters `before`; zero if the counters are those of another, newer group.
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

    /// Reads the present throttling counters.
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
    /// The hierarchy of `controller`. Version 1 comes first: on a machine with both versions, the controller is in version 1, and
    /// the hierarchy of version 2 is empty.
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

    /// The value of `file` at the lowest level that has the file.
    fn nearest<T: FromStr>(&self, sources: &Sources, file: &str) -> Option<T> {
        self.levels
            .iter()
            .find_map(|level| sources.text(level.join(file)))
            .and_then(|text| text.trim().parse().ok())
    }

    /// The level with the smallest quota, and the quota.
    fn tightest(&self, sources: &Sources) -> Option<(&Path, CpuQuota)> {
        let at = |level: &PathBuf| match self.version {
            CgroupVersion::V2 => CpuQuota::from_v2(&sources.text(level.join("cpu.max"))?),
            CgroupVersion::V1 => Some(CpuQuota {
                // -1 is "no limit" and does not parse as unsigned.
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

    /// The file with the throttling counters: at the level that throttles, which may be a parent.
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

/// The visible part of the hierarchy, and its mount point. The usual mount point if `mountinfo` does not have it.
///
/// See proc_pid_mountinfo(5): field 4 is the root within the file system, field 5 the mount point, and
/// after a lone `-` follow the type, the source and the options, where version 1 lists controllers.
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

/// The directory of the group and its parents up to the mount point, relative to the root of `sources`.
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
