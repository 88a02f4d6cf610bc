//! A simulated disk in memory. It loses and tears unsynced data, and fails when a test requests it. All random
//! decisions come from a seed, so a test is repeatable.
//!
//! - Bytes are durable after a sync of their file. The name of a file is durable after a sync of its directory. A crash
//!   keeps a random part of the unsynced bytes, in sectors of 512 bytes. Of the unsynced changes of names in a
//!   directory, a crash keeps a random number of the oldest changes and drops the newer changes.
//! - A failed sync discards the bytes that it should have written, as on Linux: a process can still read the bytes and
//!   a later sync succeeds, but the bytes are not on the disk.
//! - A test can fill the disk, cut the power after a number of operations, flip bits, and delay syncs.

mod state;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use tally_journal::{Disk, DiskError, DiskFile, DiskLock, FileAccess, LockKind, Operation};

use self::state::{SimContents, Stall, State};

/// The simulated disk. Clones share the same disk.
#[derive(Clone)]
pub(crate) struct SimDisk {
    shared: Arc<Shared>,
}

/// An entry of the trace: an operation on the disk or a mark of a test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TraceEvent {
    Created(PathBuf),
    Wrote {
        path: PathBuf,
        offset: u64,
        length: usize,
    },
    SyncBegan(PathBuf),
    Synced(PathBuf),
    SyncedDir(PathBuf),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
    /// A mark that the test added with [`SimDisk::mark`].
    Mark(String),
}

struct Shared {
    state: Mutex<State>,
    /// Wakes waiting threads when stalled syncs may continue, and when a sync stalls.
    changed: Condvar,
}

struct SimFile {
    disk: SimDisk,
    path: PathBuf,
    file: u64,
    access: FileAccess,
    /// The [`State::run`] in which the file was opened.
    run: u64,
}

struct SimLock {
    disk: SimDisk,
    path: PathBuf,
    kind: LockKind,
    /// The [`State::run`] in which the lock was acquired.
    run: u64,
}

/// Longest time that a test waits for a sync to stall. After this time the test fails.
const STALL_PATIENCE: Duration = Duration::from_secs(30);
/// The error number of an input/output error on Linux and other systems.
const EIO: i32 = 5;
/// The error number for a file that is not open for the operation.
const EBADF: i32 = 9;
/// The error number for a process that has no free file descriptor.
const EMFILE: i32 = 24;

// ===== impl SimDisk: control by tests =====

impl SimDisk {
    pub(crate) fn new(seed: u64) -> Self {
        let state = Mutex::new(State::new(seed));
        SimDisk {
            shared: Arc::new(Shared {
                state,
                changed: Condvar::new(),
            }),
        }
    }

    /// Makes a disk that contains these files, durably.
    pub(crate) fn holding(seed: u64, files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let disk = SimDisk::new(seed);
        {
            let mut state = disk.shared.state.lock();
            for (path, contents) in files {
                state.add_durable_file(path, contents);
            }
        }
        disk
    }

