//! The state of the simulated disk: the files as a process reads them, the durable part of the files, and the planned
//! faults.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    path::{Path, PathBuf},
};

use tally_journal::{DiskError, LockKind, Operation};

use super::TraceEvent;

pub(super) struct State {
    pub(super) random: SplitMix64,
    /// The number of crashes and restarts so far. Operations on files and locks from an earlier run fail.
    pub(super) run: u64,
    pub(super) directories: BTreeSet<PathBuf>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    pub(super) files: BTreeMap<u64, SimContents>,
    pub(super) next_file: u64,
    /// The locked directories, each with the number of its shared locks; 0 for an exclusive lock.
    locked: BTreeMap<PathBuf, usize>,
    pub(super) faults: Faults,
    pub(super) trace: VecDeque<TraceEvent>,
}

#[derive(Default)]
pub(super) struct Faults {
    pub(super) free_bytes: Option<u64>,
    pub(super) syncs_before_failure: Option<u64>,
    /// The file whose syncs fail.
    pub(super) failing: Option<PathBuf>,
    /// The files whose reads fail.
    pub(super) unreadable: BTreeSet<PathBuf>,
    /// Whether every open of a file fails as if no file descriptor were left.
    pub(super) out_of_descriptors: bool,
    pub(super) operations_before_power_off: Option<u64>,
    pub(super) powered_off: bool,
    pub(super) stalled: Option<Stall>,
    pub(super) waiting_syncs: usize,
    /// Number of stalled syncs that may continue while the others stay stalled.
    pub(super) released_syncs: usize,
}

/// The syncs that stall.
pub(super) enum Stall {
    All,
    Of(PathBuf),
}

#[derive(Default)]
pub(super) struct SimContents {
    /// The bytes that a process reads.
    pub(super) view: Vec<u8>,
    /// The bytes that survive every crash.
    pub(super) durable: Vec<u8>,
    /// The writes since the last sync: the offset and the bytes of each.
    pub(super) unsynced: Vec<(u64, Vec<u8>)>,
}

/// The changes of names that one operation makes. They become durable together.
struct NameChange {
    directory: PathBuf,
    /// The new file of each name; `None` removes the name.
    changes: Vec<(PathBuf, Option<u64>)>,
}

/// A pseudorandom number generator: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
pub(super) struct SplitMix64(u64);

const SECTOR_BYTES: usize = 512;
/// Maximum length of the trace. Older events are removed.
const TRACE_EVENTS_MAX: usize = 100_000;

// ===== impl State =====

impl State {
    pub(super) fn new(seed: u64) -> Self {
        State {
            random: SplitMix64(seed),
            run: 0,
            directories: BTreeSet::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            files: BTreeMap::new(),
            next_file: 0,
            locked: BTreeMap::new(),
            faults: Faults::default(),
            trace: VecDeque::new(),
        }
    }

    /// Makes a durable file with these contents.
    pub(super) fn add_durable_file(&mut self, path: &Path, contents: &[u8]) {
        let file = self.next_file;
        self.next_file += 1;
        let parents = path.ancestors().skip(1).map(Path::to_path_buf);
        self.directories.extend(parents);
        let contents = SimContents {
            view: contents.to_vec(),
            durable: contents.to_vec(),
            unsynced: Vec::new(),
        };
        self.files.insert(file, contents);
        self.names.insert(path.to_path_buf(), file);
        self.durable_names.insert(path.to_path_buf(), file);
    }

