//! The state of the simulated disk: names, files, locks, and the faults that are active.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    path::{Path, PathBuf},
};

use tally_journal::{DiskError, LockKind, Operation};

use super::{
    FaultCounts,
    contents::{Chance, SECTOR_BYTES, SimContents},
    latency::{Latency, Work},
    names::{FileId, NameChange, Names, PathId, Paths},
    plan::{CrashModel, Fault, FaultPlan},
    random::{Digest, SplitMix64},
    trace::{Event, Trace},
};

pub(super) struct State {
    /// Random numbers for the outcome of crashes and for [`tally_journal::Disk::fill_random`].
    pub(super) random: SplitMix64,
    /// Random numbers for the faults of the plan. This generator is separate, so that a plan without faults changes no
    /// other decision.
    fault_random: SplitMix64,
    pub(super) latency: Latency,
    /// The number of crashes and restarts so far. Operations on files and locks from an earlier run fail.
    pub(super) run: u64,
    pub(super) paths: Paths,
    pub(super) names: Names,
    /// The files by number; `None` if a crash removed the file.
    files: Vec<Option<SimContents>>,
    /// The contents of removed files, oldest first: bytes that a new file may contain where nothing was synced.
    removed: VecDeque<Vec<u8>>,
    /// Where crashes put stale bytes, until a test takes the list.
    stale: Vec<(FileId, Range<usize>)>,
    /// The locked directories, each with the number of its shared locks; 0 for an exclusive lock.
    locked: BTreeMap<PathId, usize>,
    pub(super) faults: Faults,
    plan: FaultPlan,
    has_plan: bool,
    pub(super) crash_model: CrashModel,
    pub(super) counts: FaultCounts,
    pub(super) digest: Digest,
    pub(super) trace: Trace,
}

#[derive(Default)]
pub(super) struct Faults {
    pub(super) free_bytes: Option<u64>,
    /// Whether the existing files own no space, as if somebody had made sparse copies of them.
    pub(super) sparse: bool,
    pub(super) syncs_before_failure: Option<u64>,
    /// The kinds of operations that fail with EIO, each with the path for which they fail.
    broken: Vec<(Operation, PathId)>,
    /// Whether every open of a file fails as if no file descriptor were left.
    pub(super) out_of_descriptors: bool,
    pub(super) operations_before_power_off: Option<u64>,
    pub(super) powered_off: bool,
    pub(super) stalled: Option<Stall>,
    pub(super) waiting_syncs: usize,
    /// Number of stalled syncs that may continue while the others stay stalled.
    pub(super) released_syncs: usize,
    /// Whether every read of a file stalls.
    pub(super) stalls_reads: bool,
    pub(super) waiting_reads: usize,
}

/// The syncs that stall.
pub(super) enum Stall {
    All,
    Of(PathId),
}

/// The error number of an input/output error on Linux and other systems.
pub(super) const EIO: i32 = 5;
/// The error number of a full disk on Linux and other systems.
pub(super) const ENOSPC: i32 = 28;
/// Maximum number of removed files whose contents are kept.
const REMOVED_MAX: usize = 16;
/// Number of random places in which a crash looks for stale bytes.
const STALE_TRIES: usize = 4;

// ===== impl State =====

impl State {
    pub(super) fn new(seed: u64) -> Self {
        State {
            random: SplitMix64::new(seed, 0),
            fault_random: SplitMix64::new(seed, 1),
            latency: Latency::new(seed),
            run: 0,
            paths: Paths::default(),
            names: Names::default(),
            files: Vec::new(),
            removed: VecDeque::new(),
            stale: Vec::new(),
            locked: BTreeMap::new(),
            faults: Faults::default(),
            plan: FaultPlan::default(),
            has_plan: false,
            crash_model: CrashModel::default(),
            counts: FaultCounts::default(),
            digest: Digest::new(seed),
            trace: Trace::new(),
        }
    }

    pub(super) fn set_plan(&mut self, plan: FaultPlan) {
        self.has_plan = !plan.is_empty();
        self.plan = plan;
    }

    /// Makes a durable file with these contents.
    pub(super) fn add_durable_file(&mut self, path: &Path, bytes: &[u8]) {
        for parent in path.ancestors().skip(1) {
            let parent = self.paths.id(parent);
            self.names.add_directory(parent);
        }
        let file = self.add_file(SimContents::durable_from(bytes));
        let path = self.paths.id(path);
        self.names.add_durable(path, file);
    }

    pub(super) fn add_file(&mut self, contents: SimContents) -> FileId {
        self.files.push(Some(contents));
        FileId(self.files.len() - 1)
    }

    /// Returns a file that exists in this run.
    pub(super) fn file(&self, file: FileId) -> &SimContents {
        self.files[file.0].as_ref().unwrap()
    }

