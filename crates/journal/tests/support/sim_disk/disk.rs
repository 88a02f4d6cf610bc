//! The operations of the simulated disk.

use std::{fmt, io, path::Path, sync::Arc};

use parking_lot::MutexGuard;
use tally_journal::{Disk, DiskError, DiskFile, DiskLock, FileAccess, LockKind, Operation};

use super::{
    SimDisk,
    contents::SimContents,
    latency::Work,
    names::{FileId, NameChange, PathId},
    state::{EIO, State},
    trace::Event,
};

struct SimFile {
    disk: SimDisk,
    path: Arc<Path>,
    path_id: PathId,
    file: FileId,
    access: FileAccess,
    /// The [`State::run`] in which the file was opened.
    run: u64,
}

struct SimLock {
    disk: SimDisk,
    path: Arc<Path>,
    path_id: PathId,
    kind: LockKind,
    /// The [`State::run`] in which the lock was acquired.
    run: u64,
}

/// The error number for a file that is not open for the operation.
const EBADF: i32 = 9;
/// The error number for a process that has no free file descriptor.
const EMFILE: i32 = 24;

// ===== impl Disk for SimDisk =====

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> Result<(), DiskError> {
        let (mut state, _) = self.begin(Operation::CreateDir, dir)?;
        for ancestor in dir.ancestors() {
            let ancestor = state.paths.id(ancestor);
            state.names.add_directory(ancestor);
        }
        Ok(())
    }

    fn create_new(&self, path: &Path) -> Result<Arc<dyn DiskFile>, DiskError> {
        let (mut state, id) = self.begin_change(Operation::Create, path)?;
        if state.names.file(id).is_some() {
            return Err(state.failed(Operation::Create, id, io::ErrorKind::AlreadyExists.into()));
        }
        let file = state.add_file(SimContents::default());
        let directory = state.paths.id(path.parent().unwrap());
        state.change_names(NameChange {
            directory,
            removed: None,
            given: Some((id, file)),
        });
        state.note(Event::Created(id));
        Ok(self.opened(&state, id, file, FileAccess::ReadWrite))
    }

    fn open(&self, path: &Path, access: FileAccess) -> Result<Arc<dyn DiskFile>, DiskError> {
        let (state, id) = self.begin(Operation::Open, path)?;
        if state.faults.out_of_descriptors {
            let source = io::Error::from_raw_os_error(EMFILE);
            return Err(state.failed(Operation::Open, id, source));
        }
        let file = state.find(Operation::Open, id)?;
        Ok(self.opened(&state, id, file, access))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), DiskError> {
        assert_eq!(from.parent(), to.parent(), "a rename must stay in its directory");
        let (mut state, from_id) = self.begin_change(Operation::Rename, from)?;
        let file = state.find(Operation::Rename, from_id)?;
        let to_id = state.paths.id(to);
        state.digest.add(u64::from(to_id.0));
        let directory = state.paths.id(from.parent().unwrap());
        state.change_names(NameChange {
            directory,
            removed: Some(from_id),
            given: Some((to_id, file)),
        });
        state.note(Event::Renamed(from_id, to_id));
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), DiskError> {
        let (mut state, id) = self.begin_change(Operation::Remove, path)?;
        let file = state.find(Operation::Remove, id)?;
        let freed = state.file(file).view().len() as u64;
        let directory = state.paths.id(path.parent().unwrap());
        state.change_names(NameChange {
            directory,
            removed: Some(id),
            given: None,
        });
        state.free_space(freed);
        state.note(Event::Removed(id));
        Ok(())
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>, DiskError> {
        let (state, id) = self.begin(Operation::List, dir)?;
        if !state.names.has_directory(id) {
            return Err(state.failed(Operation::List, id, io::ErrorKind::NotFound.into()));
        }
        let files = state.names.iter().map(|(path, _)| path);
        let mut names: Vec<String> = files
            .chain(state.names.directories())
            .map(|path| state.paths.path(path))
            .filter(|path| path.parent() == Some(dir))
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), DiskError> {
        let (mut state, id) = self.begin_change(Operation::SyncDir, dir)?;
        if state.sync_fails() {
            // Unlike a failed sync of a file, a failed sync of a directory discards nothing: the file system keeps
            // changes of names in its own journal and writes them later.
            return Err(state.failed(Operation::SyncDir, id, io::Error::from_raw_os_error(EIO)));
        }
        state.names.sync(id);
        state.note(Event::SyncedDir(id));
        Ok(())
    }

    fn try_lock(&self, dir: &Path, kind: LockKind) -> Result<Option<Box<dyn DiskLock>>, DiskError> {
        let (mut state, id) = self.begin(Operation::Lock, dir)?;
        if !state.names.has_directory(id) {
            return Err(state.failed(Operation::Lock, id, io::ErrorKind::NotFound.into()));
        }
        let (run, path) = (state.run, Arc::clone(state.paths.path(id)));
        Ok(state.lock(id, kind).then(|| -> Box<dyn DiskLock> {
            Box::new(SimLock {
                disk: self.clone(),
                path,
                path_id: id,
                kind,
                run,
            })
        }))
    }

    fn fill_random(&self, bytes: &mut [u8]) -> Result<(), DiskError> {
        let (mut state, _) = self.begin(Operation::Random, Path::new("random"))?;
        bytes.fill_with(|| state.random.next().to_le_bytes()[0]);
        Ok(())
    }
}

