//! [`Sources`]: the files and the hints from which the facts about a machine are read.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{cpuset::CpuSet, pod::PodHints};
use crate::sys::proc;

/// The root of the file tree that is read (`/`, or the directory of a simulated machine in tests), and the hints of
/// Kubernetes.
#[derive(Debug, Clone)]
pub struct Sources {
    pub(super) root: PathBuf,
    pub(super) pod: PodHints,
}

// ===== impl Sources =====

impl Sources {
    /// Returns the sources for the machine on which the process runs.
    #[must_use]
    pub fn host() -> Self {
        Self {
            root: PathBuf::from("/"),
            pod: PodHints::from_environment(),
        }
    }

    /// Returns the sources for a simulated machine: files below `root`, and the hints of Kubernetes.
    #[must_use]
    pub fn below(root: impl Into<PathBuf>, pod: PodHints) -> Self {
        Self {
            root: root.into(),
            pod,
        }
    }

    /// Returns the directory used as `/proc`.
    #[must_use]
    pub fn proc(&self) -> PathBuf {
        self.root.join("proc")
    }

    /// Returns the text of a file, or `None` if the file can't be read. `path` is relative to the root.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        proc::read_bounded(&self.root.join(path)).ok()
    }

    /// Returns the content of a file, trimmed and parsed, or `None` if the file can't be read or parsed.
    pub(super) fn value<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.trim().parse().ok()
    }

    /// Returns the CPUs that are online now.
    pub(super) fn online(&self) -> Option<CpuSet> {
        self.cpus("online")
    }

    pub(super) fn is_directory(&self, path: &Path) -> bool {
        self.root.join(path).is_dir()
    }

    /// Returns the CPU list in `sys/devices/system/cpu/<file>`.
    pub(super) fn cpus(&self, file: &str) -> Option<CpuSet> {
        self.value(Path::new("sys/devices/system/cpu").join(file))
    }

    /// Returns the list in the line `key:<tab>list` of the calling thread's file `/proc/thread-self/status`.
    pub(super) fn status_list(&self, key: &str) -> Option<CpuSet> {
        self.text("proc/thread-self/status")?
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| *name == key)
            .and_then(|(_, list)| list.parse().ok())
    }
}