    /// Returns a file that exists in this run.
    pub(super) fn file_mut(&mut self, file: FileId) -> &mut SimContents {
        self.files[file.0].as_mut().unwrap()
    }

    pub(super) fn find(&self, operation: Operation, path: PathId) -> Result<FileId, DiskError> {
        let not_found = || self.failed(operation, path, io::ErrorKind::NotFound.into());
        self.names.file(path).ok_or_else(not_found)
    }

    /// Returns the file at `path`.
    ///
    /// # Panics
    /// If no file has this path.
    pub(super) fn existing(&self, path: &Path) -> FileId {
        let file = self.paths.known(path).and_then(|path| self.names.file(path));
        file.unwrap_or_else(|| panic!("there is no file {}", path.display()))
    }

    pub(super) fn failed(&self, operation: Operation, path: PathId, source: io::Error) -> DiskError {
        DiskError::new(operation, Path::to_path_buf(self.paths.path(path)), source)
    }

    pub(super) fn change_names(&mut self, change: NameChange) {
        assert!(
            self.names.has_directory(change.directory),
            "there is no directory {}",
            self.paths.path(change.directory).display()
        );
        self.names.change(change);
    }

    pub(super) fn note(&mut self, event: Event) {
        self.trace.note(event);
    }

    // ----- faults

    /// Counts the start of an operation. Returns the error if the power is off.
    pub(super) fn begin(&mut self, operation: Operation, path: PathId, work: Work) -> Result<(), DiskError> {
        self.counts.operations += 1;
        self.digest.add(((operation as u64) << 32) | u64::from(path.0));
        if self.faults.powered_off {
            return Err(self.failed(operation, path, io::Error::from_raw_os_error(EIO)));
        }
        self.latency.charge(work);
        Ok(())
    }

    /// Returns the error with which the operation fails, if it fails: the error of an earlier fault that lasts for
    /// ever, or of a new fault of the plan.
    pub(super) fn draw_fault(&mut self, operation: Operation, path: PathId) -> Result<(), DiskError> {
        let fault = if self.faults.broken.contains(&(operation, path)) {
            Some(Fault::Io { for_ever: false })
        } else if self.has_plan {
            self.plan.draw(operation, &mut self.fault_random)
        } else {
            None
        };
        let number = match fault {
            None => return Ok(()),
            Some(Fault::Io { for_ever }) => {
                if for_ever {
                    self.faults.break_for_ever(operation, path);
                }
                self.counts.io_errors += 1;
                EIO
            }
            Some(Fault::Full { for_ever }) => {
                if for_ever {
                    self.faults.free_bytes = Some(0);
                }
                self.counts.full_errors += 1;
                ENOSPC
            }
        };
        self.digest.add(u64::try_from(number).unwrap());
        Err(self.failed(operation, path, io::Error::from_raw_os_error(number)))
    }