impl SimDisk {
    fn begin(&self, operation: Operation, path: &Path) -> Result<(MutexGuard<'_, State>, PathId), DiskError> {
        let mut state = self.shared.state.lock();
        let id = state.paths.id(path);
        let work = if operation == Operation::SyncDir {
            Work::Sync
        } else {
            Work::Other
        };
        state.begin(operation, id, work)?;
        state.draw_fault(operation, id)?;
        Ok((state, id))
    }

    fn begin_change(
        &self,
        operation: Operation,
        path: &Path,
    ) -> Result<(MutexGuard<'_, State>, PathId), DiskError> {
        let (mut state, id) = self.begin(operation, path)?;
        if state.count_change() {
            return Err(state.failed(operation, id, io::Error::from_raw_os_error(EIO)));
        }
        Ok((state, id))
    }

    fn opened(&self, state: &State, path_id: PathId, file: FileId, access: FileAccess) -> Arc<dyn DiskFile> {
        Arc::new(SimFile {
            disk: self.clone(),
            path: Arc::clone(state.paths.path(path_id)),
            path_id,
            file,
            access,
            run: state.run,
        })
    }
}

// ===== impl SimFile =====

impl DiskFile for SimFile {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, DiskError> {
        let mut state = self.begin(Operation::Read, Work::Transfer(bytes.len()))?;
        state.digest.add(offset);
        state.digest.add(bytes.len() as u64);
        if state.faults.stalls_reads {
            state.faults.waiting_reads += 1;
            self.disk.shared.changed.notify_all();
            let changed = &self.disk.shared.changed;
            changed.wait_while(&mut state, |state| state.faults.stalls_reads);
            state.faults.waiting_reads = state.faults.waiting_reads.saturating_sub(1);
        }
        state.draw_fault(Operation::Read, self.path_id)?;
        let view = state.file(self.file).view();
        let start = usize::try_from(offset).unwrap().min(view.len());
        let length = bytes.len().min(view.len() - start);
        bytes[..length].copy_from_slice(&view[start..start + length]);
        Ok(length)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut state = self.begin(Operation::Write, Work::Transfer(bytes.len()))?;
        state.digest.add(offset);
        state.digest.add_bytes(bytes);
        if self.access == FileAccess::Read {
            return Err(self.failed(Operation::Write, io::Error::from_raw_os_error(EBADF)));
        }
        let fault = state.draw_fault(Operation::Write, self.path_id);
        let loses_power = state.count_change();
        // An interrupted write has written a part of the bytes, up to any byte.
        let length = if fault.is_err() || (loses_power && state.random.below(2) == 0) {
            state.random.length_below(bytes.len() + 1)
        } else {
            bytes.len()
        };
        let length_before = state.file(self.file).view().len() as u64;
        let growth = (offset + length as u64).saturating_sub(length_before);
        let missing = usize::try_from(state.take_space(growth)).unwrap();
        let fitting = length - missing.min(length);
        state.file_mut(self.file).write(offset, &bytes[..fitting]);
        state.note(Event::Wrote {
            path: self.path_id,
            offset,
            length: fitting,
        });
        fault?;
        if loses_power {
            return Err(self.failed(Operation::Write, io::Error::from_raw_os_error(EIO)));
        }
        if missing > 0 {
            return Err(self.failed(Operation::Write, io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    /// Writes zeros, because the space that a file system reserves ahead reads as zeros, also after a crash.
    fn allocate(&self, bytes: u64) -> Result<(), DiskError> {
        self.write_at(0, &vec![0; usize::try_from(bytes).unwrap()])
    }

    fn own_space(&self, start: u64, end: u64) -> Result<(), DiskError> {
        let bytes = end - start;
        let mut state = self.begin(Operation::Write, Work::Other)?;
        state.draw_fault(Operation::Write, self.path_id)?;
        if !state.faults.sparse {
            return Ok(());
        }
        let missing = state.take_space(bytes);
        if missing == 0 {
            return Ok(());
        }
        state.free_space(bytes - missing);
        Err(self.failed(Operation::Write, io::ErrorKind::StorageFull.into()))
    }

    fn sync_data(&self) -> Result<(), DiskError> {
        let mut state = self.begin(Operation::Sync, Work::Sync)?;
        state.note(Event::SyncBegan(self.path_id));
        if state.faults.stalls(self.path_id) {
            state.faults.waiting_syncs += 1;
            self.disk.shared.changed.notify_all();
            self.disk.shared.changed.wait_while(&mut state, |state| {
                state.faults.stalls(self.path_id) && state.faults.released_syncs == 0
            });
            state.faults.released_syncs = state.faults.released_syncs.saturating_sub(1);
            state.faults.waiting_syncs = state.faults.waiting_syncs.saturating_sub(1);
        }
        if state.run != self.run || state.count_change() {
            return Err(self.failed(Operation::Sync, io::Error::from_raw_os_error(EIO)));
        }
        let mut fault = state.draw_fault(Operation::Sync, self.path_id);
        if fault.is_ok() && state.sync_fails() {
            fault = Err(self.failed(Operation::Sync, io::Error::from_raw_os_error(EIO)));
        }
        if fault.is_err() {
            state.fail_sync(self.file);
            return fault;
        }
        state.file_mut(self.file).sync();
        state.note(Event::Synced(self.path_id));
        Ok(())
    }

    fn sync_all(&self) -> Result<(), DiskError> {
        self.sync_data()
    }

    fn size_bytes(&self) -> Result<u64, DiskError> {
        let state = self.begin(Operation::Size, Work::Other)?;
        Ok(state.file(self.file).view().len() as u64)
    }
}

impl SimFile {
    fn begin(&self, operation: Operation, work: Work) -> Result<MutexGuard<'_, State>, DiskError> {
        let mut state = self.disk.shared.state.lock();
        state.begin(operation, self.path_id, work)?;
        if state.run != self.run {
            return Err(self.failed(
                operation,
                io::Error::other("the file was opened before the crash"),
            ));
        }
        Ok(state)
    }

    fn failed(&self, operation: Operation, source: io::Error) -> DiskError {
        DiskError::new(operation, Path::to_path_buf(&self.path), source)
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
            state.unlock(self.path_id, self.kind);
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