    /// Returns the disk as the type that the code under test accepts.
    pub(crate) fn handle(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    /// Cuts and restores the power: each part of the unsynced data is kept or lost at random. Clears all faults.
    pub(crate) fn crash(&self) {
        self.shared.state.lock().crash();
        self.shared.changed.notify_all();
    }

    /// Kills the process: its open files and locks become invalid. The files keep the content that the process saw, but
    /// unsynced data is still not durable. Clears all faults.
    pub(crate) fn restart(&self) {
        self.shared.state.lock().begin_run();
        self.shared.changed.notify_all();
    }

    /// Lets all files together grow by at most `bytes` from now on.
    pub(crate) fn set_free_bytes(&self, bytes: u64) {
        self.shared.state.lock().faults.free_bytes = Some(bytes);
    }

    /// Lets the next `syncs` syncs succeed and the sync after them fail.
    pub(crate) fn fail_sync_after(&self, syncs: u64) {
        self.shared.state.lock().faults.syncs_before_failure = Some(syncs);
    }

    /// Fails every sync of this file from now on. Syncs of other files, which another thread may make, succeed.
    pub(crate) fn fail_syncs_of(&self, path: &Path) {
        self.shared.state.lock().faults.failing = Some(path.to_path_buf());
    }

    /// Fails every read of this file from now on.
    pub(crate) fn fail_reads_of(&self, path: &Path) {
        self.shared
            .state
            .lock()
            .faults
            .unreadable
            .insert(path.to_path_buf());
    }

    /// While `is_out` is true, fails every open of a file, as if no file descriptor were left.
    pub(crate) fn set_out_of_descriptors(&self, is_out: bool) {
        self.shared.state.lock().faults.out_of_descriptors = is_out;
    }

    /// Cuts the power after `operations` more operations that change something. The next such operation and all later
    /// operations fail.
    pub(crate) fn power_off_after(&self, operations: u64) {
        self.shared.state.lock().faults.operations_before_power_off = Some(operations);
    }

    /// Whether the power is out.
    pub(crate) fn is_powered_off(&self) -> bool {
        self.shared.state.lock().faults.powered_off
    }

    /// Stalls every sync of a file until [`SimDisk::release_syncs`].
    pub(crate) fn stall_syncs(&self) {
        self.shared.state.lock().faults.stalled = Some(Stall::All);
    }

    /// Stalls the syncs of one file until [`SimDisk::release_syncs`].
    pub(crate) fn stall_syncs_of(&self, path: &Path) {
        self.shared.state.lock().faults.stalled = Some(Stall::Of(path.to_path_buf()));
    }

    /// Lets all stalled syncs continue.
    pub(crate) fn release_syncs(&self) {
        self.shared.state.lock().faults.stalled = None;
        self.shared.changed.notify_all();
    }

    /// Lets one stalled sync continue. If no sync is stalled, the next sync does not stall. Other syncs stall as
    /// before.
    pub(crate) fn release_one_sync(&self) {
        self.shared.state.lock().faults.released_syncs += 1;
        self.shared.changed.notify_all();
    }

    /// Waits until a sync is stalled.
    pub(crate) fn wait_for_stalled_sync(&self) {
        let mut state = self.shared.state.lock();
        let waiting = self.shared.changed.wait_while_for(
            &mut state,
            |state| state.faults.waiting_syncs == 0,
            STALL_PATIENCE,
        );
        assert!(!waiting.timed_out(), "no sync stalled");
    }

    /// Flips bit `bit` of a file, counted from its start.
    pub(crate) fn flip_bit(&self, path: &Path, bit: u64) {
        self.change(path, |contents| {
            let byte = usize::try_from(bit / 8).unwrap();
            contents[byte] ^= 1 << (bit % 8);
        });
    }

    /// Changes the durable bytes of a file without an operation of the disk.
    pub(crate) fn change(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.shared.state.lock();
        let file = state.names[path];
        let contents = state.files.get_mut(&file).unwrap();
        assert!(
            contents.unsynced.is_empty(),
            "there are unsynced writes to {}",
            path.display()
        );
        change(&mut contents.durable);
        contents.view = contents.durable.clone();
    }

    /// Returns the content of a file, as a process reads it.
    pub(crate) fn contents(&self, path: &Path) -> Vec<u8> {
        let state = self.shared.state.lock();
        state.files[&state.names[path]].view.clone()
    }

    /// Returns all files and their contents, as a process reads them.
    pub(crate) fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.shared.state.lock();
        state
            .names
            .iter()
            .map(|(path, file)| (path.clone(), state.files[file].view.clone()))
            .collect()
    }

    /// Returns the operations so far.
    pub(crate) fn trace(&self) -> Vec<TraceEvent> {
        self.shared.state.lock().trace.iter().cloned().collect()
    }

    /// Adds a mark to the trace, so that a test can check the order of operations and its own events.
    pub(crate) fn mark(&self, text: &str) {
        self.shared.state.lock().note(TraceEvent::Mark(text.to_owned()));
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDisk").finish_non_exhaustive()
    }
}

