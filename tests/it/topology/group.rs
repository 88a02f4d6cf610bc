//! Makes control groups for processes of a test, with the version of control groups that the machine has. This needs
//! root privileges. Without them, the test prints a message and is skipped.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use tally_topology::CpuSet;

use super::support::privileges::skipped;

/// A control group directly below the mount point. Dropping this value removes the group. The processes in the group
/// must have ended.
#[derive(Debug)]
pub(crate) struct Group {
    directory: PathBuf,
    version: u32,
}

/// Maximum number of attempts to remove a group, 10 ms apart. The first attempts may fail, because the kernel removes
/// ended processes from the group with a delay.
const REMOVALS_MAX: u32 = 200;

// ===== impl Group =====

impl Group {
    /// Makes a group that may use only `cpus`. Returns `None` if that is not possible.
    pub(crate) fn with_cpus(cpus: &CpuSet) -> Option<Self> {
        Self::make("cpuset", |group| {
            if group.version == 1 {
                // A new group of version 1 has no memory nodes. A group without memory nodes accepts no process.
                let parent = group.directory.parent().unwrap();
                let nodes = fs::read_to_string(parent.join("cpuset.effective_mems"))?;
                group.write("cpuset.mems", nodes.trim())?;
            }
            group.write("cpuset.cpus", &cpus.to_string())
        })
    }

    /// Makes a group that gets `quota_us` microseconds of CPU time in each period of `period_us` microseconds. Returns
    /// `None` if that is not possible.
    pub(crate) fn with_quota(quota_us: u64, period_us: u64) -> Option<Self> {
        Self::make("cpu", |group| {
            if group.version == 1 {
                group.write("cpu.cfs_period_us", &period_us.to_string())?;
                group.write("cpu.cfs_quota_us", &quota_us.to_string())
            } else {
                group.write("cpu.max", &format!("{quota_us} {period_us}"))
            }
        })
    }

    /// Returns the version of control groups, 1 or 2.
    pub(crate) fn version(&self) -> i32 {
        i32::try_from(self.version).unwrap()
    }

    /// Changes the CPUs that the group may use.
    pub(crate) fn set_cpus(&self, cpus: &CpuSet) {
        self.write("cpuset.cpus", &cpus.to_string()).unwrap();
    }

    /// Returns the command prefix that starts a program in this group.
    pub(crate) fn wrapper(&self) -> Vec<String> {
        let processes = self.directory.join("cgroup.procs");
        let script = format!("echo $$ > '{}' && exec \"$@\"", processes.display());
        ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
    }

    fn make(controller: &str, limit: impl FnOnce(&Self) -> io::Result<()>) -> Option<Self> {
        let made = Self::create(controller).and_then(|group| limit(&group).map(|()| group));
        made.inspect_err(|error| skipped(&format!("needs a control group with {controller}: {error}")))
            .ok()
    }

    fn create(controller: &str) -> io::Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let (mount, version) = mount_of(controller)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no hierarchy has the controller"))?;
        if version == 2 {
            fs::write(mount.join("cgroup.subtree_control"), format!("+{controller}"))?;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = mount.join(format!("tally-test-{}-{number}", std::process::id()));
        fs::create_dir(&directory)?;
        Ok(Self { directory, version })
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        fs::write(self.directory.join(file), text)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..REMOVALS_MAX {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Returns the mount point of the control group hierarchy with `controller`, and the version of the hierarchy.
fn mount_of(controller: &str) -> Option<(PathBuf, u32)> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let systems = mounts.lines().filter_map(|line| {
        let (place, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let (kind, options) = (system.next()?, system.nth(1)?);
        Some((Path::new(place.split(' ').nth(4)?), kind, options))
    });
    let mut unified = None;
    for (mount, kind, options) in systems {
        if kind == "cgroup" && options.split(',').any(|option| option == controller) {
            return Some((mount.to_owned(), 1));
        }
        let has = |mount: &Path| {
            let controllers = fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
            controllers.split_whitespace().any(|name| name == controller)
        };
        if kind == "cgroup2" && has(mount) {
            unified = Some((mount.to_owned(), 2));
        }
    }
    unified
}
