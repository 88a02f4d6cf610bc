//! The state of the simulated disk: its contents, the durable part of them, and the planned faults.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    path::{Path, PathBuf},
};

use tally_journal::{DiskError, LockKind, Operation};

use super::TraceEvent;

pub(super) struct State {
    pub(super) random: SplitMix64,
    /// Incremented at every crash and restart. Handles with an older number fail.
    pub(super) life: u64,
    pub(super) directories: BTreeSet<PathBuf>,
    pub(super) names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
    unsynced_names: Vec<NameChange>,
    pub(super) files: BTreeMap<u64, SimContents>,
    pub(super) next_file: u64,
    /// The locked directories with their number of shared locks; 0 for an exclusive lock.
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
    /// Whether every open of a file fails for want of a file descriptor.
    pub(super) out_of_descriptors: bool,
    pub(super) operations_before_power_off: Option<u64>,
    pub(super) powered_off: bool,
    pub(super) stalled: Option<Stall>,
    pub(super) waiting_syncs: usize,
    /// Number of stalled syncs that may continue while others stay stalled.
    pub(super) syncs_let_go: usize,
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
    pub(super) unsynced: Vec<(u64, Vec<u8>)>,
}

/// A change of one name; `None` removes the name.
struct NameChange {
    directory: PathBuf,
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
            life: 0,
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

    /// Makes a durable file.
    pub(super) fn hold(&mut self, path: &Path, contents: &[u8]) {
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

    /// Applies a crash: drops some of the unsynced data and names.
    pub(super) fn crash(&mut self) {
        self.keep_some_names();
        let kept: BTreeSet<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| kept.contains(file));
        for contents in self.files.values_mut() {
            contents.lose(&mut self.random);
        }
        self.begin_life();
    }

    pub(super) fn begin_life(&mut self) {
        self.life += 1;
        self.locked.clear();
        self.faults = Faults::default();
    }

    /// Locks a directory, unless another lock excludes this one. Returns whether it did.
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

    /// Makes the first `count` unsynced changes in a directory durable.
    pub(super) fn settle_names(&mut self, directory: &Path, count: usize) {
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

    /// Keeps a random number of the first unsynced changes of each directory, and drops the rest.
    pub(super) fn keep_some_names(&mut self) {
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
            self.settle_names(&directory, usize::try_from(kept).unwrap());
        }
        self.unsynced_names.clear();
        self.names = self.durable_names.clone();
    }

    pub(super) fn power_goes(&mut self) -> bool {
        match &mut self.faults.operations_before_power_off {
            None => {}
            Some(0) => self.faults.powered_off = true,
            Some(operations) => *operations -= 1,
        }
        self.faults.powered_off
    }

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
    pub(super) fn holds_up(&self, path: &Path) -> bool {
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

    pub(super) fn settle(&mut self) {
        for (offset, bytes) in self.unsynced.drain(..) {
            put(&mut self.durable, offset, &bytes);
        }
    }

    /// Applies a failed sync: some unsynced sectors reach the disk, and the others are never written again.
    pub(super) fn forget(&mut self, random: &mut SplitMix64) {
        self.settle_some(random);
    }

    /// Applies a crash.
    pub(super) fn lose(&mut self, random: &mut SplitMix64) {
        self.settle_some(random);
        self.view = self.durable.clone();
    }

    /// Keeps some unsynced sectors: all, none, or each with the same probability.
    pub(super) fn settle_some(&mut self, random: &mut SplitMix64) {
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