    /// Applies a crash: keeps a random part of the unsynced data and names, and drops the rest.
    pub(super) fn crash(&mut self) {
        self.make_some_names_durable();
        let kept: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| kept.contains(file));
        for contents in self.files.values_mut() {
            contents.crash(&mut self.random);
        }
        self.begin_run();
    }

    pub(super) fn begin_run(&mut self) {
        self.run += 1;
        self.locked.clear();
        self.faults = Faults::default();
    }

    /// Locks a directory, unless another lock excludes the requested lock. Returns whether the directory was locked.
    pub(super) fn lock(&mut self, dir: &Path, kind: LockKind) -> bool {
        match (self.locked.get_mut(dir), kind) {
            (None, LockKind::Shared) => self.locked.insert(dir.to_path_buf(), 1).is_none(),
            (None, LockKind::Exclusive) => self.locked.insert(dir.to_path_buf(), 0).is_none(),
            (Some(shared), LockKind::Shared) if *shared > 0 => {
                *shared += 1;
                true
            }
            (Some(_), LockKind::Shared | LockKind::Exclusive) => false,
        }
    }

    pub(super) fn unlock(&mut self, dir: &Path, kind: LockKind) {
        let shared = self.locked.get_mut(dir).unwrap();
        match kind {
            LockKind::Shared if *shared > 1 => *shared -= 1,
            LockKind::Shared | LockKind::Exclusive => {
                self.locked.remove(dir);
            }
        }
    }

    pub(super) fn find(&self, operation: Operation, path: &Path) -> Result<u64, DiskError> {
        let not_found = || DiskError::new(operation, path, io::ErrorKind::NotFound.into());
        self.names.get(path).copied().ok_or_else(not_found)
    }

    pub(super) fn change_names(&mut self, path: &Path, changes: Vec<(PathBuf, Option<u64>)>) {
        apply(&mut self.names, &changes);
        let directory = path.parent().unwrap().to_path_buf();
        assert!(
            self.directories.contains(&directory),
            "there is no directory {}",
            directory.display()
        );
        self.unsynced_names.push(NameChange { directory, changes });
    }

    /// Makes the oldest `count` unsynced changes of names in a directory durable.
    pub(super) fn make_names_durable(&mut self, directory: &Path, count: usize) {
        let mut left = count;
        let durable = &mut self.durable_names;
        self.unsynced_names.retain(|change| {
            if change.directory != directory || left == 0 {
                return true;
            }
            left -= 1;
            apply(durable, &change.changes);
            false
        });
    }

    /// Makes a random number of the oldest unsynced changes of each directory durable, and drops the rest.
    pub(super) fn make_some_names_durable(&mut self) {
        let directories: BTreeSet<PathBuf> = self
            .unsynced_names
            .iter()
            .map(|change| change.directory.clone())
            .collect();
        for directory in directories {
            let changes = self
                .unsynced_names
                .iter()
                .filter(|change| change.directory == directory)
                .count();
            let kept = self.random.below(changes as u64 + 1);
            self.make_names_durable(&directory, usize::try_from(kept).unwrap());
        }
        self.unsynced_names.clear();
        self.names = self.durable_names.clone();
    }

    /// Counts an operation that changes something. Returns whether the power is off. If so, the operation fails.
    pub(super) fn count_operation(&mut self) -> bool {
        match &mut self.faults.operations_before_power_off {
            None => {}
            Some(0) => self.faults.powered_off = true,
            Some(operations) => *operations -= 1,
        }
        self.faults.powered_off
    }

    /// Counts a sync. Returns whether the sync fails.
    pub(super) fn sync_fails(&mut self) -> bool {
        match self.faults.syncs_before_failure {
            None => false,
            Some(0) => {
                self.faults.syncs_before_failure = None;
                true
            }
            Some(syncs) => {
                self.faults.syncs_before_failure = Some(syncs - 1);
                false
            }
        }
    }

    pub(super) fn note(&mut self, event: TraceEvent) {
        if self.trace.len() == TRACE_EVENTS_MAX {
            self.trace.pop_front();
        }
        self.trace.push_back(event);
    }
}

fn apply(names: &mut BTreeMap<PathBuf, u64>, changes: &[(PathBuf, Option<u64>)]) {
    for (path, file) in changes {
        match file {
            Some(file) => names.insert(path.clone(), *file),
            None => names.remove(path),
        };
    }
}

// ===== impl Faults =====

impl Faults {
    /// Returns whether a sync of the file at `path` stalls.
    pub(super) fn stalls(&self, path: &Path) -> bool {
        match &self.stalled {
            None => false,
            Some(Stall::All) => true,
            Some(Stall::Of(stalled)) => stalled == path,
        }
    }
}

// ===== impl SimContents =====

impl SimContents {
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        put(&mut self.view, offset, bytes);
        self.unsynced.push((offset, bytes.to_vec()));
    }

    pub(super) fn make_durable(&mut self) {
        for (offset, bytes) in self.unsynced.drain(..) {
            put(&mut self.durable, offset, &bytes);
        }
    }

    /// Applies a failed sync: a random part of the unsynced sectors becomes durable, and no later sync writes the
    /// other sectors.
    pub(super) fn fail_sync(&mut self, random: &mut SplitMix64) {
        self.make_some_durable(random);
    }

    /// Applies a crash: a random part of the unsynced sectors becomes durable, and the other sectors are lost.
    pub(super) fn crash(&mut self, random: &mut SplitMix64) {
        self.make_some_durable(random);
        self.view = self.durable.clone();
    }

    /// Makes a random part of the unsynced sectors durable, and forgets the other sectors. Draws a number n from 0 to
    /// 8, and keeps each sector with the probability n / 8.
    pub(super) fn make_some_durable(&mut self, random: &mut SplitMix64) {
        let kept_of_8 = random.below(9);
        for (offset, bytes) in std::mem::take(&mut self.unsynced) {
            let to_boundary = SECTOR_BYTES - usize::try_from(offset).unwrap() % SECTOR_BYTES;
            let mut start = 0;
            let mut end = to_boundary.min(bytes.len());
            while start < bytes.len() {
                if random.below(8) < kept_of_8 {
                    put(&mut self.durable, offset + start as u64, &bytes[start..end]);
                }
                start = end;
                end = (end + SECTOR_BYTES).min(bytes.len());
            }
        }
    }
}

fn put(contents: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let start = usize::try_from(offset).unwrap();
    if contents.len() < start + bytes.len() {
        contents.resize(start + bytes.len(), 0);
    }
    contents[start..start + bytes.len()].copy_from_slice(bytes);
}

// ===== impl SplitMix64 =====

impl SplitMix64 {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