    /// Counts an operation that changes something. Returns whether the power is off. If so, the operation fails.
    pub(super) fn count_change(&mut self) -> bool {
        self.counts.changes += 1;
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

    /// Takes the space for `growth` more bytes. Returns the number of bytes for which no space was free.
    pub(super) fn take_space(&mut self, growth: u64) -> u64 {
        let Some(free) = &mut self.faults.free_bytes else {
            return 0;
        };
        let missing = growth.saturating_sub(*free);
        *free = free.saturating_sub(growth);
        missing
    }

    pub(super) fn free_space(&mut self, bytes: u64) {
        if let Some(free) = &mut self.faults.free_bytes {
            *free = free.saturating_add(bytes);
        }
    }

    /// Applies a failed sync to a file.
    pub(super) fn fail_sync(&mut self, file: FileId) {
        self.counts.failed_syncs += 1;
        let mut chance = Chance {
            random: &mut self.random,
            model: self.crash_model,
            counts: &mut self.counts,
        };
        self.files[file.0].as_mut().unwrap().fail_sync(&mut chance);
    }

    // ----- crashes

    /// Applies a crash: keeps a random part of the unsynced data and names, and drops the rest.
    pub(super) fn crash(&mut self) {
        self.counts.crashes += 1;
        self.names.crash(&mut self.random);
        self.drop_files_without_name();
        let mut lost = Vec::new();
        let mut chance = Chance {
            random: &mut self.random,
            model: self.crash_model,
            counts: &mut self.counts,
        };
        for (number, file) in self.files.iter_mut().enumerate() {
            if let Some(file) = file {
                file.crash(&mut chance, &mut self.digest, |sector| {
                    lost.push((FileId(number), sector));
                });
            }
        }
        for (file, sector) in lost {
            self.damage_lost_sector(file, sector);
        }
        self.names.add_to(&mut self.digest);
        self.begin_run();
    }

    pub(super) fn begin_run(&mut self) {
        self.run += 1;
        self.locked.clear();
        self.faults = Faults::default();
        self.digest.add(self.run);
    }

    /// Keeps bytes of an earlier life of the disk, which a crash may show in sectors that were never synced.
    pub(super) fn bury(&mut self, bytes: Vec<u8>) {
        if bytes.iter().all(|byte| *byte == 0) {
            return;
        }
        if self.removed.len() == REMOVED_MAX {
            self.removed.pop_front();
        }
        self.removed.push_back(bytes);
    }

    fn drop_files_without_name(&mut self) {
        let mut has_name = vec![false; self.files.len()];
        for (_, file) in self.names.iter() {
            has_name[file.0] = true;
        }
        for (number, has_name) in has_name.into_iter().enumerate() {
            if !has_name && let Some(contents) = self.files[number].take() {
                self.bury(contents.into_durable());
            }
        }
    }

    /// Fills a lost sector with stale bytes or zeros, or leaves it as it is.
    fn damage_lost_sector(&mut self, file: FileId, sector: Range<usize>) {
        let CrashModel {
            stale_sectors,
            zero_sectors,
            ..
        } = self.crash_model;
        let mut bytes = [0; SECTOR_BYTES];
        let bytes = &mut bytes[..sector.len()];
        let drawn = self.random.millionth();
        if drawn < u64::from(stale_sectors) {
            if self.copy_stale(file, sector.start, bytes) {
                self.counts.stale_sectors += 1;
                self.stale.push((file, sector.clone()));
            }
        } else if drawn >= u64::from(stale_sectors) + u64::from(zero_sectors) {
            return;
        }
        self.digest.add_bytes(bytes);
        self.file_mut(file).put_durable(sector.start, bytes);
    }

    /// Copies bytes of a removed file or of another file than `file`, most often from the same offset. Returns whether
    /// there were such bytes.
    fn copy_stale(&mut self, file: FileId, start: usize, bytes: &mut [u8]) -> bool {
        for _ in 0..STALE_TRIES {
            let chosen = self.random.length_below(self.removed.len() + self.files.len());
            let source = match (self.removed.get(chosen), chosen.checked_sub(self.removed.len())) {
                (Some(removed), _) => removed.as_slice(),
                (None, Some(other)) if other != file.0 => {
                    self.files[other].as_ref().map_or(&[][..], SimContents::durable)
                }
                _ => continue,
            };
            let from = if self.random.below(4) > 0 {
                start
            } else {
                self.random.length_below(source.len() / SECTOR_BYTES + 1) * SECTOR_BYTES
            };
            if from < source.len() {
                let length = bytes.len().min(source.len() - from);
                bytes[..length].copy_from_slice(&source[from..from + length]);
                return true;
            }
        }
        false
    }

    /// Returns where crashes put stale bytes since the last call, by the path that the file has now.
    pub(super) fn take_stale(&mut self) -> Vec<(PathBuf, Range<usize>)> {
        let stale = std::mem::take(&mut self.stale);
        let named = stale.into_iter().filter_map(|(file, bytes)| {
            let (path, _) = self.names.iter().find(|(_, named)| *named == file)?;
            Some((Path::to_path_buf(self.paths.path(path)), bytes))
        });
        named.collect()
    }

    // ----- locks

    /// Locks a directory, unless another lock excludes the requested lock. Returns whether the directory was locked.
    pub(super) fn lock(&mut self, dir: PathId, kind: LockKind) -> bool {
        match (self.locked.get_mut(&dir), kind) {
            (None, LockKind::Shared) => self.locked.insert(dir, 1).is_none(),
            (None, LockKind::Exclusive) => self.locked.insert(dir, 0).is_none(),
            (Some(shared), LockKind::Shared) if *shared > 0 => {
                *shared += 1;
                true
            }
            (Some(_), LockKind::Shared | LockKind::Exclusive) => false,
        }
    }

    pub(super) fn unlock(&mut self, dir: PathId, kind: LockKind) {
        let shared = self.locked.get_mut(&dir).unwrap();
        match kind {
            LockKind::Shared if *shared > 1 => *shared -= 1,
            LockKind::Shared | LockKind::Exclusive => {
                self.locked.remove(&dir);
            }
        }
    }
}

// ===== impl Faults =====

impl Faults {
    /// Fails every operation of this kind on this path.
    pub(super) fn break_for_ever(&mut self, operation: Operation, path: PathId) {
        self.broken.push((operation, path));
    }

    /// Returns whether a sync of the file at `path` stalls.
    pub(super) fn stalls(&self, path: PathId) -> bool {
        match self.stalled {
            None => false,
            Some(Stall::All) => true,
            Some(Stall::Of(stalled)) => stalled == path,
        }
    }
}
