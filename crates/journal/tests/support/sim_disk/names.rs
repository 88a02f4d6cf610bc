//! The names of the simulated disk: numbers for paths, directories, and which name leads to which file.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::Arc,
};

use super::random::{Digest, SplitMix64};

/// The number of a path. Paths are numbered in the order of their first use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PathId(pub(super) u32);

/// The number of a file. It stays the same if the file is renamed, and is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId(pub(super) usize);

/// Numbers for paths, which are cheaper to compare and to store than paths.
#[derive(Default)]
pub(super) struct Paths {
    /// Only for searches. The order of its entries differs between runs, so it is never iterated.
    ids: HashMap<Arc<Path>, PathId>,
    paths: Vec<Arc<Path>>,
}

/// The names as a process sees them, and the names that survive a crash.
#[derive(Default)]
pub(super) struct Names {
    directories: BTreeSet<PathId>,
    view: BTreeMap<PathId, FileId>,
    durable: BTreeMap<PathId, FileId>,
    unsynced: Vec<NameChange>,
}

/// The changes of names that one operation makes. They become durable together.
pub(super) struct NameChange {
    pub(super) directory: PathId,
    /// A name that is removed. It is removed before `given` is made.
    pub(super) removed: Option<PathId>,
    /// A name that is made or replaced, and its file.
    pub(super) given: Option<(PathId, FileId)>,
}

// ===== impl Paths =====

impl Paths {
    /// Returns the number of `path`.
    pub(super) fn id(&mut self, path: &Path) -> PathId {
        if let Some(id) = self.ids.get(path) {
            return *id;
        }
        let id = PathId(u32::try_from(self.paths.len()).unwrap());
        let path: Arc<Path> = Arc::from(path);
        self.ids.insert(Arc::clone(&path), id);
        self.paths.push(path);
        id
    }

    /// Returns the number of `path` if the path was used before.
    pub(super) fn known(&self, path: &Path) -> Option<PathId> {
        self.ids.get(path).copied()
    }

    pub(super) fn path(&self, id: PathId) -> &Arc<Path> {
        &self.paths[id.0 as usize]
    }
}

// ===== impl Names =====

impl Names {
    pub(super) fn add_directory(&mut self, directory: PathId) {
        self.directories.insert(directory);
    }

    pub(super) fn has_directory(&self, directory: PathId) -> bool {
        self.directories.contains(&directory)
    }

    /// Returns the directories.
    pub(super) fn directories(&self) -> impl Iterator<Item = PathId> {
        self.directories.iter().copied()
    }

    /// Makes a name durably.
    pub(super) fn add_durable(&mut self, path: PathId, file: FileId) {
        self.view.insert(path, file);
        self.durable.insert(path, file);
    }

    pub(super) fn file(&self, path: PathId) -> Option<FileId> {
        self.view.get(&path).copied()
    }

    /// Returns all names as a process sees them, in the order of the first use of their paths.
    pub(super) fn iter(&self) -> impl Iterator<Item = (PathId, FileId)> {
        self.view.iter().map(|(path, file)| (*path, *file))
    }

    pub(super) fn change(&mut self, change: NameChange) {
        apply(&mut self.view, &change);
        self.unsynced.push(change);
    }

    /// Makes the unsynced changes of names in a directory durable.
    pub(super) fn sync(&mut self, directory: PathId) {
        self.make_durable(directory, usize::MAX);
    }

    /// Makes the oldest `count` unsynced changes of names in a directory durable.
    fn make_durable(&mut self, directory: PathId, count: usize) {
        let mut left = count;
        let durable = &mut self.durable;
        self.unsynced.retain(|change| {
            if change.directory != directory || left == 0 {
                return true;
            }
            left -= 1;
            apply(durable, change);
            false
        });
    }

    /// Makes a random number of the oldest unsynced changes of each directory durable, and drops the rest.
    pub(super) fn crash(&mut self, random: &mut SplitMix64) {
        if self.unsynced.is_empty() {
            return;
        }
        let directories: BTreeSet<PathId> = self.unsynced.iter().map(|change| change.directory).collect();
        for directory in directories {
            let changes = self
                .unsynced
                .iter()
                .filter(|change| change.directory == directory)
                .count();
            let kept = random.length_below(changes + 1);
            self.make_durable(directory, kept);
        }
        self.unsynced.clear();
        self.view = self.durable.clone();
    }

    pub(super) fn add_to(&self, digest: &mut Digest) {
        for (path, file) in &self.view {
            digest.add(u64::from(path.0));
            digest.add(file.0 as u64);
        }
    }
}

fn apply(names: &mut BTreeMap<PathId, FileId>, change: &NameChange) {
    if let Some(path) = change.removed {
        names.remove(&path);
    }
    if let Some((path, file)) = change.given {
        names.insert(path, file);
    }
}