// ===== impl Disk for SimDisk =====

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        let mut state = self.begin(Operation::CreateDir, dir)?;
        state.directories.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn create_new(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        let mut state = self.begin_change(Operation::Create, path)?;
        if state.names.contains_key(path) {
            return Err(DiskError::new(
                Operation::Create,
                path,
                io::ErrorKind::AlreadyExists.into(),
            ));
        }
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, SimContents::default());
        state.change_names(path, vec![(path.to_path_buf(), Some(file))]);
        state.note(TraceEvent::Created(path.to_path_buf()));
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            path: path.to_path_buf(),
            file,
            access: FileAccess::ReadWrite,
            run: state.run,
        }))
    }

    fn open(&self, path: &Path, access: FileAccess) -> Result<Arc<dyn DiskFile>, DiskError> {
        let state = self.begin(Operation::Open, path)?;
        if state.faults.out_of_descriptors {
            let source = io::Error::from_raw_os_error(EMFILE);
            return Err(DiskError::new(Operation::Open, path, source));
        }
        let file = state.find(Operation::Open, path)?;
        Ok(Arc::new(SimFile {
            disk: self.clone(),
            path: path.to_path_buf(),
            file,
            access,
            run: state.run,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        assert_eq!(from.parent(), to.parent(), "a rename must stay in its directory");
        let mut state = self.begin_change(Operation::Rename, from)?;
        let file = state.find(Operation::Rename, from)?;
        state.change_names(
            from,
            vec![(from.to_path_buf(), None), (to.to_path_buf(), Some(file))],
        );
        state.note(TraceEvent::Renamed(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let mut state = self.begin_change(Operation::Remove, path)?;
        let file = state.find(Operation::Remove, path)?;
        let freed = state.files[&file].view.len() as u64;
        state.change_names(path, vec![(path.to_path_buf(), None)]);
        state.faults.free_bytes = state.faults.free_bytes.map(|free| free + freed);
        state.note(TraceEvent::Removed(path.to_path_buf()));
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let state = self.begin(Operation::List, dir)?;
        if !state.directories.contains(dir) {
            return Err(DiskError::new(
                Operation::List,
                dir,
                io::ErrorKind::NotFound.into(),
            ));
        }
        let inside = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(inside
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        let mut state = self.begin_change(Operation::SyncDir, dir)?;
        if state.sync_fails() {
            // Unlike a failed sync of a file, a failed sync of a directory discards nothing: the file system keeps
            // changes of names in its own journal and writes them later.
            return Err(DiskError::new(
                Operation::SyncDir,
                dir,
                io::Error::from_raw_os_error(EIO),
            ));
        }
        state.make_names_durable(dir, usize::MAX);
        state.note(TraceEvent::SyncedDir(dir.to_path_buf()));
        Ok(())
    }

    fn try_lock(&self, dir: &Path, kind: LockKind) -> Result<Option<Box<dyn DiskLock>>, DiskError> {
        let mut state = self.begin(Operation::Lock, dir)?;
        if !state.directories.contains(dir) {
            return Err(DiskError::new(
                Operation::Lock,
                dir,
                io::ErrorKind::NotFound.into(),
            ));
        }
        let run = state.run;
        Ok(state.lock(dir, kind).then(|| -> Box<dyn DiskLock> {
            Box::new(SimLock {
                disk: self.clone(),
                path: dir.to_path_buf(),
                kind,
                run,
            })
        }))
    }

    fn fill_random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        let mut state = self.begin(Operation::Random, Path::new("random"))?;
        bytes.fill_with(|| state.random.next().to_le_bytes()[0]);
        Ok(())
    }
}

impl SimDisk {
    fn begin(&self, operation: Operation, path: &Path) -> Result<MutexGuard<'_, State>, DiskError> {
        let state = self.shared.state.lock();
        if state.faults.powered_off {
            return Err(DiskError::new(operation, path, io::Error::from_raw_os_error(EIO)));
        }
        Ok(state)
    }

    fn begin_change(&self, operation: Operation, path: &Path) -> Result<MutexGuard<'_, State>, DiskError> {
        let mut state = self.begin(operation, path)?;
        if state.count_operation() {
            return Err(DiskError::new(operation, path, io::Error::from_raw_os_error(EIO)));
        }
        Ok(state)
    }
}

// ===== impl SimFile =====

impl DiskFile for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, DiskError> {
        let state = self.begin(Operation::Read)?;
        if state.faults.unreadable.contains(&self.path) {
            return Err(self.failed(Operation::Read, io::Error::from_raw_os_error(EIO)));
        }
        let view = &state.files[&self.file].view;
        let start = usize::try_from(offset).unwrap().min(view.len());
        let length = bytes.len().min(view.len() - start);
        bytes[..length].copy_from_slice(&view[start..start + length]);
        Ok(length)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.begin(Operation::Write)?;
        if self.access == FileAccess::Read {
            return Err(self.failed(Operation::Write, io::Error::from_raw_os_error(EBADF)));
        }
        let length_before = state.files[&self.file].view.len() as u64;
        let growth = (offset + bytes.len() as u64).saturating_sub(length_before);
        let missing = state
            .faults
            .free_bytes
            .map_or(0, |free| growth.saturating_sub(free));
        let fitting = bytes.len() - usize::try_from(missing).unwrap().min(bytes.len());
        state.faults.free_bytes = state.faults.free_bytes.map(|free| free.saturating_sub(growth));
        state
            .files
            .get_mut(&self.file)
            .unwrap()
            .write(offset, &bytes[..fitting]);
        state.note(TraceEvent::Wrote {
            path: self.path.clone(),
            offset,
            length: fitting,
        });
        if state.count_operation() {
            return Err(self.failed(Operation::Write, io::Error::from_raw_os_error(EIO)));
        }
        if missing > 0 {
            return Err(self.failed(Operation::Write, io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        let mut state = self.begin(Operation::Sync)?;
        state.note(TraceEvent::SyncBegan(self.path.clone()));
        if state.faults.stalls(&self.path) {
            state.faults.waiting_syncs += 1;
            self.disk.shared.changed.notify_all();
            self.disk.shared.changed.wait_while(&mut state, |state| {
                state.faults.stalls(&self.path) && state.faults.released_syncs == 0
            });
            state.faults.released_syncs = state.faults.released_syncs.saturating_sub(1);
            state.faults.waiting_syncs = state.faults.waiting_syncs.saturating_sub(1);
        }
        if state.run != self.run || state.count_operation() {
            return Err(self.failed(Operation::Sync, io::Error::from_raw_os_error(EIO)));
        }
        let fails = state.faults.failing.as_deref() == Some(self.path.as_path()) || state.sync_fails();
        let State { files, random, .. } = &mut *state;
        let contents = files.get_mut(&self.file).unwrap();
        if fails {
            contents.fail_sync(random);
            return Err(self.failed(Operation::Sync, io::Error::from_raw_os_error(EIO)));
        }
        contents.make_durable();
        state.note(TraceEvent::Synced(self.path.clone()));
        Ok(())
    }

    fn sync_all(&self) -> Result<(), DiskError> {
        self.sync_data()
    }

    fn size_bytes(&self) -> Result<u64, DiskError> {
        Ok(self.begin(Operation::Size)?.files[&self.file].view.len() as u64)
    }
}

impl SimFile {
    fn begin(&self, operation: Operation) -> Result<MutexGuard<'_, State>, DiskError> {
        let state = self.disk.begin(operation, &self.path)?;
        if state.run != self.run {
            return Err(self.failed(
                operation,
                io::Error::other("the file was opened before the crash"),
            ));
        }
        Ok(state)
    }

    fn failed(&self, operation: Operation, source: io::Error) -> DiskError {
        DiskError::new(operation, &self.path, source)
    }
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

// ===== impl SimLock =====

impl DiskLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.shared.state.lock();
        if state.run == self.run {
            state.unlock(&self.path, self.kind);
        }
    }
}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimLock")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
